"""Decorators for losses: float32 or wider, inside autocast too, and no second derivative.

Also: where bfloat16 saves time.
"""

import functools

import torch

# names of torch.cpu.get_capabilities, of x86 and of ARM: instructions that multiply bfloat16
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def full_precision(function):
    """Run `function` outside autocast, its float tensors cast to one dtype, float32 or wider."""

    def is_float(a):
        return torch.is_tensor(a) and a.is_floating_point()

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        floats = [a for a in (*args, *kwargs.values()) if is_float(a)]
        dtype = functools.reduce(torch.promote_types, [a.dtype for a in floats], torch.float32)

        def cast(a):
            return a.to(dtype) if is_float(a) else a

        with torch.autocast(floats[0].device.type, enabled=False):
            return function(*map(cast, args), **{name: cast(a) for name, a in kwargs.items()})

    return wrapper


def first_order(backward):
    """Run a backward outside autocast; RuntimeError for a second derivative (create_graph).

    Torch would take the first derivative for a constant, and compute a wrong second one.
    """

    @functools.wraps(backward)
    def wrapper(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError("these losses have a first derivative alone: leave create_graph out")
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return wrapper


def computes_bfloat16(device, capabilities=None):
    """Whether a device has instructions for bfloat16; without them it is slower than float32.

    device: as torch.device takes it. capabilities: of the CPU, {name: value}, by default this
    machine's. True of devices of which nothing is known.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    found = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return any(found.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def tell_slow_bfloat16(device):
    """A note for those who ask for bf16 on a device without instructions for it; else None."""
    if computes_bfloat16(device):
        return None
    kind = "GPU" if torch.device(device).type == "cuda" else "CPU"
    return (
        f"note: this {kind} has no instructions for bfloat16, so bf16 takes longer than float32 "
        "here, on some CPUs many times as long: train in float32 (scripts/study: --float32)"
    )
