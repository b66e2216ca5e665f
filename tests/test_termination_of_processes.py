"""SIGTERM and SIGKILL from outside: to a run with workers, to two processes, at random moments."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import pandas as pd
import psutil
import pytest
from conftest import (
    ROOT,
    assert_same_files,
    flags,
    log_without_speed,
    memory_flags,
    read_log,
    shell,
    torchrun,
    two_processes,
    write_task,
)
from stopped_runs import start_until
from terminations import SAID, terminate

import glue_with_cka_i

LONG = ["--save_steps", 1000, "--num_train_epochs", 60, "--logging_steps", 5]


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
    process = start_until(
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
    assert_same_files(
        tmp_path / "straight", tmp_path / "cut", "model.safetensors", "dev_predictions.tsv"
    )


# ---- two processes -------------------------------------------------------------------------------


def workers_of(process, script):
    """The pids of a torchrun's workers, by rank."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if str(ROOT / script) in child.cmdline():
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
    process = start_until(
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
    assert_same_files(straight_pair, tmp_path / "cut", "model.safetensors", "dev_predictions.tsv")
    assert log_without_speed(tmp_path / "cut") == log_without_speed(straight_pair)


@pytest.mark.slow
def test_two_processes_of_a_clustering_stop_at_one_mini_batch(tiny, tmp_path):
    """They share no step, and meet in the store alone; one of them is told."""
    write_task(tmp_path, rows=(300, 4, 1))
    more = "--per_gpu_train_batch_size 1 --save_steps 1000 --logging_steps 10".split()
    more += ["--memory_num_train_epochs", 3, "--data_dir", tmp_path]
    arguments = memory_flags(tiny, tmp_path / "m", *more)
    process = start_until(
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


# ---- at random -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_that_are_killed_at_random_end_in_the_same_bits(tmp_path):
    """A few rounds of the kill loop, which says what went wrong."""
    words = "--rounds 2 --kinds distillation clustering --folder".split()
    done = shell("tests/kill_loop.py", *words, tmp_path / "work", cwd=ROOT, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^equal ends +1 +1$", done.stdout, re.M)
