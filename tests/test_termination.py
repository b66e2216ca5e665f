"""SIGTERM at a chosen moment: a run saves what it has, says so in one line, ends with 143, and goes
on to the very bits of another.
"""

import os
import re
import signal
import time

import pytest
import torch
from conftest import assert_same_files, flags, log_without_speed, memory_flags
from terminations import SAID, terminate

import common
import glue_with_cka_i
import memory
import train_memory
from common import termination
from loop import Loop
from training import evaluation, memory_file, results_csv, session, teacher_cache
from training.agreement import Agreement


@pytest.fixture(autouse=True)
def _restored():
    """Without `cli` nobody listens, but what is on hold stays so until a program's end."""
    yield
    termination.ear.reset()


def raises_a_signal(real, at):
    """A function that does as `real`, and gets SIGTERM in its call number `at`."""
    calls = []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            terminate(os.getpid())
        return real(*args, **kwargs)

    return function


def last_line(capsys):
    """The last line on stderr, where bars draw theirs over each other."""
    return re.split(r"[\r\n]", capsys.readouterr().err.rstrip("\n"))[-1] + "\n"


# ---- a training ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_training_saves_the_step_it_is_in_and_goes_on_to_the_same_bits(
    step, tiny, tmp_path, monkeypatch, capsys
):
    """4 is a step that is saved anyway; the bits of 3 steps are in the meter at 5, as every fourth
    is logged.
    """
    more = ["--save_steps", 4, "--logging_steps", 4, "--evaluate_during_training"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "straight", *more))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "take_step", raises_a_signal(Loop.take_step, step))
        assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *more)) == 143
    assert last_line(capsys) == SAID.format(f"step {step} of 6 is saved")
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *more)) == 0
    assert f"checkpoint-{step}: {step} of 6 steps are done" in capsys.readouterr().err
    assert_same_files(
        tmp_path / "straight", tmp_path / "cut", "model.safetensors", "dev_predictions.tsv"
    )
    assert log_without_speed(tmp_path / "cut") == log_without_speed(tmp_path / "straight")


def test_after_the_last_step_the_model_is_placed_and_not_trained_again(
    tiny, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "take_step", raises_a_signal(Loop.take_step, 6))
        assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s")) == 143
    assert last_line(capsys) == "terminated; the same command goes on from what was saved last\n"
    assert (tmp_path / "s/model.safetensors").exists() and not list((tmp_path / "s").rglob("*.tmp"))
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s")) == 0
    assert "is done; going on after it" in capsys.readouterr().err


def test_a_state_with_a_nan_is_not_saved(tiny, tmp_path, monkeypatch, capsys):
    check = common.UserError("the loss term ce was not a finite number at step 2")

    def bad(self):
        raise check

    monkeypatch.setattr(Loop, "take_step", raises_a_signal(Loop.take_step, 2))
    monkeypatch.setattr("training.checkpoints.Meter.check", bad)
    assert (
        common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s", "--logging_steps", 100)) == 1
    )
    assert last_line(capsys).endswith(f"error: {check}\n")
    assert not list((tmp_path / "s").glob("checkpoint-*"))


@pytest.mark.parametrize("where", ["evaluate_folder", "training_features"])
def test_elsewhere_it_ends_at_once(where, tiny, tmp_path, monkeypatch, capsys):
    place = evaluation if where == "evaluate_folder" else session.Session
    monkeypatch.setattr(place, where, raises_a_signal(getattr(place, where), 1))
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s")) == 143
    assert last_line(capsys) == "terminated; the same command goes on from what was saved last\n"
    assert not list((tmp_path / "s").glob("*_predictions.tsv"))


@pytest.mark.slow
def test_a_finished_run_is_not_terminated(tiny, tmp_path, monkeypatch):
    """At the moment in which its last record is written, and in the last pass of a clustering."""
    monkeypatch.setattr(results_csv, "result_row", raises_a_signal(results_csv.result_row, 1))
    assert (
        common.cli(
            glue_with_cka_i.main, flags(tiny, tmp_path / "s", "--results_csv", tmp_path / "r.csv")
        )
        == 0
    )
    assert common.read_json(tmp_path / "s/run.json")["finished"]
    monkeypatch.setattr(memory_file, "save_memory", raises_a_signal(memory_file.save_memory, 1))
    assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "m")) == 0
    assert common.read_json(tmp_path / "m/run.json")["finished"]


# ---- a clustering, a teacher cache ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch, said",
    [
        (2, "mini-batch 2 of 3 in pass 1 is saved"),
        (3, "pass 1 of 3 is saved"),
        (4, "mini-batch 1 of 3 in pass 2 is saved"),
    ],
)
def test_a_clustering_saves_and_ends_in_the_same_memory(
    batch, said, tiny, tmp_path, monkeypatch, capsys
):
    train_memory.main(memory_flags(tiny, tmp_path / "straight"))
    with monkeypatch.context() as patch:
        patch.setattr(memory.KMeans, "add", raises_a_signal(memory.KMeans.add, batch))
        assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "cut")) == 143
    assert last_line(capsys) == SAID.format(said)
    assert not (tmp_path / "cut" / memory_file.FILE).exists()
    assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "cut")) == 0
    assert_same_files(tmp_path / "straight", tmp_path / "cut", memory_file.FILE, "clusters.tsv")


@pytest.mark.slow
def test_a_teacher_cache_keeps_what_is_done(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    kept = ["--teacher_cache", tmp_path / "kept"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "straight", "--teacher_cache", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        # two files a mini-batch: in the second one
        cache = teacher_cache.TeacherCache
        patch.setattr(cache, "numbers", raises_a_signal(cache.numbers, 3))
        assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *kept)) == 143
    assert last_line(capsys) == SAID.format("16 of 21 samples of the teacher cache are saved")
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *kept)) == 0
    assert "16 of 21 samples are done" in capsys.readouterr().err
    for whole in (tmp_path / "whole").rglob("*.safetensors"):
        here = whole.parent.relative_to(tmp_path / "whole")
        assert_same_files(whole.parent, tmp_path / "kept" / here, whole.name)
    assert_same_files(tmp_path / "straight", tmp_path / "cut", "model.safetensors")


# ---- the handler ---------------------------------------------------------------------------------


def test_a_second_signal_does_not_disturb_the_cleaning_up(capsys):
    cleaned = []

    def main(argv):
        try:
            terminate(os.getpid())
        finally:
            terminate(os.getpid())
            cleaned.append(True)

    assert common.cli(main) == 143
    assert (
        cleaned
        and capsys.readouterr().err
        == "terminated; the same command goes on from what was saved last\n"
    )


def test_it_comes_again_where_python_drops_an_exception(capsys):
    class Deaf:
        def __del__(self):
            terminate(os.getpid())

    def main(argv):
        deaf = Deaf()
        del deaf
        time.sleep(30)

    assert common.cli(main) == 143
    assert (
        capsys.readouterr().err == "terminated; the same command goes on from what was saved last\n"
    )


def test_a_mistake_that_is_told_meanwhile_is_still_one_line(capsys):
    def main(argv):
        termination.hold()
        terminate(os.getpid())
        raise common.UserError("this is wrong")

    assert common.cli(main) == 1 and capsys.readouterr().err == "error: this is wrong\n"


def test_a_child_that_was_forked_ends_as_ever():
    def main(argv):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.2)  # Python forgets what it hears while it forks
        terminate(child)
        return os.waitpid(child, 0)[1]

    assert common.cli(main) == signal.SIGTERM


def test_an_agreement_gives_up_on_processes_that_are_gone(monkeypatch):
    store = torch.distributed.HashStore()
    asking = Agreement.__new__(Agreement)
    asking.world, asking.store, asking.last = 2, store, None
    monkeypatch.setattr("training.agreement.PATIENCE", 0.05)
    assert not asking.asks(1)
    monkeypatch.setattr(termination.ear, "told", True)
    with pytest.raises(termination.Terminated):
        asking.asks(2)
