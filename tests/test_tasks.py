"""Every kind of task through the whole script: both dev sets of MNLI, the regression of STS-B,
CoLA's single text.
"""

import json
import random

import pandas as pd
import pytest
import torch
import transformers
from conftest import flags, save_models, sentence

import distill
import glue_with_cka_i
import kd
import train_teacher
from tasks.glue import TASKS, get_task
from tasks.metrics import compute_metrics

ROWS = {"train": 16, "dev": 9, "dev_mm": 7, "test": 6, "test_mm": 5}


def write_split(task, folder, split, rng):
    """An official-looking file of a few rows; columns that the table does not name hold n/a."""
    labelled = not split.startswith("test")
    columns = (
        list(task.headerless)
        if task.headerless and labelled
        else ["index", "genre", *task.text_columns, *([task.label_column] if labelled else [])]
    )
    lines = [] if task.headerless and labelled else ["\t".join(columns)]
    for i in range(ROWS[split]):
        label = rng.choice(task.labels) if task.labels else f"{rng.uniform(0, 5):.3f}"
        cells = {"index": str(i), task.label_column: label} | {
            name: sentence(rng) for name in task.text_columns
        }
        lines.append("\t".join(cells.get(column, "n/a") for column in columns))
    path = folder / task.folder / task.files[split]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def task_folder(request, tmp_path):
    """(task, folder) with pretrained/, a teacher/ with the task's labels, and the task's files."""
    task, rng = get_task(request.param), random.Random(0)
    save_models(tmp_path)
    names = task.labels or ("score",)
    transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "pretrained",
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    ).save_pretrained(tmp_path / "teacher")
    for split in task.files:
        write_split(task, tmp_path, split, rng)
    if task.name == "MNLI":
        write_split(TASKS["ax"], tmp_path, "test", rng)
    return task, tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("task_folder", ["MNLI", "STS-B", "cola", "MRPC"], indirect=True)
def test_each_kind_of_task(task_folder):
    task, folder = task_folder
    glue_with_cka_i.main(
        [*flags(folder, folder / "s", "--task_name", task.name, "--do_predict", "--internal")]
    )
    results = json.loads((folder / "s/eval_results.json").read_text())
    suffixes = ("", "_mm") if task.name == "MNLI" else ("",)
    assert set(results) == {"task"} | {
        m + s for m in (*task.metrics, "eval_loss") for s in suffixes
    }
    for suffix in suffixes:
        found = pd.read_csv(folder / f"s/dev{suffix}_predictions.tsv", sep="\t")
        assert len(found) == ROWS["dev" + suffix]
        for name, value in compute_metrics(task, found.prediction, found.label).items():
            assert results[name + suffix] == pytest.approx(value)
    submitted = {
        path.name: path.read_text().splitlines() for path in (folder / "s/submission").iterdir()
    }
    wanted = {name: ROWS[split] for split, name in task.submissions.items()}
    if task.name == "MNLI":
        wanted["AX.tsv"] = ROWS["test"]
    assert {name: len(lines) - 1 for name, lines in submitted.items()} == wanted
    for lines in submitted.values():
        assert lines[0] == "index\tprediction"
        if task.labels:
            assert {line.split("\t")[1] for line in lines[1:]} <= set(task.labels)


@pytest.mark.slow
@pytest.mark.parametrize("task_folder", ["MNLI"], indirect=True)
def test_ax_is_found_beside_the_tasks_own_folder_or_left_out(task_folder, capsys):
    _, folder = task_folder
    arguments = flags(
        folder, folder / "s", "--task_name", "mnli", "--do_predict", "--data_dir", folder / "MNLI"
    )
    glue_with_cka_i.main(arguments)
    assert {p.name for p in (folder / "s/submission").iterdir()} == {
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
        "AX.tsv",
    }
    (folder / "diagnostic/diagnostic.tsv").unlink()
    glue_with_cka_i.main([*arguments, "--overwrite_output_dir"])
    assert {p.name for p in (folder / "s/submission").iterdir()} == {"MNLI-m.tsv", "MNLI-mm.tsv"}
    assert "AX is left out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task_folder", ["STS-B"], indirect=True)
def test_regression_learns_from_labels_and_teacher(task_folder):
    """On STS-B the cross-entropy is the labels' MSE and KD the MSE between logits; each alone can
    be learned.
    """
    _, folder = task_folder
    for name, alpha in (("ce", 1), ("kd", 0)):
        glue_with_cka_i.main(
            flags(
                folder,
                folder / name,
                "--task_name",
                "sts-b",
                "--beta",
                0,
                "--alpha",
                alpha,
                "--num_train_epochs",
                30,
            )
        )
        log = [
            json.loads(line)[name]
            for line in (folder / name / "train_log.jsonl").read_text().splitlines()
        ]
        assert 0 < sum(log[-4:]) < 0.8 * sum(log[:4])
    train_teacher.main(flags(folder, folder / "t", "--task_name", "sts-b", teacher=True))
    config = json.loads((folder / "t/config.json").read_text())
    assert (
        config["problem_type"] == "regression"
        and kd.task_loss(torch.ones(2, 1), torch.zeros(2)) == 1
    )


def test_missing_test_file_is_said_before_the_training(tiny, tmp_path):
    (tmp_path / "RTE").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "RTE" / f"{split}.tsv").write_text((tiny / "RTE" / f"{split}.tsv").read_text())
    with pytest.raises(distill.common.UserError, match="test rows of RTE"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--do_predict", "--data_dir", tmp_path))
    assert not (tmp_path / "s/train_log.jsonl").exists()
