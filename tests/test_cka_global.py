"""cka.py: F_MM, F_E, F_C and their sum G, between features and memories."""

import math

import pytest
import torch
from conftest import draw, rotation
from parts_of_g import feature_to_memory_loss

from cka import (
    FrozenMemory,
    global_inter_feature_loss,
    linear_cka,
    memory_relations,
    memory_structure_loss,
)


def draw_global(dtype=torch.float64, **kwargs):
    """h_s (5, 12), m_s (7, 12), h_t (5, 20), m_t (7, 20)."""
    return (
        draw(0, 5, 12, dtype=dtype, **kwargs),
        draw(1, 7, 12, dtype=dtype, **kwargs),
        draw(2, 5, 20, dtype=dtype),
        draw(3, 7, 20, dtype=dtype),
    )


# ---- values --------------------------------------------------------------------------------------


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
    turn = rotation(12, 7)
    torch.testing.assert_close(
        feature_to_memory_loss(h_s @ turn, m_s @ turn, h_t, m_t, psi),
        feature_to_memory_loss(*inputs, psi),
    )
    assert feature_to_memory_loss(h_t, m_t, h_t, m_t, psi) < 1e-25


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_memory_structure_is_cka_and_allows_rotation_and_scale(estimator):
    _, m_s, _, m_t = draw_global()
    turn = rotation(20, 7)
    related = m_t + 0.1 * draw(9, 7, 20)
    torch.testing.assert_close(
        memory_structure_loss(related, m_t, estimator),
        -linear_cka(related, m_t, estimator=estimator).log(),
    )
    torch.testing.assert_close(
        memory_structure_loss(3 * m_t @ turn + 5, m_t, estimator),
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


# ---- gradients -----------------------------------------------------------------------------------


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


# ---- inputs that break careless implementations --------------------------------------------------


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
    each_is_a_centroid = broken(m_s)[:5], broken(m_s)
    for h, m in ((broken(h_s), m_s), (h_s, broken(m_s)), each_is_a_centroid):
        h, m = h.clone().requires_grad_(), m.clone().requires_grad_()
        value = feature_to_memory_loss(h, m, h_t, m_t, psi) + memory_structure_loss(m, m_t)
        assert value.isfinite() and value.dtype == torch.float32
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (h, m)))
    h_t[0, 0] = math.nan
    assert feature_to_memory_loss(h_s, m_s, h_t, m_t, psi).isnan()


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


def test_too_few_centroids_for_the_estimator_give_zero():
    _, m_s, _, m_t = draw_global()
    assert memory_structure_loss(m_s[:1], m_t[:1]) == 0
    assert (
        memory_structure_loss(m_s[:3], m_t[:3], "debiased")
        == 0
        < memory_structure_loss(m_s[:3], m_t[:3])
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


# ---- precision -----------------------------------------------------------------------------------


def test_distances_in_float32_beside_a_large_common_part():
    """BERT's features share a large part, which the matrix-product form of the distance must not
    drown in.
    """
    h, m = draw(0, 8, 400) + 3, draw(1, 9, 400) + 3
    for psi, expected in memory_relations(h, m).items():
        torch.testing.assert_close(
            memory_relations(h.float(), m.float())[psi], expected.float(), rtol=1e-5, atol=1e-6
        )


def test_a_frozen_memory_is_exact_inside_autocast_and_takes_other_dtypes():
    h_s, m_s, h_t, m_t = draw_global(torch.float32)
    expected = global_inter_feature_loss(h_s, m_s, h_t, FrozenMemory(m_t), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert global_inter_feature_loss(h_s, m_s, h_t, FrozenMemory(m_t), 0.5) == expected
    assert memory_relations(h_t.double(), FrozenMemory(m_t))["cosine"].dtype == torch.float64
