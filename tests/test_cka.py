"""cka.py: golden values, theorems of CKA, gradients, and the inputs that break careless implementations."""
import math

import pytest
import torch
from conftest import GOLDEN

from cka import intra_feature_loss, linear_cka, local_inter_feature_loss, relation_difference

SEEDS = range(5)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def draw(seed, *shape, dtype=torch.float64, **kwargs):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed), **kwargs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_golden_values(case, dtype):
    """Reference values computed in float64: |found - expected| <= tolerance * max(1, |expected|)."""
    h_s, h_t = (torch.tensor(case["inputs"][key], dtype=dtype) for key in "st")
    flat_s, flat_t = h_s.flatten(1), h_t.flatten(1)
    found = {
        "cka_intra": linear_cka(h_s, h_t), "cka_local": linear_cka(flat_s, flat_t),
        "intra": intra_feature_loss(h_s, h_t), "local": local_inter_feature_loss(h_s, h_t),
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
    return (torch.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


@pytest.mark.parametrize("n, p, q", [(6, 20, 9), (30, 4, 7), (9, 9, 9)])
@pytest.mark.parametrize("estimator, hsic", [("biased", hsic_by_centring_matrix), ("debiased", unbiased_hsic)])
def test_equals_the_published_form(estimator, hsic, n, p, q):
    for seed in SEEDS:
        x, y = draw(seed, n, p) + 3, draw(seed + 99, n, q)
        k, l = x @ x.T, y @ y.T  # noqa: E741
        expected = hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()
        torch.testing.assert_close(linear_cka(x, y, estimator=estimator), expected)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("n, p", [(8, 30), (40, 5)])
def test_theorems(estimator, n, p):
    """CKA(X, X) = 1; symmetry; invariance to rotation, scale, offset and a common order of rows; |CKA| <= 1."""
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
    """Zero columns widen the features past n, which switches the form and must not move the value."""
    x, y = draw(0, 20, 6), draw(1, 20, 8)
    torch.testing.assert_close(linear_cka(torch.nn.functional.pad(x, (0, 30)), y), linear_cka(x, y))


def test_debiased_scores_unrelated_wide_features_near_zero():
    values = {e: torch.stack([linear_cka(draw(s, 32, 4000), draw(s + 99, 32, 4000), estimator=e) for s in SEEDS])
              for e in ("biased", "debiased")}
    assert values["biased"].min() > 0.9
    assert values["debiased"].abs().max() < 0.15


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("loss", [intra_feature_loss, local_inter_feature_loss])
def test_mask_equals_leaving_the_positions_out(loss, estimator):
    h_s, h_t = draw(0, 5, 9, 4), draw(1, 5, 9, 6)
    mask = (torch.arange(9) < 6).expand(5, 9)
    torch.testing.assert_close(loss(h_s, h_t, mask, estimator=estimator),
                               loss(h_s[:, :6], h_t[:, :6], estimator=estimator))


def test_masks_of_different_lengths():
    h_s, h_t = draw(0, 3, 9, 4), draw(1, 3, 9, 6)
    lengths = [9, 5, 2]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    alone = torch.stack([intra_feature_loss(h_s[i:i + 1, :n], h_t[i:i + 1, :n]) for i, n in enumerate(lengths)])
    torch.testing.assert_close(intra_feature_loss(h_s, h_t, mask), alone.mean())


def test_released_reduction_is_the_log_of_the_mean():
    h_s, h_t = draw(0, 5, 9, 4), draw(1, 5, 9, 6)
    torch.testing.assert_close(intra_feature_loss(h_s, h_t, reduction="log_mean"), -linear_cka(h_s, h_t).mean().log())
    assert intra_feature_loss(h_s, h_t) > intra_feature_loss(h_s, h_t, reduction="log_mean")  # Jensen


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("reduction", ["mean_log", "log_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(estimator, reduction, masked):
    h_s, h_t = draw(0, 5, 6, 3, requires_grad=True), draw(1, 5, 6, 4)
    h_t = h_t + torch.nn.functional.pad(h_s.detach(), (0, 1))  # related, so that no sample sits on the floor
    mask = (torch.arange(6) < 5).expand(5, 6) if masked else None
    assert torch.autograd.gradcheck(lambda h: intra_feature_loss(h, h_t, mask, estimator, reduction), h_s)
    assert torch.autograd.gradcheck(lambda h: local_inter_feature_loss(h, h_t, mask, estimator), h_s)
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
    h_t = draw(1, 4, 6, 7, dtype=torch.float32)[:h_s.shape[0], :h_s.shape[1]]
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
    torch.testing.assert_close(value, intra_feature_loss(h_s[others], h_t[others], estimator=estimator))
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
    assert linear_cka(draw(0, 30, 3).bfloat16(), y=draw(1, 30, 3, dtype=torch.float32)).dtype == torch.float32


def test_a_collapsed_student_pays():
    """Constant student features are the worst structure there is, not a free pass."""
    h_t = draw(1, 4, 6, 7)
    assert intra_feature_loss(torch.ones(4, 6, 5).double(), h_t) > -math.log(1e-6)


def test_negative_debiased_cka_is_pulled_up():
    for seed in range(200):
        h_s, h_t = draw(seed, 1, 6, 5, requires_grad=True), draw(seed + 999, 1, 6, 5)
        before = linear_cka(h_s, h_t, estimator="debiased")
        if before < -0.1:
            (gradient,) = torch.autograd.grad(intra_feature_loss(h_s, h_t, estimator="debiased"), h_s)
            after = linear_cka(h_s - 1e-4 * gradient, h_t, estimator="debiased")
            assert after > before
            return
    pytest.fail("no negative debiased CKA among 200 random pairs")


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 3\)"):
        linear_cka(torch.ones(4, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="biased"):
        linear_cka(torch.ones(4, 3), torch.ones(4, 3), estimator="unbiased")


def test_relation_difference_of_equal_features_is_zero_and_sees_scale():
    x = draw(0, 3, 6, 5)
    assert relation_difference(x, x) == 0
    assert relation_difference(x, x, "cosine") == 0
    assert relation_difference(2 * x, x) > 0.1
    mask = torch.arange(6).expand(3, 6) < 4
    torch.testing.assert_close(relation_difference(x, 2 * x, mask=mask), relation_difference(x[:, :4], 2 * x[:, :4]))
