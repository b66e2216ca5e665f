"""scripts/sweep refuses what it cannot do in one sentence, and two sweeps leave each other's runs
alone.
"""

import os
import re
import subprocess
import sys

import pytest
from commands_of_sweeps import CLEAN, start_sweep
from conftest import ROOT, wait_until


def start(folder, *words, **how):
    """Start a sweep into runs/ of a folder, as a rule without an input."""
    return start_sweep(
        folder,
        "runs",
        *map(str, words),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL} | how,
    )


def sweep(folder, *words, lines=None, **how):
    """(exit code, what it says) of a sweep that has ended."""
    pipe = {} if lines is None else {"stdin": subprocess.PIPE}
    process = start(folder, *words, **pipe, **how)
    _, said = process.communicate(lines, timeout=60)
    assert "Traceback" not in said, said
    return process.returncode, said


def refused(folder, *words, **how):
    """The one sentence of a mistake in the command, after which nothing is there."""
    code, said = sweep(folder, *words, **how)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert not (folder / "runs").exists()
    return said


# ---- two sweeps at once --------------------------------------------------------------------------


def test_each_of_two_equal_sweeps_tells_its_own_runs_end(tmp_path):
    """The second one has no part in the first one's log, and starts nothing."""
    (tmp_path / "hold").touch()
    words = ["a", "seed=1", "--", "fake.py", "--fail", 1, "--hold", "hold"]
    first = start(tmp_path, *words)
    wait_until((tmp_path / "runs/a,seed=1/pid").exists)
    before = (tmp_path / "runs/a,seed=1.log").read_bytes()
    code, said = sweep(tmp_path, *words)
    assert code == 1 and "0 failed, 1 still running elsewhere" in said
    assert (tmp_path / "runs/a,seed=1.log").read_bytes() == before
    (tmp_path / "hold").unlink()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1 and "1 failed, in " in said and "elsewhere" not in said
    assert "a,seed=1 failed with exit code 1, runs/a,seed=1.log: error: seed 1 does not" in said


@pytest.mark.parametrize("fails", [True, False])
def test_a_sweep_tells_at_its_end_what_came_of_a_run_elsewhere(tmp_path, fails):
    """The second sweep goes on with a run of its own until the first one's has ended."""
    (tmp_path / "hold").touch()
    (tmp_path / "later").touch()
    fail = ["--fail", 1] if fails else ["--fail", 3]
    first = start(tmp_path, "a", "seed=1", "--", "fake.py", *fail, "--hold", "hold")
    wait_until((tmp_path / "runs/a,seed=1/pid").exists)
    lines = f"a seed=1 -- fake.py --fail {fail[1]} --hold hold\nb -- fake.py --hold later\n"
    second = start(tmp_path, stdin=subprocess.PIPE)
    second.stdin.write(lines)
    second.stdin.close()
    second.stdin = None
    wait_until((tmp_path / "runs/b/pid").exists)
    (tmp_path / "hold").unlink()
    first.communicate(timeout=60)
    (tmp_path / "later").unlink()
    _, said = second.communicate(timeout=60)
    assert "2 runs: 1 done now" in said and "still running elsewhere, in" not in said
    if fails:
        assert second.returncode == 1
        assert "a,seed=1 failed elsewhere, runs/a,seed=1.log: error: seed 1 does not work" in said
    else:
        assert second.returncode == 0 and "1 skipped as finished, 0 failed" in said


def test_a_run_whose_sweep_was_killed_is_still_that_runs(tmp_path):
    """Its log is held by the run itself."""
    (tmp_path / "hold").touch()
    words = ["a", "--", "fake.py", "--hold", "hold"]
    first = start(tmp_path, *words)
    wait_until((tmp_path / "runs/a/pid").exists)
    first.kill()
    first.communicate(timeout=60)
    code, said = sweep(tmp_path, *words)
    assert code == 1 and "1 still running elsewhere" in said
    assert (tmp_path / "runs/a.log").read_text().count("$ ") == 1
    (tmp_path / "hold").unlink()
    wait_until((tmp_path / "runs/a/run.json").exists)
    assert sweep(tmp_path, *words)[0] == 0


# ---- what is in the way --------------------------------------------------------------------------


def test_a_folder_in_the_place_of_a_log_fails_that_run_alone(tmp_path):
    (tmp_path / "runs/a,seed=1.log").mkdir(parents=True)
    code, said = sweep(tmp_path, "a", "seed=1,2", "--", "fake.py")
    assert code == 1 and "2 runs: 1 done now, 0 skipped as finished, 1 failed" in said
    assert "a,seed=1 failed: runs/a,seed=1.log cannot be written (Is a directory); move" in said


@pytest.mark.parametrize("words", [["a" * 252], ["a", "seed=" + "1" * 260]])
def test_a_name_that_no_file_can_have_is_a_mistake(tmp_path, words):
    said = refused(tmp_path, *words, "--", "fake.py")
    assert "a run's name has at most 251 letters, as it names files, found 2" in said
    assert len(said) < 250


def test_the_longest_name(tmp_path):
    assert sweep(tmp_path, "a" * 251, "--", "fake.py")[0] == 0
    assert sweep(tmp_path, "a" * 251, "--", "fake.py")[0] == 0


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["seed=3", "seed=1,2"])
def test_two_lists_of_one_flag_are_a_mistake(tmp_path, second):
    said = refused(tmp_path, "a", "seed=1,2", "alpha=1", second, "--", "fake.py")
    assert f"seed has two lists of values in a, found '{second}' as the second" in said


def test_a_list_wins_over_the_flags_as_before(tmp_path):
    assert sweep(tmp_path, "a", "seed=1,2", "--", "fake.py", "--seed", 3, "--fail", 3)[0] == 0


@pytest.mark.parametrize("text", ["one\ntwo", "\n", "one\rtwo", "end\r\n"])
def test_a_line_break_in_a_flag_is_a_mistake(tmp_path, text):
    said = refused(tmp_path, "a", "--", "fake.py", "--text", text)
    assert f"found a line break in {text!r} of a: leave it out" in said


# ---- the input -----------------------------------------------------------------------------------


def closed():
    os.close(0)


def test_without_an_input_there_are_no_runs(tmp_path):
    assert "no runs: give NAME" in refused(tmp_path, stdin=None, preexec_fn=closed)


def test_a_command_needs_no_input(tmp_path):
    code, said = sweep(tmp_path, "a", "--", "fake.py", stdin=None, preexec_fn=closed)
    assert code == 0 and "1 done now" in said


@pytest.mark.parametrize("lines", ["\ufeffa -- fake.py\n", "\ufeff# runs\r\na -- fake.py\r\n"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, lines):
    code, said = sweep(tmp_path, lines=lines + "\ufeffb -- fake.py\n")
    assert code == 0 and "2 runs: 2 done now" in said
    assert {path.stem for path in (tmp_path / "runs").glob("*.log")} == {"a", "b"}


def test_an_estimate_reads_what_a_sweep_reads(tmp_path):
    line = "\ufeff# the plan\npython glue_with_cka_i.py --task_name RTE --max_steps 3\n"
    command = [sys.executable, ROOT / "scripts/estimate.py"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, env=CLEAN)
    assert done.returncode == 0 and re.search(r"\b1 run", done.stdout), done.stderr
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, preexec_fn=closed)
    assert "Traceback" not in done.stderr
