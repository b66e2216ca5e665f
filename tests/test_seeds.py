"""seeds.py: no two uses of a seed, and no two seeds, draw the same numbers."""

import accelerate
import pytest
import torch
from conftest import flags
from stopped_runs import loop_of

import glue_with_cka_i
import memory
from seeds import mix
from training import evaluation
from training.batches import epoch_order


def test_mixed_seeds_differ_by_every_part():
    keys = [
        (seed, use, number)
        for seed in range(20)
        for use in ("process", "epoch")
        for number in range(20)
    ]
    assert len({mix(*key) for key in keys}) == len({mix(*key) % 2**32 for key in keys}) == len(keys)
    assert mix(3, "process", 1) == mix(3, "process", 1) and 0 <= mix(3, "memory") < 2**64


def test_no_epoch_of_a_seed_has_the_order_of_another_seeds():
    orders = {
        (seed, epoch): epoch_order(500, 500, seed, epoch)[0]
        for seed, epoch in (
            (1, 999),
            (1, 1000),
            (1, 1001),
            (1, 2000),
            (2, 0),
            (2, 1),
            (3, 0),
            (0, 0),
            (2**29, 0),
            (2**32 - 1, 0),
        )
    }
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    for (seed, epoch), order in orders.items():
        if epoch < 1000 and seed < 9:  # as published
            published = torch.randperm(
                500, generator=torch.Generator().manual_seed(1000 * seed + epoch)
            )
            assert torch.equal(order, published)


@pytest.mark.parametrize("init", ["normal", "released"])
def test_no_memory_starts_from_the_noise_of_a_students(init):
    """Of a sample with mean 0 and variance 1, whose start is noise alone."""
    sample = torch.tensor([[1.0], [-1.0]]).repeat(20, 12)
    for seed in range(3):
        if init == "normal":
            start = memory.start_centroids(sample, 9, "normal", seed)
        else:
            start = memory.released_centroids(sample, 1, (9, 12), seed)
        for other in range(5):
            student = memory.Memories(start, 4, 3, other, init="released").student
            assert (
                torch.corrcoef(torch.stack([start.flatten(), student.flatten()]))[0, 1].abs() < 0.5
            )


def test_no_process_draws_what_another_seeds_process_draws(tiny, tmp_path, monkeypatch):
    drawn = {}
    for seed, rank in ((1, 2), (2, 1), (1, 1), (3, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(
                accelerate.Accelerator, "process_index", property(lambda self, rank=rank: rank)
            )
            patch.setattr(
                evaluation, "score_teacher", lambda *args: None
            )  # it needs the other processes
            loop_of(
                glue_with_cka_i.main,
                flags(tiny, tmp_path / f"{seed}-{rank}", "--seed", seed),
            )
        drawn[seed, rank] = torch.initial_seed()
    assert len(set(drawn.values())) == 4
    assert drawn[3, 0] == 3  # the first process's is the run's own
