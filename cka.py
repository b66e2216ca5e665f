"""Centered Kernel Alignment and the feature-structure losses built on it.

Jung, Kim, Na, Kim, "Feature structure distillation with Centered Kernel Alignment in BERT
transferring", Expert Systems with Applications 234 (2023) 120980, arXiv 2204.08922. Equation
numbers are that paper's. Student values end in _s, teacher values in _t; every loss detaches the
teacher. The two may differ in width. Arithmetic is float32 or better, inside autocast too.
"""

import contextlib
import functools
import platform

import torch

from choices import ESTIMATORS, REDUCTIONS

PSI = ("euclidean", "cosine")
FEWEST_ROWS = {"biased": 2, "debiased": 4}  # with fewer, the estimator is 0/0
FEWEST_TO_LEARN = {"biased": 3, "debiased": 4}  # the CKA of 2 rows is 1 whatever they are
_LOG_FLOOR = {"biased": 1e-6, "debiased": 1e-2}


def full_precision(function):
    """Run `function` outside autocast, its floating-point tensors in one dtype, float32 or wider."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        floats = [
            a for a in (*args, *kwargs.values()) if torch.is_tensor(a) and a.is_floating_point()
        ]
        dtype = functools.reduce(torch.promote_types, [a.dtype for a in floats], torch.float32)

        def cast(a):
            return a.to(dtype) if torch.is_tensor(a) and a.is_floating_point() else a

        with torch.autocast(floats[0].device.type, enabled=False):
            return function(*map(cast, args), **{name: cast(a) for name, a in kwargs.items()})

    return wrapper


def first_order(backward):
    """A backward outside autocast that has no gradient of its own: asked for one it raises, where
    torch would go on with a wrong one.
    """

    @functools.wraps(backward)
    def wrapper(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "cka.py's losses have a first derivative alone: leave create_graph out"
            )
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return wrapper


def centred(x, mask=None):
    """x (..., n, p) minus the mean of its unmasked rows; masked rows become 0. Also n (..., 1, 1)."""
    if mask is None:
        return x - x.mean(-2, keepdim=True), x.new_full((1, 1), x.shape[-2])
    keep = mask.unsqueeze(-1).to(x.dtype)  # (..., n) -> (..., n, 1)
    n = keep.sum(-2, keepdim=True)
    return (x - (x * keep).sum(-2, keepdim=True) / n.clamp(min=1)) * keep, n


@full_precision
def linear_cka(x, y, mask=None, estimator="biased"):
    """CKA with linear kernels between the rows of x and the rows of y (Eq. 4-5).

    With K = X Xᵀ, L = Y Yᵀ and C = I - 11ᵀ/n: tr(K C L C) / sqrt(tr(K C K C) tr(L C L C)), which is
    the cosine of the angle between the centred Gram matrices. "debiased" replaces HSIC by its
    unbiased estimator (Song et al. 2012; Kornblith et al. 2019): wide features of few rows, for
    which the biased form is near 1 whatever they are, then score near 0 when unrelated, and may
    score below 0.

    x: (..., n, p). y: (..., n, q). mask: (..., n) bool, True for the rows that count. Returns
    (...). It is 0, with gradient 0, where CKA is undefined: constant features, or fewer than 2
    unmasked rows (4 when debiased).
    """
    return _linear_cka(x, y, mask, estimator)[0]


def _linear_cka(x, y, mask, estimator):
    """linear_cka (...), and where it is undefined (...)."""
    if x.shape[:-1] != y.shape[:-1] or (mask is not None and mask.shape != x.shape[:-1]):
        raise ValueError(
            "linear_cka needs x (..., n, p), y (..., n, q) and mask (..., n), got "
            f"{tuple(x.shape)}, {tuple(y.shape)} and {None if mask is None else tuple(mask.shape)}"
        )
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {ESTIMATORS}, got {estimator!r}")
    return _CKA.apply(gram_matrix(x), gram_matrix(y), mask, estimator, False)


def on_amd():
    """Whether this is an AMD processor."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return "AuthenticAMD" in file.read(4096)
    return "AuthenticAMD" in platform.processor()


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# MKL leaves half of an AMD processor unused; on an Intel one a layer is 1.3 times as slow by oneDNN
ONEDNN = HAS_ONEDNN and on_amd()


def product(a, b):
    """a @ b.mT; of float32 matrices on an AMD processor by oneDNN. No gradient."""
    if ONEDNN and a.device.type == "cpu" and a.dtype == torch.float32 and a.ndim == b.ndim == 2:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.mT


class _Gram(torch.autograd.Function):
    """x @ x.mT, with one matrix product backward instead of two, as the matrix is symmetric."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return product(x, x)

    @staticmethod
    @first_order
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return product(gradient + gradient.mT, x.mT)


def gram_matrix(x):
    """x xᵀ: (..., n, p) -> (..., n, n)."""
    return _Gram.apply(x)


# ---- centred Gram matrices -----------------------------------------------------------------------
# Centred is the (n, n) matrix, not the (n, p) features, as n is the smaller. In float32 the
# gradient's relative error
# is about 1e-5 over the share of the energy that centring leaves.


def _centre(gram, n, mask, estimator):
    """A Gram matrix (..., n, n) centred: C K C, or the U-centred matrix; 0 for the rows that do not
    count.

    Inner products of U-centred matrices are the unbiased HSIC of Song et al. (2012), Eq. 5. Both
    are orthogonal projections of symmetric matrices. n: (..., 1, 1), the rows that count.
    """
    mask = None if mask is None else mask.bool()
    if estimator == "biased" and mask is None:
        rows = gram.sum(-1, keepdim=True) / n
        return gram - (rows + (rows - rows.mean(-2, keepdim=True)).mT)
    counts = (
        torch.ones_like(gram, dtype=torch.bool)
        if mask is None
        else mask.unsqueeze(-1) & mask.unsqueeze(-2)
    )
    if estimator == "debiased":
        counts = counts & ~torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    gram = gram * counts
    n = n.clamp(min=FEWEST_ROWS[estimator]) - (2 if estimator == "debiased" else 0)
    rows = gram.sum(-1, keepdim=True) / n
    total = rows.sum(-2, keepdim=True) / (n + (1 if estimator == "debiased" else 0))
    return (gram - (rows + (rows - total).mT)) * counts


def _rows_that_count(gram, mask):
    """n (..., 1, 1)."""
    return (
        gram.new_full((1, 1), gram.shape[-1])
        if mask is None
        else mask.sum(-1)[..., None, None].to(gram.dtype)
    )


@torch.no_grad()
def centre_gram(gram, mask=None, estimator="biased"):
    """A Gram matrix (..., n, n) centred for the estimator, with its norm and where CKA is
    undefined, both (...).

    That is where there is no more than what rounding leaves of constant features, or too few rows.
    No gradient.
    """
    noise = 16 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    n = _rows_that_count(gram, mask)
    gram = _centre(gram, n, mask, estimator)
    norm = torch.linalg.vector_norm(gram, dim=(-2, -1))
    return gram, norm, (norm <= noise) | (n[..., 0, 0] < FEWEST_ROWS[estimator])


@torch.no_grad()
def structure_of(gram, mask=None, estimator="biased"):
    """A Gram matrix (..., n, n) centred and of norm 1; 0 where CKA is undefined. No gradient."""
    gram, norm, undefined = centre_gram(gram, mask, estimator)
    return gram * norm.masked_fill(undefined, torch.inf).reciprocal()[..., None, None]


class _CKA(torch.autograd.Function):
    """CKA (...) of the Gram matrices k and l (..., n, n), and where it is undefined (...).

    ready: l is a result of structure_of already; it has no gradient then.
    """

    @staticmethod
    def forward(ctx, k, l, mask, estimator, ready):  # noqa: E741
        ctx.mask, ctx.estimator = mask, estimator
        k, norm_k, none_k = centre_gram(k, mask, estimator)
        if ready:
            norm_l = torch.ones_like(norm_k)
            none_l = torch.linalg.vector_norm(l, dim=(-2, -1)) == 0
        else:
            l, norm_l, none_l = centre_gram(l, mask, estimator)  # noqa: E741
        undefined = none_k | none_l
        over_k, over_l = (
            norm.masked_fill(undefined, torch.inf).reciprocal() for norm in (norm_k, norm_l)
        )
        cka = (k * l).sum((-2, -1)) * over_k * over_l  # 0 where it is undefined; NaN in, NaN out
        ctx.save_for_backward(k, l, over_k, over_l, cka)
        ctx.mark_non_differentiable(undefined)
        return cka, undefined

    @staticmethod
    @first_order
    def backward(ctx, gradient, _):
        """d CKA / d K = P(L / (|K| |L|) - CKA K / |K|²), with K and L centred by P, a projection."""
        k, l, over_k, over_l, cka = ctx.saved_tensors  # noqa: E741
        n = _rows_that_count(k, ctx.mask)

        def towards(own, over, other):
            """The gradient of the Gram matrix `own`, `over` being 1 / |own|."""
            more, less = (
                (gradient * x)[..., None, None] for x in (over_k * over_l, cka * over.square())
            )
            return _centre(more * other - less * own, n, ctx.mask, ctx.estimator)

        return (
            towards(k, over_k, l) if ctx.needs_input_grad[0] else None,
            towards(l, over_l, k) if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
        )


def _negative_log(cka, estimator):
    """-log CKA, continued by its tangent below a floor.

    The floor keeps loss and gradient finite at CKA 0. Only the debiased CKA can be negative; the
    paper's |CKA| would push such a value further down, the tangent pulls it up.
    """
    floor = _LOG_FLOOR[estimator]
    return -cka.clamp(min=floor).log() + (floor - cka).clamp(min=0) / floor


@full_precision
def intra_feature_loss(
    h_s, h_t, mask=None, estimator="biased", reduction="mean_log", count_undefined=False
):
    """I, the structure between the tokens of a sample: -(1/B) Σ_i log |CKA(H_s[i], H_t[i])| (Eq.
    6).

    h_s: (B, W, D_s). h_t: (B, W, D_t), detached. mask: (B, W) bool, True for the tokens that count.
    reduction "log_mean" is the authors' released form, -log of the mean over samples. Samples whose
    CKA is undefined, as their tokens are all alike or too few (1; 3 when debiased), are left out; a
    batch of nothing else gives 0. Returns a scalar; with count_undefined also how many were left
    out, a scalar tensor.
    """
    structure_t = token_structure(h_t, mask, estimator)
    return intra_feature_loss_to(structure_t, h_s, mask, estimator, reduction, count_undefined)


@full_precision
def token_structure(h, mask=None, estimator="biased"):
    """What I needs of the teacher: the centred Gram matrix of each sample's tokens over its norm, 0
    where undefined.

    h: (B, W, D). mask: (B, W) bool. Returns (B, W, W), of which CKA is the inner product; its
    numbers are within ±1.
    """
    return structure_of(gram_matrix(h.detach()), mask, estimator)


@full_precision
def intra_feature_loss_to(
    structure_t, h_s, mask=None, estimator="biased", reduction="mean_log", count_undefined=False
):
    """I (Eq. 6), as intra_feature_loss, with token_structure(h_t, mask, estimator) for h_t."""
    found = _CKA.apply(gram_matrix(h_s), structure_t, mask, estimator, True)
    return _intra(*found, estimator, reduction, count_undefined)


def _intra(cka, undefined, estimator, reduction, count_undefined):
    """The loss from the CKA of each sample (B,), and where it is undefined (B,)."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    counts = (~undefined).to(cka.dtype)
    number = counts.sum()
    if reduction == "log_mean":
        mean_cka = (cka * counts).sum() / number.clamp(min=1)
        loss = _negative_log(mean_cka, estimator).masked_fill(number == 0, 0)
    else:
        loss = (_negative_log(cka, estimator) * counts).sum() / number.clamp(min=1)
    return (loss, len(counts) - number.detach()) if count_undefined else loss


def defined(loss, undefined, count_undefined):
    """A loss that is one number, 0 where it is undefined, a Boolean tensor; with count_undefined
    both.
    """
    loss = loss.masked_fill(undefined, 0)
    return (loss, undefined.to(loss.dtype)) if count_undefined else loss


@full_precision
def local_inter_feature_loss(h_s, h_t, mask=None, estimator="biased", count_undefined=False):
    """L, the structure between the samples of a mini-batch: -log |CKA(H_s, H_t)|, one row a sample
    (Eq. 7).

    h_s: (B, W, D_s). h_t: (B, W, D_t), detached. mask: (B, W) bool; positions where it is False are
    set to 0 before flattening. It is 0 where CKA is undefined, as all samples are alike in one of
    the two, or always 1, as there are too few (2; 3 when debiased). Returns a scalar; with
    count_undefined also 1 if that is so, else 0.
    """
    h_t = h_t.detach()
    if mask is not None:
        h_s, h_t = h_s * mask.unsqueeze(-1), h_t * mask.unsqueeze(-1)
    cka, undefined = _linear_cka(
        h_s.flatten(1), h_t.flatten(1), None, estimator
    )  # (B, W, D) -> (B, W*D)
    undefined = undefined | (h_s.shape[0] < FEWEST_TO_LEARN[estimator])
    return defined(_negative_log(cka, estimator), undefined, count_undefined)


# ---- global inter-feature: between samples and the centroids of a memory -------------------------


class FrozenMemory:
    """A memory m (C, p) that no longer changes, with what the losses need of it alone, computed
    once a run.

    estimator: that of the F_MM it is for.
    """

    def __init__(self, m, estimator="biased"):
        self.estimator = estimator
        self.rows = m.detach().to(torch.promote_types(m.dtype, torch.float32))
        with torch.autocast(m.device.type, enabled=False):
            self.norms = torch.linalg.vector_norm(self.rows, dim=-1)  # (C,)
            self.structure = structure_of(gram_matrix(self.rows), estimator=estimator)  # (C, C)


@full_precision
def memory_structure_loss(m_s, m_t, estimator="biased"):
    """F_MM, the structure between the centroids: -log |CKA(M_t, M_s)| (Eq. 8).

    m_s: (C, p_s). m_t: (C, p_t), detached, or its FrozenMemory with the same estimator. It is 0
    where CKA is undefined, as all centroids of one are alike, or always 1, as there are too few (2;
    3 when debiased). Returns a scalar.
    """
    m_t = m_t if isinstance(m_t, FrozenMemory) else FrozenMemory(m_t, estimator)
    return memory_structure_loss_of(gram_matrix(m_s), m_t, estimator)


@full_precision
def memory_structure_loss_of(gram_s, m_t, estimator="biased", count_undefined=False):
    """F_MM (Eq. 8), with M_s M_sᵀ (C, C), which memory_relations returns, for m_s. m_t: a
    FrozenMemory.

    Returns a scalar; with count_undefined also 1 if it is undefined, else 0.
    """
    if len(gram_s) != len(m_t.rows) or m_t.estimator != estimator:
        raise ValueError(
            f"two memories of as many centroids and one estimator are needed, got {len(gram_s)} "
            f"and {len(m_t.rows)} centroids, {estimator} and {m_t.estimator}"
        )
    cka, undefined = _CKA.apply(gram_s, m_t.structure, None, estimator, True)
    undefined = undefined | (len(gram_s) < FEWEST_TO_LEARN[estimator])
    return defined(_negative_log(cka, estimator), undefined, count_undefined)


class _MemoryProducts(torch.autograd.Function):
    """h mᵀ (B, C), m mᵀ (C, C) and |h|² (B,), with a single gradient for each of the wide h and m."""

    @staticmethod
    def forward(ctx, h, m):
        ctx.save_for_backward(h, m)
        return product(h, m), product(m, m), torch.linalg.vector_norm(h, dim=-1).square()

    @staticmethod
    @first_order
    def backward(ctx, d_products, d_gram, d_squares):
        h, m = ctx.saved_tensors
        d_h = d_m = None
        if ctx.needs_input_grad[0]:
            d_h = product(d_products, m.mT).addcmul_(h, 2 * d_squares.unsqueeze(1))
        if ctx.needs_input_grad[1]:
            d_m = product(d_gram + d_gram.mT, m.mT).addmm_(d_products.mT, h)
        return d_h, d_m


@full_precision
def memory_relations(h, m):
    """ψ(h[i], m[j]) for both ψ, {"euclidean": distances, "cosine": similarities}, (B, C) each.

    h: (B, p), one row a sample. m: (C, p), or a FrozenMemory; of a memory that is trained also
    "gram", m mᵀ (C, C), as its norms come from there. A distance below what rounding leaves of the
    two norms counts as that much and has gradient 0, as does the cosine of a row of zeros.
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
    squares = squares_h.unsqueeze(1) + squares_m  # (B, 1) + (C,)
    limits = torch.finfo(h.dtype)
    distance = (
        (squares - 2 * products).clamp(min=limits.eps * squares.detach() + limits.tiny).sqrt()
    )
    squares = squares_h.unsqueeze(1) * squares_m
    cosine = products * squares.masked_fill(squares <= limits.tiny, torch.inf).rsqrt()
    return {"euclidean": distance, "cosine": cosine} | gram


def mean_squared_difference(psi_s, psi_t):
    """Σ_ij (ψ_t[i, j] - ψ_s[i, j])² / (B C) of two (B, C), the teacher's detached (Eq. 9)."""
    return (psi_t.detach() - psi_s).square().mean()


def feature_to_memory_loss(h_s, m_s, h_t, m_t, psi):
    """F_E with psi "euclidean", F_C with "cosine": Σ_ij (ψ(H_t[i], M_t[j]) - ψ(H_s[i], M_s[j]))² /
    (B C) (Eq. 9).

    h_s: (B, W*D_s). m_s: (C, W*D_s). h_t: (B, W*D_t), m_t: (C, W*D_t) or its FrozenMemory; both
    detached. Returns a scalar.
    """
    if psi not in PSI:
        raise ValueError(f"psi must be one of {PSI}, got {psi!r}")
    with torch.no_grad():
        relations_t = memory_relations(h_t, m_t)
    return mean_squared_difference(memory_relations(h_s, m_s)[psi], relations_t[psi])


def global_inter_feature_loss(h_s, m_s, h_t, m_t, gamma_m, estimator="biased"):
    """G, the structure between samples and centroids: γ_m F_E + (1-γ_m) F_C + F_MM (Eq. 10).

    h_s: (B, W*D_s). m_s: (C, W*D_s), trained with the student. h_t: (B, W*D_t), m_t: (C, W*D_t) or
    its FrozenMemory; both detached. estimator: F_MM's. Returns a scalar.
    """
    with torch.no_grad():
        relations_t = memory_relations(h_t, m_t)
    relations_s = memory_relations(h_s, m_s)
    f_e, f_c = (mean_squared_difference(relations_s[psi], relations_t[psi]) for psi in PSI)
    m_t = m_t if isinstance(m_t, FrozenMemory) else FrozenMemory(m_t, estimator)
    return (
        gamma_m * f_e
        + (1 - gamma_m) * f_c
        + memory_structure_loss_of(relations_s["gram"], m_t, estimator)
    )


# ---- relation difference, observed only ----------------------------------------------------------


@full_precision
def pairwise(x, psi="euclidean"):
    """ψ between all pairs of rows, the Euclidean distance or the "cosine" similarity: x (..., n, p)
    -> (..., n, n).
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
    """RD of two results of `pairwise`, (..., n, n) each. Returns a scalar."""
    difference = (psi_t - psi_s).abs()
    if mask is None:
        return difference.mean()
    pairs = (mask.unsqueeze(-1) & mask.unsqueeze(-2)).to(difference.dtype)
    return ((difference * pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)).mean()
