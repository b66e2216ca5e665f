"""What a command imports, as the interpreter tells it."""

import subprocess
import sys

from conftest import ROOT

SLOW = {"torch", "transformers", "accelerate", "scipy", "sklearn", "matplotlib", "tensorboard"}


def imported(*command, code):
    """The packages that a command imported, and its stderr without that list."""
    # --help and errors leave by an exception, after which -X importtime has told all the same
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
