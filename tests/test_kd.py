"""The terms of VKD: golden values, gradients, the regression's form."""

import pytest
import torch
from conftest import GOLDEN

import kd
import terms
from training.batches import Outputs


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_vkd_golden_values(case, dtype, tolerance):
    z_s, z_t = (torch.tensor(case["inputs"][key], dtype=dtype) for key in ("ls", "lt"))
    s, t = Outputs(z_s), Outputs(z_t)
    vkd = terms.vkd_terms(0.3, 5.0)
    found = sum(
        term.weight * term.loss(s, t, {"labels": torch.tensor(case["inputs"]["y"])})
        for term in vkd.values()
    )
    expected = case["expected"]["vkd_alpha_0.3_tau_5"]
    assert abs(found.item() - expected) <= tolerance * max(1, abs(expected))


def test_kd_gradcheck_and_regression():
    z_s = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z_t = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: kd.kd_loss(z, z_t.detach(), 5.0), z_s)
    kd.kd_loss(z_s, z_t, 5.0).backward()
    assert z_t.grad is None
    assert (
        kd.kd_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]), 5.0) == 2.5
    )  # (1 + 4) / 2
