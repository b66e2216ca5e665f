"""Processes that are told to end stop at one and the same step."""

import time

from common import termination

# seconds that a process which has been told waits for the others, before it ends without saving
PATIENCE = 20


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
            return termination.ear.told
        before, self.last = self.last, str(step)
        self.store.add(self.last, 1 + self.TOLD * termination.ear.told)
        return before is not None and self.sum_of(before) >= self.TOLD

    def sum_of(self, step):
        """The sum of a boundary that this process has passed, once all have."""
        began = time.monotonic()
        while (found := self.store.add(step, 0)) % self.TOLD < self.world:
            if termination.ear.told and time.monotonic() - began > PATIENCE:  # the others are gone
                termination.ear.end()
            time.sleep(0.001)
        return found
