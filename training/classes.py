"""Which class of the task each output of a classifier stands for: by its names, and tested by
score.

Names alone cannot decide, as many models have LABEL_0 and LABEL_1 or words of their own. So a
teacher is also scored on labelled rows, and refused if another order of its classes fits these
clearly better.
"""

import numpy as np
import torch

from tasks.glue import get_task
from tasks.metrics import compute_metrics
from tasks.task import plain

DOUBT = (
    0.001  # p of a sign test below which one order of the classes is clearly better than another
)
NLI = {
    "contradiction": "contradiction contradictory contradicts",
    "neutral": "neutral",
    "entailment": "entailment entails entailed",
    "not_entailment": "not_entailment non_entailment no_entailment not_entailed",
}
WORDS = {  # task -> for each of its classes, the spellings beside the data file's
    "CoLA": (
        "unacceptable not_acceptable ungrammatical incorrect",
        "acceptable grammatical correct",
    ),
    "SST-2": ("negative neg", "positive pos"),
    "MRPC": ("not_equivalent not_paraphrase different", "equivalent paraphrase"),
    "QQP": ("not_duplicate not_duplicates different", "duplicate duplicates"),
    "WNLI": (NLI["not_entailment"], NLI["entailment"]),
    **{
        name: tuple(NLI[label] for label in get_task(name).labels)
        for name in ("MNLI", "QNLI", "RTE")
    },
}


def spellings_of(task):
    """For each class of a task, the spellings, in one text, that are taken beside its own word."""
    return WORDS.get(task.name, [""] * len(task.labels))


# ---- by name -------------------------------------------------------------------------------------


def order_of(config, task):
    """The task's class for each output of a model, if the model's names for its classes say plainly
    that they are in another order than the task's.

    A list of K class indices; None if the names are in the task's order, or are no names of its
    classes (words of another kind; LABEL_0, ... for a task whose classes are words).
    """
    if task.labels is None or config.num_labels != len(task.labels):
        return None
    spellings = [
        {plain(label), *words.split()}
        for label, words in zip(task.labels, spellings_of(task), strict=True)
    ]
    if task.labels == ("0", "1"):  # a data file without words: its numbers are the classes
        spellings = [names | {f"label_{k}"} for k, names in enumerate(spellings)]
    names = [plain(config.id2label.get(k, "")) for k in range(config.num_labels)]
    order = [
        next((c for c, known in enumerate(spellings) if name in known), None) for name in names
    ]
    usual = list(range(len(task.labels)))
    return order if sorted(order, key=str) == usual and order != usual else None


def name_classes(config, task):
    """Give a configuration the task's number and names of classes."""
    names = task.labels or ("score",)
    config.num_labels = len(names)  # first, as setting it makes names of its own
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification" if task.labels else "regression"


def permute_classes(model, order):
    """Reorder a classifier's outputs, in place: output k becomes output order[k]."""
    head = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == len(order)
    ][-1]
    places = torch.tensor(order).argsort()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[places])


def put_in_order(model, task):
    """Bring a fine-tuned classifier's outputs into the task's order, if its names for its classes
    say that they are in another one.

    Returns what was done, in words, or None.
    """
    order = order_of(model.config, task)
    if order is None:
        return None
    found = [str(model.config.id2label[k]) for k in range(len(order))]
    permute_classes(model, order)
    model.was_in_order = order  # for the advice of other_meaning
    name_classes(model.config, task)
    order = f"{task.name}'s, {', '.join(task.labels)}"
    return f"has its classes in the order {', '.join(found)}: they are put in {order}"


# ---- by score ------------------------------------------------------------------------------------


def clearly_better(these, those):
    """True if the answers `these` are right more often than `those`, by more than luck (p < DOUBT).

    Both: (N,) bool, whether each answer is right.
    """
    from scipy.stats import binomtest  # here and below, as it imports for a second

    wins, losses = (these & ~those).sum(), (those & ~these).sum()
    return (
        wins > losses
        and binomtest(int(wins), int(wins + losses), alternative="greater").pvalue < DOUBT
    )


def best_order(logits, labels):
    """The order of a classifier's outputs that fits the labels best, if it is clearly better than
    both the present order and the commonest class for all rows.

    logits: (N, K). labels: (N,). Returns the class of each output, a list, or None.
    """
    from scipy.optimize import linear_sum_assignment

    predictions, present = logits.argmax(1), logits.argmax(1) == labels
    constant = labels == np.bincount(labels).argmax()
    counts = np.zeros(2 * [logits.shape[1]], dtype=int)  # (outputs, classes)
    np.add.at(counts, (predictions, labels), 1)
    best = linear_sum_assignment(counts, maximize=True)[1]
    right = best[predictions] == labels
    return (
        best.tolist()
        if clearly_better(right, present) and clearly_better(right, constant)
        else None
    )


def correlation(x, y):
    """Pearson's r of x and y, (N,) each; 0 if one of them is constant."""
    return np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else 0.0


def other_scale(scores, labels):
    """True if scores (N,) clearly follow the labels (N,), |r| of 0.5 or more, but upside down or on
    another scale.

    Another scale: their squared error is more than twice that of the labels' mean as the score of
    all rows.
    """
    from scipy.stats import pearsonr

    r = correlation(scores, labels)
    clear = abs(r) >= 0.5 and len(labels) > 2 and pearsonr(scores, labels).pvalue < DOUBT
    return clear and (r < 0 or np.square(scores - labels).mean() > 2 * np.var(labels))


def no_better_than_constant(task, logits, labels):
    """True if a teacher's answers are not clearly better (p < 0.05) than one answer for all rows.

    logits: (N, K). labels: (N,).
    """
    if task.labels is None:
        return correlation(logits[:, 0], labels) <= 2 / np.sqrt(len(labels))
    from scipy.stats import binomtest

    right, constant = logits.argmax(1) == labels, labels == np.bincount(labels).argmax()
    wins, losses = int((right & ~constant).sum()), int((constant & ~right).sum())
    return wins <= losses or binomtest(wins, wins + losses, alternative="greater").pvalue >= 0.05


def constant_answer(task, labels):
    """The best answer that is the same for all rows, in words."""
    if task.labels is None:
        return "one score for all rows"
    counts = np.bincount(labels)
    return f"always answering {task.labels[counts.argmax()]} ({counts.max() / counts.sum():.4f})"


def constant_score(task, labels):
    """The score of the best answer that is the same for all rows: the mean of the task's metrics.

    labels: (N,). For a regression it is 0, as such an answer has no correlation.
    """
    if task.labels is None:
        return 0.0
    scores = []
    for answer in range(len(task.labels)):
        metrics = compute_metrics(task, np.full(len(labels), answer), labels)
        scores.append(sum(metrics[name] for name in task.metrics) / len(task.metrics))
    return max(scores)


def other_meaning(task, name, logits, labels, where, was=None):
    """A sentence that refuses a teacher whose outputs, by the labels, mean something else than the
    task's classes or scores; None if they mean the task's.

    logits: (N, K). labels: (N,). where: the rows, in words. was: the order of the outputs before
    put_in_order changed it, if it did, as the advice is for the teacher's file.
    """
    if not np.isfinite(logits).all():
        return f"the teacher {name} has infinite or NaN logits on {where}: fine-tune it again"
    if task.labels is None:
        if other_scale(logits[:, 0], labels):
            r = correlation(logits[:, 0], labels)
            return (
                f"the teacher {name} follows the scores of {where} (r = {r:.2f}) on another scale, "
                f"from {logits.min():.2f} to {logits.max():.2f} where {task.name} has "
                f"{labels.min():.2f} to {labels.max():.2f}, and the student would learn both: "
                "fine-tune one with train_teacher.py"
            )
        return None
    order = best_order(logits, labels)
    if order is None:
        return None
    predictions = logits.argmax(1)
    words = {k: task.labels[order[c]] for k, c in enumerate(was or range(len(order)))}
    written = ", ".join(f'"{k}": "{word}"' for k, word in words.items())
    return (
        f"the teacher {name} has its classes in another order than {task.name}: on {where} it is "
        f"right in {(predictions == labels).mean():.1%}, and in "
        f"{(np.array(order)[predictions] == labels).mean():.1%} if its "
        f'outputs are {", ".join(words.values())}: write that as "id2label": {{{written}}} '
        "into its config.json, or "
        "fine-tune one with train_teacher.py"
    )
