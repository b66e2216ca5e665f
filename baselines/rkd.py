"""RKD, relational knowledge distillation.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068. Both losses
are invariant to rotation, translation and scale of the features, which may differ in width.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from baselines.shared import FEWEST, between_samples, centred
from cka import defined, gram_matrix
from precision import full_precision

METHOD = {
    "name": "RKD",
    "help": "γ_d distances + γ_a angles between the samples of a mini-batch, from their "
    "penultimate features",
    "defaults": {"beta": 1.0, "gamma_d": 100.0, "gamma_a": 200.0, "sample_features": "flat"},
    "flags": {
        "gamma_d": {
            "role": "weight",
            "type": "float",
            "least": 0,
            "help": "γ_d, weight of RKD's distances inside β. Default 100.",
        },
        "gamma_a": {
            "role": "weight",
            "type": "float",
            "least": 0,
            "help": "γ_a, weight of RKD's angles inside β. Default 200.",
        },
    },
    "layerwise": True,
}
CHUNK = 2**22  # angles held at a time: 16 MB in float32


def _squares(k):
    """|x_i - x_j|² of all pairs, from the Gram matrix k (B, B) of the centred rows."""
    norms = k.diagonal()
    return norms.unsqueeze(1) + norms - 2 * k


def _safe(squares):
    """True where |x_i - x_j|² (B, B) exceeds the rounding error of equal rows.

    There x_i - x_j has a direction, and its length a gradient.
    """
    return squares > 32 * torch.finfo(squares.dtype).eps * squares.detach().amax()


def _without_relations(*squares):
    """True if there are no relations to learn: fewer than 3 rows, or all rows alike.

    squares: |x_i - x_j|² (B, B) of student and teacher. Returns a bool scalar tensor.
    """
    alike = torch.stack([~_safe(each).any() for each in squares]).any()
    return alike | (len(squares[0]) < FEWEST)


def _relative_distances(squares):
    """|x_i - x_j| / μ, μ being the mean over pairs of different rows, from the squares (B, B)."""
    safe = _safe(squares)
    distances = torch.where(safe, torch.where(safe, squares, 1).sqrt(), 0)
    mean = distances.sum() / safe.sum().clamp(min=1)
    return distances / mean.clamp(min=torch.finfo(squares.dtype).tiny)


@full_precision
def distance_loss(x_s, x_t, count_undefined=False):
    """RKD-D: Huber loss l(|x_i - x_j|/μ of the student, of the teacher), averaged over all B²
    pairs (i, j).

    x_s: (B, D_s). x_t: (B, D_t), detached. μ: the mean distance. The loss is 0 if there are no
    relations to learn: all rows alike, or fewer than 3 (2 rows have one distance, which is the
    mean). Returns a scalar; with count_undefined also 1 if so, else 0.
    """
    squares_s, squares_t = (_squares(gram_matrix(centred(x)[0])) for x in (x_s, x_t.detach()))
    loss = F.smooth_l1_loss(_relative_distances(squares_s), _relative_distances(squares_t))
    return defined(loss, _without_relations(squares_s, squares_t), count_undefined)


def _angles(k, vertices):
    """cos ∠ x_i x_j x_k for all i, k and the vertices j: (V, B, B).

    k: the Gram matrix (B, B) of the rows. vertices: (V,), the indices j.
    """
    to = k[vertices]  # (V, B)
    dots = (
        k - to.unsqueeze(1) - to.unsqueeze(2) + k.diagonal()[vertices, None, None]
    )  # <x_i - x_j, x_k - x_j>
    squares = _squares(k)
    safe = _safe(squares)
    lengths = torch.where(safe, squares, 1).sqrt()[vertices]
    safe = safe[vertices]
    return torch.where(
        safe.unsqueeze(1) & safe.unsqueeze(2),
        dots / (lengths.unsqueeze(1) * lengths.unsqueeze(2)),
        0,
    )


def _angle_sum(k_s, k_t, vertices):
    return F.smooth_l1_loss(_angles(k_s, vertices), _angles(k_t, vertices), reduction="sum")


@full_precision
def angle_loss(x_s, x_t, chunk=CHUNK, count_undefined=False):
    """RKD-A: Huber loss l(cos ∠ x_i x_j x_k of the student, of the teacher), averaged over all
    B³ triples (i, j, k).

    x_s: (B, D_s). x_t: (B, D_t), detached. The differences x_i - x_j (B, B, D) are never formed:
    their products follow from the Gram matrix. At most `chunk` of the B³ cosines are held at a
    time; if there are more, backward computes them again. The loss is 0 if there are no relations
    to learn: all rows alike, or fewer than 3. Returns a scalar; with count_undefined also 1 if so,
    else 0.
    """
    k_s, k_t = (gram_matrix(centred(x)[0]) for x in (x_s, x_t.detach()))
    parts = torch.arange(len(k_s), device=k_s.device).split(max(1, chunk // k_s.numel()))
    if len(parts) == 1:
        total = _angle_sum(k_s, k_t, parts[0])
    else:
        total = sum(checkpoint(_angle_sum, k_s, k_t, part, use_reentrant=False) for part in parts)
    return defined(
        total / len(k_s) ** 3, _without_relations(_squares(k_s), _squares(k_t)), count_undefined
    )


def structure(args):
    """{name: Term} of β (γ_d RKD-D + γ_a RKD-A)."""
    return {
        "distance": between_samples(args.beta * args.gamma_d, distance_loss, args),
        "angle": between_samples(args.beta * args.gamma_a, angle_loss, args),
    }
