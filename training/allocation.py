"""Memory that a step frees stays with the process, for the next step to take again.

glibc maps every large tensor anew and gives it back when it is freed; the kernel then clears its
pages on first touch, thousands in a step: a tenth of the step's time on a CPU (results/LOG.md).
No number that is computed depends on it.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory():
    """Let glibc keep what is freed, unless the environment sets its allocator."""
    if any(name in os.environ for name in SETTINGS):
        return
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
