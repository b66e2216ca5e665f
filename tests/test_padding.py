"""Padding that no loss reads is not computed: what is cut, that nothing else changes, and what is
never cut.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from conftest import (
    PAIR_LABELS,
    SHAPE,
    flags,
    memory_flags,
    read_log,
    save_models,
    two_processes,
    write_task,
)
from safetensors.torch import load_file
from test_distill import assert_same_training, stopped_at
from test_variants import loop_of

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from baselines import glue_with_baseline
from tasks.features import load_features
from tasks.glue import get_task
from training import evaluation, reading, unpadding
from training.batches import MiniBatch, Rows, first_tokens, span, uncut

LENGTH = 24  # tokens of a row with its padding; the tiny task's longest has 21
MASK = "--mask_padding"


def method(name, *more):
    return glue_with_baseline.main, ["--method", name, *more]


# what a run is -> (script, its own flags, whether its mini-batches are cut)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_is_cut(name, tiny, tmp_path, monkeypatch):
    main, _, cut = RUNS[name]
    loop = loop_of(monkeypatch, main, flags_of(name, tiny, tmp_path / "s"))
    indices = torch.arange(8)
    longest = int(loop.data.features["attention_mask"][indices].sum(1).max())
    assert longest < LENGTH
    wanted = longest if cut else LENGTH
    assert {x.shape[1] for x in loop.data[indices]["inputs"].values()} == {wanted}


def in_float64(loop):
    """The models of a Loop in float64."""
    for model in (loop.student, loop.teacher.model if loop.teacher else None):
        if model:
            model.double()


def losses_and_gradients(loop, indices, rows):
    """Every term by name, and the gradient of every weight, for the mini-batch of these rows."""
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, _, cut) in RUNS.items() if cut])
def test_losses_and_gradients_are_those_of_whole_rows(
    name, tiny_without_dropout, tmp_path, monkeypatch
):
    main, _, _ = RUNS[name]
    given = flags_of(name, tiny_without_dropout, tmp_path / "s")
    assert_the_same_cut_or_not(loop_of(monkeypatch, main, given))


def test_and_those_of_the_global_structure(tiny_without_dropout, tmp_path, monkeypatch):
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", MASK))
    given = flags(
        tiny_without_dropout,
        tmp_path / "s",
        MASK,
        "--teacher_memory_path",
        tmp_path / "m",
        "--gamma_m",
        0.1,
    )
    loop = loop_of(monkeypatch, glue_with_cka_g.main, given)
    assert loop.cut
    loop.terms["F_MM"].module.double()
    assert_the_same_cut_or_not(loop)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, shape",
    [
        ("roberta", {}),
        ("distilbert", {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24}),
        ("mpnet", {}),
        ("electra", {"embedding_size": 8}),
        ("albert", {"embedding_size": 8}),
        (
            "xlnet",
            {
                "d_model": 16,
                "n_layer": 4,
                "n_head": 2,
                "d_inner": 24,
                "max_position_embeddings": None,
            },
        ),
    ],
)
def test_other_families_mean_the_same_without_padding(family, shape, tmp_path, monkeypatch):
    """Position numbers from the first real token, biases of relative positions, padding on the
    left.
    """
    names = {
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "attention_dropout",
        "seq_classif_dropout",
        "summary_last_dropout",
        "classifier_dropout_prob",
    }
    known = transformers.AutoConfig.for_model(family)
    given = shape | {name: 0.0 for name in names if hasattr(known, name)}
    folder = save_models(tmp_path, family, **given)
    if family == "xlnet":
        pad_on_the_left(folder)
    write_task(folder)
    loop = loop_of(
        monkeypatch, glue_with_baseline.main, flags(folder, tmp_path / "s", "--method", "vkd")
    )
    assert loop.cut
    assert_the_same_cut_or_not(loop)


def pad_on_the_left(folder):
    for name in ("pretrained", "teacher"):
        path = folder / name / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))


def test_positions_that_are_counted_from_the_padding_keep_it(tmp_path, monkeypatch, capsys):
    """BERT numbers positions from the row's start: padded on the left, a cut row is another row."""
    folder = save_models(tmp_path)
    pad_on_the_left(folder)
    write_task(folder)
    for more in ([], [MASK, "--sample_features", "flat"]):
        own = ["--method", "rkd" if more else "vkd", *more]
        loop = loop_of(monkeypatch, glue_with_baseline.main, flags(folder, tmp_path / "s", *own))
        assert not loop.cut
        assert "BertForSequenceClassification reads padding as well" in capsys.readouterr().err
    lengths = lengths_computed(monkeypatch)
    train_memory.main(memory_flags(folder, tmp_path / "m", MASK))
    assert set(lengths[-3:]) == {LENGTH}  # the memory is of the same features


def test_a_family_that_mixes_in_what_it_does_not_mask_keeps_it():
    """FNet has no attention mask at all."""
    torch.manual_seed(0)
    config = transformers.FNetConfig(
        vocab_size=40,
        num_labels=2,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=24,
        type_vocab_size=2,
        max_position_embeddings=64,
        tpu_short_seq_length=LENGTH,
    )
    model = transformers.FNetForSequenceClassification(config)
    mask = (torch.arange(LENGTH) < torch.tensor([[9], [14]])).byte()
    features = {"input_ids": torch.randint(5, 40, (2, LENGTH)) * mask, "attention_mask": mask}
    assert not reading.ignores_padding(model, features)
    assert model.training  # as it was
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=40, **SHAPE, **PAIR_LABELS)
    )
    assert reading.ignores_padding(bert, features)
    features["attention_mask"] = torch.ones_like(mask)
    assert reading.ignores_padding(model, features) is None  # without any nothing can be tried


def test_dev_rows_are_tried_where_training_rows_have_no_padding(tmp_path):
    """Cut to 8 tokens no training row has any; a short dev row does, and its place matters."""
    folder = save_models(tmp_path)
    pad_on_the_left(folder)
    write_task(folder)
    (folder / "RTE" / "dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\tdog\tcat\tentailment\n"
        "1\tthe dog sees a cat\tthe cat sees a dog\tnot_entailment\n"
    )
    glue_with_baseline.main(flags(folder, tmp_path / "s", "--method", "vkd", "--max_seq_length", 8))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    task = get_task("rte")
    rows = load_features(task, folder, "dev", tokenizer, 8).tensors
    assert not rows["attention_mask"].all()
    with torch.no_grad():
        wanted = model(**{k: v.long() for k, v in rows.items() if k != "labels"}).logits
    lines = (tmp_path / "s" / "dev_predictions.tsv").read_text().splitlines()[1:]
    found = torch.tensor([[float(cell) for cell in line.split("\t")[-2:]] for line in lines])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_asked_as_well(tiny, tmp_path, monkeypatch):
    real = reading.ignores_padding

    def ask(model, features):
        return real(model, features) if model.config.num_hidden_layers == 2 else False

    monkeypatch.setattr(reading, "ignores_padding", ask)
    loop = loop_of(
        monkeypatch, glue_with_baseline.main, flags(tiny, tmp_path / "s", "--method", "vkd")
    )
    assert not loop.cut


def test_bigbird_keeps_its_attention(tmp_path, monkeypatch):
    """It falls back to full attention, for good, once it has met a short row."""
    folder = save_models(
        tmp_path, "big_bird", block_size=2, num_random_blocks=1, attention_type="block_sparse"
    )
    write_task(folder)
    loop = loop_of(monkeypatch, glue_with_cka_i.main, flags(folder, tmp_path / "s", MASK))
    kinds = {model.base_model.attention_type for model in (loop.student, loop.teacher.model)}
    assert not loop.cut and kinds == {"block_sparse"}


@pytest.mark.parametrize("more", [("--method", "vkd"), ("--method", "rkd", MASK)])
def test_a_feed_forward_part_in_chunks_gets_whole_rows(more, tmp_path):
    folder = save_models(tmp_path, chunk_size_feed_forward=4)
    write_task(folder)
    assert glue_with_baseline.main(flags(folder, tmp_path / "s", *more)) == 0


def test_first_tokens_are_no_padding():
    h = torch.arange(24.0).view(2, 4, 3)
    batch = {"attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]).bool()}
    assert torch.equal(first_tokens(h, batch), torch.stack([h[0, 2], h[1, 0]]))


# ---- unpadding -----------------------------------------------------------------------------------


@pytest.fixture
def widths(monkeypatch):
    """Fills with the shape of what every linear layer of a feed-forward part reads."""
    found, forward = [], torch.nn.Linear.forward

    def listen(module, x):
        if module.out_features == SHAPE["intermediate_size"]:
            found.append(tuple(x.shape[:-1]))
        return forward(module, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", listen)
    return found


@pytest.mark.parametrize("name", ["VKD", "MiniLM", "PKD", "I, masked"])
def test_an_encoder_computes_no_padding(name, tiny_without_dropout, tmp_path, monkeypatch, widths):
    main, _, _ = RUNS[name]
    loop = loop_of(monkeypatch, main, flags_of(name, tiny_without_dropout, tmp_path / "s"))
    in_float64(loop)
    indices = torch.arange(8)
    tokens = int(loop.data.features["attention_mask"][indices].sum())
    widths.clear()
    losses_and_gradients(loop, indices, loop.data)
    assert len(widths) >= 4 and set(widths) == {(1, tokens)}  # student and teacher
    widths.clear()
    losses_and_gradients(loop, indices, loop.whole)
    assert set(widths) == {(8, LENGTH)}


def test_what_is_left_out_comes_back_as_zeros():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    rows = unpadding.unpadding_of(mask)
    assert rows.groups == [(1, 1), (2, 3), (1, 4)]
    x = torch.randn(4, 4, 5)
    apart = rows.unpad(x)
    assert torch.equal(apart[0, 0], x[1, 0]) and torch.equal(apart[0, 1:4], x[0, :3])
    assert torch.equal(rows.pad(apart), x * mask.unsqueeze(-1))
    heads = torch.randn(4, 2, 4, 5)  # (k, A, W', d)
    apart = rows.unpad(heads.transpose(1, 2)).transpose(1, 2)
    assert torch.equal(rows.pad(apart, dim=2), heads * mask[:, None, :, None])
    assert rows.pad(x) is x  # of what was outside the encoder


def test_attention_keeps_its_dropout(tiny):
    config = transformers.AutoConfig.from_pretrained(
        tiny / "teacher", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    mask = (torch.arange(6) < torch.tensor([[6], [2]])).long()
    features = {"input_ids": torch.full((2, 6), 7) * mask, "attention_mask": mask}

    def twice():
        return [
            MiniBatch(Rows(features, cut=True)[torch.arange(2)], "cpu").forward(model).logits
            for _ in range(2)
        ]

    assert not torch.equal(*twice())
    model.eval()
    assert torch.equal(*twice())


def test_a_causal_encoder_is_left_alone(tiny):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "teacher", is_decoder=True
    )
    assert unpadding.encoder_of(model) is None


def test_where_there_is_little_padding_nothing_is_taken_apart(tiny):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher")
    little = torch.ones(4, 10, dtype=torch.long)
    little[0, 9] = 0
    much = torch.ones(4, 10, dtype=torch.long)
    much[0, 3:] = 0
    other = transformers.MPNetForSequenceClassification(
        transformers.MPNetConfig(
            vocab_size=40, **{k: v for k, v in SHAPE.items() if k != "max_position_embeddings"}
        )
    )
    for one, mask, left_out in ((model, little, False), (model, much, True), (other, much, False)):
        with unpadding.without_padding(one, mask) as rows:
            assert (rows is not None) == left_out
    assert not unpadding.active


# ---- whole runs ----------------------------------------------------------------------------------


def never_cut(monkeypatch):
    monkeypatch.setattr(reading, "ignores_padding", lambda model, features: False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--method", "vkd"),
        ("--method", "pkd", "--evaluate_during_training"),
        ("--method", "minilm", "--group_by_length"),
        ("--method", "vkd", MASK),
        ("--method", "vkd", "--gradient_accumulation_steps", 2),
    ],
)
def test_a_run_is_the_same_cut_or_not(more, tiny_without_dropout, tmp_path, monkeypatch):
    """Losses, weights, dev metrics, and the logged relations, which are those of whole rows."""
    main = glue_with_baseline.main
    main(flags(tiny_without_dropout, tmp_path / "cut", *more))
    never_cut(monkeypatch)
    main(flags(tiny_without_dropout, tmp_path / "whole", *more))
    assert_same_training(tmp_path / "cut", tmp_path / "whole")
    logs = [read_log(tmp_path / name) for name in ("cut", "whole")]
    numbers = [
        [
            value
            for entry in log
            for key, value in entry.items()
            if key.startswith(("rd_", "dev_", "acc"))
        ]
        for log in logs
    ]
    assert len(numbers[0]) >= 4 * len(logs[0])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_observing_does_not_touch_the_training(cached, tiny, tmp_path):
    """The logged relations need whole rows, for which dropout draws numbers of its own."""
    more = ["--method", "vkd"] + (["--teacher_cache", tmp_path / "c"] if cached else [])
    for name, steps in (("often", 1), ("once", 1000)):
        glue_with_baseline.main(flags(tiny, tmp_path / name, *more, "--logging_steps", steps))
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("often", "once")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert len(read_log(tmp_path / "often")) > len(read_log(tmp_path / "once")) == 1


def test_resumed_is_uninterrupted(tiny, tmp_path, monkeypatch):
    """With dropout, bit for bit."""
    more = ["--beta", "0", "--save_steps", 2]
    glue_with_cka_i.main(flags(tiny, tmp_path / "one", *more))
    stopped_at(tiny, tmp_path / "two", monkeypatch, "--beta", "0")
    glue_with_cka_i.main(flags(tiny, tmp_path / "two", *more))
    for name in ("model.safetensors", "dev_predictions.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_are_one(tiny_without_dropout, tmp_path):
    """Both cut to the longest row of the global mini-batch, and observe whole ones."""
    more = ["--beta", "0", "--group_by_length", "--teacher_cache", tmp_path / "c"]
    two_processes(
        "glue_with_cka_i.py",
        flags(tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4),
    )
    glue_with_cka_i.main(flags(tiny_without_dropout, tmp_path / "one", *more))
    assert_same_training(tmp_path / "one", tmp_path / "two")
    one, two = (
        [entry["rd_inter_euclidean"] for entry in read_log(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == pytest.approx(two, rel=1e-3)


# ---- what is kept of the teacher -----------------------------------------------------------------


def lengths_computed(monkeypatch):
    """Fills with the row length of every forward of a teacher that is cached or runs beside the
    student.
    """
    found, forward = [], MiniBatch.forward

    def listen(batch, model, *args, **kwargs):
        if not model.training:
            found.append(next(iter(batch.inputs.values())).shape[1])
        return forward(batch, model, *args, **kwargs)

    monkeypatch.setattr(MiniBatch, "forward", listen)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind, cut",
    [
        ("VKD", "logits", True),
        ("MiniLM", "attention", True),
        ("I, masked", "tokens", True),
        ("I", "tokens", False),
        ("L, masked", "features", False),
        ("RKD, first tokens", "features", False),
    ],
)
def test_a_cached_teacher_reads_what_its_files_hold(
    name, kind, cut, tiny_without_dropout, tmp_path, monkeypatch
):
    """Hidden states are kept whole, for runs with padding and without; the student is cut all the
    same.
    """
    main, own, _ = RUNS[name]
    found = lengths_computed(monkeypatch)

    def cache(folder):
        loop_of(
            monkeypatch,
            main,
            flags(
                tiny_without_dropout,
                tmp_path / folder / "s",
                *own,
                "--teacher_cache",
                tmp_path / folder,
            ),
        )
        (path,) = (tmp_path / folder).glob(f"rte-*/{kind}*/*.safetensors")
        return load_file(path)["values"].float().numpy()

    monkeypatch.setattr(evaluation, "score_teacher", lambda *args: None)
    short = cache("short")
    assert len(found) > 3 and (found[-3:] == [LENGTH] * 3) == (not cut)  # of 21 rows, 8 at a time
    never_cut(monkeypatch)
    whole = cache("whole")
    assert short.shape == whole.shape
    real = (
        whole != 0 if kind == "tokens" and cut else short != 0
    )  # of queries, keys, values: real tokens
    assert real.mean() > 0.2
    np.testing.assert_allclose(short[real], whole[real], rtol=2e-2, atol=2e-3)


def test_places_in_whole_rows():
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
    assert span(mask) == slice(1, 4) and span(mask & False) == slice(0, 5)
    targets = {"columns": torch.arange(1, 4)}
    x = torch.arange(1.0, 19).view(2, 3, 3)
    whole = uncut(x, targets, 5, 5)
    assert torch.equal(whole[:, 1:4, 1:4], x) and whole.sum() == x.sum()
    assert uncut(x, {}, 3, 3) is x


def test_rows_of_evaluation_come_back_in_their_order(tiny, tmp_path):
    """They are read from the longest to the shortest."""
    glue_with_baseline.main(
        flags(tiny, tmp_path / "s", "--method", "vkd", "--per_gpu_eval_batch_size", 5)
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    rows = load_features(get_task("rte"), tiny, "dev", tokenizer, LENGTH).tensors
    rows = {key: value.long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        wanted = model(**rows).logits
    lines = (tmp_path / "s" / "dev_predictions.tsv").read_text().splitlines()[1:]
    found = torch.tensor([[float(cell) for cell in line.split("\t")[-2:]] for line in lines])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
