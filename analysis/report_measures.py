"""How a student relates to its teacher, measured a mini-batch at a time: no features are kept, so a
data set of any size will do.

A View holds what the measures need of one model's outputs on one mini-batch. A Comparison is given
the Views of a student and of its teacher, one mini-batch after the other, and sums up how alike the
two models are. Arithmetic is float64, and a model compared with itself has CKA exactly 1 and
relation differences exactly 0.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import precision_recall_fscore_support

import cka
import memory
import relations
from relations import PSI

MAP = 64  # a heat map has this many of the first mini-batches at most; means are over all
GRAM_KINDS = tuple(itertools.product(("tokens", "samples"), cka.ESTIMATORS))
RELATIONS = [f"rd_{where}_{psi}" for where in ("inter", "intra") for psi in PSI]


# ---- one mini-batch of one model -----------------------------------------------------------------


class Gram(NamedTuple):
    """A centred Gram matrix K (..., n, n), and its energy Σ K² (...).

    undefined: (...) bool, where CKA has no value.
    """

    matrix: torch.Tensor
    energy: torch.Tensor
    undefined: torch.Tensor


def grams_of(x, mask=None):
    """A dict, estimator ("biased", "debiased") -> the Gram between the rows of x (..., n, p).

    mask: (..., n) bool, True for the rows that count; None counts all.
    """
    products, grams = cka.gram_matrix(x), {}
    for estimator in cka.ESTIMATORS:
        matrix, _, undefined = cka.centre_gram(products, mask, estimator)
        grams[estimator] = Gram(matrix, matrix.square().sum((-2, -1)), undefined)
    return grams


def cka_of(one, other):
    """CKA (Eq. 4-5) of two Grams (...): exactly 1 for a Gram and itself, 0 if it is undefined."""
    undefined = one.undefined | other.undefined
    energies = torch.where(undefined, 1, one.energy * other.energy)
    return torch.where(undefined, 0, (one.matrix * other.matrix).sum((-2, -1)) / energies.sqrt())


class View(NamedTuple):
    """What the measures need of a model's mini-batch, computed once however many models it is
    compared with.

    grams: (between, estimator) -> a list with the Gram of each hidden state, between the tokens of
    each sample (B, W, W) or between the samples (B, B). relations: a name in RELATIONS -> ψ
    between the penultimate features, of samples (inter, (B, B)) or of a sample's tokens (intra,
    (B, W, W)).
    rows: the penultimate features, one row per sample (B, W*D). mask: (B, W) bool, the positions
    that count; None if all do. tokens: (B,), how many of a sample's tokens count.
    """

    logits: torch.Tensor
    grams: dict
    relations: dict
    rows: torch.Tensor
    mask: torch.Tensor | None
    tokens: torch.Tensor


def view(logits, hidden_states, mask=None, of_tokens=True):
    """The View of a mini-batch: logits (B, K), hidden_states from the embeddings to the last layer,
    (B, W, D) each.

    mask: (B, W) bool, the positions that count; None counts padding too, as the paper does.
    of_tokens: False leaves out the measures between the tokens of a sample.
    """
    grams = {key: [] for key in GRAM_KINDS}
    for layer, h in enumerate(hidden_states):
        h = h.double() if mask is None else h.double() * mask.unsqueeze(-1)
        rows = h.flatten(1)  # (B, W, D) -> (B, W*D)
        found = {"samples": grams_of(rows)} | ({"tokens": grams_of(h, mask)} if of_tokens else {})
        for between, of_layer in found.items():
            for estimator, gram in of_layer.items():
                grams[between, estimator].append(gram)
        if layer == len(hidden_states) - 2:
            penultimate = {"inter": rows} | ({"intra": h} if of_tokens else {})
    psi_values = {
        f"rd_{where}_{psi}": relations.pairwise(x, psi)
        for where, x in penultimate.items()
        for psi in PSI
    }
    tokens = torch.full((len(h),), h.shape[1]) if mask is None else mask.sum(1).cpu()
    return View(logits.double(), grams, psi_values, penultimate["inter"], mask, tokens)


# ---- many mini-batches of a student and its teacher ----------------------------------------------


class Mean:
    """A running weighted mean of numbers, or of arrays of one shape; NaN before the first `add`."""

    def __init__(self):
        self.total, self.weight = 0.0, 0

    def add(self, value, weight=1):
        self.total, self.weight = self.total + weight * value, self.weight + weight

    @property
    def value(self):
        return self.total / self.weight if self.weight else np.nan


class Comparison:
    """A student compared with its teacher, over the mini-batches that `add` was given.

    centroids, own: Centroids of the teacher's memory and of the student's, or None. aligned: False
    for a student that reads other tokens than the teacher: then nothing is measured that compares
    token with token, or position with position, and its value is NaN.
    """

    def __init__(self, centroids=None, own=None, aligned=True):
        self.centroids, self.own, self.aligned = centroids, own, aligned
        self.layer_means = {key: Mean() for key in GRAM_KINDS}
        self.relation_means = {name: Mean() for name in RELATIONS}
        # of the first MAP mini-batches, the student's Grams divided by their norms, (B*B,)
        self.units = {estimator: [] for estimator in cka.ESTIMATORS}
        self.diagonals = {estimator: [] for estimator in cka.ESTIMATORS}
        self.logits, self.nearest, self.nearest_own, self.points = [], [], [], []

    def add(self, s, t, whole=True):
        """Add one mini-batch. s, t: the Views of student and teacher.

        whole: False for a last mini-batch with fewer samples. Relations between samples depend on
        their number, so those of such a mini-batch do not count.
        """
        self.add_layers(s, t, whole)
        self.add_relations(s, t, whole)
        if whole:
            for estimator in cka.ESTIMATORS:
                penultimate = (side.grams["samples", estimator][-2] for side in (s, t))
                self.add_to_map(*penultimate, estimator)
        self.logits.append(s.logits.cpu())
        # the distances to the centroids compare position with position
        comparable = self.aligned and self.centroids
        if comparable and self.centroids.width == s.rows.shape[1]:
            self.nearest.append(self.centroids.nearest(s.rows))
            self.points.append(self.centroids.points(s.rows))
        if self.own:
            self.nearest_own.append(self.own.nearest(s.rows))

    def add_layers(self, s, t, whole):
        """Add CKA of all pairs of layers; samples that have too few tokens for it do not count."""
        for (between, estimator), mean in self.layer_means.items():
            of_tokens = between == "tokens"
            if of_tokens and not self.aligned:
                continue
            few = cka.FEWEST_ROWS[estimator]
            enough = s.tokens >= few if of_tokens else torch.tensor(whole)
            if enough.any():
                grams_s, grams_t = (side.grams[between, estimator] for side in (s, t))
                mean.add(self.layers(grams_s, grams_t, enough), int(enough.sum()))

    def add_relations(self, s, t, whole):
        """Add the relation differences, Eq. 12-13, of the penultimate features."""
        for name, mean in self.relation_means.items():
            of_tokens = "intra" in name
            if self.aligned if of_tokens else whole:
                mask = s.mask if of_tokens else None
                found = relations.relation_difference_of(s.relations[name], t.relations[name], mask)
                mean.add(found.item(), len(s.logits) if of_tokens else 1)

    @staticmethod
    def layers(grams_s, grams_t, enough):
        """CKA of every hidden state of the teacher with every one of the student, (L_t+1, L_s+1).

        grams_s, grams_t: a Gram per hidden state. enough: bool, which samples the mean is over.
        """
        return np.array(
            [
                [cka_of(gram_s, gram_t).cpu()[enough].mean().item() for gram_s in grams_s]
                for gram_t in grams_t
            ]
        )

    def add_to_map(self, gram_s, gram_t, estimator):
        """Add the CKA between the samples of one mini-batch, and keep what heat_map needs of it."""
        self.diagonals[estimator].append(cka_of(gram_s, gram_t).item())
        if len(self.units[estimator]) < MAP:
            energy = torch.where(gram_s.undefined, 1, gram_s.energy)
            scale = torch.where(gram_s.undefined, 0, 1 / energy.sqrt())
            self.units[estimator].append((gram_s.matrix * scale).flatten().cpu())

    def heat_map(self, estimator, teacher):
        """The CKA between mini-batches as an array (P, P), P up to MAP; pixel (p, q) compares the
        teacher's mini-batch p with the student's mini-batch q. teacher: the teacher's Comparison
        with itself.
        """
        units_s, units_t = (torch.stack(side.units[estimator]) for side in (self, teacher))
        pixels = (units_t @ units_s.mT).numpy()
        np.fill_diagonal(pixels, self.diagonals[estimator][:MAP])
        return pixels

    def diagonal(self, estimator):
        """The mean over mini-batches of the CKA of teacher and student on the same one: Table 6."""
        return float(np.mean(self.diagonals[estimator]))

    def layer_map(self, between, estimator):
        """Mean CKA of the teacher's hidden states (rows) with the student's (columns), (L_t+1,
        L_s+1); NaN if none was measured.
        """
        return self.layer_means[between, estimator].value

    def relation_differences(self):
        """Name of RELATIONS -> relation difference, Eq. 12-13, of the penultimate features, the
        mean over the mini-batches (inter) or samples (intra).
        """
        return {name: mean.value for name, mean in self.relation_means.items()}

    def is_finite(self):
        """True if all logits and relation differences, so also the features, are finite."""
        differences = [mean.value for mean in self.relation_means.values() if mean.weight]
        return bool(np.isfinite(self.outputs()).all() and np.isfinite(differences).all())

    def clusters(self, own=False):
        """For each sample added so far, the index of the nearest centroid, an array (N,).

        own: True to look among the student's own centroids, not the teacher's.
        """
        return torch.cat(self.nearest_own if own else self.nearest).numpy()

    def plane(self):
        """Each sample added so far, as its coordinates along the two principal axes of the
        teacher's centroids, an array (N, 2).
        """
        return torch.cat(self.points).numpy()

    def outputs(self):
        """The student's logits of all samples added so far, a NumPy array (N, K)."""
        return torch.cat(self.logits).numpy()


# ---- predictions ---------------------------------------------------------------------------------


def restoration(z_s, z_t, labels, task):
    """How well a student predicts what its teacher predicts, as the paper's Fig. 3 measures it.

    z_s, z_t: logits of student and teacher (N, K). labels: (N,). Returns a dict, and a table with a
    row per class (None for a regression). The keys of the dict for a classification:

        precision, recall, f1    means over the classes, the teacher's predictions being the truth
        accuracy                 the share of rows on which student and teacher predict the same
        loyalty_wrong            this share among the rows that the teacher gets wrong
        wrong                    the number of the rows that the teacher gets wrong

    and for a regression:

        pearson, spearmanr       the correlations between the scores of student and teacher
        loyalty_wrong            Pearson on the quarter of the rows where the teacher errs most
        wrong                    the number of rows in this quarter
    """
    if task.labels is None:
        s, t = z_s[:, 0], z_t[:, 0]
        worst = np.argsort(-np.abs(t - labels), kind="stable")[: max(2, len(t) // 4)]
        return {
            "pearson": correlation(pearsonr, s, t),
            "spearmanr": correlation(spearmanr, s, t),
            "loyalty_wrong": correlation(pearsonr, s[worst], t[worst]),
            "wrong": len(worst),
        }, None
    s, t, classes = z_s.argmax(1), z_t.argmax(1), range(len(task.labels))
    by_class = rates_by_class(s, t, classes)
    by_class.insert(0, "class", task.labels)
    wrong = t != labels
    return {
        **by_class[["precision", "recall", "f1"]].mean(),
        "accuracy": (s == t).mean(),
        "wrong": int(wrong.sum()),
        "loyalty_wrong": (s == t)[wrong].mean() if wrong.any() else np.nan,
    }, by_class


def rates_by_class(s, t, classes):
    """A table with a row per class: the numbers of rows that the teacher, the student and both give
    to it; precision, recall and F1, NaN for a class that neither predicts.

    s, t: the classes that student and teacher predict (N,).
    """
    precision, recall, f1, _ = precision_recall_fscore_support(
        t, s, labels=list(classes), zero_division=0
    )
    rates = pd.DataFrame({"precision": precision, "recall": recall, "f1": f1})
    rates.loc[~np.isin(classes, [*s, *t])] = np.nan
    counts = pd.DataFrame(
        {
            "teacher": [int((t == k).sum()) for k in classes],
            "student": [int((s == k).sum()) for k in classes],
            "both": [int(((s == k) & (t == k)).sum()) for k in classes],
        }
    )
    return counts.join(rates)


def correlation(statistic, s, t):
    """The correlation of s and t (n,) by a function of scipy.stats; NaN if either is constant."""
    return statistic(s, t).statistic if np.ptp(s) and np.ptp(t) else np.nan


# ---- the global structure ------------------------------------------------------------------------


class Centroids:
    """The centroids of a memory m (C, W*D): it finds a sample's nearest centroid, and the sample's
    place in the plane of the centroids' two principal axes.
    """

    def __init__(self, m):
        self.rows, self.width, self.grams = m, m.shape[1], grams_of(m.double())

    def nearest(self, x):
        """The nearest centroid of each row, (B, p) -> (B,)."""
        return torch.cdist(x, self.rows.to(x.dtype)).argmin(1).cpu()

    @functools.cached_property
    def plane(self):
        """The centroids' mean (p,), their axes (p, 2), and these axes' share of the variance."""
        return memory.principal_axes(self.rows.double())

    def points(self, x):
        """The coordinates of rows in the plane of the axes, (B, p) -> (B, 2)."""
        centre, axes, _ = self.plane
        return ((x - centre) @ axes).cpu()
