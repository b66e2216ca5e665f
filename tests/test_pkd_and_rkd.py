"""PKD's and RKD's losses against numpy, loops and their theorems."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import draw, rotation

from baselines import pkd, rkd

# ---- PKD -----------------------------------------------------------------------------------------


def test_patience_is_that_of_numpy():
    h_s, h_t = draw(1, 5, 3, 7), draw(2, 5, 3, 7)
    s, t = (
        h[:, 0].numpy() / np.linalg.norm(h[:, 0].numpy(), axis=1, keepdims=True) for h in (h_s, h_t)
    )
    assert pkd.patience_loss(h_s, h_t).item() == pytest.approx(
        ((s - t) ** 2).sum() / (5 * 7), rel=1e-12
    )
    assert pkd.patience_loss(h_s, 3 * h_s).item() == pytest.approx(0, abs=1e-15)
    both = pkd.patience_losses([h_s, h_t], [h_t, h_t])
    assert both.item() == pytest.approx(pkd.patience_loss(h_s, h_t).item() / 2)
    assert torch.autograd.gradcheck(lambda h: pkd.patience_loss(h, h_t), h_s.requires_grad_())


# ---- RKD -----------------------------------------------------------------------------------------


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def distance_by_loops(x_s, x_t):
    """Park et al.'s distance loss, pair by pair."""

    def psi(x):
        d = {(i, j): math.dist(x[i], x[j]) for i, j in itertools.product(range(len(x)), repeat=2)}
        mean = sum(d.values()) / (len(x) * (len(x) - 1))
        return {pair: value / mean for pair, value in d.items()}

    s, t = psi(x_s.tolist()), psi(x_t.tolist())
    return sum(huber(s[pair] - t[pair]) for pair in s) / len(s)


def angle_by_loops(x_s, x_t):
    """Park et al.'s angle loss, triple by triple."""

    def psi(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    triples = list(itertools.product(range(len(x_s)), repeat=3))
    return sum(
        huber(psi(x_s.numpy(), *triple) - psi(x_t.numpy(), *triple)) for triple in triples
    ) / len(triples)


@pytest.mark.parametrize("rows, scale", [(2, 1.0), (5, 1.0), (6, 40.0)])
def test_relations_are_those_of_the_loops(rows, scale):
    x_s, x_t = draw(3, rows, 4), scale * draw(4, rows, 9)
    assert rkd.distance_loss(x_s, x_t).item() == pytest.approx(
        distance_by_loops(x_s, x_t), rel=1e-10
    )
    assert rkd.angle_loss(x_s, x_t).item() == pytest.approx(angle_by_loops(x_s, x_t), rel=1e-10)


def test_the_angle_of_a_right_triangle():
    """By hand: cosines 0, 0.8, 0.6 at the corners of 3-4-5 against 1/2 thrice of an equilateral
    triangle.
    """
    x_s = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    x_t = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    wanted = 2 * (0.5 * 0.5**2 + 0.5 * 0.3**2 + 0.5 * 0.1**2) / 27
    assert rkd.angle_loss(x_s, x_t).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", [rkd.distance_loss, rkd.angle_loss])
def test_relations_do_not_change_under_similarity(loss):
    x_s, x_t = draw(5, 6, 5), draw(6, 6, 8)
    moved = 3 * x_s @ rotation(5) + 7
    assert loss(moved, x_t).item() == pytest.approx(loss(x_s, x_t).item(), rel=1e-10)
    assert loss(moved, x_s).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(x, x_t), x_s.requires_grad_())


def test_relations_of_equal_and_single_samples():
    """Two equal samples have no direction, a batch of one no relation: finite, and no NaN in the
    gradient.
    """
    x = draw(7, 4, 5)
    x = torch.cat([x, x[:1]]).requires_grad_()
    for loss in (rkd.distance_loss, rkd.angle_loss):
        for rows in (x, x[:1], x.float(), x.half().float() * 0 + 1):
            value = loss(rows, draw(8, len(rows), 6))
            assert value.isfinite()
            (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
            assert gradient.isfinite().all()


def test_angles_hold_only_chunks(monkeypatch):
    """In chunks the same value and gradient, and never all B³ angles, nor the B² D differences,
    forward or backward.
    """
    x_s, x_t = draw(9, 12, 50).requires_grad_(), draw(10, 12, 40)
    whole = rkd.angle_loss(x_s, x_t)
    (wanted,) = torch.autograd.grad(whole, x_s)
    sizes, angles = [], rkd._angles
    monkeypatch.setattr(
        rkd, "_angles", lambda k, v: sizes.append(len(v) * k.numel()) or angles(k, v)
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        value = rkd.angle_loss(x_s, x_t, chunk=300)
    (found,) = torch.autograd.grad(value, x_s)
    torch.testing.assert_close((value, found), (whole, wanted))
    assert (
        max(sizes) <= 300 and len(sizes) == 2 * 2 * 6
    )  # two vertices a part; two models, forward and again backward
    assert max(kept) <= 12 * 50
