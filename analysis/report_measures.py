"""What a student has of its teacher, measured a mini-batch at a time: no features are kept, so any
data set will do.

A View is what the measures need of one model's mini-batch; a Comparison adds up views of a student
beside those of its teacher. Arithmetic is float64, and a model beside itself has CKA exactly 1 and
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

MAP = 64  # mini-batches in a heat map at most; means are over all
GRAM_KINDS = tuple(itertools.product(("tokens", "samples"), cka.ESTIMATORS))
RELATIONS = [f"rd_{where}_{psi}" for where in ("inter", "intra") for psi in PSI]


# ---- one mini-batch of one model -----------------------------------------------------------------


class Gram(NamedTuple):
    """A centred Gram matrix K (..., n, n), its energy Σ K² (...), and where CKA is undefined.

    undefined: (...) bool.
    """

    matrix: torch.Tensor
    energy: torch.Tensor
    undefined: torch.Tensor


def grams_of(x, mask=None):
    """Estimator -> Gram, between the rows of x (..., n, p). mask: (..., n) bool."""
    products, grams = cka.gram_matrix(x), {}
    for estimator in cka.ESTIMATORS:
        matrix, _, undefined = cka.centre_gram(products, mask, estimator)
        grams[estimator] = Gram(matrix, matrix.square().sum((-2, -1)), undefined)
    return grams


def cka_of(one, other):
    """CKA (Eq. 4-5) of two Grams (...); exactly 1 of a Gram and itself, and 0 where it is
    undefined.
    """
    undefined = one.undefined | other.undefined
    energies = torch.where(undefined, 1, one.energy * other.energy)
    return torch.where(undefined, 0, (one.matrix * other.matrix).sum((-2, -1)) / energies.sqrt())


class View(NamedTuple):
    """What the measures need of a model's mini-batch, computed once however many models it is
    compared with.

    grams: (between, estimator) -> a Gram for each hidden state, of the tokens of each sample (B, W,
    W) or of the samples (B, B). relations: RELATIONS -> ψ of the penultimate features, (B, B) inter
    and (B, W, W) intra. rows: these features, one row a sample (B, W*D). tokens: how many of a
    sample count (B,).
    """

    logits: torch.Tensor
    grams: dict
    relations: dict
    rows: torch.Tensor
    mask: torch.Tensor | None
    tokens: torch.Tensor


def view(logits, hidden_states, mask=None):
    """The View of a mini-batch: logits (B, K), hidden_states from the embeddings to the last layer,
    (B, W, D) each.

    mask: (B, W) bool, to leave padded positions out; None counts them, as the paper does.
    """
    grams = {key: [] for key in GRAM_KINDS}
    for layer, h in enumerate(hidden_states):
        h = h.double() if mask is None else h.double() * mask.unsqueeze(-1)
        rows = h.flatten(1)  # (B, W, D) -> (B, W*D)
        for between, found in (("tokens", grams_of(h, mask)), ("samples", grams_of(rows))):
            for estimator, gram in found.items():
                grams[between, estimator].append(gram)
        if layer == len(hidden_states) - 2:
            penultimate = {"inter": rows, "intra": h}
    psi_values = {
        f"rd_{where}_{psi}": relations.pairwise(x, psi)
        for where, x in penultimate.items()
        for psi in PSI
    }
    tokens = torch.full((len(h),), h.shape[1]) if mask is None else mask.sum(1).cpu()
    return View(logits.double(), grams, psi_values, penultimate["inter"], mask, tokens)


# ---- many mini-batches of a student and its teacher ----------------------------------------------


class Mean:
    """A weighted mean of arrays that come one after the other."""

    def __init__(self):
        self.total, self.weight = 0.0, 0

    def add(self, value, weight=1):
        self.total, self.weight = self.total + weight * value, self.weight + weight

    @property
    def value(self):
        return self.total / self.weight if self.weight else np.nan


class Comparison:
    """A student beside its teacher, over the mini-batches that `add` was given.

    centroids, own: Centroids of the teacher's memory and of the student's, or None.
    """

    def __init__(self, centroids=None, own=None):
        self.centroids, self.own = centroids, own
        self.layer_means = {key: Mean() for key in GRAM_KINDS}
        self.relation_means = {name: Mean() for name in RELATIONS}
        # the student's Grams over their norms, (B*B,), of the first MAP mini-batches
        self.units = {estimator: [] for estimator in cka.ESTIMATORS}
        self.diagonals = {estimator: [] for estimator in cka.ESTIMATORS}
        self.logits, self.nearest, self.nearest_own, self.points = [], [], [], []

    def add(self, s, t, whole=True):
        """Take the views of one mini-batch. whole: False for a last one with fewer samples, of
        which no relation between samples counts, as these depend on their number.
        """
        self.add_layers(s, t, whole)
        self.add_relations(s, t, whole)
        if whole:
            for estimator in cka.ESTIMATORS:
                penultimate = (side.grams["samples", estimator][-2] for side in (s, t))
                self.add_to_map(*penultimate, estimator)
        self.logits.append(s.logits.cpu())
        if self.centroids and self.centroids.width == s.rows.shape[1]:
            self.nearest.append(self.centroids.nearest(s.rows))
            self.points.append(self.centroids.points(s.rows))
        if self.own:
            self.nearest_own.append(self.own.nearest(s.rows))

    def add_layers(self, s, t, whole):
        """CKA of all pairs of layers; of a sample with too few tokens it says nothing."""
        for (between, estimator), mean in self.layer_means.items():
            enough = torch.tensor(whole)
            if between == "tokens":
                enough = s.tokens >= cka.FEWEST_ROWS[estimator]
            if enough.any():
                grams_s, grams_t = (side.grams[between, estimator] for side in (s, t))
                mean.add(self.layers(grams_s, grams_t, enough), int(enough.sum()))

    def add_relations(self, s, t, whole):
        """Eq. 12-13 of the penultimate features."""
        for name, mean in self.relation_means.items():
            of_tokens = "intra" in name
            if of_tokens or whole:
                mask = s.mask if of_tokens else None
                found = relations.relation_difference_of(s.relations[name], t.relations[name], mask)
                mean.add(found.item(), len(s.logits) if of_tokens else 1)

    @staticmethod
    def layers(grams_s, grams_t, enough):
        """CKA of every hidden state with every other, mean where there is enough: L+1 Grams ->
        (L_t+1, L_s+1).
        """
        return np.array(
            [
                [cka_of(gram_s, gram_t).cpu()[enough].mean().item() for gram_s in grams_s]
                for gram_t in grams_t
            ]
        )

    def add_to_map(self, gram_s, gram_t, estimator):
        """CKA between the samples of one mini-batch, and what heat_map needs of it."""
        self.diagonals[estimator].append(cka_of(gram_s, gram_t).item())
        if len(self.units[estimator]) < MAP:
            energy = torch.where(gram_s.undefined, 1, gram_s.energy)
            scale = torch.where(gram_s.undefined, 0, 1 / energy.sqrt())
            self.units[estimator].append((gram_s.matrix * scale).flatten().cpu())

    def heat_map(self, estimator, teacher):
        """Pixel (p, q): CKA of the teacher's mini-batch p and the student's mini-batch q, (P, P), P
        up to MAP.

        teacher: its Comparison with itself.
        """
        units_s, units_t = (torch.stack(side.units[estimator]) for side in (self, teacher))
        pixels = (units_t @ units_s.mT).numpy()
        np.fill_diagonal(pixels, self.diagonals[estimator][:MAP])
        return pixels

    def diagonal(self, estimator):
        """The mean CKA over all mini-batches of the teacher with the student's same ones (the
        paper's Table 6).
        """
        return float(np.mean(self.diagonals[estimator]))

    def layer_map(self, between, estimator):
        """Mean CKA of the teacher's hidden states (rows) with the student's (columns), (L_t+1,
        L_s+1).
        """
        return self.layer_means[between, estimator].value

    def relation_differences(self):
        """RELATIONS -> Eq. 12-13 of the penultimate features, mean over the mini-batches (inter) or
        samples (intra).
        """
        return {name: mean.value for name, mean in self.relation_means.items()}

    def is_finite(self):
        """True where all logits and penultimate features are numbers."""
        differences = list(self.relation_differences().values())
        return bool(np.isfinite(self.outputs()).all() and np.isfinite(differences).all())

    def clusters(self, own=False):
        """The nearest of the teacher's centroids, or of the student's own, of every sample (N,)."""
        return torch.cat(self.nearest_own if own else self.nearest).numpy()

    def plane(self):
        """Every sample in the plane of the teacher's centroids (N, 2)."""
        return torch.cat(self.points).numpy()

    def outputs(self):
        """All logits (N, K)."""
        return torch.cat(self.logits).numpy()


# ---- predictions ---------------------------------------------------------------------------------


def restoration(z_s, z_t, labels, task):
    """How far a student's predictions are the teacher's, which are taken as the truth (the paper's
    Fig. 3).

    z_s, z_t: logits (N, K). labels: (N,). Returns a dict of numbers, and a table with a row a class
    (None for a regression). Precision, recall and F1 are means over the classes. loyalty_wrong:
    agreement on the rows that the teacher gets wrong; of a regression, the correlation on the
    quarter of the rows where the teacher errs most.
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
    """A row a class: in how many rows the teacher, the student and both name it; precision, recall
    and F1, NaN of a class that neither predicts, as that says nothing.

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
    """A correlation, NaN with a constant."""
    return statistic(s, t).statistic if np.ptp(s) and np.ptp(t) else np.nan


# ---- the global structure ------------------------------------------------------------------------


class Centroids:
    """A memory m (C, W*D) to look samples up in, and the plane of its two principal axes."""

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
        """The rows in the plane of the axes, (B, p) -> (B, 2)."""
        centre, axes, _ = self.plane
        return ((x - centre) @ axes).cpu()
