"""Memory that a step frees stays with the process, so that the next step takes it again.

By default glibc maps new memory for every large tensor and gives it back to the kernel when the
tensor is freed. The kernel then clears each new page at first touch, thousands of pages in a step:
a tenth of the step's time on a CPU (results/LOG.md). No computed number depends on it.
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
    """Make glibc keep freed memory, unless an environment variable configures its allocator."""
    if any(name in os.environ for name in SETTINGS):
        return
    with contextlib.suppress(OSError, TypeError, AttributeError):  # a system without glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never give memory back
