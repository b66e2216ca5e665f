"""Centered Kernel Alignment (CKA) and the feature-structure losses built on it.

Jung, Kim, Na, Kim, "Feature structure distillation with Centered Kernel Alignment in BERT
transferring", Expert Systems with Applications 234 (2023) 120980, arXiv 2204.08922. Equation
numbers are that paper's. Shapes: B samples, W tokens, D numbers a token, C centroids. Names in _s
are the student's, in _t the teacher's; D_s and D_t may differ. Every loss detaches the teacher's
values, and computes in float32 or wider, in autocast too. estimator: see linear_cka.
"""

from typing import NamedTuple

import torch

from choices import ESTIMATORS, REDUCTIONS
from precision import first_order, full_precision

PARTS = ("F_MM", "F_E", "F_C")  # of the global structure G
FEWEST_ROWS = {"biased": 2, "debiased": 4}  # with fewer rows, CKA is 0/0
FEWEST_TO_LEARN = {"biased": 3, "debiased": 4}  # the biased CKA of any 2 rows is 1
_LOG_FLOOR = {"biased": 1e-6, "debiased": 1e-2}  # of CKA, see _negative_log


# ---- Gram matrices -------------------------------------------------------------------------------
# The (n, n) matrix is centred, not the (n, p) features, as n is smaller than p. In float32 the
# gradient's relative error is about 1e-5 divided by the share of the energy that centring leaves.


class _GramMatrix(torch.autograd.Function):
    """x xᵀ. Backward takes one matrix product instead of two, as x xᵀ is symmetric."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    @first_order
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return (gradient + gradient.mT) @ x


def gram_matrix(x):
    """x xᵀ: (..., n, p) -> (..., n, n)."""
    return _GramMatrix.apply(x)


class Gram(NamedTuple):
    """A centred Gram matrix K (..., n, n), its Frobenius norm (...), and `undefined` (...) bool.

    `undefined` is True where K has no CKA: the features are constant up to rounding, or have fewer
    than FEWEST_ROWS rows.
    """

    matrix: torch.Tensor
    norm: torch.Tensor
    undefined: torch.Tensor


class Structure(NamedTuple):
    """A centred Gram matrix divided by its norm, (..., n, n); zeros if CKA is undefined.

    The inner product of two is their CKA. No gradient. Half precision holds entries within ±1.
    """

    matrix: torch.Tensor


def _centre(gram, n, mask, estimator):
    """Centre a Gram matrix (..., n, n); masked rows become 0. n (..., 1, 1): the others' number.

    "biased" gives C K C (see linear_cka), "debiased" the U-centred matrix, whose inner products are
    the unbiased HSIC of Song et al. (2012), Eq. 5. Both project symmetric matrices orthogonally.
    """
    if estimator == "biased" and mask is None:
        rows = gram.sum(-1, keepdim=True) / n
        return gram - (rows + (rows - rows.mean(-2, keepdim=True)).mT)
    if mask is None:
        counts = torch.ones_like(gram, dtype=torch.bool)
    else:
        mask = mask.bool()
        counts = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    less, more = 0, 0
    if estimator == "debiased":
        counts = counts & ~torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
        less, more = 2, 1
    gram = gram * counts
    n = n.clamp(min=FEWEST_ROWS[estimator]) - less
    rows = gram.sum(-1, keepdim=True) / n
    total = rows.sum(-2, keepdim=True) / (n + more)
    return (gram - (rows + (rows - total).mT)) * counts


def _count_rows(gram, mask):
    """n, the number of unmasked rows, (..., 1, 1)."""
    if mask is None:
        return gram.new_full((1, 1), gram.shape[-1])
    return mask.sum(-1)[..., None, None].to(gram.dtype)


@torch.no_grad()
def centre_gram(gram, mask=None, estimator="biased"):
    """Centre x xᵀ (..., n, n) as the estimator does: a Gram, without gradient. mask: (..., n)."""
    noise = 16 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    n = _count_rows(gram, mask)
    matrix = _centre(gram, n, mask, estimator)
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1))
    return Gram(matrix, norm, (norm <= noise) | (n[..., 0, 0] < FEWEST_ROWS[estimator]))


def _over(norm, undefined):
    """1 / norm, and 0 where CKA is undefined."""
    return norm.masked_fill(undefined, torch.inf).reciprocal()


@torch.no_grad()
def structure_of(gram, mask=None, estimator="biased"):
    """The Structure of x xᵀ (..., n, n). mask: (..., n) bool."""
    matrix, norm, undefined = centre_gram(gram, mask, estimator)
    return Structure(matrix * _over(norm, undefined)[..., None, None])


# ---- CKA -----------------------------------------------------------------------------------------


class _CKA(torch.autograd.Function):
    """CKA (...) of two Gram matrices x, y (..., n, n), and whether it is undefined (...) bool.

    known: True if y is the matrix of a Structure, which has no gradient.
    """

    @staticmethod
    def forward(ctx, x, y, mask, estimator, known):
        ctx.mask, ctx.estimator = mask, estimator
        k = centre_gram(x, mask, estimator)
        if known:
            norm = torch.linalg.vector_norm(y, dim=(-2, -1))
            l = Gram(y, torch.ones_like(k.norm), norm == 0)  # noqa: E741 - the paper's letter
        else:
            l = centre_gram(y, mask, estimator)  # noqa: E741
        undefined = k.undefined | l.undefined
        over_k, over_l = _over(k.norm, undefined), _over(l.norm, undefined)
        # 0 where CKA is undefined; NaN in, NaN out
        cka = (k.matrix * l.matrix).sum((-2, -1)) * over_k * over_l
        ctx.save_for_backward(k.matrix, l.matrix, over_k, over_l, cka)
        ctx.mark_non_differentiable(undefined)
        return cka, undefined

    @staticmethod
    @first_order
    def backward(ctx, gradient, _):
        """d CKA / d K = P(L / (|K| |L|) - CKA K / |K|²), K and L centred by the projection P."""
        k, l, over_k, over_l, cka = ctx.saved_tensors  # noqa: E741
        n = _count_rows(k, ctx.mask)

        def towards(own, over, other):
            """The gradient for the Gram matrix `own`; `over` is 1 / |own|."""
            more = (gradient * (over_k * over_l))[..., None, None]
            less = (gradient * (cka * over.square()))[..., None, None]
            return _centre(more * other - less * own, n, ctx.mask, ctx.estimator)

        d_k = towards(k, over_k, l) if ctx.needs_input_grad[0] else None
        d_l = towards(l, over_l, k) if ctx.needs_input_grad[1] else None
        return d_k, d_l, None, None, None


def _compare(x, y, mask, estimator):
    """CKA (...) between the rows of x (..., n, p) and of y, and whether it is undefined (...).

    y: (..., n, q), or a Structure. ValueError for other shapes, or an unknown estimator.
    """
    if isinstance(y, Structure):
        return _CKA.apply(gram_matrix(x), y.matrix.to(x.dtype), mask, estimator, True)
    if x.shape[:-1] != y.shape[:-1] or (mask is not None and mask.shape != x.shape[:-1]):
        raise ValueError(
            "CKA needs x (..., n, p), y (..., n, q) and mask (..., n), got "
            f"{tuple(x.shape)}, {tuple(y.shape)} and {None if mask is None else tuple(mask.shape)}"
        )
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {ESTIMATORS}, got {estimator!r}")
    return _CKA.apply(gram_matrix(x), gram_matrix(y), mask, estimator, False)


@full_precision
def linear_cka(x, y, mask=None, estimator="biased"):
    """CKA with linear kernels between the rows of x and the rows of y (Eq. 4-5).

    With K = X Xᵀ, L = Y Yᵀ, C = I - 11ᵀ/n: tr(K C L C) / sqrt(tr(K C K C) tr(L C L C)), the
    cosine of the angle between the centred Gram matrices. "debiased" replaces these traces (HSIC)
    by unbiased estimates (Song et al. 2012; Kornblith et al. 2019). Of unrelated features that are
    wide, of few rows, the biased CKA is well above 0, up to 1; the debiased one is near 0 or below.

    x: (..., n, p). y: (..., n, q). mask: (..., n) bool, True for the rows that count. Returns CKA
    (...); it is 0, with gradient 0, where undefined: constant features, or fewer than 2 unmasked
    rows (4 when debiased). ValueError for other shapes.
    """
    return _compare(x, y, mask, estimator)[0]


def _negative_log(cka, estimator):
    """-log CKA, continued by its tangent below a floor.

    The floor keeps loss and gradient finite at CKA 0. Only the debiased CKA can be negative; the
    paper's |CKA| would push a negative CKA further down, the tangent pulls it up.
    """
    floor = _LOG_FLOOR[estimator]
    return -cka.clamp(min=floor).log() + (floor - cka).clamp(min=0) / floor


def defined(loss, undefined, count_undefined):
    """The loss, or 0 if undefined; with count_undefined a pair: that, and 1 if undefined, else 0.

    loss, undefined: scalar tensors; `undefined` is bool.
    """
    loss = loss.masked_fill(undefined, 0)
    return (loss, undefined.to(loss.dtype)) if count_undefined else loss


# ---- I: between the tokens of a sample -----------------------------------------------------------


@full_precision
def token_structure(h, mask=None, estimator="biased"):
    """What I needs of the teacher: the Structure (B, W, W) between the tokens of each sample.

    h: (B, W, D). mask: (B, W) bool, True for the tokens that count.
    """
    return structure_of(gram_matrix(h.detach()), mask, estimator)


@full_precision
def intra_feature_loss(
    h_s, h_t, mask=None, estimator="biased", reduction="mean_log", count_undefined=False
):
    """I, the structure between the tokens of a sample: -(1/B) Σ_i log CKA(H_s[i], H_t[i]).

    Eq. 6, with _negative_log for -log. h_s: (B, W, D_s). h_t: (B, W, D_t), detached, or its
    token_structure with the same mask and estimator. mask: (B, W) bool, True for the tokens that
    count. reduction "log_mean" is the authors' released form, -log of the mean over samples.
    Samples whose CKA is undefined (tokens all alike; 1 token, or up to 3 when debiased) are left
    out; if none remains, the loss is 0. Returns a scalar; with count_undefined also their number.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    if not isinstance(h_t, Structure):
        h_t = token_structure(h_t, mask, estimator)
    cka, undefined = _compare(h_s, h_t, mask, estimator)  # (B,)
    counts = (~undefined).to(cka.dtype)
    number = counts.sum()
    if reduction == "log_mean":
        mean = (cka * counts).sum() / number.clamp(min=1)
        loss = _negative_log(mean, estimator).masked_fill(number == 0, 0)
    else:
        loss = (_negative_log(cka, estimator) * counts).sum() / number.clamp(min=1)
    return (loss, len(counts) - number.detach()) if count_undefined else loss


# ---- L: between the samples of a mini-batch ------------------------------------------------------


@full_precision
def local_inter_feature_loss(h_s, h_t, mask=None, estimator="biased", count_undefined=False):
    """L, the structure between the samples of a mini-batch: -log CKA(H_s, H_t) (Eq. 7).

    Each sample is one row, its tokens joined. h_s: (B, W, D_s). h_t: (B, W, D_t), detached. mask:
    (B, W) bool; positions where it is False are set to 0. The loss is undefined, and set to 0, if
    all samples are alike to one of the models, or fewer than 3 (4 when debiased). Returns a scalar;
    with count_undefined a pair: the loss, and 1 if it is undefined, else 0.
    """
    h_t = h_t.detach()
    if mask is not None:
        h_s, h_t = h_s * mask.unsqueeze(-1), h_t * mask.unsqueeze(-1)
    x_s, x_t = h_s.flatten(1), h_t.flatten(1)  # (B, W, D) -> (B, W*D)
    cka, undefined = _compare(x_s, x_t, None, estimator)
    undefined = undefined | (len(x_s) < FEWEST_TO_LEARN[estimator])
    return defined(_negative_log(cka, estimator), undefined, count_undefined)


# ---- G: between samples and the centroids of a memory --------------------------------------------


class FrozenMemory:
    """A memory m (C, p) that no longer changes, with its norms and Structure, computed once.

    estimator: of the CKA in the F_MM that uses the memory.
    """

    def __init__(self, m, estimator="biased"):
        self.estimator = estimator
        self.rows = m.detach().to(torch.promote_types(m.dtype, torch.float32))
        with torch.autocast(m.device.type, enabled=False):
            self.norms = torch.linalg.vector_norm(self.rows, dim=-1)  # (C,)
            self.structure = structure_of(gram_matrix(self.rows), estimator=estimator)


class _MemoryProducts(torch.autograd.Function):
    """h mᵀ (B, C), m mᵀ (C, C), |h|² (B,); backward forms the gradients of h and m once."""

    @staticmethod
    def forward(ctx, h, m):
        ctx.save_for_backward(h, m)
        return h @ m.mT, m @ m.mT, torch.linalg.vector_norm(h, dim=-1).square()

    @staticmethod
    @first_order
    def backward(ctx, d_products, d_gram, d_squares):
        h, m = ctx.saved_tensors
        d_h = d_m = None
        if ctx.needs_input_grad[0]:
            d_h = (d_products @ m).addcmul_(h, 2 * d_squares.unsqueeze(1))
        if ctx.needs_input_grad[1]:
            d_m = ((d_gram + d_gram.mT) @ m).addmm_(d_products.mT, h)
        return d_h, d_m


@full_precision
def memory_relations(h, m):
    """ψ(h[i], m[j]) for both ψ, {"euclidean": distances, "cosine": similarities}, (B, C) each.

    h: (B, p), one row a sample. m: (C, p), trained, or a FrozenMemory. For a trained m the dict has
    also "gram", m mᵀ (C, C). A distance below the rounding error of the norms is raised to that
    error, with gradient 0; the cosine of a row of zeros is 0, with gradient 0.
    """
    frozen = isinstance(m, FrozenMemory)
    rows = m.rows.to(h.dtype) if frozen else m
    if h.ndim != 2 or h.shape[-1] != rows.shape[-1]:
        raise ValueError(
            f"a memory of shape {tuple(rows.shape)} needs features (B, {rows.shape[-1]}), got "
            f"{tuple(h.shape)}: (B, W, D) is flattened to (B, W*D)"
        )
    if frozen:
        products, squares_h = h @ rows.mT, torch.linalg.vector_norm(h, dim=-1).square()
        squares_m, gram = m.norms.square(), {}
    else:
        products, gram, squares_h = _MemoryProducts.apply(h, m)
        squares_m, gram = gram.diagonal(), {"gram": gram}
    limits = torch.finfo(h.dtype)
    squares = squares_h.unsqueeze(1) + squares_m  # (B, 1) + (C,)
    least = limits.eps * squares.detach() + limits.tiny
    distance = (squares - 2 * products).clamp(min=least).sqrt()
    squares = squares_h.unsqueeze(1) * squares_m
    cosine = products * squares.masked_fill(squares <= limits.tiny, torch.inf).rsqrt()
    return {"euclidean": distance, "cosine": cosine} | gram


def _difference(psi, relations_s, relations_t):
    """F_E or F_C: Σ_ij (ψ_t[i, j] - ψ_s[i, j])² / (B C) (Eq. 9), with ψ_t detached."""
    return (relations_t[psi].detach() - relations_s[psi]).square().mean()


def _structure_between(gram_s, m_t, estimator):
    """-log CKA of M_s M_sᵀ (C, C) and a FrozenMemory (Eq. 8), and whether it is undefined."""
    if len(gram_s) != len(m_t.rows) or m_t.estimator != estimator:
        raise ValueError(
            f"two memories of as many centroids and one estimator are needed, got {len(gram_s)} "
            f"and {len(m_t.rows)} centroids, {estimator} and {m_t.estimator}"
        )
    cka, undefined = _CKA.apply(gram_s, m_t.structure.matrix, None, estimator, True)
    return _negative_log(cka, estimator), undefined | (len(gram_s) < FEWEST_TO_LEARN[estimator])


@full_precision
def memory_structure_loss(m_s, m_t, estimator="biased"):
    """F_MM, the structure between the centroids: -log CKA(M_t, M_s) (Eq. 8).

    m_s: (C, p_s). m_t: (C, p_t), detached, or its FrozenMemory with the same estimator. Returns a
    scalar: 0 if all centroids of one memory are alike, or fewer than 3 (4 when debiased).
    """
    m_t = m_t if isinstance(m_t, FrozenMemory) else FrozenMemory(m_t, estimator)
    return defined(*_structure_between(gram_matrix(m_s), m_t, estimator), False)


@full_precision
def global_losses(h_s, m_s, relations_t, m_t, estimator="biased", parts=PARTS):
    """G's parts, which share their matrix products: {"F_MM": ..., "F_E": ..., "F_C": ...}.

    h_s: (B, W*D_s). m_s: (C, W*D_s), trained with the student. relations_t: memory_relations of the
    teacher's features and m_t, its FrozenMemory. parts: the names to compute. F_E and F_C are
    scalars, F_MM is a pair: a scalar, and 1 if it is undefined, else 0.
    """
    relations_s = memory_relations(h_s, m_s)
    compute = {
        "F_MM": lambda: defined(*_structure_between(relations_s["gram"], m_t, estimator), True),
        "F_E": lambda: _difference("euclidean", relations_s, relations_t),
        "F_C": lambda: _difference("cosine", relations_s, relations_t),
    }
    return {part: compute[part]() for part in parts}


def global_inter_feature_loss(h_s, m_s, h_t, m_t, gamma_m, estimator="biased"):
    """G, the structure between samples and centroids: γ_m F_E + (1-γ_m) F_C + F_MM (Eq. 10).

    h_s: (B, W*D_s). m_s: (C, W*D_s), trained with the student. h_t: (B, W*D_t), m_t: (C, W*D_t) or
    its FrozenMemory; both detached. estimator: of CKA in F_MM. Returns a scalar.
    """
    m_t = m_t if isinstance(m_t, FrozenMemory) else FrozenMemory(m_t, estimator)
    with torch.no_grad():
        relations_t = memory_relations(h_t, m_t)
    found = global_losses(h_s, m_s, relations_t, m_t, estimator)
    return gamma_m * found["F_E"] + (1 - gamma_m) * found["F_C"] + found["F_MM"][0]
