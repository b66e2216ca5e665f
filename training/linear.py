"""Linear layers in float32 on an AMD processor by oneDNN, as cka.product: the same numbers but for
rounding.

Mixed precision, GPUs and other processors do not come here.
"""

import torch

import cka
from cka import product


class _Linear(torch.autograd.Function):
    """torch.nn.functional.linear of x (n, p), weight (q, p) and bias (q,) or None."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.mT) if needs_x else None,
            product(gradient.mT, x.mT) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


class QuickLinear(torch.nn.Linear):
    """A linear layer that computes so."""

    def forward(self, x):
        flat = x.reshape(
            -1, x.shape[-1]
        )  # (..., p) -> (n, p); views are made out here, as RoCBERT adds in place
        return _Linear.apply(flat, self.weight, self.bias).view(*x.shape[:-1], -1)


def quick_linears(model, accelerator):
    """Make the model's linear layers QuickLinears, where that is of use. Returns the model."""
    if cka.ONEDNN and accelerator.device.type == "cpu" and accelerator.mixed_precision == "no":
        for module in model.modules():
            if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
                module.__class__ = QuickLinear
    return model
