"""SIGTERM, which clusters and spot machines send some seconds before SIGKILL: a run saves and ends,
to go on later.

`cli` listens. The signal ends the program at once, unless it has called `hold`: then it is
remembered until the program asks at a safe point (training/agreement.py), or lets go (`release`).
"""

import contextlib
import os
import signal
import sys
import threading

CODE = 128 + signal.SIGTERM  # as a shell reports it


class Terminated(BaseException):
    """The program was told to end; its text, if any, says what is saved."""


class Ear:
    """What this process has heard: told of an end; holding, so that it waits; ending, as Terminated
    is on its way.
    """

    def __init__(self):
        self.reset()

    def reset(self):
        self.process, self.told, self.holding, self.ending = os.getpid(), False, False, False

    def hear(self, number, frame):
        """The handler of SIGTERM."""
        if os.getpid() != self.process:  # a child that was forked ends as if nobody had listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.told = True
        if not (self.holding or self.ending):  # told twice, it still cleans up in peace
            self.end()

    def end(self, *said):
        self.ending = True
        raise Terminated(*said)

    def catch_lost(self, unraisable, otherwise):
        """Where Python drops an exception, as in __del__, Terminated must come again."""
        if not issubclass(unraisable.exc_type, Terminated):
            return otherwise(unraisable)
        self.ending = False
        threading.Timer(0.01, os.kill, (self.process, signal.SIGTERM)).start()


ear = Ear()


@contextlib.contextmanager
def listening():
    """Hear SIGTERM within; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear.reset()
    hook = sys.unraisablehook
    before = signal.signal(signal.SIGTERM, ear.hear)
    sys.unraisablehook = lambda unraisable: ear.catch_lost(unraisable, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def hold():
    """From here on SIGTERM waits."""
    ear.holding = True


def release():
    """SIGTERM acts, if it has come, and from here on at once."""
    ear.holding = False
    if ear.told and not ear.ending:
        ear.end()


def stop(saved):
    """End the program at a safe point. saved: what is, in words."""
    ear.end(f"terminated; {saved}, and the same command goes on from there")
