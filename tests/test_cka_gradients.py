"""cka.py: gradients, precision, and how many products and how large tensors the losses need."""

import pytest
import torch
from conftest import draw
from torch.utils._python_dispatch import TorchDispatchMode

from cka import (
    FrozenMemory,
    global_inter_feature_loss,
    intra_feature_loss,
    linear_cka,
    local_inter_feature_loss,
    memory_structure_loss,
)

# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("reduction", ["mean_log", "log_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(estimator, reduction, masked):
    h_s, h_t = draw(0, 5, 6, 3, requires_grad=True), draw(1, 5, 6, 4)
    # related, so that no sample sits on the floor
    h_t = h_t + torch.nn.functional.pad(h_s.detach(), (0, 1))
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


def one_of(loss, dtype):
    """A structure's loss and the student's features that it is of."""
    h_s, h_t = (draw(seed, 5, 7, 6, dtype=dtype) for seed in (0, 1))
    h_s.requires_grad_()
    if loss == "G":
        memories = (draw(seed, 4, 42, dtype=dtype) for seed in (2, 3))
        m_s, m_t = memories
        return global_inter_feature_loss(h_s.flatten(1), m_s, h_t.flatten(1), m_t, 0.5), h_s
    return (intra_feature_loss if loss == "I" else local_inter_feature_loss)(h_s, h_t), h_s


@pytest.mark.parametrize("loss", ["I", "L", "G"])
def test_there_is_a_first_derivative_alone(loss):
    """torch would take the gradient for a constant, and go on."""
    with pytest.raises(RuntimeError, match="a first derivative alone"):
        torch.autograd.grad(*one_of(loss, torch.float64), create_graph=True)


# ---- precision -----------------------------------------------------------------------------------


def test_float32_inside_autocast():
    h_s, h_t = draw(0, 4, 16, 32, dtype=torch.float32), draw(1, 4, 16, 32, dtype=torch.float32)
    expected = intra_feature_loss(h_s, h_t), local_inter_feature_loss(h_s, h_t)
    with torch.autocast("cpu", torch.bfloat16):
        found = intra_feature_loss(h_s, h_t), local_inter_feature_loss(h_s, h_t)
    assert found == expected


@pytest.mark.parametrize("loss", ["I", "L", "G"])
def test_a_backward_inside_autocast_is_that_outside(loss):
    value, h_s = one_of(loss, torch.float32)
    (wanted,) = torch.autograd.grad(value, h_s, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(value, h_s)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_keywords_and_mixed_dtypes():
    h_s, h_t = draw(0, 4, 6, 5), draw(1, 4, 6, 5)
    expected = intra_feature_loss(h_s.float(), h_t.float())
    torch.testing.assert_close(intra_feature_loss(h_t=h_t.float(), h_s=h_s.float()), expected)
    torch.testing.assert_close(intra_feature_loss(h_s.float(), h_t), expected.double())
    assert (
        linear_cka(draw(0, 30, 3).bfloat16(), y=draw(1, 30, 3, dtype=torch.float32)).dtype
        == torch.float32
    )


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


# ---- matrix products and memory ------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Remembers the shape of the first factor of every matrix product."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


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


def test_what_depends_on_the_frozen_memory_alone_is_computed_once():
    """With a FrozenMemory no further (C, p) (p, C) product of the teacher's memory is made."""
    h_s, m_s = draw(0, 5, 12), draw(1, 7, 12)
    h_t, m_t = draw(2, 5, 20), draw(3, 7, 20)
    frozen = FrozenMemory(m_t)
    with Products() as products:
        global_inter_feature_loss(h_s, m_s, h_t, frozen, 0.5)
    assert sorted(products.shapes) == [(5, 12), (5, 20), (7, 12)]  # H_s M_s', H_t M_t', M_s M_s'


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
