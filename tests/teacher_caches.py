"""Runs with a teacher cache, and the contents of its files.

A cache has entries (logits, tokens, features, relations), each a folder of shards, which are files.
"""

import pytest
import torch
from conftest import flags, log_without_speed
from safetensors.torch import load_file

from training.teacher import Teacher


def run(script, folder, output, *more):
    """A short run of a script that saves checkpoints."""
    return script.main(flags(folder, output, "--save_steps", 2, *more))


def files(cache):
    """The names of the entries, a set; those of relations without the name of their memory."""
    names = {path.parent.name for path in cache.glob("*/*/*.safetensors")}
    return {"relations" if name.startswith("relations") else name for name in names}


def shards(cache, name):
    """The sorted names of the shards of an entry that are in the cache."""
    return sorted(path.stem for path in cache.glob(f"*/{name}/*.safetensors"))


def entry_values(cache, name):
    """The values of an entry for all N samples, (N, ...)."""
    paths = sorted(cache.glob(f"*/{name}/*.safetensors"))
    return torch.cat([load_file(path)["values"] for path in paths])


def assert_same_log(one, two, **tolerance):
    """The logs of two runs agree entry by entry, except the speed. tolerance: of pytest.approx."""
    for a, b in zip(log_without_speed(one), log_without_speed(two), strict=True):
        assert a == pytest.approx(b, **tolerance)


def count_calls(monkeypatch, stop_after=None):
    """A list to which every forward of the teacher adds its number of samples.

    After `stop_after` forwards, if given, the next one raises KeyboardInterrupt.
    """
    seen, real = [], Teacher.__call__

    def counted(teacher, batch, *args, **kwargs):
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(batch.size)
        return real(teacher, batch, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__call__", counted)
    return seen
