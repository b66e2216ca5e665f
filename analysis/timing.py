"""The size of stored models, and the time they take for rows, measured in turn to compare them."""

import statistics
import time
from pathlib import Path

import torch

import common
from training.batches import MiniBatch, Rows

WEIGHTS = "*.safetensors", "pytorch_model*.bin"
MEMORIES = ("student_memory.safetensors",)  # files that inference does not need


def megabytes(folder):
    """The size of a folder's stored weights in MB of 10^6 bytes; None where there are none."""
    for pattern in WEIGHTS:
        sizes = [
            path.stat().st_size for path in Path(folder).glob(pattern) if path.name not in MEMORIES
        ]
        if sizes:
            return sum(sizes) / 1e6
    return None


def mini_batches(features, rows, size, device):
    """The first `rows` rows as MiniBatches of `size` rows, each as wide as its longest row.

    The padding of shorter rows is computed, as plain transformers does. features: name -> tensor
    (N, W).
    """
    found, cut = [], Rows(features, cut=True)
    for indices in torch.arange(min(rows, len(features["labels"]))).split(size):
        item = cut[indices]
        del item["targets"]["columns"]  # without it a MiniBatch computes that padding
        found.append(MiniBatch(item, device))
    return found


def time_rounds(models, batches, accelerator, rounds, desc="timing"):
    """The seconds that each model takes for all its mini-batches in each round: name -> [seconds].

    In a round every model has its turn, so that other work on the machine slows all of them alike.
    The first round warms up and does not count. models: name -> model. batches: name -> the model's
    MiniBatches, which hold the same rows for every model, read as that model reads them.
    """
    times = {name: [] for name in models}
    for number in common.progress(range(rounds + 1), desc=desc, unit="round", leave=False):
        for name, model in models.items():
            started = time.perf_counter()
            with torch.no_grad(), accelerator.autocast():
                for batch in batches[name]:
                    batch.forward(model).logits.sum().item()  # waits for the device
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def milliseconds(seconds, rows):
    """The median milliseconds per row. seconds: of each round, for this number of rows."""
    return 1000 * statistics.median(seconds) / rows
