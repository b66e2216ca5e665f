"""SIGTERM in tests: sends it, and has the line that a run answers with."""

import os
import signal

SAID = "terminated; {}, and the same command goes on from there\n"


def terminate(process):
    os.kill(process if isinstance(process, int) else process.pid, signal.SIGTERM)
