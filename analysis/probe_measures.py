"""What analysis/probe.py measures, computed from tensors.

"Rows" are those of the probe's CSV without the step: (quantity, term, other, value).
"""

from itertools import combinations

import torch

import cka
from choices import ESTIMATORS
from relations import PSI

GROUPS = {"ce+kd": ("ce", "kd"), "G": ("F_MM", "F_E", "F_C")}
PART = 2**20  # so many numbers of a parameter are converted to float64 at a time


def inner_products(gradients):
    """⟨g_a, g_b⟩ of all pairs, (T, T) float64.

    gradients: for each of T terms a sequence with one tensor per parameter; None stands for zeros.
    """
    found = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for same in zip(*gradients, strict=True):
        there = [i for i, gradient in enumerate(same) if gradient is not None]
        for parts in zip(*(same[i].flatten().split(PART) for i in there), strict=True):
            x = torch.stack(parts).double()  # (T', numbers)
            found[torch.tensor(there).unsqueeze(1), torch.tensor(there)] += (x @ x.mT).cpu()
    return found


def with_groups(names):
    """The terms and the GROUPS that they form: {term or group: the set of its terms}, and the same
    as a matrix of 0 and 1, with a row per term or group and a column per term.
    """
    members = {name: {name} for name in names}
    members |= {group: own for group, of in GROUPS.items() if (own := set(of) & set(names))}
    return members, torch.tensor(
        [[float(name in own) for name in names] for own in members.values()], dtype=torch.float64
    )


def directions(products, names):
    """Norms and cosines of gradients and of their GROUPS' sums, [(quantity, term, other, value)].

    names: of the terms and, last, "total". products: what inner_products returned for their
    gradients. There is no row for a cosine with a gradient that is 0, nor for one between a group
    and its member.
    """
    members, rows = with_groups(names)
    products, norms = rows @ products @ rows.mT, {}  # (names and groups)²
    found = []
    for i, name in enumerate(members):
        norms[name] = products[i, i].clamp(min=0).sqrt().item()
        found.append(("weighted_norm", name, "parameters", norms[name]))
    for (i, a), (j, b) in combinations(enumerate(members), 2):
        if norms[a] and norms[b] and not members[a] & members[b]:
            value = products[i, j].item() / (norms[a] * norms[b])
            found.append(("cosine", a, b, max(-1.0, min(1.0, value))))
    return found


def agreements(products, names):
    """The cosine between each term's gradients on two mini-batches, as rows.

    products: what inner_products returned for the gradients of `names` on the first mini-batch,
    then on the second.
    """
    members, rows = with_groups(names)
    one, two = slice(0, len(names)), slice(len(names), None)
    own, other, both = (
        (rows @ products[part] @ rows.mT).diagonal().tolist()
        for part in ((one, one), (two, two), (one, two))
    )
    return [
        ("agreement", name, "", max(-1.0, min(1.0, c / (a * b) ** 0.5)))
        for name, a, b, c in zip(members, own, other, both, strict=True)
        if a > 0 and b > 0
    ]


def sums_apart(products):
    """How far the terms' gradients g are from adding up to the total's: |Σ g - total| / |total|.

    products: as in `directions`.
    """
    signs = torch.ones(len(products), dtype=torch.float64)
    signs[-1] = -1
    return ((signs @ products @ signs).clamp(min=0) / products[-1, -1]).sqrt().item()


def between_samples(pairs, estimator):
    """CKA between samples: (signal, noise), on the same mini-batch and on two unrelated ones.

    pairs: one (x_s (B, p), x_t (B, q)) per mini-batch, P of them, each of the same samples. Returns
    tensors (P,) and (P (P-1),).
    """
    found = torch.stack(
        [
            torch.stack([cka.linear_cka(x_s, x_t, None, estimator) for _, x_t in pairs])
            for x_s, _ in pairs
        ]
    )  # (P, P)
    same = torch.eye(len(pairs), dtype=torch.bool, device=found.device)
    return found[same], found[~same]


def between_tokens(triples, estimator):
    """CKA between tokens: (signal, noise), on the same sample and on two samples of a mini-batch.

    triples: one (h_s (B, W, D_s), h_t (B, W, D_t), mask (B, W) or None) per mini-batch, P of them.
    Of two samples, the positions count that both masks count. Returns two tensors of at most P B
    numbers: a pair with too few tokens is left out.
    """

    def values(h_s, h_t, mask):
        found = cka.linear_cka(h_s, h_t, mask, estimator)
        return found if mask is None else found[mask.sum(1) >= cka.FEWEST_ROWS[estimator]]

    signal = [values(*triple) for triple in triples]
    noise = [
        values(h_s, h_t.roll(1, 0), None if mask is None else mask & mask.roll(1, 0))
        for h_s, h_t, mask in triples
    ]
    return torch.cat(signal), torch.cat(noise)


def rows_with_spread(quantity, term, other, values):
    """Rows with the mean, standard deviation and number of values (n,); [] without values."""
    values = values.double()
    found = [
        (quantity, term, other, values.mean().item()),
        (f"{quantity}_number", term, other, len(values)),
    ]
    if len(values) > 1:
        found.insert(1, (f"{quantity}_spread", term, other, values.std().item()))
    return found if len(values) else []


def memory_rows(memories, start, pairs):
    """Rows on what has become of the student's memory. start: M_s before the training, or None.

    pairs: one (h_s (B, W*D_s), h_t (B, W*D_t)) per mini-batch.
    """
    m_s, teacher = memories.student.detach(), memories.teacher
    moved = None if start is None else ((m_s - start).norm() / start.norm()).item()
    found = [] if moved is None else [("memory_moved", "M_s", "", moved)]
    found += [
        ("memory_cka", "M_s", estimator, cka.linear_cka(m_s, teacher.rows, None, estimator).item())
        for estimator in ESTIMATORS
        if len(m_s) >= cka.FEWEST_ROWS[estimator]
    ]
    both = [
        (cka.memory_relations(h_s, m_s), cka.memory_relations(h_t, teacher)) for h_s, h_t in pairs
    ]
    joined = [
        {psi: torch.cat([sides[k][psi] for sides in both]).double() for psi in PSI} for k in (0, 1)
    ]  # (N, C)
    for side, relations in zip(("student", "teacher"), joined, strict=True):
        cosine = relations["cosine"]
        found.append(("memory_cosine", side, "mean", cosine.mean().item()))
        found.append(("memory_cosine", side, "spread", cosine.std(1).mean().item()))
    for psi in PSI:
        s, t = (relations[psi].flatten() for relations in joined)
        correlation = torch.corrcoef(torch.stack([s, t]))[0, 1].item()
        found.append(("memory_correlation", "M_s", psi, correlation))
    return found
