"""SIGTERM, which clusters and spot machines send some seconds before SIGKILL: a run saves and ends,
to go on later.

`common.cli` listens. The signal ends the program at once, unless it has called `hold`: then it is
remembered until the program asks at a safe point (`Agreement`), or lets go (`release`).
"""

import contextlib
import os
import signal
import sys
import threading
import time

CODE = 128 + signal.SIGTERM  # as a shell reports it
# seconds that a process which has been told waits for the others, before it ends without saving
PATIENCE = 20


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


class Agreement:
    """Whether to stop at a boundary between steps: all processes of a run at the same one, as
    saving takes them all.

    SIGTERM reaches them at different moments, and perhaps one alone. At each boundary a process
    counts itself in, and reads the sum of the boundary before: once all are in that, it tells all
    of them the same. So a run ends a step after the first was told. The sums are in the store of
    the process group, on the hosts: no device is waited for, and a process waits only for one that
    is a whole step behind. name: of the loop; each runs once in a process.
    """

    TOLD = 2**32  # beside the number of processes

    def __init__(self, accelerator, name):
        self.world, self.store, self.last = accelerator.num_processes, None, None
        if self.world > 1:
            import torch  # here, as a script that listens need not know it
        if self.world > 1 and torch.distributed.is_initialized():
            store = torch.distributed.distributed_c10d._get_default_store()
            self.store = torch.distributed.PrefixStore(f"termination/{name}", store)

    def asks(self, step):
        """True where the run is to stop at the boundary after this step; to be asked in order."""
        if self.store is None:
            return ear.told
        before, self.last = self.last, str(step)
        self.store.add(self.last, 1 + self.TOLD * ear.told)
        return before is not None and self.sum_of(before) >= self.TOLD

    def sum_of(self, step):
        """The sum of a boundary that this process has passed, once all have."""
        began = time.monotonic()
        while (found := self.store.add(step, 0)) % self.TOLD < self.world:
            if ear.told and time.monotonic() - began > PATIENCE:  # the others are gone
                ear.end()
            time.sleep(0.001)
        return found
