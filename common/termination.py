"""SIGTERM, which clusters and spot machines send some seconds before SIGKILL: a run saves and ends,
to go on later.

`cli` listens for it. SIGTERM ends the program at once, unless the program has called `hold`: then
SIGTERM is remembered until the program asks at a safe point (training/agreement.py), or calls
`release`.
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
    """What this process has heard of SIGTERM.

    told: SIGTERM has come. holding: it has to wait. ending: Terminated has been raised.
    """

    def __init__(self):
        self.reset()

    def reset(self):
        self.process, self.told, self.holding, self.ending = os.getpid(), False, False, False

    def hear(self, number, frame):
        """The handler of SIGTERM."""
        if os.getpid() != self.process:  # a forked child ends as without this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.told = True
        if not (self.holding or self.ending):  # a second SIGTERM does not disturb the clean-up
            self.end()

    def end(self, *said):
        self.ending = True
        raise Terminated(*said)

    def catch_lost(self, unraisable, otherwise):
        """An unraisablehook: if Python drops a Terminated, as in __del__, send SIGTERM again.

        otherwise: the hook for all other exceptions.
        """
        if not issubclass(unraisable.exc_type, Terminated):
            return otherwise(unraisable)
        self.ending = False
        threading.Timer(0.01, os.kill, (self.process, signal.SIGTERM)).start()


ear = Ear()


@contextlib.contextmanager
def listening():
    """A context in which SIGTERM is heard; outside the main thread it does nothing."""
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
    """From here on SIGTERM waits, until `release`."""
    ear.holding = True


def release():
    """End now if SIGTERM has come; from here on it ends the program at once."""
    ear.holding = False
    if ear.told and not ear.ending:
        ear.end()


def stop(saved):
    """End the program at a safe point. saved: a clause, as "step 3 of 9 is saved"."""
    ear.end(f"terminated; {saved}, and the same command goes on from there")
