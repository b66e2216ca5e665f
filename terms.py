"""The named, weighted terms of a method's loss: vanilla KD's (VKD), and FSD's structures I, L, G.

A method is a dict, name -> Term, which a script makes from its flags; the loop in loop.py adds up
the terms. A term gets the outputs of student and teacher for one mini-batch and returns a scalar.
"""

from typing import NamedTuple

import torch

import cka
from common import UserError
from kd import kd_loss, task_loss
from training.batches import first_tokens, flat, for_teacher, leave_out


class Term(NamedTuple):
    """A part of the total loss, weight * loss(s, t, targets); not computed if the weight is 0.

    s, t: the Outputs of student and teacher (training/batches.py). targets: the dict of the
    MiniBatch; a term may store there what other terms reuse. The loss returns a scalar, or a
    Counted.
    needs: what the term reads of the teacher: "logits", "features", "attention", what a cache may
    hold instead of features ("tokens" for I, "relations" for G), or None.
    module: the trained part of the loss, as the student's memory; checkpoints keep it, the saved
    student does not. None without one.
    fewest, fewest_tokens: with fewer samples in a mini-batch, or tokens in a sample, the term never
    has a value.
    aligned: False if the term compares samples only, so that each model may read them with its own
    tokenizer or length; True, the safe choice, if it compares token with token.
    padding: True if the term reads features at padded positions, as the paper's structures do,
    unless targets has a `mask`. If no term reads them, mini-batches are cut to their longest row.
    """

    weight: float
    loss: object
    needs: str | None
    module: torch.nn.Module | None = None
    fewest: int = 1
    fewest_tokens: int = 1
    padding: bool = False
    aligned: bool = True


class Counted(NamedTuple):
    """A mean, and how many of the values that it averages are undefined.

    value: a scalar, the mean. of: the number of values. undefined: a scalar tensor. I leaves
    undefined values out of its mean; an undefined L or F_MM counts as 0.
    """

    value: torch.Tensor
    undefined: torch.Tensor
    of: int


def needs_of(terms):
    """The set of all `needs`, except None, of the terms whose weight is not 0."""
    return {term.needs for term in terms.values() if term.weight != 0} - {None}


def over_layers(found, values=1):
    """The Counted mean of a loss over pairs of layers.

    found: for each pair of layers (loss, undefined): a scalar, and how many of the values that it
    averages are undefined. values: how many values it averages.
    """
    losses, undefined = zip(*found, strict=True)
    return Counted(torch.stack(losses).mean(), torch.stack(undefined).sum(), values * len(found))


# ---- the task's own loss, and vanilla KD ---------------------------------------------------------


def task_term(weight=1.0):
    """CE over the rows that have a label: cross-entropy, or squared error for a regression."""

    def loss(s, t, targets):
        return task_loss(s.logits, targets["labels"], targets.get("labelled"))

    return Term(weight, loss, None, aligned=False)


def vkd_terms(alpha, temperature):
    """VKD, α CE + (1-α) KD (Eq. 1), as two terms."""

    def kd(s, t, targets):
        return kd_loss(s.logits, t.logits, temperature)

    return {"ce": task_term(alpha), "kd": Term(1 - alpha, kd, "logits", aligned=False)}


# ---- FSD -----------------------------------------------------------------------------------------


def intra_term(weight, estimator="biased", reduction="mean_log"):
    """I (Eq. 6), the mean over the pairs of layers in use."""

    def loss(s, t, targets):
        mask = targets.get("mask")
        teachers = map(cka.Structure, t.tokens) if t.tokens else t.features
        found = [
            cka.intra_feature_loss(h_s, h_t, mask, estimator, reduction, count_undefined=True)
            for h_s, h_t in zip(s.features, teachers, strict=True)
        ]
        return over_layers(found, values=len(s.features[0]))

    return Term(
        weight,
        loss,
        needs="tokens",
        fewest_tokens=cka.FEWEST_TO_LEARN[estimator],
        padding=True,
    )


def local_term(weight, estimator="biased", sample_features="flat"):
    """L (Eq. 7), the mean over the pairs of layers in use.

    sample_features: what stands for a sample: "flat", all its tokens, or "first", its first token.
    """
    first = sample_features == "first"

    def compare(h_s, h_t, targets):
        sides = (h_s, targets), (h_t, for_teacher(targets))
        if first:  # (B, W, D) -> (B, 1, D)
            h_s, h_t = (first_tokens(*side).unsqueeze(1) for side in sides)
        else:
            h_s, h_t = (leave_out(*side) for side in sides)
        no_mask = None  # masked positions are 0 by now
        return cka.local_inter_feature_loss(h_s, h_t, no_mask, estimator, count_undefined=True)

    def loss(s, t, targets):
        pairs = zip(s.features, t.features, strict=True)
        return over_layers([compare(h_s, h_t, targets) for h_s, h_t in pairs])

    return Term(
        weight,
        loss,
        needs="features",
        fewest=cka.FEWEST_TO_LEARN[estimator],
        padding=not first,
        aligned=False,
    )


def global_terms(weight, gamma_m, memories):
    """G, weight * (F_MM + γ_m F_E + (1-γ_m) F_C) (Eq. 10), as three terms, computed together.

    memories: a memory.Memories, of the penultimate layers; may be None if the weight is 0.
    """
    if memories is not None:
        check_memory(memories)
    weights = {"F_MM": weight, "F_E": weight * gamma_m, "F_C": weight * (1 - gamma_m)}
    parts = [name for name, value in weights.items() if value != 0]

    def compute(s, t, targets):
        rows_s, relations_t = read_for_memories(s, t, targets, memories.teacher)
        m_s, m_t, estimator = memories.student, memories.teacher, memories.estimator
        return cka.global_losses(rows_s, m_s, relations_t, m_t, estimator, parts)

    def part(name):
        def loss(s, t, targets):
            if "G" not in targets:
                targets["G"] = compute(s, t, targets)
            found = targets["G"][name]
            return Counted(*found, of=1) if name == "F_MM" else found

        return loss

    reads = {"needs": "relations", "module": memories, "padding": True, "aligned": False}
    return {name: Term(value, part(name), **reads) for name, value in weights.items()}


def read_for_memories(s, t, targets, m_t):
    """The student's features (B, W*D_s), and the teacher's cka.memory_relations to its memory m_t.

    m_t: a cka.FrozenMemory. The relations are computed unless t, from a cache, has them.
    """
    relations_t = t.relations
    if relations_t is None:
        relations_t = cka.memory_relations(flat(t.features[-1], for_teacher(targets)), m_t)
    return flat(s.features[-1], targets), relations_t


def check_memory(memories):
    """Refuse a teacher's memory whose centroids are too few or all alike: F_MM has no value."""
    fewest, number = cka.FEWEST_TO_LEARN[memories.estimator], len(memories.teacher.rows)
    alike = not memories.teacher.structure.matrix.any()
    if number < fewest or alike:
        what = f"{number} centroids" + (" that are all alike" if number >= fewest else "")
        raise UserError(
            f"the teacher's memory has {what}, but the part F_MM of the global structure needs "
            f"{fewest} or more centroids that differ: make another memory with train_memory.py and "
            "a larger --num_centroid"
        )
