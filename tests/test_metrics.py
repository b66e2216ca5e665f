"""utils_glue.py: GLUE's metrics beside plain second implementations."""

import math

import numpy as np
import pytest
from glue_files import expect_error

from tasks.glue import TASKS, get_task
from tasks.metrics import compute_metrics, predictions_from_logits


def average_ranks(values):
    return np.array(
        [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
    )


def plain_pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())


def plain_mcc(p, y):
    """The general (K classes) form: the correlation of the one-hot matrices."""
    p, y = np.eye(3)[p], np.eye(3)[y]
    p, y = p - p.mean(0), y - y.mean(0)
    return (p * y).sum() / math.sqrt((p * p).sum() * (y * y).sum())


def plain_f1(p, y):
    return 2 * (p * y).sum() / (p.sum() + y.sum())


PLAIN = {
    "acc": lambda p, y: np.mean(p == y),
    "f1": plain_f1,
    "mcc": plain_mcc,
    "pearson": plain_pearson,
    "spearmanr": lambda p, y: plain_pearson(average_ranks(p), average_ranks(y)),
}
NAMES = {
    "cola": ["mcc"],
    "mrpc": ["acc", "f1"],
    "qqp": ["acc", "f1"],
    "sts-b": ["pearson", "spearmanr"],
    "ax": ["mcc"],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TASKS)
def test_metrics(name, seed):
    task, rng = get_task(name), np.random.default_rng(seed)
    if task.labels:
        labels = rng.integers(len(task.labels), size=50)
        logits = rng.normal(size=(50, len(task.labels))) + np.eye(len(task.labels))[labels]
        predictions = np.array(
            [max(range(len(row)), key=row.__getitem__) for row in logits.tolist()]
        )
    else:
        labels = rng.integers(11, size=50) / 2
        logits = (labels + rng.normal(size=50)).round(1)[:, None].astype(np.float32)
        predictions = logits[:, 0]
    found = predictions_from_logits(task, logits)
    assert found.shape == (50,) and (found == predictions).all()
    metrics = compute_metrics(task, found, labels)
    assert list(metrics) == NAMES.get(name, ["acc"])
    assert all(type(value) is float for value in metrics.values())
    for metric, value in metrics.items():
        assert value == pytest.approx(PLAIN[metric](predictions, labels), abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_constant_predictions_are_silent():
    labels = np.array([0, 1, 2.5])
    assert compute_metrics(get_task("sts-b"), np.ones(3), labels) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("sts-b"), np.ones(1), np.ones(1)) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("sts-b"), labels, np.ones(3)) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("cola"), np.zeros(2, int), np.array([0, 1])) == {"mcc": 0.0}
    assert compute_metrics(get_task("mrpc"), np.zeros(2, int), np.zeros(2, int)) == {
        "acc": 1.0,
        "f1": 0.0,
    }


def test_metrics_want_equal_shapes():
    with expect_error(r"\(3,\)", r"\(2,\)"):
        compute_metrics(get_task("rte"), np.zeros(2), np.zeros(3))
