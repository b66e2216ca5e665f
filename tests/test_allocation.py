"""Memory that is freed stays with the process: pages are touched for the first time only once."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import resource, torch
from training import allocation
allocation.keep_freed_memory()

def step():
    for _ in range(4):
        torch.zeros(16, 2 ** 20)  # 64 MiB, freed at once

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment):
    """The pages that a second, equal step touches for the first time."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        text=True,
        check=True,
        capture_output=True,
        timeout=100,
        env=clean | environment,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_taken_again():
    assert faults() < 100


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_who_sets_the_allocator_is_obeyed():
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 100
