"""Stopped or killed, the same command goes on: to the last bit, or it says why not."""

import json

import pandas as pd
import pytest
from conftest import assert_same_files, flags, log_without_speed, read_log
from stopped_runs import start_and_kill, stopped_at

import distill
import glue_with_cka_i
import train_teacher
from common import UserError


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
    start_and_kill("glue_with_cka_i.py", flags(tiny, killed, *more), killed, after_step=27)
    assert not (killed / "model.safetensors").exists()
    assert glue_with_cka_i.main(flags(tiny, killed, *more)) == 0
    names = ("model.safetensors", "dev_predictions.tsv", "eval_results.json")
    assert_same_files(killed, straight, *names)
    # every step once, none lost
    assert log_without_speed(killed) == log_without_speed(straight)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["evaluate_folder", "write"])
def test_killed_after_the_training_nothing_is_trained_again(where, tiny, tmp_path, monkeypatch):
    """The same command goes on with the evaluation, and results.csv has the run once."""
    place = distill.evaluation if where == "evaluate_folder" else distill.records.Record
    real, calls = getattr(place, where), []

    def stop(self, *args):
        calls.append(1)
        # the third record is the finished one, after results.csv
        if where == "evaluate_folder" or len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    arguments = flags(
        tiny, tmp_path / "s", "--seed", 0, "--beta", 0, "--results_csv", tmp_path / "r.csv"
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, where, stop)
        glue_with_cka_i.main(arguments)
    monkeypatch.setattr(distill, "Loop", None)
    with pytest.raises(UserError, match=r"learning_rate was 0\.001 and is 0\.002"):
        glue_with_cka_i.main([*arguments, "--learning_rate", "2e-3"])
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


def test_half_written_checkpoints_are_never_read(tiny, tmp_path):
    output = tmp_path / "s"
    (output / ".checkpoint-4.123.tmp").mkdir(parents=True)
    (output / ".checkpoint-4.123.tmp" / "model.safetensors").write_text("half")
    (output / "checkpoint-6").mkdir()
    glue_with_cka_i.main(flags(tiny, output))
    assert not (output / ".checkpoint-4.123.tmp").exists()
    assert read_log(output)[0]["step"] == 1


# ---- which checkpoint ----------------------------------------------------------------------------


def test_resume_from_a_named_checkpoint(tiny, tmp_path):
    stopped_at(tiny, tmp_path / "a")
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


@pytest.mark.slow
def test_going_back_to_an_older_checkpoint_drops_the_later_ones(tiny, tmp_path):
    keep_all = ["--save_total_limit", 0]
    for _ in range(2):  # stops at checkpoint-2, then at checkpoint-4
        stopped_at(tiny, tmp_path / "s", *keep_all)
    back = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-2", "--save_steps", 100]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *keep_all, *back))
    assert [path.name for path in (tmp_path / "s").glob("checkpoint-*")] == ["checkpoint-2"]
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_checkpoint_in_the_students_folder_is_resumed_but_this_runs_own_comes_first(
    tiny, tmp_path
):
    stopped_at(tiny, tmp_path / "a")
    here = ["--student_model_name_or_path", tmp_path / "a"]
    stopped_at(tiny, tmp_path / "b", *here)
    assert [path.name for path in sorted((tmp_path / "b").glob("checkpoint-*"))] == ["checkpoint-4"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "b", "--save_steps", 2, *here))
    assert [entry["step"] for entry in read_log(tmp_path / "b")] == [3, 4, 5, 6]
    with pytest.raises(UserError, match="is no folder"):
        glue_with_cka_i.main(
            flags(tiny, tmp_path / "c", "--student_model_name_or_path", "bert-base-uncased")
        )


# ---- what is refused -----------------------------------------------------------------------------


def test_resuming_with_other_settings_is_refused(tiny, tmp_path):
    stopped_at(tiny, tmp_path / "s", "--beta", 3)
    with pytest.raises(UserError, match=r"beta was 3\.0 and is 4\.0"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--beta", 4))
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--beta", 4, "--overwrite_output_dir"))
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]


def test_resuming_with_another_model_is_refused(tiny, tmp_path):
    """train_teacher.py has no teacher whose fingerprint would tell."""
    stopped_at(tiny, tmp_path / "t", main=train_teacher.main)
    with pytest.raises(UserError, match="model_name_or_path was"):
        train_teacher.main(
            flags(tiny, tmp_path / "t", "--model_name_or_path", tiny / "teacher", teacher=True)
        )


def test_a_damaged_checkpoint_is_said_to_be_one(tiny, tmp_path):
    for name, content in (
        ("training_state.safetensors", b"half"),
        ("progress.json", b'{"settings"'),
    ):
        stopped_at(tiny, tmp_path / name)
        (tmp_path / name / "checkpoint-2" / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            glue_with_cka_i.main(flags(tiny, tmp_path / name))
