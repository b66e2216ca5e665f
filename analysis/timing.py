"""How large models are, and how long they take for rows: several in turn, so that they compare."""

import statistics
import time
from pathlib import Path

import torch

import common
from training.batches import MiniBatch, Rows

WEIGHTS = "*.safetensors", "pytorch_model*.bin"
MEMORIES = ("student_memory.safetensors",)  # which inference does without


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
    """The first `rows` rows as mini-batches of `size`, each as wide as its longest row.

    Padding beside shorter rows is computed, as plain transformers would. features: name -> tensor
    (N, W).
    """
    found, cut = [], Rows(features, cut=True)
    for indices in torch.arange(min(rows, len(features["labels"]))).split(size):
        item = cut[indices]
        del item["targets"]["columns"]  # by which a mini-batch leaves out that padding, too
        found.append(MiniBatch(item, device))
    return found


def time_rounds(models, batches, accelerator, rounds, desc="timing"):
    """The seconds that each model takes for all its mini-batches in each round: name -> [seconds].

    In a round every model has its turn, so that what else the machine does is shared by all. A
    first round warms up and does not count. models: name -> model. batches: name -> the
    mini-batches, the same rows as each model reads them.
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
    """The milliseconds a row, from the seconds that so many rows took in each round: the median."""
    return 1000 * statistics.median(seconds) / rows
