"""Cards of runs that are not the usual: own files, rows without a label, steps instead of epochs,
two tokenizers; and the command of a card, pasted.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from cards import run_of
from conftest import ROOT, flags
from families import permute_vocabulary
from huggingface_hub import ModelCard
from own_data import own, run

import glue_with_cka_i
import train_teacher
from analysis.origins import describe_budget
from analysis.runs import read_runs
from baselines import glue_with_baseline
from training import card_page, model_card

ALONE = ["--student_num_hidden_layers", 2]


def card_in(folder):
    """The page of a run's card."""
    return ModelCard.load(folder / "README.md").text


def row_of(text, name):
    """A row of the card's table."""
    (found,) = re.findall(rf"^\| {name} \| (.*) \|$", text, re.M)
    return found


# ---- rows without a label ------------------------------------------------------------------------


def test_rows_without_a_label_are_told(tiny, tmp_path):
    files = own(tmp_path / "data", share=0.5)
    missing = int(pd.read_csv(files[1]).label.isna().sum())
    assert 0 < missing < 21
    run(train_teacher, tiny, tmp_path / "none", *files, *ALONE, "--max_steps", 1, teacher=True)
    said = row_of(card_in(tmp_path / "none"), "rows")
    assert said.startswith("21 in train.csv") and f"; {missing} of these without a label" in said
    assert said.endswith(": left out")
    more = [*files, "--model_name_or_path", tmp_path / "none", "--max_steps", 1]
    run(glue_with_cka_i, tiny, tmp_path / "s", *more)
    said = row_of(card_in(tmp_path / "s"), "rows")
    assert said.endswith(f"; {missing} of these without a label: KD and the structures, "
                         "no cross-entropy")  # fmt: skip
    run(glue_with_baseline, tiny, tmp_path / "ce", *more, "--method", "none")
    assert row_of(card_in(tmp_path / "ce"), "rows").endswith("a label: no part in the loss")


def test_of_a_part_of_the_rows_those_without_a_label_are_told_too(tiny, tmp_path):
    files = own(tmp_path / "data", share=0.5)
    missing = int(pd.read_csv(files[1]).label[:15].isna().sum())
    part = ["--max_train_samples", 15, "--max_steps", 1]
    run(train_teacher, tiny, tmp_path / "t", *files, *part, teacher=True)
    said = row_of(card_in(tmp_path / "t"), "rows")
    assert said.endswith(f"; the first 15 were taken; {missing} of these without a label: left out")
    bare = tmp_path / "bare.csv"
    pd.read_csv(files[1])[["text"]].to_csv(bare, index=False)
    files[1] = bare
    run(glue_with_cka_i, tiny, tmp_path / "s", *files, "--model_name_or_path", tmp_path / "t")
    assert "; none of these has a label: α is 0" in row_of(card_in(tmp_path / "s"), "rows")


# ---- what it is, how long it was trained ---------------------------------------------------------


def test_a_regression_is_no_classifier():
    for task, more in (("STS-B", {}), ("rg", {"train_file": "r.csv", "do_regression": True})):
        for method in ("FSD_I", "teacher", "none"):
            text = model_card.make_card(run_of(task, {"pearson": 0.5}, method, **more))
            assert f"\nA regression model for {task}, " in text and "lassifier for" not in text
    assert "\nA classifier for MRPC, " in model_card.make_card(run_of())


@pytest.mark.parametrize(
    ("processes", "accumulation", "missing", "steps", "epochs"),
    [(1, 1, 0, 200, "40"), (2, 1, 0, 6, "2"), (1, 2, 0, 6, "2"), (1, 1, 8, 8, "2"),
     (1, 1, 0, 1, "0.2")],
)  # fmt: skip
def test_where_max_steps_decided_the_card_says_so(processes, accumulation, missing, steps, epochs):
    """Of 40 rows, 8 a mini-batch; epochs by hand."""
    settings = {
        "max_steps": steps,
        "num_train_epochs": 3.0,
        "per_gpu_train_batch_size": 8,
        "gradient_accumulation_steps": accumulation,
    }
    found = run_of("own", {"acc": 0.5}, "teacher", 40, train_file="r.csv", **settings)
    found |= {"steps": steps, "processes": processes, "teacher": None}
    found["data"]["train"]["unlabelled"] = missing
    text = model_card.make_card(found)
    said = f"{steps}, by `max_steps`, not by a number of epochs; they are {epochs}"
    assert row_of(text, "steps") == said
    assert "num_train_epochs" not in row_of(text, "settings")
    assert f"`max_steps` {steps}" in row_of(text, "settings")
    found["arguments"]["max_steps"] = -1
    text = model_card.make_card(found)
    assert row_of(text, "steps") == str(steps)
    assert "`num_train_epochs` 3" in row_of(text, "settings")


def test_so_does_the_caption_of_a_table(tiny, tmp_path):
    for name, more in (("a", ["--max_steps", 2]), ("b", [])):
        train_teacher.main(flags(tiny, tmp_path / name / "t", *more, teacher=True))
    by_steps, by_epochs = (describe_budget(read_runs(tmp_path / name)) for name in "ab")
    assert "steps 2" in by_steps and "epochs" not in by_steps
    assert "epochs 2" in by_epochs and "steps" not in by_epochs


# ---- what it began with --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("owner/bert", "owner/bert"),
        ("/home/jane/models/bert/", "bert"),
        ("~/bert", "bert"),
        ("~", "a folder"),
        ("../bert", "bert"),
        ("./bert", "bert"),
        (r"C:\models\bert", "bert"),
        ("/cache/models--google--b-1/snapshots/0a1b", "google/b-1"),
    ],
)
def test_a_model_is_told_by_its_name_alone(source, named):
    found = run_of(model_name_or_path_for_copy=source)
    assert row_of(model_card.make_card(found), "began with") == f"the first layers of {named}"


def test_which_layers_it_began_with():
    def began(**arguments):
        return row_of(model_card.make_card(run_of(**arguments)), "began with")

    assert began(student_layers="0,2") == "layers 0,2 of bert-base-uncased"
    assert began(student_num_hidden_layers=3) == "the first 3 layers of bert-base-uncased"
    assert began(copy_teacher=False) == "random weights, in the shape of bert-base-uncased"
    assert began(model_name_or_path_for_copy=None) == "the first layers of teacher"
    alone = run_of(method="teacher", model_name_or_path="o/b", model_name_or_path_for_copy=None)
    del alone["arguments"]["copy_teacher"]
    assert row_of(model_card.make_card(alone), "began with") == "o/b"


def test_a_student_with_a_tokenizer_of_its_own_says_so(tiny, tmp_path):
    """One of another length alone has the teacher's."""
    teacher = permute_vocabulary(tiny / "teacher", tmp_path / "permuted")
    own_words = ["--model_name_or_path", teacher, "--max_steps", 1]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *own_words))
    text = card_in(tmp_path / "s")
    assert "It has a tokenizer of its own, that of pretrained; the teacher read" in text
    assert row_of(text, "began with") == "the first layers of pretrained"
    assert str(tiny) not in text and str(tmp_path) not in text
    shorter = ["--student_max_seq_length", 14, "--max_steps", 1]
    glue_with_cka_i.main(flags(tiny, tmp_path / "short", *shorter))
    assert "tokenizer of its own" not in card_in(tmp_path / "short")


# ---- the command ---------------------------------------------------------------------------------


def test_the_page_says_where_the_command_runs():
    text = model_card.make_card(run_of())
    assert "for a checkout of this project at that commit, in its root" in text
    assert (
        card_page.shorten_command("t.py --seed 1", 4) == "torchrun --nproc_per_node 4 t.py --seed 1"
    )


@pytest.mark.slow
def test_a_pasted_command_runs_where_the_run_was_started(tiny, tmp_path, monkeypatch):
    """In the root of a checkout, with paths below it."""
    checkout, data = tmp_path / "checkout", tmp_path / "checkout/my data"
    data.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name == "baselines":
            (checkout / path.name).symlink_to(path)
    for name in ("teacher", "pretrained", "RTE"):
        shutil.copytree(tiny / name, data / name)
    monkeypatch.chdir(checkout)
    words = flags(Path("my data"), "runs/s", "--max_steps", 1, "--method", "rkd", "--no_cuda")
    script = "baselines/glue_with_baseline.py"
    monkeypatch.setattr(sys, "argv", [script, *words])
    assert glue_with_baseline.main(words) == 0
    card = (checkout / "runs/s/README.md").read_bytes()
    (command,) = re.findall(r"^```bash\n(.*?)\n```$", card.decode(), re.M | re.S)
    shutil.rmtree(checkout / "runs")
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", places)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (checkout / "runs/s/README.md").read_bytes() == card
