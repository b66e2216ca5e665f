"""Classes in another order: put in order by their names, or refused by the teacher's scores."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from conftest import change_json, flags, refusal, same_weights, save_models, write_task
from families import shape_of
from safetensors.torch import load_file, save_file

import glue_with_cka_i
import train_teacher
from tasks.glue import get_task
from training import classes


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """A folder as `tiny`, whose teacher is right nearly always."""
    folder = tmp_path_factory.mktemp("able")
    write_task(folder, (400, 200, 5))
    save_models(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=2
    )
    more = "--num_train_epochs 20 --per_gpu_train_batch_size 16 --learning_rate 5e-3".split()
    more += ["--cache_dir", folder / "cache"]
    train_teacher.main(flags(folder, folder / "fine", *more, teacher=True))
    shutil.rmtree(folder / "teacher")
    shutil.copytree(folder / "fine", folder / "teacher")
    return folder


def turned_round(able, folder, names):
    """The able teacher with its two outputs in the other order, and these names."""
    shutil.copytree(able / "teacher", folder)
    weights = load_file(folder / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = weights[key].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "run.json").unlink(missing_ok=True)
    change_json(
        folder / "config.json",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    return folder


# ---- in a run ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_teacher_is_scored_on_dev(able, tmp_path, capsys):
    glue_with_cka_i.main(flags(able, tmp_path / "s", "--max_steps", 1))
    said = capsys.readouterr().err
    scores = json.loads((tmp_path / "s/run.json").read_text())["teacher_scores"]
    fine = json.loads((able / "fine/eval_results.json").read_text())
    assert scores == {"file": "dev.tsv", "rows": 200, "acc": fine["acc"]} and scores["acc"] > 0.95
    assert (
        f"the teacher on 200 rows of dev.tsv: acc {fine['acc']:.4f}" in said
        and "warning" not in said
    )


def test_the_teachers_score_is_computed_once(able, tmp_path):
    """What it said is kept beside the features, and not written again."""
    kept = []
    for name in "ab":
        glue_with_cka_i.main(flags(able, tmp_path / name, "--max_steps", 1))
        (file,) = (tmp_path / "cache").rglob("*logits*")
        kept.append((file, file.stat().st_ino))
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("NO", "YES"), ("LABEL_0", "LABEL_1"), ("entailment", "not_entailment")]
)
def test_another_order_of_classes_is_refused_by_the_scores(names, able, tmp_path, capsys):
    teacher = turned_round(able, tmp_path / "teacher", names)
    said = refusal(capsys, flags(able, tmp_path / "s", "--model_name_or_path", teacher))
    assert "classes in another order" in said and "on 200 rows of dev.tsv it is right in" in said
    assert '"id2label": {"0": "not_entailment", "1": "entailment"}' in said
    assert not (tmp_path / "s/model.safetensors").exists()
    as_it_says = {"0": "not_entailment", "1": "entailment"}
    change_json(teacher / "config.json", id2label=as_it_says)
    glue_with_cka_i.main(
        flags(able, tmp_path / "s", "--model_name_or_path", teacher, "--max_steps", 1)
    )


def test_names_that_lie_are_refused_with_what_to_write(able, tmp_path, capsys):
    """The outputs are in order and their names are not: the advice is of the file, and not of what
    was made of it.
    """
    shutil.copytree(able / "teacher", tmp_path / "teacher")
    change_json(
        tmp_path / "teacher/config.json", id2label={"0": "not_entailment", "1": "entailment"}
    )
    arguments = flags(
        able, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1
    )
    assert '"id2label": {"0": "entailment", "1": "not_entailment"}' in refusal(capsys, arguments)
    change_json(
        tmp_path / "teacher/config.json", id2label={"0": "entailment", "1": "not_entailment"}
    )
    glue_with_cka_i.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("not_entailment", "entailment"),
        ("Not entailment", "ENTAILMENT"),
        ("non-entailment", "entails"),
    ],
)
def test_plain_names_in_another_order_are_put_in_order(names, able, tmp_path, capsys):
    """The student of a teacher turned round is, to the last bit, that of the teacher as it was."""
    teacher = turned_round(able, tmp_path / "teacher", names)
    for output, folder in (("a", able / "teacher"), ("b", teacher)):
        glue_with_cka_i.main(
            flags(able, tmp_path / output, "--model_name_or_path", folder, "--max_steps", 3)
        )
    assert f"has its classes in the order {names[0]}, {names[1]}" in capsys.readouterr().err
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_wnli_may_contradict_itself(able, tmp_path, capsys):
    """A teacher that is worse than chance on dev alone, as WNLI's dev set asks for, is no teacher
    turned round.
    """
    shutil.copytree(able / "RTE", tmp_path / "RTE")
    dev = (able / "RTE/dev.tsv").read_text()
    swapped = (
        dev.replace("\tentailment", "\tX")
        .replace("\tnot_entailment", "\tentailment")
        .replace("\tX", "\tnot_entailment")
    )
    (tmp_path / "RTE/dev.tsv").write_text(swapped)
    glue_with_cka_i.main(flags(able, tmp_path / "s", "--data_dir", tmp_path, "--max_steps", 1))
    assert "not clearly better than always answering" in capsys.readouterr().err


# ---- names, outputs, scores ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, names, order",
    [
        ("SST-2", ("POSITIVE", "NEGATIVE"), [1, 0]),
        ("SST-2", ("negative", "positive"), None),
        ("SST-2", ("LABEL_1", "LABEL_0"), [1, 0]),
        ("SST-2", ("LABEL_0", "LABEL_1"), None),
        ("SST-2", ("gut", "schlecht"), None),
        ("SST-2", ("1", "0"), [1, 0]),
        ("SST-2", ("positive", "POSITIVE"), None),
        ("MRPC", ("equivalent", "not equivalent"), [1, 0]),
        ("QQP", ("not_duplicate", "duplicate"), None),
        ("CoLA", ("acceptable", "unacceptable"), [1, 0]),
        ("WNLI", ("entailment", "not-entailment"), [1, 0]),
        ("MNLI", ("entailment", "neutral", "contradiction"), [1, 2, 0]),
        ("MNLI", ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), None),
        ("MNLI", ("LABEL_0", "LABEL_1", "LABEL_2"), None),
        ("QNLI", ("not_entailment", "entailment"), [1, 0]),
        ("STS-B", ("LABEL_0",), None),
    ],
)
def test_names_of_classes(task, names, order):
    config = transformers.BertConfig(num_labels=len(names), id2label=dict(enumerate(names)))
    assert classes.order_of(config, get_task(task)) == order


@pytest.mark.parametrize(
    "family",
    [
        "bert",
        "roberta",
        "distilbert",
        "electra",
        "xlnet",
        "mpnet",
        "modernbert",
        "albert",
        "deberta-v2",
    ],
)
def test_a_permuted_classifier_says_the_same_in_another_order(family):
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {
        key: value for key, value in (shape | shape_of(family, 1)).items() if value is not None
    }
    config = transformers.AutoConfig.for_model(
        family, **shape, vocab_size=40, num_labels=3, pad_token_id=1
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        before = model(torch.arange(5, 13).view(2, 4)).logits
        classes.permute_classes(model, [1, 2, 0])  # output 0 is class 1, 1 is class 2, 2 is class 0
        after = model(torch.arange(5, 13).view(2, 4)).logits
    torch.testing.assert_close(after, before[:, [2, 0, 1]], rtol=0, atol=0)


def test_best_order_needs_evidence():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    right = np.eye(3)[labels]
    assert classes.best_order(right, labels) is None
    rolled = np.roll(right, 1, axis=1)  # output k is class k - 1
    assert classes.best_order(rolled, labels) == [2, 0, 1]
    assert classes.best_order(rolled[:4], labels[:4]) is None  # too few rows
    assert classes.best_order(rng.normal(size=(300, 3)), labels) is None  # a random teacher
    binary = (labels > 0).astype(int)
    assert classes.best_order(np.eye(2)[np.zeros(300, int)], binary) is None  # a constant one


def test_a_regression_of_another_scale():
    task, rng = get_task("sts-b"), np.random.default_rng(0)
    labels = rng.uniform(0, 5, 200)
    noisy = labels + rng.normal(size=200)
    for scores in (noisy / 5, -noisy, 5 - noisy):
        assert "on another scale" in classes.other_meaning(
            task, "T", scores[:, None], labels, "dev"
        )
    assert "infinite or NaN logits" in classes.other_meaning(
        task, "T", np.full((200, 1), np.nan), labels, "dev"
    )
    # random teachers are legal
    few = rng.normal(size=(500, 4))
    assert not any(classes.other_scale(scores, labels[:4]) for scores in few)
    for scores in (noisy, rng.normal(size=200), np.zeros(200)):
        assert classes.other_meaning(task, "T", scores[:, None], labels, "dev") is None
