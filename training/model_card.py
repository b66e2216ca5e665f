"""The model card of a finished run: README.md in its folder, as HuggingFace's Hub reads it.

A card is made of what run.json says. It has no path of the machine and no time in it, so that a
resumed run gets the same card as one that was never interrupted.
"""

import contextlib
import math
from pathlib import Path

from common import UserError, atomic_path, is_main_process, read_json, say
from training.card_file import NAME, NOTE, is_card
from training.card_page import (
    ALONE,
    describe_loading,
    describe_method,
    describe_scores,
    describe_training,
    fence,
    hub_name_in_cache,
    is_official,
    official_task,
    plain,
    scores_of,
    shorten_command,
    task_name,
    title_of,
)

METRICS = {  # as the Hub spells them
    "acc": "accuracy",
    "f1_macro": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
}

WHERE_IT_RUNS = (  # stands above the command
    "The command, for a checkout of this project at that commit, in its root. Relative paths begin "
    "in the folder in which the run was started; words in capitals stand for places on its machine:"
)


# ---- the file ------------------------------------------------------------------------------------


def write_card(record, folder):
    """Write the card of a training.records.Record, in the main process.

    A README.md that this project did not write as a card stays, and a note says so.
    """
    path = Path(folder) / NAME
    if not is_main_process():
        return
    if path.exists() and not is_card(path):
        say(f"note: {path} is no model card of this project: it stays, and no card is written")
        return
    run = record.as_json()
    text = make_card(run, find_base_model(run["arguments"]))
    with atomic_path(path) as temporary:
        # a name on disk may have bytes that are no text
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


# ---- where the layers come from ------------------------------------------------------------------


def find_base_model(arguments):
    """The hub name of the model whose layers a run's model began with; None if none is known.

    arguments: the run's flags, name -> value. For a folder, the name is what its configuration or
    its card says.
    """
    if not arguments.get("copy_teacher", True):
        return None  # it began at random
    source = arguments.get("model_name_or_path_for_copy") or arguments["model_name_or_path"]
    if cached := hub_name_in_cache(source):
        return cached
    folder = Path(source)
    if not folder.exists():
        return source if is_hub_name(source) else None
    with contextlib.suppress(UserError, OSError, ValueError):
        told = read_json(folder / "config.json").get("_name_or_path")
        if told and is_hub_name(told) and not Path(told).exists():
            return told
        if is_card(folder / NAME):
            from huggingface_hub import ModelCard  # here and below, as it imports for a second

            return ModelCard.load(folder / NAME).data.base_model
    return None


def is_hub_name(text):
    """Whether a text has the form of a hub name, bert-base-uncased or owner/name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


# ---- the card ------------------------------------------------------------------------------------


def make_card(run, base_model=None):
    """The text of the card: the Hub's metadata, then a page for people.

    run: the content of a finished run's run.json. base_model: a hub name, None where it is unknown.
    """
    parts = [
        f"---\n{make_metadata(run, base_model).to_yaml()}\n---\n{NOTE}",
        f"# {plain(title_of(run))}",
        describe_method(run),
        "## Scores",
        *describe_scores(run),
        "## How to load it",
        describe_loading(run),
        "## Training",
        describe_training(run),
        WHERE_IT_RUNS,
        fence("bash", shorten_command(run["command"], run["processes"])),
    ]
    return "\n\n".join(parts) + "\n"


def make_metadata(run, base_model):
    """The Hub's metadata of a run, a huggingface_hub.ModelCardData. What is unknown is left out."""
    from huggingface_hub import ModelCardData

    results = make_eval_results(run)
    method, is_glue = run["method"], official_task(run) is not None
    tags = ["knowledge-distillation"] if run.get("teacher") else []
    if method.startswith("FSD"):
        tags.append("feature-structure-distillation")
    return ModelCardData(
        language="en" if is_glue else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base_model,
        datasets=["nyu-mll/glue"] if is_glue else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=[*tags, *([] if method in ALONE else [method.lower()])] or None,
        model_name=title_of(run) if results else None,
        eval_results=results or None,
    )


def make_eval_results(run):
    """The dev metrics as huggingface_hub.EvalResults; [] if only a part of the rows was scored."""
    from huggingface_hub import EvalResult

    if run["arguments"].get("max_eval_samples"):
        return []
    task = official_task(run)
    found = []
    for name, value in scores_of(run).items():
        metric = name.removesuffix("_mm")
        if not math.isfinite(value):
            continue  # JSON has no such number
        dataset = {"dataset_type": "custom", "dataset_name": f"{task_name(run)}, own rows"}
        if is_official(run, "dev_mm" if name.endswith("_mm") else "dev"):
            split = "validation"
            if "dev_mm" in task.files:
                split += "_mismatched" if name.endswith("_mm") else "_matched"
            dataset = {
                "dataset_type": "nyu-mll/glue",
                "dataset_name": f"GLUE {task.name}",
                "dataset_config": task.name.lower().replace("-", ""),
                "dataset_split": split,
            }
        found.append(
            EvalResult(
                task_type="text-classification",
                metric_type=METRICS.get(metric, metric),
                metric_name=name,
                metric_args={"average": "macro"} if metric == "f1_macro" else None,
                metric_value=float(value),
                **dataset,
            )
        )
    return found
