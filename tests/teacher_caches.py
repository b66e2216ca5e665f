"""Runs with a teacher's cache, and what its files hold."""

import pytest
import torch
from conftest import flags, log_without_speed
from safetensors.torch import load_file

from training.teacher import Teacher


def run(script, folder, output, *more):
    """A short run of a script that saves checkpoints."""
    return script.main(flags(folder, output, "--save_steps", 2, *more))


def files(cache):
    """The names of the entries, of relations without the memory's."""
    names = {path.parent.name for path in cache.glob("*/*/*.safetensors")}
    return {"relations" if name.startswith("relations") else name for name in names}


def shards(cache, name):
    """The shards of an entry that are there."""
    return sorted(path.stem for path in cache.glob(f"*/{name}/*.safetensors"))


def entry_values(cache, name):
    """All that an entry holds, (N, ...)."""
    paths = sorted(cache.glob(f"*/{name}/*.safetensors"))
    return torch.cat([load_file(path)["values"] for path in paths])


def assert_same_log(one, two, **tolerance):
    """Entry by entry, but for the speed; tolerance: of pytest.approx."""
    for a, b in zip(log_without_speed(one), log_without_speed(two), strict=True):
        assert a == pytest.approx(b, **tolerance)


def count_calls(monkeypatch, stop_after=None):
    """A list to which every teacher forward adds its number of samples; the run is killed at
    `stop_after`.
    """
    seen, real = [], Teacher.__call__

    def counted(teacher, batch, *args, **kwargs):
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(batch.size)
        return real(teacher, batch, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__call__", counted)
    return seen
