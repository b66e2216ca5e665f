"""cka.py: golden values, theorems of CKA, masks, and what has no structure."""

import math

import pytest
import torch
from conftest import GOLDEN, draw, rotation
from parts_of_g import feature_to_memory_loss

from cka import (
    Structure,
    global_inter_feature_loss,
    intra_feature_loss,
    linear_cka,
    local_inter_feature_loss,
    memory_structure_loss,
    token_structure,
)
from relations import relation_difference

SEEDS = range(5)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


# ---- values --------------------------------------------------------------------------------------


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
        turn = rotation(p, seed + 7)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

        def cka(a, b):
            return linear_cka(a, b, estimator=estimator)

        one, value = torch.ones((), dtype=x.dtype), cka(x, y)
        torch.testing.assert_close(cka(x, x), one)
        torch.testing.assert_close(cka(x, 3 * x @ turn + draw(seed, p)), one)
        torch.testing.assert_close(cka(y, x), value)
        torch.testing.assert_close(cka(0.01 * x @ turn - 5, y), value)
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


def test_released_reduction_is_the_log_of_the_mean():
    h_s, h_t = draw(0, 5, 9, 4), draw(1, 5, 9, 6)
    torch.testing.assert_close(
        intra_feature_loss(h_s, h_t, reduction="log_mean"), -linear_cka(h_s, h_t).mean().log()
    )
    # Jensen
    assert intra_feature_loss(h_s, h_t) > intra_feature_loss(h_s, h_t, reduction="log_mean")


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


def test_relation_difference_of_equal_features_is_zero_and_sees_scale():
    x = draw(0, 3, 6, 5)
    assert relation_difference(x, x) == 0
    assert relation_difference(x, x, "cosine") == 0
    assert relation_difference(2 * x, x) > 0.1
    mask = torch.arange(6).expand(3, 6) < 4
    torch.testing.assert_close(
        relation_difference(x, 2 * x, mask=mask), relation_difference(x[:, :4], 2 * x[:, :4])
    )


# ---- masks ---------------------------------------------------------------------------------------


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


def test_a_mask_of_numbers_is_one_of_truth_values():
    x, y, mask = draw(0, 3, 6, 5), draw(1, 3, 6, 4), (torch.arange(6) < 4).expand(3, 6)
    wanted = linear_cka(x, y, mask)
    for kind in (torch.float32, torch.int64, torch.uint8):
        torch.testing.assert_close(linear_cka(x, y, mask.to(kind)), wanted, rtol=0, atol=0)


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


# ---- what has no structure -----------------------------------------------------------------------


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


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_not_hidden(bad, estimator):
    h_s, h_t = draw(0, 4, 6, 5), draw(1, 4, 6, 5)
    h_s[1, 2, 3] = bad
    assert intra_feature_loss(h_s, h_t, estimator=estimator).isnan()
    assert local_inter_feature_loss(h_s, h_t, estimator=estimator).isnan()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 3\)"):
        linear_cka(torch.ones(4, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="biased"):
        linear_cka(torch.ones(4, 3), torch.ones(4, 3), estimator="unbiased")
