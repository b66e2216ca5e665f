"""A task's metrics, of predictions and labels: scikit-learn's and SciPy's, by GLUE's names."""

import numpy as np

from tasks.task import expect


def predictions_from_logits(task, logits):
    """Logits (N, K) -> class indices (N,), or for a regression, where K is 1, scores (N,)."""
    return np.argmax(logits, axis=1) if task.labels else np.asarray(logits)[:, 0]


def _correlation(statistic, predictions, labels):
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    import scipy.stats  # here, as it imports for a second, and one task of ten needs it

    function = getattr(scipy.stats, statistic)
    return function(predictions.astype(np.float64), labels.astype(np.float64)).statistic


def _score(name, predictions, labels, **options):
    import sklearn.metrics  # here, as it imports for a second

    return getattr(sklearn.metrics, name)(labels, predictions, **options)


METRICS = {  # (predictions, labels) -> number
    "acc": lambda predictions, labels: _score("accuracy_score", predictions, labels),
    "f1": lambda predictions, labels: _score("f1_score", predictions, labels, zero_division=0),
    "f1_macro": lambda predictions, labels: _score(
        "f1_score", predictions, labels, zero_division=0, average="macro"
    ),
    "mcc": lambda predictions, labels: _score("matthews_corrcoef", predictions, labels),
    "pearson": lambda predictions, labels: _correlation("pearsonr", predictions, labels),
    "spearmanr": lambda predictions, labels: _correlation("spearmanr", predictions, labels),
}


def compute_metrics(task, predictions, labels):
    """The task's metrics of predictions (N,) and labels (N,): {name: number}, 1 at best.

    A correlation with a constant is undefined, and silently counts as 0.0: so the evaluation of a
    model that predicts one score for all rows does not fail. UserError if the shapes differ.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    expect(
        predictions.shape == labels.shape,
        f"predictions of the labels' shape {labels.shape}",
        predictions.shape,
        "evaluate the same rows",
    )
    return {name: float(METRICS[name](predictions, labels)) for name in task.metrics}
