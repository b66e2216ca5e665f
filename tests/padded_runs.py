"""Runs whose mini-batches may be cut to their longest row, or may not; steps computed both ways.

Cutting is allowed if padded positions change neither the outputs for tokens nor the loss.
"""

import pytest
import torch
from conftest import change_json, flags

import glue_with_cka_i
import glue_with_cka_ilg
import train_teacher
from baselines import glue_with_baseline
from training import reading
from training.batches import MiniBatch, Rows

LENGTH = 24  # tokens a row with padding; the longest row of the tiny task has 21
MASK = "--mask_padding"


def method(name, *more):
    return glue_with_baseline.main, ["--method", name, *more]


# name -> (main of the script, the run's own flags, whether its mini-batches are cut)
RUNS = {
    "teacher": (train_teacher.main, [], True),
    "none": (*method("none"), True),
    "VKD": (*method("vkd"), True),
    "VKD, by weights": (glue_with_cka_ilg.main, ["--beta", "0"], True),
    "MiniLM": (*method("minilm"), True),
    "MiniLM, v2": (*method("minilm", "--relation_heads", "2"), True),
    "PKD": (*method("pkd"), True),
    "RKD": (*method("rkd"), False),
    "RKD, first tokens": (*method("rkd", "--sample_features", "first"), True),
    "RKD, masked": (*method("rkd", MASK), True),
    "Gram": (*method("gram"), False),
    "Gram, tokens": (*method("gram", "--between", "tokens"), False),
    "Gram, tokens, masked": (*method("gram", "--between", "tokens", MASK), True),
    "Procrustes, first tokens": (*method("procrustes", "--sample_features", "first"), True),
    "I": (glue_with_cka_i.main, ["--internal"], False),
    "I, masked": (glue_with_cka_i.main, ["--internal", MASK], True),
    "I, debiased, masked": (
        glue_with_cka_i.main,
        ["--internal", MASK, "--cka_estimator", "debiased"],
        True,
    ),
    "L": (glue_with_cka_i.main, [], False),
    "L, masked": (glue_with_cka_i.main, [MASK], True),
    "L, first tokens": (glue_with_cka_i.main, ["--sample_features", "first"], True),
    "I and L, I of no weight": (
        glue_with_cka_ilg.main,
        ["--gamma_g", "0", "--gamma_i", "0"],
        False,
    ),
}


def flags_of(name, folder, output, *more):
    main, own, _ = RUNS[name]
    return flags(folder, output, *own, *more, teacher=main is train_teacher.main)


def in_float64(loop):
    """Turn the models of a Loop into float64."""
    for model in (loop.student, loop.teacher.model if loop.teacher else None):
        if model:
            model.double()


def losses_and_gradients(loop, indices, rows):
    """({term: value}, {weight: gradient}) of the student for one mini-batch.

    indices: (B,), of rows, a batches.Rows.
    """
    batch = MiniBatch(rows[indices], "cpu")
    s, t = loop.forward(batch), loop.ask(batch)
    values, _ = loop.compute_terms(s, t, batch)
    values["total"].backward()
    gradients = {name: p.grad for name, p in loop.student.named_parameters() if p.grad is not None}
    loop.student.zero_grad()
    return {name: value.item() for name, value in values.items()}, gradients


def assert_the_same_cut_or_not(loop):
    in_float64(loop)
    loop.student.train()  # there is no dropout in these models
    for indices in (torch.arange(8), torch.tensor([20, 3, 7])):
        (cut, gradients), (whole, wanted) = (
            losses_and_gradients(loop, indices, Rows(loop.data.features, short))
            for short in (True, False)
        )
        assert cut == pytest.approx(whole, rel=1e-10, abs=1e-12)
        assert gradients.keys() == wanted.keys() and len(wanted) > 20
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[key], rtol=1e-10, atol=1e-12)


def pad_on_the_left(folder):
    for name in ("pretrained", "teacher"):
        change_json(folder / name / "tokenizer_config.json", padding_side="left")


def never_cut(monkeypatch):
    monkeypatch.setattr(reading, "ignores_padding", lambda model, features: False)


def lengths_computed(monkeypatch):
    """A list that gets the row length, in tokens, of every forward of a model in evaluation mode:
    in training that is the teacher.
    """
    found, forward = [], MiniBatch.forward

    def listen(batch, model, *args, **kwargs):
        if not model.training:
            found.append(next(iter(batch.inputs.values())).shape[1])
        return forward(batch, model, *args, **kwargs)

    monkeypatch.setattr(MiniBatch, "forward", listen)
    return found
