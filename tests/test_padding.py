"""Padding that no loss reads is not computed, and nothing else changes."""

import numpy as np
import pytest
import torch
import transformers
from conftest import (
    assert_same_files,
    assert_same_training,
    flags,
    memory_flags,
    read_log,
    same_weights,
    save_models,
    two_processes,
    write_task,
)
from families import shape_of
from padded_runs import (
    LENGTH,
    MASK,
    RUNS,
    assert_the_same_cut_or_not,
    flags_of,
    lengths_computed,
    never_cut,
    pad_on_the_left,
)
from safetensors.torch import load_file
from stopped_runs import loop_of, stopped_at

import glue_with_cka_g
import glue_with_cka_i
import train_memory
from baselines import glue_with_baseline
from tasks.features import load_features
from tasks.glue import get_task
from training import evaluation
from training.batches import span, uncut


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_is_cut(name, tiny, tmp_path):
    main, _, cut = RUNS[name]
    loop = loop_of(main, flags_of(name, tiny, tmp_path / "s"))
    indices = torch.arange(8)
    longest = int(loop.data.features["attention_mask"][indices].sum(1).max())
    assert longest < LENGTH
    wanted = longest if cut else LENGTH
    assert {x.shape[1] for x in loop.data[indices]["inputs"].values()} == {wanted}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, _, cut) in RUNS.items() if cut])
def test_losses_and_gradients_are_those_of_whole_rows(name, tiny_without_dropout, tmp_path):
    main, _, _ = RUNS[name]
    given = flags_of(name, tiny_without_dropout, tmp_path / "s")
    assert_the_same_cut_or_not(loop_of(main, given))


@pytest.mark.slow
def test_and_those_of_the_global_structure(tiny_without_dropout, tmp_path):
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
    loop = loop_of(glue_with_cka_g.main, given)
    assert loop.cut
    loop.terms["F_MM"].module.double()
    assert_the_same_cut_or_not(loop)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, shape",
    [
        ("roberta", {}),
        ("distilbert", shape_of("distilbert")),
        ("mpnet", {}),
        ("electra", shape_of("electra")),
        ("albert", shape_of("albert")),
        ("xlnet", shape_of("xlnet")),
    ],
)
def test_other_families_mean_the_same_without_padding(family, shape, tmp_path):
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
    loop = loop_of(glue_with_baseline.main, flags(folder, tmp_path / "s", "--method", "vkd"))
    assert loop.cut
    assert_the_same_cut_or_not(loop)


# ---- whole runs ----------------------------------------------------------------------------------


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
    assert same_weights(tmp_path / "often", tmp_path / "once")
    assert len(read_log(tmp_path / "often")) > len(read_log(tmp_path / "once")) == 1


@pytest.mark.slow
def test_resumed_is_uninterrupted(tiny, tmp_path):
    """With dropout, bit for bit."""
    more = ["--beta", "0", "--save_steps", 2]
    glue_with_cka_i.main(flags(tiny, tmp_path / "one", *more))
    stopped_at(tiny, tmp_path / "two", "--beta", "0")
    glue_with_cka_i.main(flags(tiny, tmp_path / "two", *more))
    assert_same_files(
        tmp_path / "one", tmp_path / "two", "model.safetensors", "dev_predictions.tsv"
    )


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


# ---- what is kept of the teacher -----------------------------------------------------------------


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
