"""Seeds for random streams that differ between runs, processes and uses."""

import numpy as np


def mix(seed, use, *numbers):
    """A seed for one use in a run, as mix(3, "process", 1): a hash of all arguments.

    seed: the run's. use: a word. With a sum instead, process 2 of seed 3 would draw what process 1
    of seed 4 draws. Returns an int of 64 bits, of which torch's CPU generator takes the lower 32.
    """
    key = (int.from_bytes(use.encode()), *numbers)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
