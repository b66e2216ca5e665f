"""The page of a model card, Markdown text in English, made of what a run.json says.

In all functions `run` is the content, a dict, of a finished run's run.json.
"""

import json
import math
import re
import shlex

from tasks.glue import TASKS
from training import flags
from training.methods import FOLDER, read_methods
from training.records import join_origins

PAPER = "[Jung, Kim, Na, Kim 2023, arXiv 2204.08922](https://arxiv.org/abs/2204.08922)"
ALONE = {"teacher": "Teacher", "none": "Student alone"}  # methods that distil nothing -> titles
ALWAYS_SHOWN = ("learning_rate", "num_train_epochs", "per_gpu_train_batch_size")
STRUCTURES = {  # letter -> what CKA compares of student and teacher
    "i": "I (intra-feature): the tokens of a sample with each other",
    "l": "L (local inter-feature): the samples of a mini-batch with each other",
    "g": "G (global inter-feature): the samples with the centroids of the teacher's memory, "
    "G = F_MM + γ_m F_E + (1−γ_m) F_C",
}


def row_length(settings):
    """The most tokens of a row that the card's model reads. settings: flags, name -> value."""
    return settings.get("student_max_seq_length") or settings["max_seq_length"]


# ---- the page ------------------------------------------------------------------------------------


def describe_method(run):
    """What the model is for, how it was trained, and what the loss was."""
    kind = "A regression model" if is_regression(run) else "A classifier"
    of = f"{plain(task_name(run))}, {whose_task(run)}"
    if run["method"] in ALONE:
        what = "a fine-tuned model" if run["method"] == "teacher" else "a student without a teacher"
        return f"{kind} for {of}: {what}, of the labels alone. The loss: {task_loss(run)}."
    formula, details = describe_structure(run)
    settings = settings_of(run)
    values = {flag.name: settings.get(flag.name) for flag in flags.named("weight")}
    shown = [f"`{name}` {value:g}" for name, value in values.items() if value is not None]
    lines = [
        f"CE: {task_loss(run)}",
        "KD: how far the student's logits are from the teacher's, at temperature τ",
        *details,
        f"weights: {', '.join(shown)}",
    ]
    listed = "\n".join(f"- {line}" for line in lines)
    return (
        f"{kind} for {of}: a student, distilled from a fine-tuned teacher with "
        f"**{plain(name_of(run))}**.{describe_own_tokenizer(run)}\n\n"
        f"The loss: α CE + (1−α) KD{formula}\n\n{listed}"
    )


def describe_own_tokenizer(run):
    """A sentence on a student that reads with another tokenizer than its teacher, else ""."""
    if not has_own_tokenizer(run):
        return ""
    return (
        f" It has a tokenizer of its own, that of {source_of(run)}; the teacher read the same rows "
        "with another one."
    )


def describe_structure(run):
    """What a method adds to vanilla KD: its part of the formula, and the lines that explain it."""
    method = run["method"]
    if not method.startswith("FSD"):
        found = {rival.name: rival for rival in read_methods().values()}.get(method)
        if found is None:
            return "", []
        weight = "β · " if "beta" in found.defaults else ""
        return f" + {weight}structure", [f"structure: {plain(found.help)}"]
    letters = method.partition("_")[2].lower()
    several = "gamma_i" in run["arguments"]  # the scripts of one structure have β alone
    formula = " + ".join(f"γ_{one} {one.upper()}" if several else one.upper() for one in letters)
    details = [
        f"FSD: feature structure distillation ({PAPER}), −log CKA of student and teacher",
        *(STRUCTURES[one] for one in letters),
    ]
    return f" + β ({formula})", details


def describe_scores(run):
    """The paragraphs about scores: the model's, as a table, and the teacher's."""
    scores = scores_of(run)
    if scores:
        rows = describe_scored_rows(run)
        lines = [f"| {plain(name)} | {value:.4f} |" for name, value in scores.items()]
        second = "; `_mm` is MNLI's second dev set, the mismatched one"
        both = any(name.endswith("_mm") for name in scores)
        yield f"On {rows}{second * both}:"
        yield "\n".join(["| metric | score |", "| --- | --- |", *lines])
    else:
        yield "The run was not evaluated."
    if told := run.get("teacher_scores"):
        metrics = {name: value for name, value in told.items() if name not in ("file", "rows")}
        listed = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        yield f"The teacher, on {told['rows']} rows of {plain(told['file'])}: {listed}."


def describe_scored_rows(run):
    """In words, which rows the model's scores are of."""
    if most := run["arguments"].get("max_eval_samples"):
        return f"the first {most} rows of the dev set"
    scored = {split: data for split, data in run["data"].items() if split.startswith("dev")}
    if not scored or all(is_official(run, split) for split in scored):
        return "the dev set, not on test rows"
    listed = [f"{data['rows']} rows of {plain(data['file'])}" for data in scored.values()]
    no_dev_set = ", which are not GLUE's dev set" if known_task(run) else ""
    return f"the {' and '.join(listed)}{no_dev_set}"


def describe_loading(run):
    """A block of Python that loads the model and classifies a row."""
    task, arguments = known_task(run), run["arguments"]
    columns = task.text_columns if task else run["data"]["train"].get("text_columns", ["text"])
    texts = ", ".join(json.dumps(f"the {column}", ensure_ascii=False) for column in columns)
    word = "model.config.id2label[logits.argmax(-1).item()]"
    said = "logits.item()" if is_regression(run) else word
    return fence(
        "python",
        f"""from transformers import AutoModelForSequenceClassification, AutoTokenizer

place = "OWNER/NAME"  # on the Hub; or this folder
tokenizer = AutoTokenizer.from_pretrained(place)
model = AutoModelForSequenceClassification.from_pretrained(place)
cut = {{"truncation": True, "max_length": {row_length(arguments)}}}
logits = model(**tokenizer({texts}, **cut, return_tensors="pt")).logits
print({said})""",
    )


def describe_training(run):
    """A table of the rows that were read, the settings, and the versions and machine of the run."""
    settings, memory = settings_of(run), run.get("teacher_memory")
    shown = [
        f"`{flag.name}` {settings[flag.name]:g}"
        for flag in flags.named("budget")
        if settings.get(flag.name) is not None
        and (settings[flag.name] != flag.default or flag.name in ALWAYS_SHOWN)
        and not (flag.name == "num_train_epochs" and decided_by_steps(run))
    ]
    table = {
        "rows": describe_rows(run),
        "began with": describe_start(run),
        "teacher": run.get("teacher") and f"weights with sha256 `{run['teacher']}`",
        "teacher's memory": memory and f"centroids with sha256 `{memory['sha256']}`",
        "settings": ", ".join([*shown, f"`max_seq_length` {row_length(settings)}"]),
        "seed": run["seed"],
        "steps": describe_steps(run),
        "processes": run["processes"],
        "precision": {"no": "float32"}.get(run["precision"], run["precision"]),
        "parameters": f"{run['parameters']:,}",
        "hardware": plain(join_origins(run, hardware_of)),
        "versions": join_origins(run, versions_of),
        "commit": join_origins(run, commit_of),
    }
    lines = [f"| {name} | {value} |" for name, value in table.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def describe_rows(run):
    """Which rows were trained on, and how many of them have no label."""
    data, task = run["data"]["train"], known_task(run)
    text = f"{data['rows']} in {plain(data['file'])}, sha256 `{data['sha256']}`"
    if task and not official_task(run):
        text += f"; GLUE's own file has {task.rows['train']}"
    if most := settings_of(run).get("max_train_samples"):
        text += f"; the first {most} were taken"
    missing = data.get("unlabelled")  # not told by earlier versions
    if not missing:
        return text
    if missing == rows_taken(run):
        return f"{text}; none of these has a label: α is 0, the loss is KD and the structures"
    text += f"; {missing} of these without a label: "
    if not run.get("teacher"):
        return f"{text}left out"
    return text + (
        "no part in the loss"
        if run["method"] in ALONE
        else "KD and the structures, no cross-entropy"
    )


def describe_start(run):
    """Which weights the training began with: a model's name, without the path of its folder."""
    arguments = run["arguments"]
    if not arguments.get("copy_teacher", True):
        return f"random weights, in the shape of {source_of(run)}"
    if picked := arguments.get("student_layers"):
        return f"layers {picked} of {source_of(run)}"
    if number := arguments.get("student_num_hidden_layers"):
        return f"the first {number} layers of {source_of(run)}"
    whole = "copy_teacher" not in arguments  # of a script that distils nothing
    return source_of(run) if whole else f"the first layers of {source_of(run)}"


def describe_steps(run):
    """The number of optimizer steps; a phrase that gives the epochs, too, if --max_steps set it."""
    if not decided_by_steps(run):
        return run["steps"]
    epochs = run["steps"] / steps_of_an_epoch(run)
    return f"{run['steps']}, by `max_steps`, not by a number of epochs; they are {epochs:.3g}"


# ---- what a run.json says ------------------------------------------------------------------------


def known_task(run):
    """GLUE's Task of a run; None if its task is one of the user's own files."""
    arguments = run["arguments"]
    return None if arguments.get("train_file") else TASKS.get(arguments["task_name"].lower())


def official_task(run):
    """GLUE's Task if the training file has as many rows as GLUE's; None for a part or toy data."""
    task = known_task(run)
    return task if task and run["data"]["train"]["rows"] == task.rows["train"] else None


def is_official(run, split):
    """Whether a dev split that was scored has as many rows as GLUE's of this name."""
    task = official_task(run)
    return bool(task) and run["data"].get(split, {}).get("rows") == task.rows[split]


def whose_task(run):
    """In words, whether the task and its rows are GLUE's."""
    if official_task(run):
        return "a task of GLUE"
    return (
        "a task of GLUE on rows that are not GLUE's own" if known_task(run) else "a task of its own"
    )


def task_name(run):
    return run["arguments"]["task_name"]


def name_of(run):
    """The method with its variant, as in tables."""
    settings = settings_of(run)
    if memory := run.get("teacher_memory"):
        settings["memory_init"] = memory.get("memory_init")
    method = run["method"]
    return ", ".join([ALONE.get(method, method), *flags.variant_words(method, settings)])


def title_of(run):
    return f"{name_of(run)} on {task_name(run)}"


def settings_of(run):
    """The run's flags, name -> value, as they were in the training."""
    return run["arguments"] | run.get("settings", {})


def rows_taken(run):
    """The number of rows that were read from the training file, with a label or without."""
    rows = run["data"]["train"]["rows"]
    return min(rows, settings_of(run).get("max_train_samples") or rows)


def decided_by_steps(run):
    """Whether --max_steps, not --num_train_epochs, decided how long the training was."""
    return (settings_of(run).get("max_steps") or -1) > 0


def steps_of_an_epoch(run):
    """The optimizer steps of one pass over the rows, as loop.py counts them."""
    settings, rows = settings_of(run), rows_taken(run)
    if not run.get("teacher"):
        rows -= run["data"]["train"].get("unlabelled") or 0
    batches = math.ceil(rows / (settings["per_gpu_train_batch_size"] * run["processes"]))
    return math.ceil(batches / settings["gradient_accumulation_steps"])


def has_own_tokenizer(run):
    """Whether student and teacher have different tokenizers; False if only row lengths differ."""
    settings = settings_of(run)
    own = settings.get("student's tokenizer")
    return own is not None and own != settings["tokenizer"]


def source_of(run):
    """The name of the model that gave a run's model its layers or shape, for Markdown.

    Of a folder on the machine, only the folder's own name.
    """
    arguments = run["arguments"]
    source = arguments.get("model_name_or_path_for_copy") or arguments["model_name_or_path"]
    return plain(hub_name_in_cache(source) or without_place(source))


def is_regression(run):
    task = known_task(run)
    return task.labels is None if task else bool(run["arguments"].get("do_regression"))


def task_loss(run):
    return "the mean squared error" if is_regression(run) else "the cross-entropy with the labels"


def scores_of(run):
    """The dev metrics without the losses, {name: value}."""
    results = run.get("results") or {}
    return {name: value for name, value in results.items() if not name.startswith("eval_loss")}


def versions_of(part):
    return ", ".join(f"{name} {version}" for name, version in part["versions"].items())


def commit_of(part):
    return part["commit"] + " with uncommitted changes" * bool(part.get("uncommitted_changes"))


def hardware_of(part):
    return part["machine"] if part["device"] == "cpu" else f"{part['device']}; {part['machine']}"


# ---- names and places ----------------------------------------------------------------------------


def hub_name_in_cache(source):
    """The hub name of a model if the path `source` is in a cache of the Hub, else None."""
    found = re.search(r"\bmodels--([\w.-]+?)--([\w.-]+)[/\\]snapshots\b", source)
    return "/".join(found.groups()) if found else None


def without_place(source):
    """A hub name, NAME or OWNER/NAME, as it is; of any other path only the last name."""
    if re.fullmatch(r"\w[^/\\]*(/[^/\\]+)?", source) and not is_of_a_machine(source):
        return source
    names = [name for name in re.split(r"[/\\]", source) if name not in ("", ".", "..", "~")]
    return names[-1] if names else "a folder"


def is_of_a_machine(text):
    """Whether a text has a path of one machine: from the root, a home or a drive, or upwards."""
    return bool(re.search(r"(^|[=,:;\s])([/~\\]|[A-Za-z]:[/\\])|(^|[/\\])\.\.($|[/\\])", text))


# ---- text ----------------------------------------------------------------------------------------


def plain(text):
    """A text on one line, with its Markdown characters escaped."""
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", " ".join(str(text).split()))


def fence(language, text):
    """A block of code, in a fence longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def shorten_command(command, processes=1):
    """A run's command as one types it in the root of a checkout; in place of a path of the run's
    machine stands the name of its flag in capitals.

    Relative paths and hub names stay, as they say nothing of a machine. processes: of the run.
    """
    try:
        script, *words = shlex.split(command)
    except ValueError:  # earlier versions did not quote its words
        script, *words = command.split()
    flag, shown = "--path", []
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            word = f"{flag}={capitals(flag)}" if equals and is_of_a_machine(value) else word
        elif is_of_a_machine(word):
            word = capitals(flag)
        shown.append(word)
    folder = "baselines/" if (FOLDER / script).is_file() else ""
    start = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    return shlex.join([*start, folder + script, *shown])


def capitals(flag):
    return flag.strip("-").upper()
