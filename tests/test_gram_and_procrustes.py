"""The geometric rivals against numpy and SciPy, and what leaves them as they are."""

import numpy as np
import pytest
import scipy.spatial
import torch
from conftest import draw, rotation
from scipy.linalg import orthogonal_procrustes

from baselines import gram, procrustes
from cka import linear_cka


def test_gram_distance_is_that_of_numpy():
    x_s, x_t = draw(60, 6, 4), draw(61, 6, 9)
    k_s, k_t = (c @ c.T / (c**2).sum() for c in (x.numpy() - x.numpy().mean(0) for x in (x_s, x_t)))
    assert gram.gram_distance(x_s, x_t).item() == pytest.approx(((k_s - k_t) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(
    "shape_s, shape_t", [((7, 4), (7, 4)), ((3, 20), (3, 30)), ((9, 3), (9, 5)), ((5, 4), (5, 9))]
)
def test_procrustes_distance_is_that_of_scipy(shape_s, shape_t):
    """SciPy's disparity also scales by the best s: disparity = 1 - s², distance = 2 - 2 s."""
    x_s, x_t = draw(62, *shape_s), draw(63, *shape_t)
    width = max(shape_s[1], shape_t[1])  # SciPy wants one width
    padded = [np.pad(x.numpy(), ((0, 0), (0, width - x.shape[1]))) for x in (x_s, x_t)]
    _, _, disparity = scipy.spatial.procrustes(*padded)
    found = procrustes.procrustes_distance(x_s, x_t).item()
    assert 1 - (1 - found / 2) ** 2 == pytest.approx(disparity, rel=1e-8)
    centred = [x - x.mean(0) for x in padded]
    units = [x / np.linalg.norm(x) for x in centred]
    q, _ = orthogonal_procrustes(units[1], units[0])
    assert found == pytest.approx(((units[0] - units[1] @ q) ** 2).sum(), rel=1e-8)


@pytest.mark.parametrize("loss", [gram.gram_distance, procrustes.procrustes_distance])
def test_geometric_distances_allow_rotation_scale_and_offset_only(loss):
    x_s, x_t = draw(64, 2, 6, 5), draw(65, 2, 6, 8)
    moved = 3 * x_s @ rotation(5) + 7
    assert loss(moved, x_t).item() == pytest.approx(loss(x_s, x_t).item(), rel=1e-8)
    assert loss(moved, x_s).item() == pytest.approx(0, abs=1e-10)
    stretched = x_s * torch.tensor([1.0, 2, 1, 1, 1], dtype=torch.float64)
    assert loss(stretched, x_s).item() > 1e-3
    assert torch.autograd.gradcheck(lambda x: loss(x, x_t), x_s.requires_grad_())


@pytest.mark.parametrize("loss", [gram.gram_distance, procrustes.procrustes_distance])
def test_geometric_distances_of_masked_and_constant_rows(loss):
    x_s, x_t, mask = (
        draw(66, 2, 6, 5),
        draw(67, 2, 6, 8),
        torch.ones(2, 6, dtype=torch.bool),
    )
    mask[:, 4:] = False
    noisy = x_s.where(mask.unsqueeze(-1), 1e3)
    assert loss(noisy, x_t, mask).item() == pytest.approx(
        loss(x_s[:, :4], x_t[:, :4]).item(), rel=1e-8
    )
    for constant in (
        torch.ones(2, 6, 5, requires_grad=True),
        torch.ones(2, 1, 5, requires_grad=True),
    ):
        value = loss(constant, draw(0, 2, constant.shape[1], 5))
        assert value.isfinite()
        value.backward()
        assert constant.grad.isfinite().all()


def test_gram_distance_is_not_cka_in_disguise():
    """CKA is 1 for Gram matrices of one direction whatever their size; two pairs of equal CKA
    differ here.
    """
    x, y, z = draw(68, 6, 5), draw(69, 6, 5), draw(70, 6, 5)
    pairs = [(x, x + a * y) for a in (0.5, 1.0)] + [(x, z), (y, z)]
    by_cka = sorted(pairs, key=lambda p: -linear_cka(*p).item())
    ratios = [gram.gram_distance(*p).item() / (2 - 2 * linear_cka(*p).item()) for p in by_cka]
    assert max(ratios) / min(ratios) > 1.1
