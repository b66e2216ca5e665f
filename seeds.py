"""Seeds of random streams that must not be those of another run, process or use."""

import numpy as np


def mix(seed, use, *numbers):
    """A seed for one use of a run's seed, as mix(3, "process", 1): a hash of all arguments.

    A sum will not do: process 2 of seed 3 would draw what process 1 of seed 4 draws. use: a word.
    Returns an int of 64 bits, of which torch's generator on a CPU takes the lower 32.
    """
    key = (int.from_bytes(use.encode()), *numbers)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
