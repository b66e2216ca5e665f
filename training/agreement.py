"""Stops all processes of a run at the same step once SIGTERM has reached any of them."""

import time

from common import termination

# seconds that a process which has received SIGTERM waits for the others before it ends unsaved
PATIENCE = 20


class Agreement:
    """Decides at each boundary between two steps whether a run stops there, alike in all its
    processes.

    All must stop at the same boundary, as saving needs all of them; but SIGTERM reaches them at
    different moments, and perhaps only one of them. So at each boundary a process adds 1 to that
    boundary's sum, and TOLD as well if it has received SIGTERM. Then it reads the sum of the
    boundary before, which is complete once all processes have passed that one: so all read the same
    number. A run of several processes therefore stops one step after the first of them was told.

    The sums are in the store of the process group, on the hosts: no device is waited for, and a
    process waits only for one that is a whole step behind. name: a word for the loop that asks; a
    process runs each loop once.
    """

    TOLD = 2**32  # added by a process that was told to end; the rest of a sum counts processes

    def __init__(self, accelerator, name):
        self.world, self.store, self.last = accelerator.num_processes, None, None
        if self.world > 1:
            import torch  # here, so that a script can import this module without loading torch
        if self.world > 1 and torch.distributed.is_initialized():
            store = torch.distributed.distributed_c10d._get_default_store()
            self.store = torch.distributed.PrefixStore(f"termination/{name}", store)

    def asks(self, step):
        """Whether the run stops after this step. All processes ask for the same steps, in order."""
        if self.store is None:
            return termination.ear.told
        before, self.last = self.last, str(step)
        self.store.add(self.last, 1 + self.TOLD * termination.ear.told)
        return before is not None and self.sum_of(before) >= self.TOLD

    def sum_of(self, step):
        """The sum at a boundary that this process has passed; waits until all others have, too.

        If this process was told to end and the others do not come within PATIENCE, it ends here.
        """
        began = time.monotonic()
        while (found := self.store.add(step, 0)) % self.TOLD < self.world:
            if termination.ear.told and time.monotonic() - began > PATIENCE:  # the others are gone
                termination.ear.end()
            time.sleep(0.001)
        return found
