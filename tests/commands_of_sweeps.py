"""Start scripts/sweep as a user does; its runs are fake_training.py, under the name fake.py."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

SWEEP = ROOT / "scripts" / "sweep"
LISTS = ["a", "alpha=1,2,3", "seed=1,2", "--", "fake.py"]
ALL = [f"a,alpha={alpha},seed={seed}" for alpha in (1, 2, 3) for seed in (1, 2)]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {
    "PYTHON": sys.executable
}


def put_fake(folder):
    """Copy fake_training.py to a folder as fake.py."""
    shutil.copy(ROOT / "tests" / "fake_training.py", folder / "fake.py")


def sweep(folder, *words, lines="", without=(), **environment):
    """Run scripts/sweep in a folder; returns the finished process.

    lines: its stdin. without: variables of the environment to remove. environment: those to set.
    """
    put_fake(folder)
    env = {name: value for name, value in CLEAN.items() if name not in without} | environment
    return subprocess.run(
        [SWEEP, *map(str, words)],
        cwd=folder,
        env=env,
        input=lines,
        text=True,
        capture_output=True,
        timeout=120,
    )


def start_sweep(folder, *words, **more):
    """Start scripts/sweep in a folder; returns the process. more: arguments of subprocess.Popen."""
    put_fake(folder)
    return subprocess.Popen([SWEEP, *words], cwd=folder, **{"env": CLEAN} | more)


def rows(folder, runs="runs"):
    """The names of the runs that wrote a row to results.csv, in order."""
    file = folder / runs / "results.csv"
    return file.read_text().split() if file.exists() else []


def seen(folder, name, runs="runs"):
    """What fake.py saw in a run, as a dict: variables of its environment, and its "words"."""
    return json.loads((folder / runs / name / "seen.json").read_text())


def counts(done):
    """The numbers (runs, done now, skipped, failed) in the summary of a finished sweep."""
    found = re.search(
        r"^(\d+) runs: (\d+) done now, (\d+) skipped as finished, (\d+) failed.*, in [\d.]+ min$",
        done.stderr,
        re.M,
    )
    return tuple(map(int, found.groups()))


def planned(done):
    """The names of the runs that --plan printed."""
    assert done.returncode == 0, done.stderr
    return [Path(shlex.split(line)[-3]).name for line in done.stdout.splitlines()]
