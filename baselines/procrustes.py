"""The orthogonal Procrustes distance, one of two geometric rivals of CKA.

Bhattarai et al. 2025, arXiv 2509.25253, propose it for features of student and teacher; the
distance, with features centred and scaled to unit norm, is that of Ding, Denain, Steinhardt,
"Grounding Representation Similarity with Statistical Testing", NeurIPS 2021, arXiv 2108.01661.
"""

import torch

from baselines.gram import mean_of_defined, standardised
from baselines.shared import between_rows
from precision import full_precision

METHOD = {
    "name": "Procrustes",
    "help": "the penultimate features themselves, up to a rotation",
    "defaults": {"beta": 1.0, "between": "samples", "sample_features": "flat"},
    "layerwise": True,
    "excluded": [{"sample_features": "first", "between": "tokens"}],
}


@torch.no_grad()
def best_rotation(x, y):
    """y Q, where Q is the (partial) rotation that brings y Q closest to x.

    x: (..., n, p). y: (..., n, q). Returns (..., n, p). With x = R_xᵀ Q_xᵀ, y = R_yᵀ Q_yᵀ
    (QR of the transposes), the singular vectors of the wide xᵀy follow from those of R_x R_yᵀ,
    which is n by n at most.
    """
    (q_x, r_x), (_, r_y) = torch.linalg.qr(x.mT), torch.linalg.qr(y.mT)
    u, _, v = torch.linalg.svd(r_x @ r_y.mT, full_matrices=False)
    return r_y.mT @ v.mT @ u.mT @ q_x.mT


@full_precision
def procrustes_distance(x_s, x_t, mask=None, count_undefined=False):
    """min over rotations Q of ‖X_s - X_t Q‖² = 2 - 2 ‖X_sᵀ X_t‖_* (nuclear norm).

    It is averaged over the leading dimensions.

    x_s: (..., n, D_s). x_t: (..., n, D_t), detached; both are centred and scaled to norm 1 here.
    mask: (..., n) bool, True for the rows that count. The gradient takes the best Q for a constant.
    On a GPU, torch's singular value decomposition makes the host wait. The distance is from 0 to 2.
    Features whose rows are all alike, or fewer than 3, are left out of the average. Returns a
    scalar; with count_undefined also how many were left out.
    """
    (x_s, none_s), (x_t, none_t) = standardised(x_s, mask), standardised(x_t.detach(), mask)
    distances = 2 - 2 * (x_s * best_rotation(x_s, x_t)).sum((-2, -1))
    return mean_of_defined(distances, none_s | none_t, count_undefined)


def structure(args):
    """{name: Term} of β times the distance of the features."""
    return {"procrustes": between_rows(args.beta, procrustes_distance, args)}
