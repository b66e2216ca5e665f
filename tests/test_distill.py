"""The loop and what a run leaves behind, through the scripts' own main, on tiny random models."""

import json
import math
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from conftest import GOLDEN, ROOT, flags, read_log, save_models, two_processes, write_task
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cka
import common
import distill
import glue_with_cka_i
import kd
import terms
import train_teacher
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from training.batches import Outputs, windows


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_vkd_golden_values(case, dtype, tolerance):
    z_s, z_t = (torch.tensor(case["inputs"][key], dtype=dtype) for key in ("ls", "lt"))
    s, t = Outputs(z_s), Outputs(z_t)
    vkd = terms.vkd_terms(0.3, 5.0)
    found = sum(
        term.weight * term.loss(s, t, {"labels": torch.tensor(case["inputs"]["y"])})
        for term in vkd.values()
    )
    expected = case["expected"]["vkd_alpha_0.3_tau_5"]
    assert abs(found.item() - expected) <= tolerance * max(1, abs(expected))


def test_kd_gradcheck_and_regression():
    z_s = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z_t = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: kd.kd_loss(z, z_t.detach(), 5.0), z_s)
    kd.kd_loss(z_s, z_t, 5.0).backward()
    assert z_t.grad is None
    assert (
        kd.kd_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]), 5.0) == 2.5
    )  # (1 + 4) / 2


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


def test_a_weight_of_zero_skips_its_term(tiny, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("computed for a weight of 0")

    monkeypatch.setattr(cka, "local_inter_feature_loss", forbidden)
    glue_with_cka_i.main(flags(tiny, tmp_path / "a", "--beta", 0, "--logging_steps", 100))
    assert json.loads((tmp_path / "a/run.json").read_text())["method"] == "VKD"
    monkeypatch.setattr(terms, "kd_loss", forbidden)
    glue_with_cka_i.main(flags(tiny, tmp_path / "b", "--beta", 0, "--alpha", 1))
    assert {"kd", "local"}.isdisjoint(read_log(tmp_path / "b")[0])


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


def assert_same_training(one, two, **tolerance):
    tolerance = tolerance or {"rtol": 1e-3, "atol": 1e-5}
    a, b = read_log(one), read_log(two)
    assert len(a) == len(b)
    for key in ("total", "grad_norm"):
        torch.testing.assert_close(
            *(torch.tensor([entry[key] for entry in log]) for log in (a, b)), **tolerance
        )
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for key in weights[0]:
        if key.endswith(
            "key.bias"
        ):  # softmax does not see it: its gradient is rounding noise, which Adam enlarges
            continue
        torch.testing.assert_close(weights[0][key], weights[1][key], **tolerance)


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


def start_and_kill(arguments, output, after_step):
    """Run the script in a process of its own and SIGKILL it as soon as its log shows a step."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "glue_with_cka_i.py"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    log, deadline = output / "train_log.jsonl", time.monotonic() + 120
    while not (log.exists() and f'"step": {after_step},' in log.read_text()):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (output / "model.safetensors").exists()


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(tiny, tmp_path):
    more = [
        "--save_steps",
        20,
        "--num_train_epochs",
        40,
        "--evaluate_during_training",
        "--gradient_accumulation_steps",
        2,
        "--logging_steps",
        3,
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    glue_with_cka_i.main(flags(tiny, straight, *more))
    start_and_kill(flags(tiny, killed, *more), killed, after_step=27)
    assert glue_with_cka_i.main(flags(tiny, killed, *more)) == 0
    for name in ("model.safetensors", "dev_predictions.tsv", "eval_results.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()
    wanted, found = (
        [
            {k: v for k, v in entry.items() if k != "examples_per_second"}
            for entry in read_log(folder)
        ]
        for folder in (straight, killed)
    )
    assert found == wanted  # every step once, none lost


def test_half_written_checkpoints_are_never_read(tiny, tmp_path):
    output = tmp_path / "s"
    (output / ".checkpoint-4.123.tmp").mkdir(parents=True)
    (output / ".checkpoint-4.123.tmp" / "model.safetensors").write_text("half")
    (output / "checkpoint-6").mkdir()
    glue_with_cka_i.main(flags(tiny, output))
    assert not (output / ".checkpoint-4.123.tmp").exists()
    assert read_log(output)[0]["step"] == 1


def stopped_at(tiny, output, monkeypatch, *more):
    """A run that an exception stops right after its first checkpoint."""
    real = distill.save_checkpoint

    def save_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        glue_with_cka_i.main(flags(tiny, output, "--save_steps", 2, *more))
    monkeypatch.undo()


def test_resuming_with_other_settings_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stopped_at(tiny, tmp_path / "s", monkeypatch, "--beta", 3)
    with pytest.raises(UserError, match=r"beta was 3\.0 and is 4\.0"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--beta", 4))
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--beta", 4, "--overwrite_output_dir"))
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]


def test_resume_from_a_named_checkpoint(tiny, tmp_path, monkeypatch):
    stopped_at(tiny, tmp_path / "a", monkeypatch)
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "b", "--resume_from_checkpoint", tmp_path / "a/checkpoint-2")
    )
    assert [entry["step"] for entry in read_log(tmp_path / "b")] == [3, 4, 5, 6]
    with pytest.raises(UserError, match="holds a finished run"):
        glue_with_cka_i.main(
            flags(tiny, tmp_path / "b", "--resume_from_checkpoint", tmp_path / "a/checkpoint-2")
        )
    with pytest.raises(UserError, match="there is no checkpoint in"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "c", "--resume_from_checkpoint"))


def test_going_back_to_an_older_checkpoint_drops_the_later_ones(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_all = ["--save_total_limit", 0]
    for _ in range(2):  # stops at checkpoint-2, then at checkpoint-4
        stopped_at(tiny, tmp_path / "s", monkeypatch, *keep_all)
    back = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-2", "--save_steps", 100]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *keep_all, *back))
    assert [path.name for path in (tmp_path / "s").glob("checkpoint-*")] == ["checkpoint-2"]
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_in_the_students_folder_is_resumed_but_this_runs_own_comes_first(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "a", monkeypatch)
    here = ["--student_model_name_or_path", tmp_path / "a"]
    stopped_at(tiny, tmp_path / "b", monkeypatch, *here)
    assert [path.name for path in sorted((tmp_path / "b").glob("checkpoint-*"))] == ["checkpoint-4"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "b", "--save_steps", 2, *here))
    assert [entry["step"] for entry in read_log(tmp_path / "b")] == [3, 4, 5, 6]
    with pytest.raises(UserError, match="is no folder"):
        glue_with_cka_i.main(
            flags(tiny, tmp_path / "c", "--student_model_name_or_path", "bert-base-uncased")
        )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["evaluate_folder", "write"])
def test_killed_after_the_training_nothing_is_trained_again(where, tiny, tmp_path, monkeypatch):
    """The same command goes on with the evaluation, and results.csv has the run once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = distill.evaluation if where == "evaluate_folder" else distill.records.Record
    real, calls = getattr(place, where), []

    def stop(self, *args):
        calls.append(1)
        if (
            where == "evaluate_folder" or len(calls) == 3
        ):  # the third record is the finished one, after results.csv
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(place, where, stop)
    arguments = flags(
        tiny, tmp_path / "s", "--seed", 0, "--beta", 0, "--results_csv", tmp_path / "r.csv"
    )
    with pytest.raises(KeyboardInterrupt):
        glue_with_cka_i.main(arguments)
    monkeypatch.undo()
    monkeypatch.setattr(distill, "Loop", None)
    with pytest.raises(UserError, match=r"learning_rate was 0\.001 and is 0\.002"):
        glue_with_cka_i.main([*arguments, "--learning_rate", "2e-3"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert glue_with_cka_i.main(arguments) == 0
    rows = pd.read_csv(tmp_path / "r.csv")
    assert len(rows) == 1 and rows.loc[0, ["method", "seed", "--beta", "steps"]].tolist() == [
        "VKD",
        0,
        0.0,
        6,
    ]
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["finished"] and run["results"]["acc"] == rows.acc[0]


def test_resuming_with_another_model_is_refused(tiny, tmp_path, monkeypatch):
    """train_teacher.py has no teacher whose fingerprint would tell."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = distill.save_checkpoint
    monkeypatch.setattr(distill, "save_checkpoint", lambda *args: (real(*args), sys.exit()))
    with pytest.raises(SystemExit):
        train_teacher.main(flags(tiny, tmp_path / "t", "--save_steps", 2, teacher=True))
    with pytest.raises(UserError, match="model_name_or_path was"):
        train_teacher.main(
            flags(tiny, tmp_path / "t", "--model_name_or_path", tiny / "teacher", teacher=True)
        )


def test_a_damaged_checkpoint_is_said_to_be_one(tiny, tmp_path, monkeypatch):
    for name, content in (
        ("training_state.safetensors", b"half"),
        ("progress.json", b'{"settings"'),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        stopped_at(tiny, tmp_path / name, monkeypatch)
        (tmp_path / name / "checkpoint-2" / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            glue_with_cka_i.main(flags(tiny, tmp_path / name))


def test_an_overwritten_run_leaves_no_old_files(tiny, tmp_path):
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--do_predict", "--save_steps", 2))
    arguments = [
        flag
        for flag in flags(tiny, tmp_path / "s", "--overwrite_output_dir")
        if flag != "--do_eval"
    ]
    glue_with_cka_i.main(arguments)
    assert not {"submission", "checkpoint-4", "dev_predictions.tsv"} & {
        p.name for p in (tmp_path / "s").iterdir()
    }


def test_a_finished_run_is_not_overwritten_unasked(tiny, tmp_path):
    glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    with pytest.raises(UserError, match="finished run"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    only_eval = [flag for flag in flags(tiny, tmp_path / "s") if flag != "--do_train"]
    assert glue_with_cka_i.main(only_eval) == 0
    assert json.loads((tmp_path / "s/run.json").read_text())["finished"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--overwrite_output_dir"))


def test_an_output_folder_in_use_is_refused(tiny, tmp_path):
    with (
        common.lock_output_dir(tmp_path / "s"),
        pytest.raises(UserError, match="in use by another run"),
    ):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))


def test_nan_names_the_term_and_the_step(tiny, tmp_path, monkeypatch):
    calls = []

    def broken(h_s, h_t, *more, **kwargs):
        calls.append(1)
        return h_s.sum() * (math.nan if len(calls) == 3 else 0), torch.zeros(())

    monkeypatch.setattr(cka, "local_inter_feature_loss", broken)
    with pytest.raises(UserError, match="loss term local was not a finite number at step 3"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--save_steps", 4, "--logging_steps", 100))
    assert not list((tmp_path / "s").glob("checkpoint-*"))


def test_a_full_disk_leaves_nothing_half_written(tiny, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoints.save_file", full)
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s", "--save_steps", 2)) == 1
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("*checkpoint*")) and not list(
        (tmp_path / "s").glob(".checkpoint*")
    )


def test_mask_padding_is_the_unpadded_computation(tiny_without_dropout, tmp_path):
    """Rows have at most 24 tokens: with padding left out, 24 columns are as good as 48."""
    for length in (24, 48):
        glue_with_cka_i.main(
            flags(
                tiny_without_dropout,
                tmp_path / str(length),
                "--mask_padding",
                "--internal",
                "--max_seq_length",
                length,
            )
        )
    assert_same_training(tmp_path / "24", tmp_path / "48")
    glue_with_cka_i.main(flags(tiny_without_dropout, tmp_path / "padded", "--internal"))
    assert (
        abs(read_log(tmp_path / "padded")[0]["intra"] - read_log(tmp_path / "24")[0]["intra"])
        > 1e-4
    )


def test_variants_reach_the_losses(tiny_without_dropout, tmp_path):
    first = {}
    for name, more in {
        "plain": [],
        "log_mean": ["--intra_reduction", "log_mean"],
        "layers": ["--do_layerwise"],
        "debiased": ["--cka_estimator", "debiased"],
        "bf16": ["--bf16"],
    }.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        glue_with_cka_i.main(
            flags(tiny_without_dropout, tmp_path / name, "--internal", "--max_steps", 1, *more)
        )
        first[name] = read_log(tmp_path / name)[0]["intra"]
    assert len(set(first.values())) == 5
    assert first["bf16"] == pytest.approx(
        first["plain"], rel=0.05
    )  # bfloat16 models, float32 losses
    assert first["log_mean"] < first["plain"]


def first_features(folder, tmp_path, monkeypatch, *more):
    """(h_s, h_t) that the loss of the first step gets, and the rows of its mini-batch."""
    seen = []
    monkeypatch.setattr(
        cka,
        "intra_feature_loss",
        lambda h_s, h_t, *more, **kw: (
            seen.append((h_s.detach(), h_t)) or (h_s.sum() * 0, torch.zeros(()))
        ),
    )
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--internal", "--max_steps", 1, *more))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "teacher")
    features = load_features(get_task("rte"), folder, "train", tokenizer, 24)
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    return *seen[0], {
        key: value[indices].long() for key, value in features.tensors.items() if key != "labels"
    }


def test_the_teachers_features_are_those_of_its_penultimate_layer_in_eval_mode(
    tiny, tmp_path, monkeypatch
):
    """tiny has dropout, so a teacher in train mode would give other features."""
    _, h_t, rows = first_features(tiny, tmp_path, monkeypatch)
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "teacher"
    ).eval()
    torch.testing.assert_close(
        h_t, teacher(**rows, output_hidden_states=True).hidden_states[3]
    )  # of 4 layers
    assert not h_t.requires_grad


def test_the_students_features_are_those_of_its_penultimate_layer(
    tiny_without_dropout, tmp_path, monkeypatch
):
    h_s, _, rows = first_features(tiny_without_dropout, tmp_path, monkeypatch, "--learning_rate", 0)
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    torch.testing.assert_close(
        h_s, student(**rows, output_hidden_states=True).hidden_states[1]
    )  # of 2 layers


def test_layerwise_pairs(tiny_without_dropout, tmp_path, monkeypatch):
    seen, real = [], cka.intra_feature_loss
    monkeypatch.setattr(
        cka,
        "intra_feature_loss",
        lambda h_s, h_t, *more, **kw: seen.append(h_t.detach()) or real(h_s, h_t, *more, **kw),
    )
    glue_with_cka_i.main(
        flags(
            tiny_without_dropout, tmp_path / "a", "--internal", "--max_steps", 1, "--do_layerwise"
        )
    )
    assert len(seen) == 1  # a student of 2 layers: its layer 1 with the teacher's layer 2


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


@pytest.mark.slow
def test_same_seed_same_run_other_seed_other_run(tiny, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        glue_with_cka_i.main(flags(tiny, tmp_path / name, "--seed", seed))
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
