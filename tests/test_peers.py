"""The peers that the benchmarks set beside ours: they do what ours does, on the same rows."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT, flags, shell

sys.path.insert(0, str(ROOT / "benchmarks"))
import forms
import plain_loop

import train_teacher
from terms import vkd_terms
from training import records
from training.batches import Outputs, Rows


def test_the_plain_loss_is_vkd():
    torch.manual_seed(0)
    z_s, z_t, labels = torch.randn(8, 3), torch.randn(8, 3), torch.randint(3, (8,))
    terms = vkd_terms(plain_loop.ALPHA, plain_loop.TEMPERATURE)
    s, t = Outputs(z_s), Outputs(z_t)
    ours = sum(term.weight * term.loss(s, t, {"labels": labels}) for term in terms.values())
    torch.testing.assert_close(plain_loop.distillation_loss(z_s, z_t, labels), ours)
    alone = plain_loop.distillation_loss(z_s, None, labels)
    torch.testing.assert_close(alone, torch.nn.functional.cross_entropy(z_s, labels))


def test_it_reads_the_same_mini_batches():
    torch.manual_seed(0)
    rows, indices = forms.draw_rows(8, 24), torch.tensor([3, 1, 20, 7])
    found = plain_loop.collate(forms.unpadded(rows, indices))
    item = Rows(rows, cut=True)[indices]
    assert torch.equal(found.pop("labels"), item["targets"]["labels"])
    assert found.keys() == item["inputs"].keys()
    assert all(torch.equal(found[key], value) for key, value in item["inputs"].items())


def step(tiny, tmp_path, *chosen):
    return shell(
        "benchmarks/step.py",
        "--models",
        "tiny",
        "--precisions",
        "bf16",
        "--no_peak",
        "--no_cuda",
        "--rounds",
        1,
        "--batches",
        2,
        "--steps",
        2,
        "--per_gpu_train_batch_size",
        8,
        "--max_seq_length",
        24,
        "--data_dir",
        tiny,
        "--task_name",
        "RTE",
        "--tokenizer_name",
        tiny / "teacher",
        "--csv",
        tmp_path / "step.csv",
        "--forms",
        *chosen,
    )


@pytest.mark.slow
def test_a_step_beside_them_on_real_rows(tiny, tmp_path):
    done = step(
        tiny,
        tmp_path,
        "plain: VKD",
        "plain: teacher",
        "VKD",
        "VKD, padded",
        "VKD, grouped",
        "FSD_L",
        "FSD_I, masked, not grouped",
        "teacher, trained",
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "step.csv").set_index("form")
    assert set(table["rows"]) == {"RTE"}
    width, beside = table["W'"], table["x plain loop"]
    assert width["plain: VKD"] == width["VKD"] == width["FSD_I, masked, not grouped"] < 24
    assert width["VKD, grouped"] < width["VKD"] and width["FSD_L"] == width["VKD, padded"] == 24
    assert beside.notna()["VKD"] and beside.notna()["teacher, trained"]
    assert beside.isna()["plain: VKD"] and beside.isna()["plain: teacher"]
    same = table["x VKD, same W'"]
    assert same["VKD"] == same["VKD, padded"] == 1
    assert same.notna()["FSD_L"] and table["x VKD"].notna()["FSD_L"]


@pytest.mark.slow
def test_a_library_that_is_missing_is_named(tiny, tmp_path):
    try:
        import textbrewer  # noqa: F401

        pytest.skip("TextBrewer is installed here")
    except ImportError:
        pass
    done = step(tiny, tmp_path, "TextBrewer: VKD", "VKD")
    assert done.returncode == 1 and "pip install textbrewer" in done.stderr
    assert list(pd.read_csv(tmp_path / "step.csv").form) == ["VKD"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, said",
    [
        (["--task_name", "STS-B"], "this benchmark trains models of two classes"),
        (["--task_name", "nothing"], "a task name among"),
        (["--tokenizer_name", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_rows_that_no_form_takes(words, said, tiny):
    done = shell(
        "benchmarks/step.py",
        "--models",
        "tiny",
        "--precisions",
        "no",
        "--no_peak",
        "--forms",
        "VKD",
        "--data_dir",
        tiny,
        "--tokenizer_name",
        tiny / "teacher",
        *words,
    )
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_plain_loop_from_the_shell(tiny, tmp_path):
    train_teacher.main(flags(tiny, tmp_path / "t", "--max_steps", 1, teacher=True))
    shared = [
        "--data_dir",
        tiny,
        "--task_name",
        "RTE",
        "--max_seq_length",
        24,
        "--model_name_or_path",
        tiny / "pretrained",
        "--per_gpu_train_batch_size",
        8,
    ]
    for more in ([], ["--teacher", tmp_path / "t", "--bf16"]):
        done = shell("benchmarks/plain_loop.py", *shared, *more)
        assert done.returncode == 0, done.stderr
        assert "examples/s in training" in done.stdout and "% on dev" in done.stdout


def test_a_commit_that_is_named_counts(monkeypatch):
    """A copy may come with the .git of another commit."""
    monkeypatch.delenv("FSD_COMMIT", raising=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert records.provenance()["commit"] == (head.stdout.strip() or "unknown")
    monkeypatch.setenv("FSD_COMMIT", "0123abc")
    assert records.provenance()["commit"] == "0123abc"
