"""The rivals under one loop: their terms, caches, processes and refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import net
import padded_runs
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from conftest import (
    draw,
    draw_attention,
    flags,
    read_log,
    same_weights,
    save_models,
    shell,
    teacher_features,
    two_processes,
    write_task,
)
from runs_of_two_tokenizers import METHODS, OF_TOKENS
from teacher_caches import assert_same_log

import glue_with_cka_i
import train_teacher
from baselines import glue_with_baseline as script
from baselines import gram, minilm, pkd, procrustes, rkd
from baselines.shared import between_samples, samples
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from terms import needs_of
from training.methods import read_methods

SCRIPT = "baselines/glue_with_baseline.py"


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
        draw_attention(2, 8, seed) if loss is minilm.minilm_loss else draw(seed, 5, 6)
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


@pytest.mark.parametrize("runs", [RUNS, net.SHARED, padded_runs.RUNS, METHODS | OF_TOKENS])
def test_every_rival_is_in_the_lists_of_runs(runs):
    """What trains, stays what it was, may be cut, or reads other tokens than its teacher."""
    tried = {name.split(",")[0] for name in runs}
    assert {method.name for method in read_methods().values()} <= tried


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
    others = {"intra", "local"}.union(*(found for _, found in RUNS.values())) - terms
    assert not others & log[0].keys()
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
    assert_same_log(tmp_path / "plain", tmp_path / "cached", rel=2e-2, abs=2e-4)


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
    for one, other in (("none", "alone"), ("vkd", "cka"), ("pkd", "cka")):
        assert same_weights(tmp_path / one, tmp_path / other), (one, other)
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


def test_samples_are_whole_where_a_rival_does_not_take_first_tokens():
    """A rival without --sample_features among its flags has None: all padding is compared."""
    args = SimpleNamespace(sample_features=None)
    assert between_samples(1.0, None, args).padding
    h = torch.randn(2, 5, 3)
    assert torch.equal(samples(h, {}, args), h.flatten(1))


# ---- what is refused -----------------------------------------------------------------------------


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
