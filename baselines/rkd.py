"""RKD, relational knowledge distillation.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068. Both losses are invariant to
rotation, translation and scale of the features, which may differ in width.
"""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from cka import centred, full_precision, gram_matrix

CHUNK = 2 ** 22  # angles held at a time: 16 MB in float32


def _squares(k):
    """|x_i - x_j|² of all pairs, from the Gram matrix k (B, B) of the centred rows."""
    norms = k.diagonal()
    return norms.unsqueeze(1) + norms - 2 * k


def _safe(squares):
    """Where |x_i - x_j|² (B, B) is more than rounding leaves of equal rows: there is a direction, and a gradient."""
    return squares > 32 * torch.finfo(squares.dtype).eps * squares.detach().amax()


def _relative_distances(x):
    """|x_i - x_j| / μ, μ being the mean over pairs of different rows: x (B, p) -> (B, B)."""
    squares = _squares(gram_matrix(centred(x)[0]))
    safe = _safe(squares)
    distances = torch.where(safe, torch.where(safe, squares, 1).sqrt(), 0)
    mean = distances.sum() / safe.sum().clamp(min=1)
    return distances / mean.clamp(min=torch.finfo(x.dtype).tiny)


@full_precision
def distance_loss(x_s, x_t):
    """RKD-D: Huber loss l(|x_i - x_j|/μ of the student, of the teacher), averaged over all B² pairs (i, j).

    x_s: (B, D_s). x_t: (B, D_t), detached. Returns a scalar, 0 for a single row.
    """
    return F.smooth_l1_loss(_relative_distances(x_s), _relative_distances(x_t.detach()))


def _angles(k, vertices):
    """cos of the angle x_i, x_j, x_k at each vertex j: the Gram matrix k (B, B), (V,) indices -> (V, B, B)."""
    to = k[vertices]                                                             # (V, B)
    dots = k - to.unsqueeze(1) - to.unsqueeze(2) + k.diagonal()[vertices, None, None]  # <x_i - x_j, x_k - x_j>
    squares = _squares(k)
    safe = _safe(squares)
    lengths = torch.where(safe, squares, 1).sqrt()[vertices]
    safe = safe[vertices]
    return torch.where(safe.unsqueeze(1) & safe.unsqueeze(2), dots / (lengths.unsqueeze(1) * lengths.unsqueeze(2)), 0)


def _angle_sum(k_s, k_t, vertices):
    return F.smooth_l1_loss(_angles(k_s, vertices), _angles(k_t, vertices), reduction="sum")


@full_precision
def angle_loss(x_s, x_t, chunk=CHUNK):
    """RKD-A: Huber loss l(cos ∠ x_i x_j x_k of the student, of the teacher), averaged over all B³ triples (i, j, k).

    x_s: (B, D_s). x_t: (B, D_t), detached. The differences x_i - x_j (B, B, D) are never formed: their products follow
    from the Gram matrix. Of the B³ cosines at most `chunk` are held, and computed again backward. Returns a scalar.
    """
    k_s, k_t = (gram_matrix(centred(x)[0]) for x in (x_s, x_t.detach()))
    parts = torch.arange(len(k_s), device=k_s.device).split(max(1, chunk // k_s.numel()))
    if len(parts) == 1:
        return _angle_sum(k_s, k_t, parts[0]) / len(k_s) ** 3
    return sum(checkpoint(_angle_sum, k_s, k_t, part, use_reentrant=False) for part in parts) / len(k_s) ** 3
