"""cka.py: golden values, theorems of CKA, gradients, and the inputs that break careless
implementations.
"""

import math

import pytest
import torch
from conftest import GOLDEN
from torch.utils._python_dispatch import TorchDispatchMode

from cka import (
    FrozenMemory,
    Structure,
    feature_to_memory_loss,
    global_inter_feature_loss,
    intra_feature_loss,
    linear_cka,
    local_inter_feature_loss,
    memory_relations,
    memory_structure_loss,
    token_structure,
)
from relations import relation_difference

SEEDS = range(5)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def draw(seed, *shape, dtype=torch.float64, **kwargs):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed), **kwargs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_golden_values(case, dtype):
    """Reference values in float64: |found - expected| <= tolerance * max(1, |expected|)."""
    h_s, h_t = (torch.tensor(case["inputs"][key], dtype=dtype) for key in "st")
    flat_s, flat_t = h_s.flatten(1), h_t.flatten(1)
    m_s, m_t = (torch.tensor(case["inputs"][key], dtype=dtype) for key in ("ms", "mt"))
    found = {
        "memory_structure": memory_structure_loss(m_s, m_t),
        "feature_to_memory_euclidean": feature_to_memory_loss(
            flat_s, m_s, flat_t, m_t, "euclidean"
        ),
        "feature_to_memory_cosine": feature_to_memory_loss(flat_s, m_s, flat_t, m_t, "cosine"),
        "global_gamma_m_0.25": global_inter_feature_loss(flat_s, m_s, flat_t, m_t, 0.25),
        "cka_intra": linear_cka(h_s, h_t),
        "cka_local": linear_cka(flat_s, flat_t),
        "intra": intra_feature_loss(h_s, h_t),
        "local": local_inter_feature_loss(h_s, h_t),
        "rd_inter_euclidean": relation_difference(flat_s, flat_t),
        "rd_inter_cosine": relation_difference(flat_s, flat_t, "cosine"),
        "rd_intra_euclidean": relation_difference(h_s, h_t),
        "rd_intra_cosine": relation_difference(h_s, h_t, "cosine"),
    }
    for name, value in found.items():
        if case["expected"][name] is None:
            continue
        assert value.dtype == dtype
        expected = torch.tensor(case["expected"][name], dtype=torch.float64)
        error = (value.double() - expected).abs() / expected.abs().clamp(min=1)
        assert error.max() <= TOLERANCE[dtype], name


def hsic_by_centring_matrix(k, l):  # noqa: E741 - the paper's letter
    """The published form, tr(K C L C), as an independent second implementation."""
    n = len(k)
    c = torch.eye(n, dtype=k.dtype) - 1 / n
    return torch.trace(k @ c @ l @ c) / (n - 1) ** 2


def unbiased_hsic(k, l):  # noqa: E741
    """HSIC_1 as Song et al. (2012) print it."""
    n = len(k)
    k, l = k - torch.diag(k.diag()), l - torch.diag(l.diag())  # noqa: E741
    one = torch.ones(n, dtype=k.dtype)
    return (
        torch.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


@pytest.mark.parametrize("n, p, q", [(6, 20, 9), (30, 4, 7), (9, 9, 9)])
@pytest.mark.parametrize(
    "estimator, hsic", [("biased", hsic_by_centring_matrix), ("debiased", unbiased_hsic)]
)
def test_equals_the_published_form(estimator, hsic, n, p, q):
    for seed in SEEDS:
        x, y = draw(seed, n, p) + 3, draw(seed + 99, n, q)
        k, l = x @ x.T, y @ y.T  # noqa: E741
        expected = hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()
        torch.testing.assert_close(linear_cka(x, y, estimator=estimator), expected)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("n, p", [(8, 30), (40, 5)])
def test_theorems(estimator, n, p):
    """CKA(X, X) = 1; symmetry; invariance to rotation, scale, offset and a common order of rows;
    |CKA| <= 1.
    """
    for seed in SEEDS:
        x, y = draw(seed, n, p), draw(seed + 99, n, 7)
        rotation, _ = torch.linalg.qr(draw(seed + 7, p, p))
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

        def cka(a, b):
            return linear_cka(a, b, estimator=estimator)

        one, value = torch.ones((), dtype=x.dtype), cka(x, y)
        torch.testing.assert_close(cka(x, x), one)
        torch.testing.assert_close(cka(x, 3 * x @ rotation + draw(seed, p)), one)
        torch.testing.assert_close(cka(y, x), value)
        torch.testing.assert_close(cka(0.01 * x @ rotation - 5, y), value)
        torch.testing.assert_close(cka(x[order], y[order]), value)
        assert abs(value) < 1


def test_gram_form_equals_feature_form():
    """Zero columns widen the features past n, which must not move the value."""
    x, y = draw(0, 20, 6), draw(1, 20, 8)
    torch.testing.assert_close(linear_cka(torch.nn.functional.pad(x, (0, 30)), y), linear_cka(x, y))


def test_debiased_scores_unrelated_wide_features_near_zero():
    values = {
        e: torch.stack(
            [linear_cka(draw(s, 32, 4000), draw(s + 99, 32, 4000), estimator=e) for s in SEEDS]
        )
        for e in ("biased", "debiased")
    }
    assert values["biased"].min() > 0.9
    assert values["debiased"].abs().max() < 0.15


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("loss", [intra_feature_loss, local_inter_feature_loss])
def test_mask_equals_leaving_the_positions_out(loss, estimator):
    h_s, h_t = draw(0, 5, 9, 4), draw(1, 5, 9, 6)
    mask = (torch.arange(9) < 6).expand(5, 9)
    torch.testing.assert_close(
        loss(h_s, h_t, mask, estimator=estimator), loss(h_s[:, :6], h_t[:, :6], estimator=estimator)
    )


def test_masks_of_different_lengths():
    h_s, h_t = draw(0, 3, 9, 4), draw(1, 3, 9, 6)
    lengths = [9, 5, 2]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    alone = torch.stack(
        [intra_feature_loss(h_s[i : i + 1, :n], h_t[i : i + 1, :n]) for i, n in enumerate(lengths)]
    )
    torch.testing.assert_close(intra_feature_loss(h_s, h_t, mask), alone.mean())


def test_released_reduction_is_the_log_of_the_mean():
    h_s, h_t = draw(0, 5, 9, 4), draw(1, 5, 9, 6)
    torch.testing.assert_close(
        intra_feature_loss(h_s, h_t, reduction="log_mean"), -linear_cka(h_s, h_t).mean().log()
    )
    assert intra_feature_loss(h_s, h_t) > intra_feature_loss(
        h_s, h_t, reduction="log_mean"
    )  # Jensen


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("reduction", ["mean_log", "log_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(estimator, reduction, masked):
    h_s, h_t = draw(0, 5, 6, 3, requires_grad=True), draw(1, 5, 6, 4)
    h_t = h_t + torch.nn.functional.pad(
        h_s.detach(), (0, 1)
    )  # related, so that no sample sits on the floor
    mask = (torch.arange(6) < 5).expand(5, 6) if masked else None
    assert torch.autograd.gradcheck(
        lambda h: intra_feature_loss(h, h_t, mask, estimator, reduction), h_s
    )
    assert torch.autograd.gradcheck(
        lambda h: local_inter_feature_loss(h, h_t, mask, estimator), h_s
    )
    tall_s, tall_t = draw(2, 9, 3, requires_grad=True), draw(3, 9, 4)  # n > p: the feature form
    assert torch.autograd.gradcheck(lambda h: linear_cka(h, tall_t, estimator=estimator), tall_s)


def test_teacher_is_detached():
    h_s, h_t = draw(0, 3, 5, 4, requires_grad=True), draw(1, 3, 5, 4, requires_grad=True)
    (intra_feature_loss(h_s, h_t) + local_inter_feature_loss(h_s, h_t)).backward()
    assert h_s.grad.abs().sum() > 0
    assert h_t.grad is None


BROKEN = {
    "constant student": lambda h: torch.full_like(h, 0.1),
    "zero student": torch.zeros_like,
    "rows all equal": lambda h: h[:1, :1].expand_as(h),
    "one sample": lambda h: h[:1],
    "one token": lambda h: h[:, :1],
    "two tokens": lambda h: h[:, :2],
    "huge": lambda h: h * 1e6,
    "tiny": lambda h: h * 1e-6,
    "bfloat16": lambda h: h.bfloat16(),
}


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("loss", [intra_feature_loss, local_inter_feature_loss])
@pytest.mark.parametrize("name", BROKEN)
def test_finite_loss_and_gradient(name, loss, estimator):
    h_s = BROKEN[name](draw(0, 4, 6, 5, dtype=torch.float32)).clone().requires_grad_()
    h_t = draw(1, 4, 6, 7, dtype=torch.float32)[: h_s.shape[0], : h_s.shape[1]]
    for student, teacher in ((h_s, h_t), (h_s, torch.ones_like(h_t)), (h_s, h_s)):
        value = loss(student, teacher, estimator=estimator)
        (gradient,) = torch.autograd.grad(value, h_s)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_a_fully_masked_sample_counts_for_nothing(estimator):
    h_s, h_t = draw(0, 6, 6, 5, requires_grad=True), draw(1, 6, 6, 5)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    others = [0, 1, 3, 4, 5]
    value = intra_feature_loss(h_s, h_t, mask, estimator=estimator)
    torch.testing.assert_close(
        value, intra_feature_loss(h_s[others], h_t[others], estimator=estimator)
    )
    (value + local_inter_feature_loss(h_s, h_t, mask, estimator=estimator)).backward()
    assert h_s.grad.isfinite().all()
    assert (h_s.grad[2] == 0).all()
    nothing = intra_feature_loss(h_s, h_t, torch.zeros_like(mask), estimator=estimator)
    assert nothing == 0 and torch.autograd.grad(nothing, h_s)[0].isfinite().all()


def test_float32_inside_autocast():
    h_s, h_t = draw(0, 4, 16, 32, dtype=torch.float32), draw(1, 4, 16, 32, dtype=torch.float32)
    expected = intra_feature_loss(h_s, h_t), local_inter_feature_loss(h_s, h_t)
    with torch.autocast("cpu", torch.bfloat16):
        found = intra_feature_loss(h_s, h_t), local_inter_feature_loss(h_s, h_t)
    assert found == expected


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_not_hidden(bad, estimator):
    h_s, h_t = draw(0, 4, 6, 5), draw(1, 4, 6, 5)
    h_s[1, 2, 3] = bad
    assert intra_feature_loss(h_s, h_t, estimator=estimator).isnan()
    assert local_inter_feature_loss(h_s, h_t, estimator=estimator).isnan()


def test_keywords_and_mixed_dtypes():
    h_s, h_t = draw(0, 4, 6, 5), draw(1, 4, 6, 5)
    expected = intra_feature_loss(h_s.float(), h_t.float())
    torch.testing.assert_close(intra_feature_loss(h_t=h_t.float(), h_s=h_s.float()), expected)
    torch.testing.assert_close(intra_feature_loss(h_s.float(), h_t), expected.double())
    assert (
        linear_cka(draw(0, 30, 3).bfloat16(), y=draw(1, 30, 3, dtype=torch.float32)).dtype
        == torch.float32
    )


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("reduction", ["mean_log", "log_mean"])
@pytest.mark.parametrize("collapsed", ["student", "teacher"])
def test_undefined_samples_are_left_out_and_counted(collapsed, reduction, estimator):
    """A constant has no structure: it would be a number without a gradient in the loss."""
    h_s, h_t = draw(0, 4, 6, 5), draw(1, 4, 6, 7)
    h_t = h_t + torch.nn.functional.pad(h_s, (0, 2))  # related, so that no debiased CKA is negative
    (h_s if collapsed == "student" else h_t)[1] = 3
    options = {"estimator": estimator, "reduction": reduction}
    found, undefined = intra_feature_loss(h_s, h_t, **options, count_undefined=True)
    others = [0, 2, 3]
    torch.testing.assert_close(found, intra_feature_loss(h_s[others], h_t[others], **options))
    assert undefined == 1
    structure = token_structure(h_t, estimator=estimator)
    found_to, undefined_to = intra_feature_loss(h_s, structure, **options, count_undefined=True)
    torch.testing.assert_close(found_to, found)
    assert undefined_to == 1


@pytest.mark.parametrize("estimator, rows", [("biased", 2), ("debiased", 3)])
def test_what_says_nothing_is_zero_and_counted(estimator, rows):
    """Two samples have a CKA of 1 whatever they are, three a debiased one of 0/0; and one constant
    side undoes it.
    """
    h_s, h_t = draw(0, 6, 3, 5), draw(1, 6, 3, 7)
    alike_s, alike_t = torch.ones_like(h_s), torch.ones_like(h_t)
    for pair in ((h_s[:1], h_t[:1]), (h_s[:rows], h_t[:rows]), (h_s, alike_t), (alike_s, h_t)):
        found, undefined = local_inter_feature_loss(
            *pair, estimator=estimator, count_undefined=True
        )
        assert (found, undefined) == (0, 1)
    enough = local_inter_feature_loss(
        h_s[: rows + 1], h_t[: rows + 1], estimator=estimator, count_undefined=True
    )
    assert enough[0] > 0 and enough[1] == 0
    for m_s, m_t in (
        (h_s.flatten(1), torch.ones(6, 4).double()),
        (h_s[:rows].flatten(1), h_t[:rows].flatten(1)),
    ):
        assert memory_structure_loss(m_s, m_t, estimator) == 0


def test_negative_debiased_cka_is_pulled_up():
    for seed in range(200):
        h_s, h_t = draw(seed, 1, 6, 5, requires_grad=True), draw(seed + 999, 1, 6, 5)
        before = linear_cka(h_s, h_t, estimator="debiased")
        if before < -0.1:
            (gradient,) = torch.autograd.grad(
                intra_feature_loss(h_s, h_t, estimator="debiased"), h_s
            )
            after = linear_cka(h_s - 1e-4 * gradient, h_t, estimator="debiased")
            assert after > before
            return
    pytest.fail("no negative debiased CKA among 200 random pairs")


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 3\)"):
        linear_cka(torch.ones(4, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="biased"):
        linear_cka(torch.ones(4, 3), torch.ones(4, 3), estimator="unbiased")


# ---- the global structure ------------------------------------------------------------------------


def draw_global(dtype=torch.float64, **kwargs):
    """h_s (5, 12), m_s (7, 12), h_t (5, 20), m_t (7, 20)."""
    return (
        draw(0, 5, 12, dtype=dtype, **kwargs),
        draw(1, 7, 12, dtype=dtype, **kwargs),
        draw(2, 5, 20, dtype=dtype),
        draw(3, 7, 20, dtype=dtype),
    )


def feature_to_memory_by_loops(h_s, m_s, h_t, m_t, psi):
    """Eq. 9 as it is printed."""

    def euclidean(a, b):
        return (a - b).square().sum().sqrt()

    def cosine(a, b):
        return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())

    psi = {"euclidean": euclidean, "cosine": cosine}[psi]
    return sum(
        (psi(h_t[i], m_t[j]) - psi(h_s[i], m_s[j])) ** 2
        for i in range(len(h_s))
        for j in range(len(m_s))
    ) / (len(h_s) * len(m_s))


@pytest.mark.parametrize("psi", ["euclidean", "cosine"])
def test_feature_to_memory_is_eq_9(psi):
    inputs = draw_global()
    torch.testing.assert_close(
        feature_to_memory_loss(*inputs, psi), feature_to_memory_by_loops(*inputs, psi)
    )
    h_s, m_s, h_t, m_t = inputs
    rotation, _ = torch.linalg.qr(draw(7, 12, 12))
    torch.testing.assert_close(
        feature_to_memory_loss(h_s @ rotation, m_s @ rotation, h_t, m_t, psi),
        feature_to_memory_loss(*inputs, psi),
    )
    assert feature_to_memory_loss(h_t, m_t, h_t, m_t, psi) == 0


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_memory_structure_is_cka_and_allows_rotation_and_scale(estimator):
    _, m_s, _, m_t = draw_global()
    rotation, _ = torch.linalg.qr(draw(7, 20, 20))
    related = m_t + 0.1 * draw(9, 7, 20)
    torch.testing.assert_close(
        memory_structure_loss(related, m_t, estimator),
        -linear_cka(related, m_t, estimator=estimator).log(),
    )
    torch.testing.assert_close(
        memory_structure_loss(3 * m_t @ rotation + 5, m_t, estimator),
        torch.zeros((), dtype=torch.float64),
        atol=1e-12,
        rtol=0,
    )
    torch.testing.assert_close(
        memory_structure_loss(m_s, FrozenMemory(m_t, estimator), estimator),
        memory_structure_loss(m_s, m_t, estimator),
    )


def test_global_loss_is_the_sum_and_a_frozen_memory_changes_nothing():
    h_s, m_s, h_t, m_t = inputs = draw_global()
    f_mm, f_e, f_c = (
        memory_structure_loss(m_s, m_t),
        feature_to_memory_loss(*inputs, "euclidean"),
        feature_to_memory_loss(*inputs, "cosine"),
    )
    expected = 0.3 * f_e + 0.7 * f_c + f_mm
    torch.testing.assert_close(global_inter_feature_loss(*inputs, 0.3), expected)
    torch.testing.assert_close(
        global_inter_feature_loss(h_s, m_s, h_t, FrozenMemory(m_t), 0.3), expected
    )


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_global_gradcheck(estimator):
    h_s, m_s, h_t, m_t = draw_global(requires_grad=True)
    m_t = m_t + torch.nn.functional.pad(m_s.detach(), (0, 8))
    assert torch.autograd.gradcheck(lambda m: memory_structure_loss(m, m_t, estimator), m_s)
    for psi in ("euclidean", "cosine"):
        assert torch.autograd.gradcheck(
            lambda h, m, psi=psi: feature_to_memory_loss(h, m, h_t, m_t, psi), (h_s, m_s)
        )
    frozen = FrozenMemory(m_t, estimator)
    assert torch.autograd.gradcheck(
        lambda h, m: global_inter_feature_loss(h, m, h_t, frozen, 0.3, estimator), (h_s, m_s)
    )


def test_the_teachers_features_and_memory_are_detached():
    h_s, m_s = draw_global(requires_grad=True)[:2]
    h_t, m_t = draw(2, 5, 20, requires_grad=True), draw(3, 7, 20, requires_grad=True)
    global_inter_feature_loss(h_s, m_s, h_t, m_t, 0.3).backward()
    assert h_s.grad.abs().sum() > 0 and m_s.grad.abs().sum() > 0
    assert h_t.grad is None and m_t.grad is None


@pytest.mark.parametrize("psi", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    "broken",
    [
        torch.zeros_like,
        torch.ones_like,
        lambda x: x * 1e6,
        lambda x: x * 1e-6,
        lambda x: x.bfloat16(),
    ],
)
def test_finite_global_loss_and_gradient(broken, psi):
    h_s, m_s, h_t, m_t = draw_global(torch.float32)
    for h, m in (
        (broken(h_s), m_s),
        (h_s, broken(m_s)),
        (broken(m_s)[:5], broken(m_s)),
    ):  # the last: each h is an m
        h, m = h.clone().requires_grad_(), m.clone().requires_grad_()
        value = feature_to_memory_loss(h, m, h_t, m_t, psi) + memory_structure_loss(m, m_t)
        assert value.isfinite() and value.dtype == torch.float32
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (h, m)))
    h_t[0, 0] = math.nan
    assert feature_to_memory_loss(h_s, m_s, h_t, m_t, psi).isnan()


def test_distances_in_float32_beside_a_large_common_part():
    """BERT's features share a large part, which the matrix-product form of the distance must not
    drown in.
    """
    h, m = draw(0, 8, 400) + 3, draw(1, 9, 400) + 3
    for psi, expected in memory_relations(h, m).items():
        torch.testing.assert_close(
            memory_relations(h.float(), m.float())[psi], expected.float(), rtol=1e-5, atol=1e-6
        )


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if torch.is_tensor(tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_no_tensor_of_samples_times_centroids_times_width():
    h_s, m_s = draw(0, 8, 500, requires_grad=True), draw(1, 9, 500, requires_grad=True)
    with LargestTensor() as largest:
        global_inter_feature_loss(h_s, m_s, draw(2, 8, 700), draw(3, 9, 700), 0.5).backward()
    assert largest.numbers <= 9 * 700


class Products(TorchDispatchMode):
    """Remembers the shape of the first factor of every matrix product."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


def test_what_depends_on_the_frozen_memory_alone_is_computed_once():
    """With a FrozenMemory no further (C, p) (p, C) product of the teacher's memory is made."""
    h_s, m_s, h_t, m_t = draw_global()
    frozen = FrozenMemory(m_t)
    with Products() as products:
        global_inter_feature_loss(h_s, m_s, h_t, frozen, 0.5)
    assert sorted(products.shapes) == [(5, 12), (5, 20), (7, 12)]  # H_s M_sᵀ, H_t M_tᵀ, M_s M_sᵀ


def test_too_few_centroids_for_the_estimator_give_zero():
    _, m_s, _, m_t = draw_global()
    assert memory_structure_loss(m_s[:1], m_t[:1]) == 0
    assert (
        memory_structure_loss(m_s[:3], m_t[:3], "debiased")
        == 0
        < memory_structure_loss(m_s[:3], m_t[:3])
    )


def test_a_frozen_memory_is_exact_inside_autocast_and_takes_other_dtypes():
    h_s, m_s, h_t, m_t = draw_global(torch.float32)
    expected = global_inter_feature_loss(h_s, m_s, h_t, FrozenMemory(m_t), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert global_inter_feature_loss(h_s, m_s, h_t, FrozenMemory(m_t), 0.5) == expected
    assert memory_relations(h_t.double(), FrozenMemory(m_t))["cosine"].dtype == torch.float64


def test_three_matrix_products_a_loss():
    """A Gram matrix a side and one product backward: the teacher's gets no gradient, the student's
    is symmetric.
    """
    h_s, h_t, m_t = draw(0, 5, 6, 9, requires_grad=True), draw(1, 5, 6, 8), draw(2, 5, 54)
    m_s, frozen = draw(3, 5, 60, requires_grad=True), FrozenMemory(m_t)
    for loss, number in (
        (lambda: intra_feature_loss(h_s, h_t), 3),
        (lambda: local_inter_feature_loss(h_s, h_t), 3),
        (lambda: memory_structure_loss(m_s, frozen), 2),
    ):
        with Products() as products:
            loss().backward()
        assert len(products.shapes) == number


@pytest.mark.parametrize("offset, tolerance", [(0, 1e-5), (3, 2e-4), (10, 2e-3)])
def test_float32_beside_a_common_part(offset, tolerance):
    """The Gram matrix is centred after the product: the error grows with the common part's share of
    the energy.
    """
    x, y = draw(0, 32, 4000) + offset, draw(1, 32, 500) + offset
    found, expected = (
        torch.autograd.grad(linear_cka(z := x.to(dtype).requires_grad_(), y.to(dtype)), z)[
            0
        ].double()
        for dtype in (torch.float32, torch.float64)
    )
    assert (found - expected).norm() <= tolerance * expected.norm()
    torch.testing.assert_close(
        linear_cka(x.float(), y.float()).double(), linear_cka(x, y), rtol=0, atol=1e-5
    )


def test_shapes_of_the_global_losses_are_checked():
    h_s, m_s, h_t, m_t = draw_global()
    with pytest.raises(ValueError, match=r"\(7, 12\) needs features \(B, 12\), got \(5, 20\)"):
        feature_to_memory_loss(h_t, m_s, h_t, m_t, "cosine")
    with pytest.raises(ValueError, match="flattened"):
        feature_to_memory_loss(h_s.view(5, 3, 4), m_s, h_t, m_t, "cosine")
    with pytest.raises(ValueError, match="7 and 6"):
        memory_structure_loss(m_s, m_t[:6])
    with pytest.raises(ValueError, match="biased and debiased"):
        memory_structure_loss(m_s, FrozenMemory(m_t, "debiased"))
    with pytest.raises(ValueError, match="euclid"):
        feature_to_memory_loss(h_s, m_s, h_t, m_t, "euclid")


# ---- relation difference -------------------------------------------------------------------------


def test_relation_difference_of_equal_features_is_zero_and_sees_scale():
    x = draw(0, 3, 6, 5)
    assert relation_difference(x, x) == 0
    assert relation_difference(x, x, "cosine") == 0
    assert relation_difference(2 * x, x) > 0.1
    mask = torch.arange(6).expand(3, 6) < 4
    torch.testing.assert_close(
        relation_difference(x, 2 * x, mask=mask), relation_difference(x[:, :4], 2 * x[:, :4])
    )


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_token_structure_is_all_that_i_needs_of_the_teacher(masked, estimator):
    """In half precision, too, whatever the features' scale."""
    h_s, h_t = draw(0, 5, 9, 12, requires_grad=True), 1e4 * draw(1, 5, 9, 20)
    h_t[0] = 3  # constant: no structure
    mask = torch.arange(9) < torch.tensor([9, 9, 6, 2, 0]).unsqueeze(1) if masked else None
    structure = token_structure(h_t, mask, estimator)
    assert structure.matrix.abs().max() <= 1
    half = Structure(structure.matrix.half())
    for reduction in ("mean_log", "log_mean"):
        wanted = intra_feature_loss(h_s, h_t, mask, estimator, reduction)
        torch.testing.assert_close(
            intra_feature_loss(h_s, structure, mask, estimator, reduction), wanted
        )
        rounded = intra_feature_loss(h_s, half, mask, estimator, reduction)
        torch.testing.assert_close(rounded, wanted, rtol=1e-3, atol=1e-3)
        gradients = [torch.autograd.grad(loss, h_s)[0] for loss in (wanted, rounded)]
        torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2 * gradients[0].abs().max())


def test_a_row_of_zeros_has_cosine_and_gradient_0():
    h, m = draw(0, 5, 12), draw(1, 7, 12)
    h[1], m[2] = 0, 0
    h, m = h.requires_grad_(), m.requires_grad_()
    cosine = memory_relations(h, m)["cosine"]
    assert not cosine[1].any() and not cosine[:, 2].any()
    d_h, d_m = torch.autograd.grad((cosine - 0.3).square().sum(), (h, m))
    assert not d_h[1].any() and not d_m[2].any() and d_h[0].any() and d_m[0].any()
    torch.testing.assert_close(
        cosine[0, 0], torch.nn.functional.cosine_similarity(h[0], m[0], dim=0)
    )


@pytest.mark.parametrize("loss", ["I", "L", "G"])
def test_there_is_a_first_derivative_alone(loss):
    """torch would take the gradient for a constant, and go on."""
    with pytest.raises(RuntimeError, match="a first derivative alone"):
        torch.autograd.grad(*one_of(loss, torch.float64), create_graph=True)


@pytest.mark.parametrize("loss", ["I", "L", "G"])
def test_a_backward_inside_autocast_is_that_outside(loss):
    value, h_s = one_of(loss, torch.float32)
    (wanted,) = torch.autograd.grad(value, h_s, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(value, h_s)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def one_of(loss, dtype):
    """A structure's loss and the student's features that it is of."""
    h_s, h_t = (draw(seed, 5, 7, 6, dtype=dtype) for seed in (0, 1))
    h_s.requires_grad_()
    if loss == "G":
        memories = (draw(seed, 4, 42, dtype=dtype) for seed in (2, 3))
        m_s, m_t = memories
        return global_inter_feature_loss(h_s.flatten(1), m_s, h_t.flatten(1), m_t, 0.5), h_s
    return (intra_feature_loss if loss == "I" else local_inter_feature_loss)(h_s, h_t), h_s


def test_a_mask_of_numbers_is_one_of_truth_values():
    x, y, mask = draw(0, 3, 6, 5), draw(1, 3, 6, 4), (torch.arange(6) < 4).expand(3, 6)
    wanted = linear_cka(x, y, mask)
    for kind in (torch.float32, torch.int64, torch.uint8):
        torch.testing.assert_close(linear_cka(x, y, mask.to(kind)), wanted, rtol=0, atol=0)
