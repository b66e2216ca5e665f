"""SIGTERM: a run saves what it has, says so in one line, ends with 143, and goes on to the very
bits of another.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT, flags, memory_flags, read_log, two_processes, write_task

import common
import glue_with_cka_i
import memory
import termination
import train_memory
from loop import Loop
from training import evaluation, results_csv, session, teacher_cache

SAID = "terminated; {}, and the same command goes on from there\n"


@pytest.fixture(autouse=True)
def _restored():
    """Without `cli` nobody listens, but what is on hold stays so until a program's end."""
    yield
    termination.ear.reset()


def terminate(process):
    os.kill(process if isinstance(process, int) else process.pid, signal.SIGTERM)


def raises_a_signal(real, at):
    """A function that does as `real`, and gets SIGTERM in its call number `at`."""
    calls = []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            terminate(os.getpid())
        return real(*args, **kwargs)

    return function


def same_files(one, two, *names):
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def log_without_speed(output):
    return [
        {k: v for k, v in entry.items() if k != "examples_per_second"} for entry in read_log(output)
    ]


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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    same_files(tmp_path / "straight", tmp_path / "cut", "model.safetensors", "dev_predictions.tsv")
    assert log_without_speed(tmp_path / "cut") == log_without_speed(tmp_path / "straight")


def test_after_the_last_step_the_model_is_placed_and_not_trained_again(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    monkeypatch.setattr(memory, "save_memory", raises_a_signal(memory.save_memory, 1))
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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train_memory.main(memory_flags(tiny, tmp_path / "straight"))
    with monkeypatch.context() as patch:
        patch.setattr(memory.KMeans, "add", raises_a_signal(memory.KMeans.add, batch))
        assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "cut")) == 143
    assert last_line(capsys) == SAID.format(said)
    assert not (tmp_path / "cut" / memory.FILE).exists()
    assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "cut")) == 0
    same_files(tmp_path / "straight", tmp_path / "cut", memory.FILE, "clusters.tsv")


def test_a_teacher_cache_keeps_what_is_done(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    kept = ["--teacher_cache", tmp_path / "kept"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "straight", "--teacher_cache", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        numbers = teacher_cache.TeacherCache.numbers
        patch.setattr(
            teacher_cache.TeacherCache, "numbers", raises_a_signal(numbers, 3)
        )  # two files a mini-batch
        assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *kept)) == 143
    assert last_line(capsys) == SAID.format("16 of 21 samples of the teacher cache are saved")
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "cut", *kept)) == 0
    assert "16 of 21 samples are done" in capsys.readouterr().err
    for whole in (tmp_path / "whole").rglob("*.safetensors"):
        here = whole.parent.relative_to(tmp_path / "whole")
        same_files(whole.parent, tmp_path / "kept" / here, whole.name)
    same_files(tmp_path / "straight", tmp_path / "cut", "model.safetensors")


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


# ---- from outside --------------------------------------------------------------------------------

LONG = ["--save_steps", 1000, "--num_train_epochs", 60, "--logging_steps", 5]


def start(command, output, until, **kwargs):
    """Start a command; returns its process once its log shows the step `until`."""
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True, start_new_session=True, **kwargs
    )
    log, deadline = output / "train_log.jsonl", time.monotonic() + 120
    while not (log.exists() and f'"step": {until},' in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def ended_well(process, children=()):
    """Wait for an end with 143 that leaves no child behind. Returns what was said, but for bars."""
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert not psutil.wait_procs(children, timeout=10)[1]
    return [line for line in re.split(r"[\r\n]", said) if line.strip() and "|" not in line]


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_run_with_a_loaders_worker(tiny, tmp_path):
    """The worker lives until its parent has saved, then ends."""
    arguments = flags(tiny, tmp_path / "cut", "--dataloader_num_workers", 1, *LONG)
    process = start(
        [sys.executable, "glue_with_cka_i.py", *arguments],
        tmp_path / "cut",
        40,
        stderr=subprocess.PIPE,
    )
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGTERM)
    said = ended_well(process, children)
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert said[-1] == SAID.format(f"step {step} of 180 is saved").strip()
    assert sum("terminated" in line for line in said) == 1
    glue_with_cka_i.main(arguments)
    glue_with_cka_i.main(flags(tiny, tmp_path / "straight", *LONG))
    same_files(tmp_path / "straight", tmp_path / "cut", "model.safetensors", "dev_predictions.tsv")


def torchrun(script, arguments):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        "localhost:0",
        "tests/leaves_its_group.py",
        script,
        *arguments,
    ]


def workers_of(process, script):
    """The pids of a torchrun's workers, by rank."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if script in child.cmdline():
                found[child.environ()["RANK"]] = child.pid
    return found


PAIR = ["--per_gpu_train_batch_size", 4, *LONG]


@pytest.fixture(scope="module")
def straight_pair(tiny, tmp_path_factory):
    """A run of two processes that nothing interrupts."""
    output = tmp_path_factory.mktemp("pair") / "straight"
    two_processes("glue_with_cka_i.py", flags(tiny, output, *PAIR))
    return output


@pytest.mark.slow
@pytest.mark.parametrize("told", ["torchrun", "1"])
def test_two_processes_stop_at_one_step(told, tiny, tmp_path, straight_pair):
    """SIGTERM to torchrun, which passes it on, or to one worker alone."""
    arguments = flags(tiny, tmp_path / "cut", *PAIR)
    process = start(
        torchrun("glue_with_cka_i.py", arguments), tmp_path / "cut", 40, stderr=subprocess.PIPE
    )
    workers = workers_of(process, "glue_with_cka_i.py")
    assert len(workers) == 2
    terminate(process if told == "torchrun" else workers[told])
    said = process.communicate(timeout=60)[1]
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert SAID.format(f"step {step} of 180 is saved") in said and "exitcode  : 1 " not in said
    assert said.count("terminated; ") == 1 and "threads at exit" not in said
    subprocess.run(
        torchrun("glue_with_cka_i.py", arguments), cwd=ROOT, check=True, capture_output=True
    )
    same_files(straight_pair, tmp_path / "cut", "model.safetensors", "dev_predictions.tsv")
    assert log_without_speed(tmp_path / "cut") == log_without_speed(straight_pair)


@pytest.mark.slow
def test_two_processes_of_a_clustering_stop_at_one_mini_batch(tiny, tmp_path):
    """They share no step, and meet in the store alone; one of them is told."""
    write_task(tmp_path, rows=(300, 4, 1))
    arguments = [
        str(word)
        for word in memory_flags(
            tiny,
            tmp_path / "m",
            "--data_dir",
            tmp_path,
            "--per_gpu_train_batch_size",
            1,
            "--save_steps",
            1000,
            "--logging_steps",
            10,
            "--memory_num_train_epochs",
            3,
        )
    ]
    process = start(
        torchrun("train_memory.py", arguments), tmp_path / "m", 40, stderr=subprocess.PIPE
    )
    terminate(workers_of(process, "train_memory.py")["1"])
    said = process.communicate(timeout=60)[1]
    assert re.search(
        r"terminated; (mini-batch \d+ of 150 in pass \d|pass \d of 3) is saved, and the same", said
    ), said
    done = subprocess.run(
        torchrun("train_memory.py", arguments), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "going on after" in done.stderr
    steps = pd.DataFrame(read_log(tmp_path / "m")).step
    assert steps.is_monotonic_increasing and steps.iloc[-1] % 150 == 0


def test_an_agreement_gives_up_on_processes_that_are_gone(monkeypatch):
    store = torch.distributed.HashStore()
    agreement = termination.Agreement.__new__(termination.Agreement)
    agreement.world, agreement.store, agreement.last = 2, store, None
    monkeypatch.setattr(termination, "PATIENCE", 0.05)
    assert not agreement.asks(1)
    monkeypatch.setattr(termination.ear, "told", True)
    with pytest.raises(termination.Terminated):
        agreement.asks(2)


# ---- a sweep -------------------------------------------------------------------------------------

SAVING = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
def end(number, frame):
    time.sleep(1)
    (folder / "saved").write_text(signal.Signals(number).name)
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
(folder / "started").touch()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, passed", [("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM"), ("SIGINT", "SIGINT")]
)
def test_a_sweep_that_is_told_to_end_lets_its_runs_save(number, passed, tmp_path):
    def heed():  # a shell cannot trap what it was started without, as SIGHUP under nohup
        for one in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    (tmp_path / "saving.py").write_text(SAVING)
    process = subprocess.Popen(
        [ROOT / "scripts/sweep", "runs", "a", "--", "saving.py"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHON": sys.executable},
        text=True,
        preexec_fn=heed,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "runs/a/started").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[number])
    assert process.communicate(timeout=30)[1].endswith("stopped; the same command goes on\n")
    assert process.returncode == 130 and (tmp_path / "runs/a/saved").read_text() == passed


# ---- at random -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_that_are_killed_at_random_end_in_the_same_bits(tmp_path):
    """A few rounds of the kill loop, which says what went wrong."""
    done = subprocess.run(
        [
            sys.executable,
            "tests/kill_loop.py",
            "--rounds",
            "2",
            "--kinds",
            "distillation",
            "clustering",
            "--folder",
            tmp_path / "work",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^equal ends +1 +1$", done.stdout, re.M)
