"""Decorators for losses: float32 or wider, inside autocast too, and no second derivative."""

import functools

import torch


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
