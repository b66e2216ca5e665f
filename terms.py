"""The named, weighted terms of a method's loss: VKD's, and FSD's structures I, L and G.

A method is a dict, name -> Term, which a script makes of its flags; the loop in loop.py adds
the terms up. A term sees what student and teacher say of one mini-batch and returns a scalar.
"""

from typing import NamedTuple

import torch

import cka
from common import UserError
from kd import kd_loss, task_loss
from training.batches import first_tokens, flat, for_teacher, leave_out


class Term(NamedTuple):
    """A named part of the total, of weight * loss(s, t, targets); one of weight 0 is not computed.

    s, t: the Outputs of student and teacher. targets: those of the MiniBatch; terms may leave there
    what others of the same mini-batch share. The loss returns a scalar, or a Counted.
    needs: what it reads of the teacher: "logits", "features", what a cache may hold instead of
    these ("tokens" for I, "relations" for G), "attention", or None.
    module: what of the loss is trained with the student, kept in checkpoints, not with the student.
    fewest, fewest_tokens: with fewer samples in a mini-batch, or tokens in a sample, it never has a
    value.
    aligned: False where it compares samples alone, so that each model may read them in its own way;
    True, the safe one, where it compares token with token.
    padding: True where it reads features at padded positions, as the paper's structures do, unless
    the targets has a `mask`; where none are read, mini-batches are cut to their longest row.
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
    """A scalar that is the mean of `of` values, and how many of them were undefined.

    I leaves these out of the mean; a mini-batch without L or F_MM counts as 0. undefined: a scalar
    tensor.
    """

    value: torch.Tensor
    undefined: torch.Tensor
    of: int


def needs_of(terms):
    """The set of what the terms of a weight other than 0 need of the teacher."""
    return {term.needs for term in terms.values() if term.weight != 0} - {None}


def over_layers(found, values=1):
    """The Counted mean of [(loss, undefined)] over pairs of layers, each the mean of so many."""
    losses, undefined = zip(*found, strict=True)
    return Counted(torch.stack(losses).mean(), torch.stack(undefined).sum(), values * len(found))


# ---- the task's own loss, and vanilla KD ---------------------------------------------------------


def task_term(weight=1.0):
    """CE: the cross-entropy, or of a regression the squared error; of the rows with a label."""

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

    sample_features: what stands for a sample, "flat", all its tokens, or "first", its first one.
    """
    first = sample_features == "first"

    def compare(h_s, h_t, targets):
        sides = (h_s, targets), (h_t, for_teacher(targets))
        if first:  # (B, W, D) -> (B, 1, D)
            h_s, h_t = (first_tokens(*side).unsqueeze(1) for side in sides)
        else:
            h_s, h_t = (leave_out(*side) for side in sides)
        no_mask = None  # what is left out is 0 by now
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

    memories: a memory.Memories, for the penultimate layers; None where the weight is 0.
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
    """What G reads of a mini-batch: the student's features (B, W*D_s), and the relations
    of the teacher's to its memory, a cka.FrozenMemory.
    """
    relations_t = t.relations
    if relations_t is None:
        relations_t = cka.memory_relations(flat(t.features[-1], for_teacher(targets)), m_t)
    return flat(s.features[-1], targets), relations_t


def check_memory(memories):
    """Refuse a teacher memory whose structure says nothing: too few centroids, or all alike."""
    fewest, number = cka.FEWEST_TO_LEARN[memories.estimator], len(memories.teacher.rows)
    alike = not memories.teacher.structure.matrix.any()
    if number < fewest or alike:
        what = f"{number} centroids" + (" that are all alike" if number >= fewest else "")
        raise UserError(
            f"the teacher's memory has {what}, between which F_MM of the global structure has no "
            f"value: it needs {fewest} or more that differ, so make one with train_memory.py "
            "--num_centroid"
        )
