"""Which packages a command imports, as `python -X importtime` reports them."""

import subprocess
import sys

from conftest import ROOT

SLOW = {"torch", "transformers", "accelerate", "scipy", "sklearn", "matplotlib", "tensorboard"}


def imported(*command, code):
    """(the set of packages that a command imported, its stderr without that report).

    command: words after the interpreter. code: the exit code that is expected.
    """
    # --help and errors end by an exception; -X importtime has reported by then
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=100,
    )
    lines = done.stderr.splitlines()
    told = [line for line in lines if line.startswith("import time:")]
    rest = "\n".join(line for line in lines if line not in told)
    assert done.returncode == code and told, rest
    return {line.split("|")[-1].strip().split(".")[0] for line in told}, rest
