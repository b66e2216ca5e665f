"""scripts/sweep as a user runs it: the pool, what it skips, keeps and reports, shards,
interruptions.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pandas as pd
import psutil
import pytest
from conftest import ROOT, flags

import common
from common import UserError

SWEEP = ROOT / "scripts" / "sweep"
FAKE = """
import argparse, json, os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # as the scripts do
parser = argparse.ArgumentParser()
for name in "output_dir results_csv seed alpha fail wait_for hold in_use die".split():
    parser.add_argument("--" + name)
parser.add_argument("--internal", action="store_true")
args = parser.parse_args()
folder = Path(args.output_dir)
if args.in_use:
    sys.exit("error: " + args.in_use)
folder.mkdir(parents=True, exist_ok=True)
seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
(folder / "seen.json").write_text(json.dumps(seen))
(folder / "pid").write_text(str(os.getpid()))
deadline = time.monotonic() + 60
def started():
    return len(list(folder.parent.glob("*/pid")))
while args.hold and Path(args.hold).exists() or args.wait_for and started() < int(args.wait_for):
    if time.monotonic() > deadline:
        sys.exit("error: waited too long")
    time.sleep(0.01)
if args.die == args.seed and args.die:
    os.kill(os.getpid(), 9)
if args.fail == args.seed and args.fail:
    print("working", flush=True)
    sys.exit("error: seed " + args.seed + " does not work")
for name in ("checkpoint-5/model.safetensors", "model.safetensors", "student_memory.safetensors",
             "tokenizer.json", "vocab.txt", "config.json", "eval_results.json", "train_log.jsonl",
             "dev_predictions.tsv", "tensorboard/events"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
with open(args.results_csv, "a") as file:
    file.write(folder.name + "\\n")
(folder / "run.json").write_text(json.dumps({"finished": True}, indent=2))
print(f"VKD on RTE: acc 0.5; everything is in {folder}")
"""
KEPT = {
    "run.json",
    "eval_results.json",
    "train_log.jsonl",
    "dev_predictions.tsv",
    "tensorboard",
    "seen.json",
    "pid",
}
MODEL = {
    "model.safetensors",
    "student_memory.safetensors",
    "tokenizer.json",
    "vocab.txt",
    "config.json",
}
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {
    "PYTHON": sys.executable
}


@pytest.fixture
def here(tmp_path):
    """A folder with fake.py, which stands for a training and ends at once."""
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path


def sweep(here, *words, lines="", without=(), **environment):
    """scripts/sweep in this folder; returns the finished process."""
    env = {k: v for k, v in CLEAN.items() if k not in without} | environment
    return subprocess.run(
        [SWEEP, *map(str, words)],
        cwd=here,
        env=env,
        input=lines,
        text=True,
        capture_output=True,
        timeout=120,
    )


def rows(here, runs="runs"):
    """The names of the runs that wrote a row, in order."""
    file = here / runs / "results.csv"
    return file.read_text().split() if file.exists() else []


def seen(here, name, runs="runs"):
    return json.loads((here / runs / name / "seen.json").read_text())


def counts(done):
    """(runs, done now, skipped, failed) of the summary."""
    found = re.search(
        r"^(\d+) runs: (\d+) done now, (\d+) skipped as finished, (\d+) failed.*, in [\d.]+ min$",
        done.stderr,
        re.M,
    )
    return tuple(map(int, found.groups()))


def test_product_names_folders_and_logs(here):
    done = sweep(
        here,
        "my runs",
        "vkd",
        "alpha=0.2,a/b",
        "internal=on,off",
        "seed=1,2",
        "--",
        "fake.py",
        "--fail",
        3,
    )
    assert done.returncode == 0 and counts(done) == (8, 8, 0, 0) and done.stdout == ""
    names = [
        f"vkd,alpha={a},internal={i},seed={s}"
        for a in ("0.2", "a_b")
        for i in ("on", "off")
        for s in (1, 2)
    ]
    assert rows(here, "my runs") == names
    for name in names:
        first, last = (here / "my runs" / f"{name}.log").read_text().splitlines()
        assert last.startswith("VKD on RTE")
        words = shlex.split(first)
        alpha, internal, seed = (part.split("=")[1] for part in name.split(",")[1:])
        assert words == [
            "$",
            sys.executable,
            "fake.py",
            "--fail",
            "3",
            "--alpha",
            alpha.replace("_", "/"),
            *(["--internal"] if internal == "on" else []),
            "--seed",
            seed,
            "--output_dir",
            f"my runs/{name}",
            "--results_csv",
            "my runs/results.csv",
        ]
    assert "[1/8] vkd,alpha=0.2,internal=on,seed=1: started" in done.stderr
    assert re.search(
        r"\[8/8\] vkd,alpha=a_b,internal=off,seed=2: done in [\d.]+ min; VKD on RTE: acc 0.5\n",
        done.stderr,
    )


def test_finished_runs_are_skipped_and_other_flags_refused(here):
    sweep(here, "runs", "a", "seed=1,2", "--", "fake.py", "--alpha", 1)
    again = sweep(here, "runs/", "a", "seed=1,2,3", "--", "fake.py", "--alpha", 1)
    assert again.returncode == 0 and counts(again) == (3, 1, 2, 0)
    assert rows(here) == ["a,seed=1", "a,seed=2", "a,seed=3"]
    (here / "runs" / "a,seed=3.log").unlink()
    changed = sweep(
        here, "runs", "--keep", "results", "a", "seed=1,2,3", "--", "fake.py", "--alpha", 2
    )
    assert changed.returncode == 1 and counts(changed) == (3, 0, 1, 2)
    assert (
        "a,seed=1 failed: finished with other flags; delete runs/a,seed=1 or name the sweep "
        "otherwise" in changed.stderr
    )
    assert (here / "runs" / "a,seed=1" / "model.safetensors").exists() and len(rows(here)) == 3


def test_the_log_of_a_run_that_goes_on_elsewhere_is_left_alone(here):
    """With other flags: else the two sweeps would take each other's result for their own."""
    (here / "runs/a").mkdir(parents=True)
    log = here / "runs/a.log"
    log.write_text("$ python fake.py --alpha 1 --output_dir runs/a\nit trains\n")
    before = log.read_bytes()
    with filelock.FileLock(here / "runs/a/.lock"):
        found = sweep(here, "runs", "a", "--", "fake.py", "--alpha", 2)
    assert found.returncode == 1 and log.read_bytes() == before
    assert "running elsewhere with other flags" in found.stderr
    assert sweep(here, "runs", "a", "--", "fake.py", "--alpha", 2).returncode == 0  # it is gone


def test_the_order_of_flags_is_no_difference_but_the_last_of_equal_ones_wins(here):
    sweep(here, "runs", "a", "seed=1", "--", "fake.py", "--alpha", 1, "--fail", 3, "--alpha", 2)
    again = sweep(
        here, "runs", "a", "seed=1", "--", "fake.py", "--fail", 3, "--alpha", 1, "--alpha", 2
    )
    assert again.returncode == 0 and counts(again) == (1, 0, 1, 0)
    other = sweep(
        here, "runs", "a", "seed=1", "--", "fake.py", "--fail", 3, "--alpha", 2, "--alpha", 1
    )
    assert other.returncode == 1 and "finished with other flags" in other.stderr


def test_the_folder_may_lie_elsewhere_when_a_sweep_is_repeated(here):
    sweep(here, "runs", "a", "seed=1", "--", "fake.py", "--alpha", "runs/teacher")
    (here / "moved here").mkdir()
    (here / "runs").rename(here / "moved here" / "r")
    place = here / "moved here" / "r"
    again = sweep(
        here,
        place,
        "a",
        "seed=1",
        "--",
        here / "fake.py",
        "--alpha",
        place / "teacher",
        PYTHON="python3",
    )
    assert again.returncode == 0 and counts(again) == (1, 0, 1, 0)
    assert (
        sweep(here, place, "a", "seed=1", "--", "fake.py", "--alpha", "other/teacher").returncode
        == 1
    )


def test_a_failing_run_leaves_the_others_alone_and_its_repair_counts(here):
    done = sweep(
        here, "runs", "--jobs", 2, "a", "seed=1,2,3,4", "--", "fake.py", "--fail", 2, "--die", 3
    )
    assert done.returncode == 1 and counts(done) == (4, 2, 0, 2)
    assert sorted(rows(here)) == ["a,seed=1", "a,seed=4"]
    listed = done.stderr[done.stderr.index("4 runs:") :].splitlines()[1:]
    assert listed == [
        "  a,seed=2 failed with exit code 1, runs/a,seed=2.log: error: seed 2 does not work",
        "  a,seed=3 failed with exit code 137, runs/a,seed=3.log: killed by SIGKILL",
    ]
    mended = ["runs", "a", "seed=2", "--", "fake.py", "--alpha", 1]
    assert counts(sweep(here, *mended)) == (1, 1, 0, 0)
    assert counts(sweep(here, *mended)) == (1, 0, 1, 0)  # the log is of the flags it finished with
    again = sweep(here, "runs", "a", "seed=3", "--", "fake.py", "--fail", 2, "--die", 3)
    assert counts(again) == (1, 0, 0, 1)
    assert (here / "runs" / "a,seed=3.log").read_text().count("$ ") == 2  # appended


def test_a_run_that_is_held_elsewhere_is_no_failure(here):
    with (
        common.lock_output_dir(here / "held"),
        pytest.raises(UserError) as refused,
        common.lock_output_dir(here / "held"),
    ):
        pass
    done = sweep(here, "runs", "a", "seed=1", "--", "fake.py", "--in_use", refused.value)
    assert done.returncode == 1 and counts(done) == (1, 0, 0, 0)
    assert "0 failed, 1 still running elsewhere, in " in done.stderr
    assert "  a,seed=1 still running elsewhere\n" in done.stderr


def test_a_script_that_ends_unfinished_is_no_success(here):
    (here / "nothing.py").write_text("print('working')")
    done = sweep(here, "runs", "a", "--", "nothing.py")
    assert (
        done.returncode == 1
        and "a failed without an error, runs/a.log: its run.json is not finished" in done.stderr
    )


LISTS = ["a", "alpha=1,2,3", "seed=1,2", "--", "fake.py"]
ALL = [f"a,alpha={alpha},seed={seed}" for alpha in (1, 2, 3) for seed in (1, 2)]


def planned(done):
    """The names of the runs that --plan printed."""
    assert done.returncode == 0, done.stderr
    return [Path(shlex.split(line)[-3]).name for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_are_a_partition(here, count):
    shards = [
        planned(sweep(here, "runs", "--plan", "--shard", f"{i}/{count}", *LISTS))
        for i in range(count)
    ]
    assert shards == [ALL[i::count] for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("first, step", [(0, 1), (1, 1), (0, 4)])
def test_slurm_arrays_are_shards(here, first, step):
    array = {
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }
    for i in range(4):
        task = array | {"SLURM_ARRAY_TASK_ID": str(first + i * step)}
        assert planned(sweep(here, "runs", "--plan", *LISTS, **task)) == ALL[i::4]
        assert planned(sweep(here, "runs", "--plan", "--shard", "1/2", *LISTS, **task)) == ALL[1::2]


def test_two_shards_run_all_and_none_twice(here):
    for i in (1, 0):
        assert counts(sweep(here, "runs", "--shard", f"{i}/2", *LISTS)) == (3, 3, 0, 0)
    assert sorted(rows(here)) == ALL
    assert sweep(here, "runs", "--shard", "6/7", *LISTS).stderr == "0 runs in shard 6/7\n"


def test_jobs_run_at_the_same_time(here):
    done = sweep(here, "runs", "--jobs", 3, "a", "seed=1,2,3", "--", "fake.py", "--wait_for", 3)
    assert counts(done) == (3, 3, 0, 0)  # each waits for the other two


def test_jobs_and_devices(here):
    sweep(
        here,
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
    assert sorted(seen(here, f"a,seed={s}", "gpus")["CUDA_VISIBLE_DEVICES"] for s in (1, 2, 3)) == [
        "5",
        "6",
        "7",
    ]
    (here / "bin").mkdir()
    (here / "bin" / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: H100 (UUID: x)'\necho 'GPU 1: H100 (UUID: y)'\n"
    )
    (here / "bin" / "nvidia-smi").chmod(0o755)
    done = sweep(
        here,
        "smi",
        "a",
        "seed=1,2",
        "--",
        "fake.py",
        "--wait_for",
        2,
        without=["CUDA_VISIBLE_DEVICES"],
        PATH=f"{here / 'bin'}:{CLEAN['PATH']}",
    )
    assert {seen(here, f"a,seed={s}", "smi")["CUDA_VISIBLE_DEVICES"] for s in (1, 2)} == {"0", "1"}
    assert "on GPU 1: done" in done.stderr


def test_jobs_share_the_cores_without_gpus(here):
    cores = len(os.sched_getaffinity(0))
    sweep(here, "runs", "--jobs", cores, "a", "--", "fake.py", without=["OMP_NUM_THREADS"])
    assert seen(here, "a")["OMP_NUM_THREADS"] == ("1" if cores > 1 else None)
    sweep(here, "runs", "--jobs", cores, "b", "--", "fake.py", OMP_NUM_THREADS="3")
    assert seen(here, "b")["OMP_NUM_THREADS"] == "3"


def wait_until(true, process):
    deadline = time.monotonic() + 100
    while not true():
        assert process.poll() is None, "the sweep ended early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_children_and_a_restart_completes(here, number):
    (here / "hold").touch()
    command = [
        SWEEP,
        "runs",
        "--jobs",
        "2",
        "a",
        "seed=1,2,3",
        "--",
        "fake.py",
        "--hold",
        "hold",
    ]
    with open(here / "err", "w") as err:
        process = subprocess.Popen(
            command,
            cwd=here,
            env=CLEAN | {"TMPDIR": str(here)},
            stderr=err,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    wait_until(lambda: len([p for p in here.glob("runs/*/pid") if p.read_text()]) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert {int(p.read_text()) for p in here.glob("runs/*/pid")} <= {
        child.pid for child in children
    }
    process.send_signal(number)
    assert process.wait(30) == 130
    assert not psutil.wait_procs(children, timeout=5)[1]
    said = (here / "err").read_text()
    assert said.endswith("stopped; the same command goes on\n") and "failed" not in said
    assert (
        not list(here.glob("tmp*")) and not rows(here) and not (here / "runs" / "a,seed=3").exists()
    )
    (here / "hold").unlink()
    assert counts(sweep(here, *command[1:])) == (3, 3, 0, 0) and len(rows(here)) == 3


def test_no_run_is_started_after_the_sweep_itself_was_killed(here):
    (here / "hold").touch()
    command = [SWEEP, "runs", "a", "seed=1,2", "--", "fake.py", "--hold", "hold"]
    process = subprocess.Popen(command, cwd=here, env=CLEAN, stderr=subprocess.DEVNULL)
    wait_until((here / "runs" / "a,seed=1" / "pid").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    (here / "hold").unlink()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert rows(here) == ["a,seed=1"] and not (here / "runs" / "a,seed=2.log").exists()


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


def test_runs_from_a_file(here):
    lines = """# teachers

teacher seed=1,2 -- fake.py --alpha 'two words; $(touch x)'
  vkd -- fake.py --alpha "#1"
"""
    assert counts(sweep(here, "runs", lines=lines)) == (3, 3, 0, 0)
    assert rows(here) == ["teacher,seed=1", "teacher,seed=2", "vkd"] and not (here / "x").exists()
    first = (here / "runs" / "teacher,seed=1.log").read_text().splitlines()[0]
    assert shlex.split(first)[4] == "two words; $(touch x)"


def test_plan_prints_commands_and_starts_nothing(here):
    done = sweep(here, "runs", "--plan", *LISTS)
    assert planned(done) == ALL and not (here / "runs").exists()
    assert "6 runs, 0 of them finished" in done.stderr
    (here / "runs").mkdir()
    one = subprocess.run(["bash", "-c", done.stdout.splitlines()[0]], cwd=here)
    assert one.returncode == 0 and rows(here) == ALL[:1]
    assert "6 runs, 1 of them finished" in sweep(here, "runs", "--plan", *LISTS).stderr


def test_plan_ends_with_an_estimate(here):
    words = ["--plan", "--jobs", 3, "--shard", "0/2", "vkd", "seed=1,2,3,4,5,6", "--"]
    words += ["glue_with_cka_i.py", "--task_name", "RTE", "--beta", 0]
    done = sweep(here, "runs", *words)
    assert len(done.stdout.splitlines()) == 3 and "3 runs, 0 of them finished" in done.stderr
    assert re.search(r"^total +3 .*\n\nHours: .* 3 runs, each at the full rate", done.stderr, re.M)
    kept = [
        float(re.search(r"^total .* ([\d.]+)$", told, re.M)[1])
        for keep in ("results", "model")
        for told in [sweep(here, "runs", "--keep", keep, *words).stderr]
    ]
    assert kept[0] == 0 < kept[1]
    off = sweep(here, "runs", *words, ESTIMATE="off")
    assert off.stdout == done.stdout and off.stderr == "3 runs, 0 of them finished\n"


def test_repository_scripts_are_found_and_a_memory_has_no_row(here):
    lines = "m seed=1 -- train_memory.py --do_train\nv -- fake.py\nw -- glue_with_cka_i.py"
    done = sweep(here, "r", "--plan", lines=lines, ESTIMATE="off")
    memory, fake, vkd = map(shlex.split, done.stdout.splitlines())
    assert memory[1:] == [
        str(ROOT / "train_memory.py"),
        "--do_train",
        "--seed",
        "1",
        "--output_dir",
        "r/m,seed=1",
    ]
    assert fake[1:] == ["fake.py", "--output_dir", "r/v", "--results_csv", "r/results.csv"]
    assert vkd[1] == str(ROOT / "glue_with_cka_i.py")


def test_runs_of_a_sweep_in_bash_are_known(here):
    """Before the sweep was Python, its logs began with the command in bash's own quoting."""
    sweep(here, "my runs", "a", "seed=1,2", "--", "fake.py", "--alpha", "two; words")
    for name in ("a,seed=1", "a,seed=2"):
        log = here / "my runs" / f"{name}.log"
        before = log.read_text().splitlines()[1:]
        quoted = name.replace(",", "\\,")
        first = (
            f"$ python3 /old/fake.py --alpha two\\;\\ words --seed {name[-1]} --output_dir "
            f"my\\ runs/{quoted} --results_csv my\\ runs/results.csv"
        )
        log.write_text("\n".join([first, *before]))
    again = ["my runs", "a", "seed=1,2", "--", "fake.py", "--alpha"]
    assert counts(sweep(here, *again, "two; words")) == (2, 0, 2, 0)
    assert counts(sweep(here, *again, "other")) == (2, 0, 0, 2)


@pytest.mark.parametrize(
    "keep, left",
    [
        ("all", KEPT | MODEL | {"checkpoint-5"}),
        ("model", KEPT | MODEL),
        ("results", KEPT),
        (None, KEPT | MODEL),
    ],
)
def test_keep(here, keep, left):
    (here / "runs" / "a,seed=2" / "checkpoint-3").mkdir(parents=True)
    option = ["--keep", keep] if keep else []
    sweep(here, "runs", *option, "a", "seed=1,2", "--", "fake.py", "--fail", 2)
    assert {path.name for path in (here / "runs" / "a,seed=1").iterdir()} == left
    assert (here / "runs" / "a,seed=2" / "checkpoint-3").exists()  # it failed
    (
        here / "runs" / "a,seed=1" / "checkpoint-9"
    ).mkdir()  # of a sweep that was killed before it tidied up
    assert counts(sweep(here, "runs", *option, "a", "seed=1", "--", "fake.py", "--fail", 2)) == (
        1,
        0,
        1,
        0,
    )
    assert (here / "runs" / "a,seed=1" / "checkpoint-9").exists() == (keep == "all")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "expected RUNS_DIR"),
        (["runs"], "no runs"),
        (["runs", "--what", "a", "--", "fake.py"], "unknown option --what"),
        (["runs", "a", "--plan", "--", "fake.py"], "found '--plan' in a"),
        (["runs", "a", "seed=1"], "no SCRIPT after -- in a"),
        (["runs", "a", "seed=1", "--"], "no SCRIPT after --"),
        (["runs", "a", "--", "missing.py"], "missing.py is no Python script"),
        (["runs", "a/b", "--", "fake.py"], "found 'a/b'"),
        (["runs", "a", "seed=", "--", "fake.py"], "found 'seed='"),
        (["runs", "a", "seed=1,,2", "--", "fake.py"], "found 'seed=1,,2'"),
        (["runs", "a", "seed=1 2", "--", "fake.py"], "found 'seed=1 2'"),
        (["runs", "a", "seed", "--", "fake.py"], "found 'seed'"),
        (["runs", "a", "alpha=a/b,a_b", "--", "fake.py"], "a,alpha=a_b is taken"),
        (["runs", "--shard", "2/2", "a", "--", "fake.py"], "found 2/2"),
        (["runs", "--shard", "1", "a", "--", "fake.py"], "found 1"),
        (["runs", "--jobs", "0", "a", "--", "fake.py"], "found 0"),
        (["runs", "--jobs"], "--jobs needs a value"),
        (["runs", "--keep", "some", "a", "--", "fake.py"], "found some"),
    ],
)
def test_a_mistake_is_one_sentence(here, words, message):
    done = sweep(here, *words)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "lines, message",
    [
        ("a -- fake.py\nb -- 'fake.py\n", "line 2 of the runs"),
        ("a -- fake.py\na -- fake.py\n", "name a is taken"),
        ("# nothing\n", "no runs"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(here, lines, message):
    done = sweep(here, "runs", lines=lines)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_other_mistakes(here):
    array = {
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_ID": "7",
    }  # --array=1,2,7
    assert "found 6/3" in sweep(here, "runs", *LISTS, **array).stderr
    assert "no nowhere/python here" in sweep(here, "runs", *LISTS, PYTHON="nowhere/python").stderr


def test_help():
    done = sweep(ROOT, "--help")
    assert done.returncode == 0 and done.stderr == "" and "set -e" not in done.stdout
    for option in ("--jobs N", "--shard I/N", "--keep WHAT", "--plan", "cannot have a comma"):
        assert option in done.stdout


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
