"""Losses in float32 or better, inside autocast too, and with a first derivative alone."""

import functools

import torch


def full_precision(function):
    """Run `function` outside autocast, its float tensors in one dtype, float32 or wider."""

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
    """Run a backward outside autocast, and refuse a second derivative.

    Torch would take the first one for a constant, and go on with a wrong number.
    """

    @functools.wraps(backward)
    def wrapper(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError("these losses have a first derivative alone: leave create_graph out")
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return wrapper
