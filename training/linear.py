"""Linear layers in float32 on a CPU by oneDNN, as MKL leaves half of an AMD processor unused.

The same numbers but for rounding; mixed precision and GPUs do not come here.
"""
import torch

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(a, b, bias=None):
    """a @ b.mT + bias of (..., p), (q, p) and (q,), without gradient."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class Linear(torch.autograd.Function):
    """torch.nn.functional.linear of x (..., p), weight (q, p) and bias (q,) or None."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])  # (..., q) -> (n, q)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (product(flat, weight.mT).view(x.shape) if needs_x else None,
                product(flat.mT, x.reshape(-1, x.shape[-1]).mT) if needs_weight else None,
                flat.sum(0) if needs_bias else None)


def quick_linears(model, accelerator):
    """Let the model's linear layers compute so, where that is of use. Returns the model."""
    if AVAILABLE and accelerator.device.type == "cpu" and accelerator.mixed_precision == "no":
        for module in model.modules():
            if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
                module.forward = lambda x, module=module: Linear.apply(x, module.weight, module.bias)
    return model
