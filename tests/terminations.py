"""SIGTERM in tests: to send it, and what a run says to it."""

import os
import signal

SAID = "terminated; {}, and the same command goes on from there\n"


def terminate(process):
    os.kill(process if isinstance(process, int) else process.pid, signal.SIGTERM)
