"""scripts/sweep refuses what it cannot do in one sentence, and two sweeps leave each other's runs
alone.
"""

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

SWEEP = ROOT / "scripts" / "sweep"
FAKE = """
import argparse, json, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
for name in "output_dir results_csv seed hold fail then_done text".split():
    parser.add_argument("--" + name)
args = parser.parse_args()
folder = Path(args.output_dir)
folder.mkdir(parents=True, exist_ok=True)
(folder / "started").touch()
deadline = time.monotonic() + 60
while args.hold and Path(args.hold).exists() and time.monotonic() < deadline:
    time.sleep(0.01)
if args.fail == args.seed and args.fail:
    sys.exit("error: seed " + args.seed + " does not work")
(folder / "run.json").write_text(json.dumps({"finished": True}, indent=2))
print("done")
"""
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {
    "PYTHON": sys.executable
}


@pytest.fixture
def here(tmp_path):
    """A folder with fake.py, which stands for a training."""
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path


def start(here, *words, **how):
    return subprocess.Popen(
        [SWEEP, "runs", *map(str, words)],
        cwd=here,
        env=CLEAN,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL} | how,
    )


def sweep(here, *words, lines=None, **how):
    """(exit code, what it says) of a sweep that has ended."""
    process = start(here, *words, **({} if lines is None else {"stdin": subprocess.PIPE}), **how)
    _, said = process.communicate(lines, timeout=60)
    assert "Traceback" not in said, said
    return process.returncode, said


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(here, *words, **how):
    """The one sentence of a mistake in the command, after which nothing is there."""
    code, said = sweep(here, *words, **how)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert not (here / "runs").exists()
    return said


# ---- two sweeps at once --------------------------------------------------------------------------


def test_each_of_two_equal_sweeps_tells_its_own_runs_end(here):
    """The second one has no part in the first one's log, and starts nothing."""
    (here / "hold").touch()
    words = ["a", "seed=1", "--", "fake.py", "--fail", 1, "--hold", "hold"]
    first = start(here, *words)
    wait_until((here / "runs/a,seed=1/started").exists)
    before = (here / "runs/a,seed=1.log").read_bytes()
    code, said = sweep(here, *words)
    assert code == 1 and "0 failed, 1 still running elsewhere" in said
    assert (here / "runs/a,seed=1.log").read_bytes() == before
    (here / "hold").unlink()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1 and "1 failed, in " in said and "elsewhere" not in said
    assert "a,seed=1 failed with exit code 1, runs/a,seed=1.log: error: seed 1 does not" in said


@pytest.mark.parametrize("fails", [True, False])
def test_a_sweep_tells_at_its_end_what_came_of_a_run_elsewhere(here, fails):
    """The second sweep goes on with a run of its own until the first one's has ended."""
    (here / "hold").touch()
    (here / "later").touch()
    fail = ["--fail", 1] if fails else ["--fail", 3]
    first = start(here, "a", "seed=1", "--", "fake.py", *fail, "--hold", "hold")
    wait_until((here / "runs/a,seed=1/started").exists)
    lines = f"a seed=1 -- fake.py --fail {fail[1]} --hold hold\nb -- fake.py --hold later\n"
    second = start(here, stdin=subprocess.PIPE)
    second.stdin.write(lines)
    second.stdin.close()
    second.stdin = None
    wait_until((here / "runs/b/started").exists)
    (here / "hold").unlink()
    first.communicate(timeout=60)
    (here / "later").unlink()
    _, said = second.communicate(timeout=60)
    assert "2 runs: 1 done now" in said and "still running elsewhere, in" not in said
    if fails:
        assert second.returncode == 1
        assert "a,seed=1 failed elsewhere, runs/a,seed=1.log: error: seed 1 does not work" in said
    else:
        assert second.returncode == 0 and "1 skipped as finished, 0 failed" in said


def test_a_run_whose_sweep_was_killed_is_still_that_runs(here):
    """Its log is held by the run itself."""
    (here / "hold").touch()
    words = ["a", "--", "fake.py", "--hold", "hold"]
    first = start(here, *words)
    wait_until((here / "runs/a/started").exists)
    first.kill()
    first.communicate(timeout=60)
    code, said = sweep(here, *words)
    assert code == 1 and "1 still running elsewhere" in said
    assert (here / "runs/a.log").read_text().count("$ ") == 1
    (here / "hold").unlink()
    wait_until((here / "runs/a/run.json").exists)
    assert sweep(here, *words)[0] == 0


# ---- what is in the way --------------------------------------------------------------------------


def test_a_folder_in_the_place_of_a_log_fails_that_run_alone(here):
    (here / "runs/a,seed=1.log").mkdir(parents=True)
    code, said = sweep(here, "a", "seed=1,2", "--", "fake.py")
    assert code == 1 and "2 runs: 1 done now, 0 skipped as finished, 1 failed" in said
    assert "a,seed=1 failed: runs/a,seed=1.log cannot be written (Is a directory); move" in said


@pytest.mark.parametrize("words", [["a" * 252], ["a", "seed=" + "1" * 260]])
def test_a_name_that_no_file_can_have_is_a_mistake(here, words):
    said = refused(here, *words, "--", "fake.py")
    assert "a run's name has at most 251 letters, as it names files, found 2" in said
    assert len(said) < 250


def test_the_longest_name(here):
    assert sweep(here, "a" * 251, "--", "fake.py")[0] == 0
    assert sweep(here, "a" * 251, "--", "fake.py")[0] == 0


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["seed=3", "seed=1,2"])
def test_two_lists_of_one_flag_are_a_mistake(here, second):
    said = refused(here, "a", "seed=1,2", "alpha=1", second, "--", "fake.py")
    assert f"seed has two lists of values in a, found '{second}' as the second" in said


def test_a_list_wins_over_the_flags_as_before(here):
    assert sweep(here, "a", "seed=1,2", "--", "fake.py", "--seed", 3, "--fail", 3)[0] == 0


@pytest.mark.parametrize("text", ["one\ntwo", "\n", "one\rtwo", "end\r\n"])
def test_a_line_break_in_a_flag_is_a_mistake(here, text):
    said = refused(here, "a", "--", "fake.py", "--text", text)
    assert f"found a line break in {text!r} of a: leave it out" in said


# ---- the input -----------------------------------------------------------------------------------


def closed():
    os.close(0)


def test_without_an_input_there_are_no_runs(here):
    assert "no runs: give NAME" in refused(here, stdin=None, preexec_fn=closed)


def test_a_command_needs_no_input(here):
    code, said = sweep(here, "a", "--", "fake.py", stdin=None, preexec_fn=closed)
    assert code == 0 and "1 done now" in said


@pytest.mark.parametrize("lines", ["\ufeffa -- fake.py\n", "\ufeff# runs\r\na -- fake.py\r\n"])
def test_a_byte_order_mark_is_no_part_of_a_name(here, lines):
    code, said = sweep(here, lines=lines + "\ufeffb -- fake.py\n")
    assert code == 0 and "2 runs: 2 done now" in said
    assert {path.stem for path in (here / "runs").glob("*.log")} == {"a", "b"}


def test_an_estimate_reads_what_a_sweep_reads(here):
    line = "\ufeff# the plan\npython glue_with_cka_i.py --task_name RTE --max_steps 3\n"
    command = [sys.executable, ROOT / "scripts/estimate.py"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, env=CLEAN)
    assert done.returncode == 0 and re.search(r"\b1 run", done.stdout), done.stderr
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, preexec_fn=closed)
    assert "Traceback" not in done.stderr
