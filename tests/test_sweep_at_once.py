"""scripts/sweep: runs at the same time, and what a run that fails or a sweep that ends leaves."""

import os
import signal
import subprocess
import sys

import filelock
import pandas as pd
import psutil
import pytest
from commands_of_sweeps import (
    ALL,
    CLEAN,
    LISTS,
    SWEEP,
    counts,
    planned,
    rows,
    seen,
    start_sweep,
    sweep,
)
from conftest import ROOT, flags, wait_until

import common
from common import UserError

# ---- jobs, devices, shards -----------------------------------------------------------------------


def test_jobs_run_at_the_same_time(tmp_path):
    done = sweep(tmp_path, "runs", "--jobs", 3, "a", "seed=1,2,3", "--", "fake.py", "--wait_for", 3)
    assert counts(done) == (3, 3, 0, 0)  # each waits for the other two


def test_jobs_and_devices(tmp_path):
    sweep(
        tmp_path,
        "gpus",
        "a",
        "seed=1,2,3",
        "--",
        "fake.py",
        "--wait_for",
        3,
        "--alpha",
        1,
        CUDA_VISIBLE_DEVICES="5,7,6",
    )
    assert sorted(
        seen(tmp_path, f"a,seed={s}", "gpus")["CUDA_VISIBLE_DEVICES"] for s in (1, 2, 3)
    ) == ["5", "6", "7"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: H100 (UUID: x)'\necho 'GPU 1: H100 (UUID: y)'\n"
    )
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    done = sweep(
        tmp_path,
        "smi",
        "a",
        "seed=1,2",
        "--",
        "fake.py",
        "--wait_for",
        2,
        without=["CUDA_VISIBLE_DEVICES"],
        PATH=f"{tmp_path / 'bin'}:{CLEAN['PATH']}",
    )
    assert {seen(tmp_path, f"a,seed={s}", "smi")["CUDA_VISIBLE_DEVICES"] for s in (1, 2)} == {
        "0",
        "1",
    }
    assert "on GPU 1: done" in done.stderr


def test_jobs_share_the_cores_without_gpus(tmp_path):
    cores = len(os.sched_getaffinity(0))
    sweep(tmp_path, "runs", "--jobs", cores, "a", "--", "fake.py", without=["OMP_NUM_THREADS"])
    assert seen(tmp_path, "a")["OMP_NUM_THREADS"] == ("1" if cores > 1 else None)
    sweep(tmp_path, "runs", "--jobs", cores, "b", "--", "fake.py", OMP_NUM_THREADS="3")
    assert seen(tmp_path, "b")["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_are_a_partition(tmp_path, count):
    shards = [
        planned(sweep(tmp_path, "runs", "--plan", "--shard", f"{i}/{count}", *LISTS))
        for i in range(count)
    ]
    assert shards == [ALL[i::count] for i in range(count)]


def test_two_shards_run_all_and_none_twice(tmp_path):
    for i in (1, 0):
        assert counts(sweep(tmp_path, "runs", "--shard", f"{i}/2", *LISTS)) == (3, 3, 0, 0)
    assert sorted(rows(tmp_path)) == ALL
    assert sweep(tmp_path, "runs", "--shard", "6/7", *LISTS).stderr == "0 runs in shard 6/7\n"


@pytest.mark.slow
@pytest.mark.parametrize("first, step", [(0, 1), (1, 1), (0, 4)])
def test_slurm_arrays_are_shards(tmp_path, first, step):
    array = {
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }
    for i in range(4):
        task = array | {"SLURM_ARRAY_TASK_ID": str(first + i * step)}
        assert planned(sweep(tmp_path, "runs", "--plan", *LISTS, **task)) == ALL[i::4]
        assert (
            planned(sweep(tmp_path, "runs", "--plan", "--shard", "1/2", *LISTS, **task))
            == ALL[1::2]
        )


# ---- runs that fail, or go on elsewhere ----------------------------------------------------------


def test_a_failing_run_leaves_the_others_alone_and_its_repair_counts(tmp_path):
    done = sweep(
        tmp_path, "runs", "--jobs", 2, "a", "seed=1,2,3,4", "--", "fake.py", "--fail", 2, "--die", 3
    )
    assert done.returncode == 1 and counts(done) == (4, 2, 0, 2)
    assert sorted(rows(tmp_path)) == ["a,seed=1", "a,seed=4"]
    listed = done.stderr[done.stderr.index("4 runs:") :].splitlines()[1:]
    assert listed == [
        "  a,seed=2 failed with exit code 1, runs/a,seed=2.log: error: seed 2 does not work",
        "  a,seed=3 failed with exit code 137, runs/a,seed=3.log: killed by SIGKILL",
    ]
    mended = ["runs", "a", "seed=2", "--", "fake.py", "--alpha", 1]
    assert counts(sweep(tmp_path, *mended)) == (1, 1, 0, 0)
    # the log is of the flags it finished with
    assert counts(sweep(tmp_path, *mended)) == (1, 0, 1, 0)
    again = sweep(tmp_path, "runs", "a", "seed=3", "--", "fake.py", "--fail", 2, "--die", 3)
    assert counts(again) == (1, 0, 0, 1)
    assert (tmp_path / "runs" / "a,seed=3.log").read_text().count("$ ") == 2  # appended


def test_a_script_that_ends_unfinished_is_no_success(tmp_path):
    (tmp_path / "nothing.py").write_text("print('working')")
    done = sweep(tmp_path, "runs", "a", "--", "nothing.py")
    assert (
        done.returncode == 1
        and "a failed without an error, runs/a.log: its run.json is not finished" in done.stderr
    )


def test_a_run_that_is_held_elsewhere_is_no_failure(tmp_path):
    with (
        common.lock_output_dir(tmp_path / "held"),
        pytest.raises(UserError) as refused,
        common.lock_output_dir(tmp_path / "held"),
    ):
        pass
    done = sweep(tmp_path, "runs", "a", "seed=1", "--", "fake.py", "--in_use", refused.value)
    assert done.returncode == 1 and counts(done) == (1, 0, 0, 0)
    assert "0 failed, 1 still running elsewhere, in " in done.stderr
    assert "  a,seed=1 still running elsewhere\n" in done.stderr


def test_the_log_of_a_run_that_goes_on_elsewhere_is_left_alone(tmp_path):
    """With other flags: else the two sweeps would take each other's result for their own."""
    (tmp_path / "runs/a").mkdir(parents=True)
    log = tmp_path / "runs/a.log"
    log.write_text("$ python fake.py --alpha 1 --output_dir runs/a\nit trains\n")
    before = log.read_bytes()
    with filelock.FileLock(tmp_path / "runs/a/.lock"):
        found = sweep(tmp_path, "runs", "a", "--", "fake.py", "--alpha", 2)
    assert found.returncode == 1 and log.read_bytes() == before
    assert "running elsewhere with other flags" in found.stderr
    assert sweep(tmp_path, "runs", "a", "--", "fake.py", "--alpha", 2).returncode == 0  # it is gone


# ---- sweeps that end early -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_children_and_a_restart_completes(tmp_path, number):
    (tmp_path / "hold").touch()
    words = "runs --jobs 2 a seed=1,2,3 -- fake.py --hold hold".split()
    with open(tmp_path / "err", "w") as err:
        process = start_sweep(
            tmp_path,
            *words,
            env=CLEAN | {"TMPDIR": str(tmp_path)},
            stderr=err,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    wait_until(lambda: len([p for p in tmp_path.glob("runs/*/pid") if p.read_text()]) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert {int(p.read_text()) for p in tmp_path.glob("runs/*/pid")} <= {
        child.pid for child in children
    }
    process.send_signal(number)
    assert process.wait(30) == 130
    assert not psutil.wait_procs(children, timeout=5)[1]
    said = (tmp_path / "err").read_text()
    assert said.endswith("stopped; the same command goes on\n") and "failed" not in said
    assert (
        not list(tmp_path.glob("tmp*"))
        and not rows(tmp_path)
        and not (tmp_path / "runs" / "a,seed=3").exists()
    )
    (tmp_path / "hold").unlink()
    assert counts(sweep(tmp_path, *words)) == (3, 3, 0, 0) and len(rows(tmp_path)) == 3


def test_no_run_is_started_after_the_sweep_itself_was_killed(tmp_path):
    (tmp_path / "hold").touch()
    words = "runs a seed=1,2 -- fake.py --hold hold".split()
    process = start_sweep(tmp_path, *words, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "runs" / "a,seed=1" / "pid").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    (tmp_path / "hold").unlink()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert rows(tmp_path) == ["a,seed=1"] and not (tmp_path / "runs" / "a,seed=2.log").exists()


NESTED = """
import sys
sys.path.insert(0, sys.argv[1])
from scripts.processes import at_once, cli, processes
def started(name):
    text = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
    return [sys.executable, "-c", text + f"open({name!r}, 'w').close(); time.sleep(60)"]
def part(name):
    at_once([lambda number=n: processes.run(started(name + number)) for n in "12"])
    processes.run(started(name + "3"))
def main(argv=None):
    at_once([lambda: part("a"), lambda: part("b")])
sys.exit(cli(main))
"""


def test_sweeps_at_the_same_time_end_together(tmp_path):
    """As a study's parts: told to end, all processes end, and none that comes after is started."""
    process = subprocess.Popen(
        [sys.executable, "-c", NESTED, ROOT], cwd=tmp_path, stderr=subprocess.PIPE
    )
    wait_until(lambda: len(list(tmp_path.iterdir())) == 4, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 4
    assert len({os.getpgid(child.pid) for child in children}) == 4
    assert {os.getsid(child.pid) for child in children} == {os.getsid(0)}
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == b"stopped; the same command goes on\n"
    assert process.returncode == 130 and not psutil.wait_procs(children, timeout=5)[1]
    assert not (tmp_path / "a3").exists()


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
    words = "runs a -- saving.py".split()
    process = start_sweep(tmp_path, *words, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    wait_until((tmp_path / "runs/a/started").exists, process)
    process.send_signal(signal.Signals[number])
    assert process.communicate(timeout=30)[1].endswith("stopped; the same command goes on\n")
    assert process.returncode == 130 and (tmp_path / "runs/a/saved").read_text() == passed


@pytest.mark.slow
def test_a_killed_sweep_of_trainings_goes_on(tiny, tmp_path):
    """Six real runs; everything is killed once two are finished, and the same command completes the
    table.
    """
    command = [
        SWEEP,
        str(tmp_path),
        "--jobs",
        "2",
        "vkd",
        "alpha=0.2,0.7",
        "seed=1,2,3",
        "--",
        "glue_with_cka_i.py",
        *flags(tiny, "the sweep's own wins", "--save_steps", 2, "--beta", 0),
    ]
    process = subprocess.Popen(command, env=CLEAN, stderr=subprocess.DEVNULL)

    def finished():
        return [
            file.parent.name
            for file in tmp_path.glob("vkd*/run.json")
            if '"finished": true' in file.read_text()
        ]

    wait_until(lambda: len(finished()) >= 2, process)
    slots = psutil.Process(process.pid).children()
    doomed = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for slot in slots:
        os.killpg(slot.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(doomed, timeout=10)[1]
    before = finished()
    assert 2 <= len(before) < 6
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert counts(done) == (6, 6 - len(before), len(before), 0)
    table = pd.read_csv(tmp_path / "results.csv")
    assert sorted(zip(table["--alpha"], table["seed"], strict=True)) == [
        (a, s) for a in (0.2, 0.7) for s in (1, 2, 3)
    ]
