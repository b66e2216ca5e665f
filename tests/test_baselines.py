"""The rivals: each loss against a second implementation and its theorems; all methods under one
loop.
"""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.spatial
import torch
import transformers
from accelerate.state import AcceleratorState
from conftest import (
    flags,
    read_log,
    save_models,
    shell,
    teacher_features,
    two_processes,
    write_task,
)
from safetensors.torch import load_file
from scipy.linalg import orthogonal_procrustes
from scipy.special import rel_entr, softmax

import glue_with_cka_i
import train_teacher
from baselines import glue_with_baseline as script
from baselines import gram, minilm, pkd, procrustes, rkd
from baselines.shared import between_samples, samples
from cka import linear_cka
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from terms import needs_of
from training.attention import heard, last_attention
from training.methods import read_methods

SCRIPT = "baselines/glue_with_baseline.py"


def features(*shape, seed=0, scale=1.0):
    return scale * torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def rotation(width, seed=0):
    return torch.linalg.qr(features(width, width, seed=seed))[0]


# ---- PKD -----------------------------------------------------------------------------------------


def test_patience_is_that_of_numpy():
    h_s, h_t = features(5, 3, 7, seed=1), features(5, 3, 7, seed=2)
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
    x_s, x_t = features(rows, 4, seed=3), features(rows, 9, seed=4, scale=scale)
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
    x_s, x_t = features(6, 5, seed=5), features(6, 8, seed=6)
    moved = 3 * x_s @ rotation(5) + 7
    assert loss(moved, x_t).item() == pytest.approx(loss(x_s, x_t).item(), rel=1e-10)
    assert loss(moved, x_s).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(x, x_t), x_s.requires_grad_())


def test_relations_of_equal_and_single_samples():
    """Two equal samples have no direction, a batch of one no relation: finite, and no NaN in the
    gradient.
    """
    x = features(4, 5, seed=7)
    x = torch.cat([x, x[:1]]).requires_grad_()
    for loss in (rkd.distance_loss, rkd.angle_loss):
        for rows in (x, x[:1], x.float(), x.half().float() * 0 + 1):
            value = loss(rows, features(len(rows), 6, seed=8))
            assert value.isfinite()
            (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
            assert gradient.isfinite().all()


def test_angles_hold_only_chunks(monkeypatch):
    """In chunks the same value and gradient, and never all B³ angles, nor the B² D differences,
    forward or backward.
    """
    x_s, x_t = features(12, 50, seed=9).requires_grad_(), features(12, 40, seed=10)
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


# ---- MiniLM --------------------------------------------------------------------------------------


def eager_attention(folder, batch):
    """The last layer's attention distributions, by transformers' own eager attention, and its
    values (B, W, D).
    """
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = model(**batch, output_attentions=True, output_hidden_states=True)
        values = model.bert.encoder.layer[-1].attention.self.value(out.hidden_states[-2])
    return out.attentions[-1].double().numpy(), values.double().numpy()


def test_minilm_is_that_of_transformers_own_attention(tmp_path):
    """Attention distributions from transformers' eager form, value relations and KL by SciPy."""
    folders = [
        save_models(tmp_path / name, seed=seed, **shape) / "teacher"
        for name, seed, shape in (("s", 1, {"num_hidden_layers": 2}), ("t", 2, {"hidden_size": 32}))
    ]
    write_task(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0])
    rows = load_features(get_task("rte"), tmp_path, "train", tokenizer, 24).tensors
    batch = {key: value[:6].long() for key, value in rows.items() if key != "labels"}
    mask, found = batch["attention_mask"].bool(), []
    for folder in folders:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad(), heard(model) as attention:
            model(**batch)
        found.append(attention)
    assert [x.shape for x in found[1]] == [(6, 2, 24, 16)] * 3

    (a_s, v_s), (a_t, v_t) = (eager_attention(folder, batch) for folder in folders)
    total = 0
    for i, length in enumerate(mask.sum(1).tolist()):
        for head in range(2):
            for token in range(length):
                total += (
                    rel_entr(a_t[i, head, token, :length], a_s[i, head, token, :length]).sum()
                    / length
                )
                p = [
                    softmax(x[i, :length] @ x[i, token] / math.sqrt(len(x[i, token])))
                    for x in (
                        v[:, :, head * v.shape[2] // 2 : (head + 1) * v.shape[2] // 2]
                        for v in (v_t, v_s)
                    )
                ]
                total += rel_entr(*p).sum() / length
    assert minilm.minilm_loss(*found, mask).item() == pytest.approx(total / (6 * 2), rel=1e-4)


def draw_attention(heads, width, seed, rows=3, length=5):
    return [features(rows, heads, length, width // heads, seed=seed + i) for i in range(3)]


def test_minilm_v2_is_that_of_numpy_for_other_heads_and_widths():
    s, t, mask = (
        draw_attention(2, 12, 20),
        draw_attention(4, 24, 30),
        torch.ones(3, 5, dtype=torch.bool),
    )
    total = 0
    for x_s, x_t in zip(s, t, strict=True):
        joined = [x.numpy().transpose(0, 2, 1, 3).reshape(3, 5, -1) for x in (x_t, x_s)]
        for i, head in itertools.product(range(3), range(6)):
            part = [x[i, :, head * x.shape[2] // 6 : (head + 1) * x.shape[2] // 6] for x in joined]
            p_t, p_s = (softmax(x @ x.T / math.sqrt(x.shape[1]), axis=1) for x in part)
            total += rel_entr(p_t, p_s).sum() / (5 * 6 * 3)
    assert minilm.minilm_v2_loss(s, t, mask, 6).item() == pytest.approx(total, rel=1e-10)
    assert torch.equal(minilm.relation_heads(s[0], 2), s[0])


def test_minilm_knows_no_padding():
    """More padding, and whatever stands there, change neither loss nor gradient."""
    s, t, mask = (
        draw_attention(2, 8, 40),
        draw_attention(2, 12, 50),
        torch.ones(3, 5, dtype=torch.bool),
    )
    mask[1, 3:] = False
    s[0].requires_grad_()
    value = minilm.minilm_loss(s, t, mask)
    (gradient,) = torch.autograd.grad(value, s[0])
    assert (gradient[1, :, 3:] == 0).all() and (gradient[1, :, :3] != 0).all()
    noisy = [
        torch.cat([x.where(mask[:, None, :, None], 100.0), features(3, 2, 4, x.shape[3])], 2)
        for x in (*s, *t)
    ]
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
    assert minilm.minilm_loss(noisy[:3], noisy[3:], longer).item() == pytest.approx(
        value.item(), rel=1e-12
    )
    assert minilm.minilm_loss(t, t, mask) == 0
    assert torch.autograd.gradcheck(lambda q: minilm.minilm_loss([q, *s[1:]], t, mask), s[0])


@pytest.mark.parametrize(
    "family, changes",
    [
        ("bert", {}),
        ("roberta", {}),
        ("electra", {"embedding_size": 16}),
        ("mpnet", {}),
        ("albert", {"embedding_size": 16}),
        (
            "distilbert",
            {
                "hidden_size": None,
                "num_hidden_layers": None,
                "num_attention_heads": None,
                "dim": 16,
                "n_layers": 4,
                "n_heads": 2,
                "hidden_dim": 24,
            },
        ),
    ],
)
def test_attention_is_heard_in_each_family(family, changes):
    """What is heard are the projections of the last layer's input, whatever the family calls
    them.
    """
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 40,
    } | changes
    config = transformers.AutoConfig.for_model(
        family, **{k: v for k, v in shape.items() if v is not None}
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    tokens = torch.arange(3, 15).view(2, 6)
    with torch.no_grad(), heard(model) as attention:
        h = model(tokens, output_hidden_states=True).hidden_states[-2]
        names = ("query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin")
        projections = [m for name, m in model.named_modules() if name.split(".")[-1] in names][-3:]
        wanted = [p(h).view(2, 6, 2, 8).transpose(1, 2) for p in projections]
    for found, expected in zip(attention, wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert not any(m._forward_hooks for m in last_attention(model)[1])


@pytest.mark.parametrize(
    "loss",
    [
        pkd.patience_loss,
        rkd.distance_loss,
        rkd.angle_loss,
        gram.gram_distance,
        procrustes.procrustes_distance,
        minilm.minilm_loss,
    ],
)
def test_no_gradient_reaches_the_teacher(loss):
    s, t = (
        draw_attention(2, 8, seed) if loss is minilm.minilm_loss else features(5, 6, seed=seed)
        for seed in (1, 10)
    )
    if loss is pkd.patience_loss:
        s, t = s.unsqueeze(1), t.unsqueeze(1)  # (B, D) -> (B, 1, D)
    students, teachers = ([x] if torch.is_tensor(x) else x for x in (s, t))
    for x in (*students, *teachers):
        x.requires_grad_()
    mask = [torch.ones(3, 5, dtype=torch.bool)] if loss is minilm.minilm_loss else []
    loss(s, t, *mask).backward()
    assert all(x.grad is None for x in teachers) and all(x.grad.abs().sum() > 0 for x in students)


# ---- Gram and Procrustes -------------------------------------------------------------------------


def test_gram_distance_is_that_of_numpy():
    x_s, x_t = features(6, 4, seed=60), features(6, 9, seed=61)
    k_s, k_t = (c @ c.T / (c**2).sum() for c in (x.numpy() - x.numpy().mean(0) for x in (x_s, x_t)))
    assert gram.gram_distance(x_s, x_t).item() == pytest.approx(((k_s - k_t) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(
    "shape_s, shape_t", [((7, 4), (7, 4)), ((3, 20), (3, 30)), ((9, 3), (9, 5)), ((5, 4), (5, 9))]
)
def test_procrustes_distance_is_that_of_scipy(shape_s, shape_t):
    """SciPy's disparity also scales by the best s: disparity = 1 - s², distance = 2 - 2 s."""
    x_s, x_t = features(*shape_s, seed=62), features(*shape_t, seed=63)
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
    x_s, x_t = features(2, 6, 5, seed=64), features(2, 6, 8, seed=65)
    moved = 3 * x_s @ rotation(5) + 7
    assert loss(moved, x_t).item() == pytest.approx(loss(x_s, x_t).item(), rel=1e-8)
    assert loss(moved, x_s).item() == pytest.approx(0, abs=1e-10)
    stretched = x_s * torch.tensor([1.0, 2, 1, 1, 1], dtype=torch.float64)
    assert loss(stretched, x_s).item() > 1e-3
    assert torch.autograd.gradcheck(lambda x: loss(x, x_t), x_s.requires_grad_())


@pytest.mark.parametrize("loss", [gram.gram_distance, procrustes.procrustes_distance])
def test_geometric_distances_of_masked_and_constant_rows(loss):
    x_s, x_t, mask = (
        features(2, 6, 5, seed=66),
        features(2, 6, 8, seed=67),
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
        value = loss(constant, features(2, constant.shape[1], 5))
        assert value.isfinite()
        value.backward()
        assert constant.grad.isfinite().all()


def test_gram_distance_is_not_cka_in_disguise():
    """CKA is 1 for Gram matrices of one direction whatever their size; two pairs of equal CKA
    differ here.
    """
    x, y, z = features(6, 5, seed=68), features(6, 5, seed=69), features(6, 5, seed=70)
    pairs = [(x, x + a * y) for a in (0.5, 1.0)] + [(x, z), (y, z)]
    by_cka = sorted(pairs, key=lambda p: -linear_cka(*p).item())
    ratios = [gram.gram_distance(*p).item() / (2 - 2 * linear_cka(*p).item()) for p in by_cka]
    assert max(ratios) / min(ratios) > 1.1


# ---- under one loop ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(read_methods()))
def test_a_method_reads_what_it_declares(name):
    args = script.make_parser().parse_args([*flags(Path("tiny"), "out"), "--method", name])
    script.fill_flags(args)
    assert needs_of(script.terms(args)) == {"logits", read_methods()[name].needs}


RUNS = {
    "none": ([], {"ce"}),
    "VKD": (["--method", "vkd"], {"ce", "kd"}),
    "PKD": (["--beta", 1000], {"ce", "kd", "patience"}),
    "RKD": ([], {"ce", "kd", "distance", "angle"}),
    "MiniLM": ([], {"ce", "kd", "attention"}),
    "Gram": (["--beta", 10], {"ce", "kd", "gram"}),
    "Procrustes": (["--beta", 10], {"ce", "kd", "procrustes"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_each_method_trains(tiny_without_dropout, tmp_path, name):
    """The loss of each falls on the toy task, and the records are those of the FSD scripts."""
    more, terms = RUNS[name]
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        "--method",
        name.lower(),
        *more,
        "--num_train_epochs",
        8,
        "--results_csv",
        tmp_path / "r.csv",
    )
    assert script.main(arguments) == 0
    log = read_log(tmp_path / "s")
    assert terms <= log[0].keys() and "rd_intra_cosine" in log[0]
    assert (
        not {"ce", "kd", "intra", "local", "patience", "distance", "angle", "attention"} - terms
        & log[0].keys()
    )
    for term in terms - {"ce", "kd"} or {"total"}:
        assert sum(e[term] for e in log[-5:]) < 0.95 * sum(e[term] for e in log[:5]), term
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["method"] == name and run["finished"] and run["results"]["acc"] >= 0
    assert (tmp_path / "r.csv").read_text().split("\n")[1].startswith(f"{name},RTE,")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, more",
    [
        ("vkd", []),
        ("pkd", []),
        ("rkd", ["--sample_features", "first"]),
        ("minilm", []),
        ("minilm", ["--relation_heads", 4]),
        ("gram", ["--between", "tokens", "--mask_padding"]),
        ("procrustes", ["--bf16"]),
        ("minilm", ["--mask_padding"]),
    ],
)
def test_cached_is_uncached(tiny_without_dropout, tmp_path, method, more):
    for name, cache in (("plain", []), ("cached", ["--teacher_cache", tmp_path / "c"])):
        AcceleratorState._reset_state(reset_partial_state=True)
        script.main(flags(tiny_without_dropout, tmp_path / name, "--method", method, *more, *cache))
    plain, cached = (read_log(tmp_path / name) for name in ("plain", "cached"))
    for one, other in zip(plain, cached, strict=True):
        names = [key for key in one if key != "examples_per_second"]
        assert [one[key] for key in names] == pytest.approx(
            [other[key] for key in names], rel=2e-2, abs=2e-4
        )


def test_none_and_vkd_are_those_of_the_other_scripts(tiny, tmp_path):
    shared = ["--num_train_epochs", 1]
    script.main(flags(tiny, tmp_path / "none", "--method", "none", *shared))
    train_teacher.main(
        flags(tiny, tmp_path / "alone", "--student_num_hidden_layers", 2, *shared, teacher=True)
    )
    script.main(flags(tiny, tmp_path / "vkd", "--method", "VKD", "--alpha", 0.3, *shared))
    script.main(
        flags(tiny, tmp_path / "pkd", "--method", "pkd", "--beta", 0, "--alpha", 0.3, *shared)
    )
    glue_with_cka_i.main(flags(tiny, tmp_path / "cka", "--beta", 0, "--alpha", 0.3, *shared))
    weights = {
        folder.name: load_file(folder / "model.safetensors")
        for folder in tmp_path.iterdir()
        if folder.is_dir() and (folder / "model.safetensors").exists()
    }
    for one, other in (("none", "alone"), ("vkd", "cka"), ("pkd", "cka")):
        assert all(torch.equal(weights[one][key], weights[other][key]) for key in weights[one]), (
            one,
            other,
        )
    assert json.loads((tmp_path / "pkd/run.json").read_text())["method"] == "VKD"


def test_pkd_pairs_and_what_is_observed(tiny_without_dropout, tmp_path):
    """Student layer 1 of 2 learns from the teacher's 2 of 4; the relations logged are those of
    layers 1 and 3.
    """
    script.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--method",
            "pkd",
            "--learning_rate",
            0,
            "--max_steps",
            3,
            "--logging_steps",
            1,
            "--per_gpu_train_batch_size",
            21,
        )
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_without_dropout / "teacher"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher")
    task = get_task("rte")
    rows = load_features(task, tiny_without_dropout, "train", tokenizer, 24).tensors
    rows = {key: value.long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        h_s = model(**rows, output_hidden_states=True).hidden_states[1]
        h_t = teacher(**rows, output_hidden_states=True).hidden_states[2]
    log = read_log(tmp_path / "s")[0]
    assert log["patience"] == pytest.approx(pkd.patience_loss(h_s, h_t).item(), rel=1e-4)
    flat_t = teacher_features(tiny_without_dropout)
    wanted = (
        (torch.cdist(flat_t, flat_t) - torch.cdist(h_s.flatten(1), h_s.flatten(1))).abs().mean()
    )
    assert log["rd_inter_euclidean"] == pytest.approx(wanted.item(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rkd", "minilm"])
def test_two_processes_have_the_losses_of_one(tiny_without_dropout, tmp_path, method):
    shared = ["--method", method, "--no_cuda"]
    script.main(flags(tiny_without_dropout, tmp_path / "one", *shared))
    two = flags(tiny_without_dropout, tmp_path / "two", *shared)
    two[two.index("--per_gpu_train_batch_size") + 1] = "4"
    two_processes(SCRIPT, two)
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [e["total"] for e in two] == pytest.approx([e["total"] for e in one], rel=1e-3)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--method", "vkd", "--beta", 1], "--beta means nothing to --method vkd"),
        (["--method", "none", "--alpha", 0.5], "--alpha means nothing to --method none"),
        (["--method", "pkd", "--gamma_d", 1], "--gamma_d means nothing to --method pkd"),
        (
            ["--method", "gram", "--between", "tokens", "--sample_features", "first"],
            "exclude each other",
        ),
        (["--method", "minilm", "--relation_heads", 3], "--relation_heads must divide the widths"),
        (["--method", "minilm", "--relation_heads", -1], "--relation_heads must be at least 1"),
        (["--method", "pkd", "--do_layerwise"], "--do_layerwise means nothing to --method pkd"),
        (["--method", "rkd", "--gamma_a", -1], "--gamma_a must be at least 0"),
    ],
)
def test_refusals(tiny, tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        script.main(flags(tiny, tmp_path / "s", *more))


def test_models_that_do_not_fit(tiny, tmp_path):
    wide = save_models(tmp_path / "wide", hidden_size=32, num_attention_heads=4)
    write_task(wide)
    arguments = [
        str(tiny / "pretrained") if a == str(wide / "pretrained") else a
        for a in flags(wide, tmp_path / "s")
    ]
    for method, said in (("pkd", "32"), ("minilm", "pass --relation_heads")):
        with pytest.raises(UserError, match=said):
            script.main([*arguments, "--method", method])
    assert script.main([*arguments, "--method", "minilm", "--relation_heads", "8"]) == 0
    mpnet = save_models(tmp_path / "mpnet", "mpnet")
    write_task(mpnet)
    with pytest.raises(UserError, match="position bias"):
        script.main(flags(mpnet, tmp_path / "m", "--method", "minilm"))
    assert (
        script.main(flags(mpnet, tmp_path / "m", "--method", "minilm", "--relation_heads", 2)) == 0
    )


def test_a_wrong_method_prints_the_choices(tiny, tmp_path):
    done = shell(SCRIPT, *flags(tiny, tmp_path / "s", "--method", "fitnet"))
    assert done.returncode == 2 and ", ".join(
        ["none", "vkd", *read_methods()]
    ) in done.stderr.replace("'", "")
    assert "Traceback" not in done.stderr


def test_samples_are_whole_where_a_rival_does_not_take_first_tokens():
    """A rival without --sample_features among its flags has None: all padding is compared."""
    args = SimpleNamespace(sample_features=None)
    assert between_samples(1.0, None, args).padding
    h = torch.randn(2, 5, 3)
    assert torch.equal(samples(h, {}, args), h.flatten(1))
