"""Relation differences (RD): how far pairwise distances and cosines differ between two models.

They may be large where CKA is 1. They are logged, never part of a loss. Jung et al. 2023 (see
cka.py), Eq. 12-13: between the samples of a mini-batch (inter) and between the tokens of each
sample (intra), with ψ, the Euclidean distance or the cosine similarity.
"""

import torch

from precision import full_precision

PSI = ("euclidean", "cosine")


@full_precision
def pairwise(x, psi="euclidean"):
    """ψ between all pairs of rows, "euclidean" distances or "cosine" similarities.

    x: (..., n, p). Returns (..., n, n). ValueError for another psi.
    """
    if psi not in PSI:
        raise ValueError(f"psi must be one of {PSI}, got {psi!r}")
    if psi == "euclidean":
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    unit = torch.nn.functional.normalize(x, dim=-1)
    return unit @ unit.mT


@full_precision
def relation_difference(x_s, x_t, psi="euclidean", mask=None):
    """RD, the mean over all pairs i, j of |ψ(x_t[i], x_t[j]) - ψ(x_s[i], x_s[j])| (Eq. 12-13).

    x_s: (..., n, D_s). x_t: (..., n, D_t). mask: (..., n) bool, True for the rows that count. psi:
    "euclidean" distance or "cosine" similarity. Rows are samples, (B, W*D), or the tokens of each
    sample, (B, W, D). Returns a scalar, the mean over the leading dimensions.
    """
    return relation_difference_of(pairwise(x_s, psi), pairwise(x_t, psi), mask)


def relation_difference_of(psi_s, psi_t, mask=None):
    """RD of two results of `pairwise`, (..., n, n) each; mask: (..., n) bool. Returns a scalar."""
    difference = (psi_t - psi_s).abs()
    if mask is None:
        return difference.mean()
    pairs = (mask.unsqueeze(-1) & mask.unsqueeze(-2)).to(difference.dtype)
    return ((difference * pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)).mean()


def sample_differences(x_s, x_t):
    """RD between samples (Eq. 12-13): {"rd_inter_euclidean": float, "rd_inter_cosine": float}.

    x_s: (B, p_s). x_t: (B, p_t).
    """
    x_s, x_t = x_s.float(), x_t.float()
    return {f"rd_inter_{psi}": relation_difference(x_s, x_t, psi).item() for psi in PSI}


def relation_differences(h_s, h_t, mask=None):
    """RD between samples and between tokens (Eq. 12-13): sample_differences, and rd_intra_ too.

    h_s: (B, W, D_s). h_t: (B, W, D_t). mask: (B, W) bool, True for the tokens that count.
    """
    h_s, h_t = h_s.float(), h_t.float()
    inter = h_s, h_t
    if mask is not None:
        inter = h_s * mask.unsqueeze(-1), h_t * mask.unsqueeze(-1)
    found = sample_differences(*(h.flatten(1) for h in inter))  # (B, W, D) -> (B, W*D)
    for psi in PSI:
        found[f"rd_intra_{psi}"] = relation_difference(h_s, h_t, psi, mask=mask).item()
    return found
