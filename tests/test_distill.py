"""The loop and what a run leaves behind, through the scripts' own main, on tiny random models."""

import json
import math
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import assert_same_training, flags, read_log, save_models, two_processes, write_task
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cka
import common
import glue_with_cka_i
import terms
import train_teacher
from common import UserError


def test_a_run_leaves_what_the_readme_says(tiny, tmp_path):
    output = tmp_path / "student"
    before = common.sha256_of_file(tiny / "teacher" / "model.safetensors")
    assert (
        glue_with_cka_i.main(
            flags(
                tiny,
                output,
                "--internal",
                "--beta",
                2,
                "--results_csv",
                tmp_path / "r.csv",
                "--save_steps",
                2,
                "--do_predict",
            )
        )
        == 0
    )
    assert common.sha256_of_file(tiny / "teacher" / "model.safetensors") == before
    log = read_log(output)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    for entry in log:
        total = 0.5 * entry["ce"] + 0.5 * entry["kd"] + 2 * entry["intra"]
        assert math.isclose(entry["total"], total, rel_tol=1e-5)
        assert {
            "rd_inter_euclidean",
            "rd_inter_cosine",
            "rd_intra_euclidean",
            "rd_intra_cosine",
            "grad_norm",
            "learning_rate",
        } <= entry.keys()
    assert [entry["learning_rate"] for entry in log] == pytest.approx(
        [1e-3 * (6 - i) / 6 for i in range(6)]
    )

    run, results = (
        json.loads((output / f"{name}.json").read_text()) for name in ("run", "eval_results")
    )
    assert (
        run["finished"]
        and run["method"] == "FSD_I"
        and run["seed"] == 42
        and run["arguments"]["beta"] == 2
    )
    assert run["results"]["acc"] == results["acc"]
    assert {
        "commit",
        "versions",
        "teacher",
        "data",
        "examples_per_second",
        "wall_seconds",
        "device",
    } <= run.keys()
    table = pd.read_csv(output / "dev_predictions.tsv", sep="\t")
    assert len(table) == 12
    assert (table.label == table.prediction).mean() == pytest.approx(results["acc"])
    assert (table[["logit_0", "logit_1"]].to_numpy().argmax(1) == table.prediction).all()
    assert "acc = " in (output / "eval_results.txt").read_text()
    assert (output / "submission" / "RTE.tsv").read_text().startswith("index\tprediction\n0\t")
    assert [p.name for p in output.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not list(output.rglob("*.tmp*"))
    row = pd.read_csv(tmp_path / "r.csv").iloc[0]
    assert (row["method"], row["task"], row["seed"], row["--beta"]) == ("FSD_I", "RTE", 42, 2)
    pickles = [p for p in output.rglob("*") if p.suffix in (".pt", ".bin", ".pkl", ".pth")]
    assert not pickles

    board = EventAccumulator(str(output / "tensorboard"), purge_orphaned_data=False).Reload()
    tags = set(board.Tags()["scalars"])
    assert {
        "loss/ce",
        "loss/kd",
        "loss/intra",
        "loss/total",
        "training/grad_norm",
        "training/learning_rate",
        "relation/rd_intra_cosine",
        "final/acc",
    } <= tags
    assert [event.step for event in board.Scalars("loss/intra")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Scalars("dev/acc")] == [6]
    assert "hparams" in board.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--internal"], []])
def test_training_brings_the_structures_together(tiny_without_dropout, tmp_path, more):
    glue_with_cka_i.main(
        flags(tiny_without_dropout, tmp_path / "s", "--beta", 50, "--num_train_epochs", 15, *more)
    )
    log, name = read_log(tmp_path / "s"), "intra" if more else "local"
    assert sum(e[name] for e in log[-5:]) < 0.7 * sum(e[name] for e in log[:5])


def test_a_weight_of_zero_skips_its_term(tiny, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("computed for a weight of 0")

    monkeypatch.setattr(cka, "local_inter_feature_loss", forbidden)
    glue_with_cka_i.main(flags(tiny, tmp_path / "a", "--beta", 0, "--logging_steps", 100))
    assert json.loads((tmp_path / "a/run.json").read_text())["method"] == "VKD"
    monkeypatch.setattr(terms, "kd_loss", forbidden)
    glue_with_cka_i.main(flags(tiny, tmp_path / "b", "--beta", 0, "--alpha", 1))
    assert {"kd", "local"}.isdisjoint(read_log(tmp_path / "b")[0])


def test_nan_names_the_term_and_the_step(tiny, tmp_path, monkeypatch):
    calls = []

    def broken(h_s, h_t, *more, **kwargs):
        calls.append(1)
        return h_s.sum() * (math.nan if len(calls) == 3 else 0), torch.zeros(())

    monkeypatch.setattr(cka, "local_inter_feature_loss", broken)
    with pytest.raises(UserError, match="loss term local was not a finite number at step 3"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--save_steps", 4, "--logging_steps", 100))
    assert not list((tmp_path / "s").glob("checkpoint-*"))


def test_eval_all_checkpoints(tiny, tmp_path):
    glue_with_cka_i.main(
        flags(
            tiny,
            tmp_path / "s",
            "--save_steps",
            2,
            "--save_total_limit",
            0,
            "--eval_all_checkpoints",
        )
    )
    assert {p.parent.name for p in (tmp_path / "s").glob("checkpoint-*/eval_results.json")} == {
        "checkpoint-2",
        "checkpoint-4",
    }


# ---- the student ---------------------------------------------------------------------------------


def test_the_student_is_the_first_layers_of_the_pretrained_model(tiny, tmp_path):
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--learning_rate", 0, "--beta", 1))
    student, source = (
        load_file(tmp_path / "s/model.safetensors"),
        load_file(tiny / "pretrained/model.safetensors"),
    )
    copied = {key: value for key, value in student.items() if not key.startswith("classifier.")}
    assert sum(key.endswith("attention.self.query.weight") for key in copied) == 2
    assert all(
        torch.equal(value, source[key.removeprefix("bert.")]) for key, value in copied.items()
    )
    config = json.loads((tmp_path / "s/config.json").read_text())
    assert config["id2label"] == {"0": "entailment", "1": "not_entailment"}


@pytest.mark.slow
def test_a_stranger_loads_the_student(tiny, tmp_path):
    """In a process that knows nothing of this project: from_pretrained, a pipeline, and the same
    dev score.
    """
    glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    code = f"""
from transformers import AutoModelForSequenceClassification, pipeline
model = AutoModelForSequenceClassification.from_pretrained({str(tmp_path / "s")!r})
assert model.config.num_hidden_layers == 2
classify = pipeline("text-classification", model={str(tmp_path / "s")!r}, device="cpu")
lines = open({str(tiny / "RTE/dev.tsv")!r}, encoding="utf-8")
rows = [line.rstrip("\\n").split("\\t") for line in lines][1:]
said = classify([{{"text": r[1], "text_pair": r[2]}} for r in rows], truncation=True, max_length=24)
print(sum(s["label"] == r[3] for s, r in zip(said, rows)) / len(rows))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(found.stdout) == json.loads((tmp_path / "s/eval_results.json").read_text())["acc"]


@pytest.mark.slow
def test_teacher_and_student_without_distillation(tiny, tmp_path):
    train_teacher.main(flags(tiny, tmp_path / "t", teacher=True))
    train_teacher.main(flags(tiny, tmp_path / "n", "--student_num_hidden_layers", 2, teacher=True))
    layers = [
        json.loads((tmp_path / name / "config.json").read_text())["num_hidden_layers"]
        for name in "tn"
    ]
    methods = [json.loads((tmp_path / name / "run.json").read_text())["method"] for name in "tn"]
    assert (layers, methods) == ([4, 2], ["teacher", "none"])
    assert set(read_log(tmp_path / "t")[0]) == {
        "step",
        "epoch",
        "ce",
        "total",
        "learning_rate",
        "grad_norm",
        "examples_per_second",
    }
    glue_with_cka_i.main(
        [*flags(tiny, tmp_path / "s"), "--model_name_or_path", str(tmp_path / "t")]
    )


def test_teacher_and_student_of_different_width(tiny, tmp_path):
    save_models(tmp_path / "narrow", hidden_size=8, num_hidden_layers=3)
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", "--model_name_or_path_for_copy", tmp_path / "narrow/pretrained")
    )
    assert json.loads((tmp_path / "s/config.json").read_text())["hidden_size"] == 8


def test_random_student_without_copy_teacher(tiny, tmp_path):
    arguments = [
        flag
        for flag in flags(tiny, tmp_path / "s", "--learning_rate", 0)
        if flag != "--copy_teacher"
    ]
    glue_with_cka_i.main(arguments)
    student, source = (
        load_file(tmp_path / "s/model.safetensors"),
        load_file(tiny / "pretrained/model.safetensors"),
    )
    key = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(student["bert." + key], source[key])


# ---- the same training ---------------------------------------------------------------------------


@pytest.mark.slow
def test_accumulation_is_the_larger_batch(tiny_without_dropout, tmp_path):
    """For terms that are means over samples, 2 mini-batches of 8 are 1 of 16, the smaller last
    window included.
    """
    write_task(tmp_path, rows=(40, 4, 1))
    for name, batch, accumulation in (("one", 16, 1), ("two", 8, 2)):
        arguments = flags(
            tiny_without_dropout,
            tmp_path / name,
            "--internal",
            "--per_gpu_train_batch_size",
            batch,
            "--gradient_accumulation_steps",
            accumulation,
            "--data_dir",
            tmp_path,
        )
        glue_with_cka_i.main(arguments)
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--beta", "2"], ["--beta", "2", "--internal", "--mask_padding"]])
def test_two_processes_are_one(tiny_without_dropout, tmp_path, more):
    """torchrun with 2 gloo processes of 4 rows against one of 8; 21 rows leave a last mini-batch of
    5.
    """
    glue_with_cka_i.main(flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "glue_with_cka_i.py",
        flags(tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4),
    )
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
    assert_same_training(tmp_path / "one", tmp_path / "two")
    logits = [
        pd.read_csv(tmp_path / name / "dev_predictions.tsv", sep="\t").logit_0
        for name in ("one", "two")
    ]
    assert logits[0].tolist() == pytest.approx(logits[1].tolist(), rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_same_seed_same_run_other_seed_other_run(tiny, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        glue_with_cka_i.main(flags(tiny, tmp_path / name, "--seed", seed))
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
