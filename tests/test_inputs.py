"""Never a silently wrong student: what comes in is done right, or refused before the training."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from conftest import (
    WORDS,
    flags,
    memory_flags,
    read_log,
    save_models,
    write_task,
)
from safetensors.torch import load_file, save_file
from test_models import byte_level, change_config, sentencepiece_unigram

import common
import glue_with_cka_g
import glue_with_cka_i
import memory
import train_memory
import train_teacher
from baselines import glue_with_baseline, gram, procrustes, rkd
from tasks.glue import get_task
from training import classes
from training.tokenizer import load_tokenizer

# ---- tokenizers ----------------------------------------------------------------------------------

CASED = "The Dog Café THE DOG CAFÉ ÀÉÎ".split()
TEXTS = ["The DOG sees a Café", "ÀÉÎ hears the CAFÉ", "naïve Œuvre ÇA"]


def cased_wordpiece(family):
    """The family's own class over a cased vocabulary, with the uncased words in it, too."""

    def make(folder):
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "<s>",
            "</s>",
            "<pad>",
            "<mask>",
            *WORDS,
            *CASED,
        ]
        (folder / "vocab.txt").write_text(
            "\n".join([*words, "cafe", "café", "aei", "naive"]) + "\n"
        )
        kind = transformers.MPNetTokenizer if family == "mpnet" else transformers.BertTokenizer
        if family == "distilbert":
            kind = transformers.DistilBertTokenizer
        return kind(vocab=str(folder / "vocab.txt"), do_lower_case=False, model_max_length=64)

    return make


def pieces(family):
    """The family's own class over sentencepiece units, cased."""

    def make(folder):
        (folder / "text").write_text("\n".join(CASED + WORDS) + "\n", encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / "unit"),
            vocab_size=70,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        own = folder / "pieces"
        own.mkdir()
        for name in ("sentencepiece.bpe.model", "spm.model", "spiece.model"):
            shutil.copy(folder / "unit.model", own / name)
        (own / "config.json").write_text(json.dumps({"model_type": family}))
        return transformers.AutoTokenizer.from_pretrained(own, model_max_length=62)

    return make


TOKENIZERS = {
    **{family: cased_wordpiece(family) for family in ("bert", "distilbert", "electra", "mpnet")},
    "roberta": byte_level,
    "modernbert": byte_level,
    "albert": sentencepiece_unigram,
    **{family: pieces(family) for family in ("xlm-roberta", "camembert", "deberta-v2", "xlnet")},
}
SHAPES = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "modernbert": {"cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2},
    "xlnet": {
        "d_model": 16,
        "n_layer": 2,
        "n_head": 2,
        "d_inner": 24,
        "max_position_embeddings": None,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("family", TOKENIZERS)
def test_what_is_saved_reads_as_the_training_did(family, tmp_path):
    """Cased text with accents; in another process; lower-cased as the family's own flag does it."""
    folder = save_models(
        tmp_path,
        family,
        TOKENIZERS[family](tmp_path),
        **{"num_hidden_layers": 2} | SHAPES.get(family, {}),
    )
    data = write_task(tmp_path)
    rows = (data / "RTE/train.tsv").read_text().replace("the dog", "The Café")
    (data / "RTE/train.tsv").write_text(rows, encoding="utf-8")
    arguments = flags(
        folder,
        tmp_path / "s",
        "--do_lower_case",
        "--max_steps",
        1,
        "--max_seq_length",
        40,
        "--internal",
    )
    training = load_tokenizer(glue_with_cka_i.make_parser().parse_args(arguments))
    assert training("THE DOG")["input_ids"] == training("the dog")["input_ids"]
    glue_with_cka_i.main(arguments)
    code = (
        "import json, sys; from transformers import AutoTokenizer; "
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 's')!r}); "
        f"print(json.dumps(tokenizer({TEXTS!r})['input_ids']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == training(TEXTS)["input_ids"]


def test_an_uncased_vocabulary_has_no_accents(tmp_path):
    """What --do_lower_case of HuggingFace's BERT tokenizer does, "Café" -> "cafe", and an old bug
    undid.
    """
    folder = save_models(tmp_path, "bert", cased_wordpiece("bert")(tmp_path), num_hidden_layers=2)
    write_task(tmp_path)
    train_teacher.main(
        flags(folder, tmp_path / "t", "--do_lower_case", "--max_steps", 1, teacher=True)
    )
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert saved.tokenize("The Café") == ["the", "cafe"]


def test_a_folder_without_a_tokenizer_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    for file in (*(tmp_path / "teacher").glob("*token*"), *(tmp_path / "teacher").glob("vocab*")):
        file.unlink()
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "there is no tokenizer in" in said and "--tokenizer_name" in said


def refusal(capsys, arguments, main=glue_with_cka_i.main):
    """The one sentence that a command ends with."""
    capsys.readouterr()
    assert common.cli(main, [str(a) for a in arguments]) == 1
    lines = [
        line
        for line in capsys.readouterr().err.replace("\r", "\n").split("\n")
        if line.startswith("error:")
    ]
    assert len(lines) == 1
    return lines[0]


# ---- classes in another order --------------------------------------------------------------------


def knows_the_task(folder, rows):
    """folder/teacher, fine-tuned on the toy task until it is right nearly always."""
    data = write_task(folder, rows)
    save_models(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=2
    )
    train_teacher.main(
        [
            *flags(
                folder,
                folder / "fine",
                "--num_train_epochs",
                20,
                "--per_gpu_train_batch_size",
                16,
                "--learning_rate",
                5e-3,
                teacher=True,
            )
        ]
    )
    shutil.rmtree(folder / "teacher")
    shutil.copytree(folder / "fine", folder / "teacher")
    return data


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """A folder as `tiny`, whose teacher knows the task."""
    folder = tmp_path_factory.mktemp("able")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    knows_the_task(folder, (400, 200, 5))
    return folder


def turned_round(able, folder, names):
    """The able teacher with its two outputs in the other order, and these names."""
    shutil.copytree(able / "teacher", folder)
    weights = load_file(folder / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = weights[key].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "run.json").unlink(missing_ok=True)
    change_config(
        folder, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    return folder


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
    change_config(
        teacher, id2label={"0": "not_entailment", "1": "entailment"}
    )  # as the sentence says
    glue_with_cka_i.main(
        flags(able, tmp_path / "s", "--model_name_or_path", teacher, "--max_steps", 1)
    )


def test_names_that_lie_are_refused_with_what_to_write(able, tmp_path, capsys):
    """The outputs are in order and their names are not: the advice is of the file, and not of what
    was made of it.
    """
    shutil.copytree(able / "teacher", tmp_path / "teacher")
    change_config(tmp_path / "teacher", id2label={"0": "not_entailment", "1": "entailment"})
    arguments = flags(
        able, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1
    )
    assert '"id2label": {"0": "entailment", "1": "not_entailment"}' in refusal(capsys, arguments)
    change_config(tmp_path / "teacher", id2label={"0": "entailment", "1": "not_entailment"})
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
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


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
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    shape = {
        key: value for key, value in (shape | SHAPES.get(family, {})).items() if value is not None
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


def test_a_regression_of_another_scale():
    task, rng = get_task("sts-b"), np.random.default_rng(0)
    labels = rng.uniform(0, 5, 200)
    noisy = labels + rng.normal(size=200)
    for scores in (noisy / 5, -noisy, 5 - noisy):
        assert "on another scale" in classes.other_meaning(
            task, "T", scores[:, None], labels, "dev"
        )
    assert "no finite number" in classes.other_meaning(
        task, "T", np.full((200, 1), np.nan), labels, "dev"
    )
    few = rng.normal(size=(500, 4))
    assert not any(
        classes.other_scale(scores, labels[:4]) for scores in few
    )  # random teachers are legal
    for scores in (noisy, rng.normal(size=200), np.zeros(200)):
        assert classes.other_meaning(task, "T", scores[:, None], labels, "dev") is None


def test_the_teachers_score_is_computed_once(able, tmp_path, monkeypatch):
    from training import evaluation

    predicted, real = [], evaluation.predict
    monkeypatch.setattr(evaluation, "predict", lambda *a: predicted.append(1) or real(*a))
    for name in "ab":
        arguments = flags(able, tmp_path / name, "--max_steps", 1)
        arguments.remove("--do_eval")
        glue_with_cka_i.main(arguments)
    assert len(predicted) == 1


# ---- what has no value ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--per_gpu_train_batch_size", 1, "--gradient_accumulation_steps", 8],
        ["--per_gpu_train_batch_size", 2],
        ["--per_gpu_train_batch_size", 3, "--cka_estimator", "debiased"],
        ["--max_train_samples", 2],
    ],
)
def test_a_batch_without_a_structure_is_refused(more, tiny, tmp_path, capsys):
    said = refusal(capsys, flags(tiny, tmp_path / "s", *more))
    assert "the loss term local" in said and "--per_gpu_train_batch_size" in said
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "v", *map(str, more), "--beta", 0, "--max_steps", 1)
    )


@pytest.mark.parametrize(
    "method, term", [("rkd", "distance"), ("gram", "gram"), ("procrustes", "procrustes")]
)
def test_a_batch_without_a_rivals_structure_is_refused(method, term, tiny, tmp_path, capsys):
    said = refusal(
        capsys,
        flags(tiny, tmp_path / "s", "--method", method, "--per_gpu_train_batch_size", 2),
        glue_with_baseline.main,
    )
    assert f"the loss term {term}" in said
    if method != "rkd":
        glue_with_baseline.main(
            flags(
                tiny,
                tmp_path / "t",
                "--method",
                method,
                "--per_gpu_train_batch_size",
                2,
                "--between",
                "tokens",
                "--max_steps",
                1,
            )
        )


def test_the_odd_last_mini_batch_is_counted(tiny, tmp_path):
    """21 rows in mini-batches of 10: the third has one sample, of which L says nothing, and is in
    the log.
    """
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--per_gpu_train_batch_size", 10))
    assert [entry["undefined_local"] for entry in read_log(tmp_path / "s")] == [0, 0, 1, 0, 0, 1]
    assert [entry["local"] == 0 for entry in read_log(tmp_path / "s")] == [False, False, True] * 2


def test_a_collapsed_teacher_is_left_out_and_said(tiny, tmp_path, capsys):
    """All tokens alike: I had no gradient and stood at 14.8."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights[
        "bert.encoder.layer.2.output.LayerNorm.weight"
    ].zero_()  # what comes out of the penultimate layer
    save_file(weights, tmp_path / "teacher/model.safetensors", {"format": "pt"})
    for cached in ([], ["--teacher_cache", tmp_path / "cache"]):
        glue_with_cka_i.main(
            flags(
                tiny,
                tmp_path / f"s{len(cached)}",
                "--internal",
                "--model_name_or_path",
                tmp_path / "teacher",
                *cached,
            )
        )
        log = read_log(tmp_path / f"s{len(cached)}")
        assert all(entry["intra"] == 0 for entry in log)
        assert [entry["undefined_intra"] for entry in log] == [8, 8, 5] * 2
        said = capsys.readouterr().err
        assert said.count("warning: most values of the loss term intra were undefined") == 1


@pytest.mark.parametrize(
    "loss", [rkd.distance_loss, rkd.angle_loss, gram.gram_distance, procrustes.procrustes_distance]
)
def test_rivals_leave_out_what_is_undefined(loss):
    generator = torch.Generator().manual_seed(0)
    x_s, x_t = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for pair in ((x_s[:2], x_t[:2]), (x_s, torch.ones_like(x_t)), (torch.ones_like(x_s), x_t)):
        student = pair[0].clone().requires_grad_()
        value, undefined = loss(student, pair[1], count_undefined=True)
        assert (value, undefined) == (0, 1)
        value.backward()
        assert (student.grad == 0).all()
    value, undefined = loss(x_s[:3], x_t[:3], count_undefined=True)
    assert value > 0 and undefined == 0


def test_a_memory_without_a_structure_is_refused(tiny_without_dropout, tmp_path, capsys):
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", "--num_centroid", 2))
    said = refusal(
        capsys,
        flags(tiny_without_dropout, tmp_path / "s", "--teacher_memory_path", tmp_path / "m"),
        glue_with_cka_g.main,
    )
    assert "2 centroids" in said and "3 or more" in said


@pytest.mark.parametrize(
    "centroids",
    [
        torch.zeros(4, 24 * 8),
        torch.zeros(0, 24 * 16),
        torch.zeros(24 * 16),
        torch.full((4, 24 * 16), math.nan),
    ],
)
def test_a_memory_that_is_not_what_it_says(
    centroids, trained, tiny_without_dropout, tmp_path, capsys
):
    _, facts = memory.load_memory(trained / memory.FILE)
    memory.save_memory(tmp_path / memory.FILE, centroids, facts)
    said = refusal(
        capsys,
        flags(tiny_without_dropout, tmp_path / "s", "--teacher_memory_path", tmp_path),
        glue_with_cka_g.main,
    )
    assert "train it again" in said


# ---- models that end badly -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"output_attentions": True}, {"output_hidden_states": True}, {"return_dict": False}]
)
def test_a_config_that_asks_for_other_outputs_trains(changes, tiny, tmp_path):
    for name in ("teacher", "pretrained"):
        shutil.copytree(tiny / name, tmp_path / name)
        change_config(tmp_path / name, **changes)
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--internal", "--max_steps", 1))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--internal", "--max_steps", 1))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("s", "plain"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_cannot_be_saved_is_refused_before_the_first_step(tiny, tmp_path, capsys, monkeypatch):
    def broken(self, *args, **kwargs):
        raise ValueError("this configuration cannot be written")

    monkeypatch.setattr(transformers.BertConfig, "save_pretrained", broken)
    said = refusal(capsys, flags(tiny, tmp_path / "s"))
    assert "could not be saved at the end" in said and "cannot be written" in said
    assert not (tmp_path / "s/train_log.jsonl").exists()
    assert not list((tmp_path / "s").glob(".*tmp*"))


def test_modernbert_with_fewer_layers(tmp_path):
    """Its lists with one entry a layer are cut with the layers: the student's, and the teacher's
    for the cache.
    """
    folder = save_models(tmp_path, "modernbert", byte_level(tmp_path), **SHAPES["modernbert"])
    write_task(folder)
    more = ["--max_seq_length", 40, "--num_train_epochs", 1]
    train_teacher.main(flags(folder, tmp_path / "t", *more, teacher=True))
    glue_with_cka_i.main(
        flags(
            folder,
            tmp_path / "s",
            "--internal",
            "--model_name_or_path",
            tmp_path / "t",
            *more,
            "--teacher_cache",
            tmp_path / "cache",
            "--alpha",
            1,
        )
    )
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert student.config.layer_types == ["full_attention", "sliding_attention"]
    assert student.config.num_hidden_layers == 2


def test_token_types_that_the_model_does_not_have(tmp_path):
    """A BERT of one token type, whose tokenizer marks the second text: it trains, and a stranger's
    pipeline runs.
    """
    folder = save_models(tmp_path, type_vocab_size=1)
    write_task(folder)
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--internal", "--max_steps", 2))
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "s"), device="cpu")
    assert classify([{"text": "the dog", "text_pair": "a cat"}])


def test_a_general_tokenizer_of_a_bert_keeps_its_token_types(tiny, tmp_path):
    """transformers' general class keeps back the token types that the model was trained with."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    arguments = flags(
        tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1
    )
    tokenizer = load_tokenizer(glue_with_cka_i.make_parser().parse_args(arguments))
    plain = transformers.AutoTokenizer.from_pretrained(tiny / "teacher")
    assert dict(tokenizer("the dog", "a cat")) == dict(plain("the dog", "a cat"))
    glue_with_cka_i.main(arguments)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    assert dict(saved("the dog", "a cat")) == dict(plain("the dog", "a cat"))


def shuffled(source, folder):
    """The model of a folder with a tokenizer of the same words in another order."""
    shutil.copytree(source, folder)
    for file in (*folder.glob("*token*"), *folder.glob("vocab*")):
        file.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed(WORDS)]
    (folder / "words").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(vocab=str(folder / "words"), model_max_length=64).save_pretrained(
        folder
    )
    return folder


def test_a_tokenizer_of_other_ids_is_refused(tiny, tmp_path, capsys):
    other = shuffled(tiny / "teacher", tmp_path / "other")
    said = refusal(capsys, flags(tiny, tmp_path / "s", "--tokenizer_name", other))
    assert "differ in" in said and "one vocabulary" in said
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", "--tokenizer_name", tiny / "pretrained", "--max_steps", 1)
    )


def test_a_source_with_sentencepiece_alone_is_compared(tmp_path, capsys):
    """An ALBERT's folder with spiece.model and nothing else of its tokenizer has a vocabulary,
    too.
    """
    tokenizer = sentencepiece_unigram(tmp_path)
    folder = save_models(tmp_path, "albert", tokenizer, embedding_size=8)
    write_task(folder)
    for file in (*(folder / "pretrained").glob("*token*"), *(folder / "pretrained").glob("vocab*")):
        file.unlink()
    rng = np.random.default_rng(1)
    (tmp_path / "text").write_text(
        "\n".join(" ".join(rng.permutation(WORDS[:20])) for _ in range(200))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "pretrained/spiece"),
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols="[CLS],[SEP]",
        user_defined_symbols="[MASK]",
    )
    assert "differ in" in refusal(capsys, flags(folder, tmp_path / "s", "--max_seq_length", 40))


def test_positions_of_roberta_are_two_fewer(tmp_path, capsys):
    tokenizer = byte_level(tmp_path)
    tokenizer.model_max_length = 10**6  # as of a tokenizer that does not know
    folder = save_models(
        tmp_path, "roberta", tokenizer, type_vocab_size=1
    )  # 64 positions in its config
    write_task(folder)
    said = refusal(capsys, flags(folder, tmp_path / "s", "--max_seq_length", 63))
    assert "takes at most 62 tokens" in said
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--max_seq_length", 62, "--max_steps", 1))


@pytest.mark.slow
def test_a_family_without_one_hidden_state_for_each_token(tmp_path, capsys):
    shape = {"num_hash_buckets": 64, "num_hash_functions": 2, "local_transformer_stride": 16}
    folder = save_models(
        tmp_path, "canine", transformers.CanineTokenizer(model_max_length=64), **shape
    )
    write_task(folder)
    said = refusal(capsys, flags(folder, tmp_path / "s", "--max_seq_length", 40))
    assert "has hidden states of" in said and "token by token" in said


def test_a_tokenizer_without_a_fast_form(tmp_path):
    """RoCBERT: a Python tokenizer with three vocabularies, and linear layers of its own kind."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    for name in ("word_shape.json", "word_pronunciation.json"):
        (tmp_path / name).write_text(json.dumps({word: i for i, word in enumerate(words)}))
    tokenizer = transformers.RoCBertTokenizer(
        *(
            str(tmp_path / name)
            for name in ("vocab.txt", "word_shape.json", "word_pronunciation.json")
        ),
        model_max_length=64,
    )
    folder = save_models(
        tmp_path,
        "roc_bert",
        tokenizer,
        pronunciation_vocab_size=60,
        shape_vocab_size=60,
        pronunciation_embed_dim=8,
        shape_embed_dim=8,
    )
    write_task(folder)
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--internal", "--max_steps", 2))


@pytest.mark.parametrize("layers", [-1, 0])
def test_a_model_without_layers_is_refused(layers, tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    change_config(tmp_path / "teacher", num_hidden_layers=layers)
    assert f"num_hidden_layers {layers}" in refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )


# ---- weights -------------------------------------------------------------------------------------


def as_bin(source, folder, **options):
    """The model of a folder as pytorch_model.bin, as HuggingFace wrote them before safetensors."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", **options)
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_teachers_as_pytorch_model_bin(zipped, tiny, tmp_path):
    """The same student; the older one is not a zip file, has no model_type and only a
    vocabulary.
    """
    for name in ("teacher", "pretrained"):
        as_bin(tiny / name, tmp_path / name, _use_new_zipfile_serialization=zipped)
    if not zipped:
        for name in ("teacher", "pretrained"):
            config = json.loads((tmp_path / name / "config.json").read_text())
            for key in ("model_type", "architectures", "transformers_version", "dtype"):
                config.pop(key, None)
            (tmp_path / name / "config.json").write_text(json.dumps(config))
            for file in (tmp_path / name).glob("*token*"):
                file.unlink()
            shutil.copy(tiny / "vocab.txt", tmp_path / name / "vocab.txt")
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--model_type", "bert", "--max_steps", 2))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 2))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("s", "plain"))
    assert all(torch.equal(one[key], other[key]) for key in one)


class Touches:
    """A pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_no_code_in_a_file_is_run(tiny, tmp_path, capsys):
    weights = as_bin(tiny / "teacher", tmp_path / "teacher")
    torch.save(
        weights | {"more": Touches(tmp_path / "ran")}, tmp_path / "teacher/pytorch_model.bin"
    )
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "holds more than weights" in said and "no code in a file is ever run" in said
    assert not (tmp_path / "ran").exists()


def test_no_code_beside_a_model_is_run(tiny, tmp_path, capsys, monkeypatch):
    """Nor asked for: transformers would ask on stdin."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher/evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n"
    )
    change_config(tmp_path / "teacher", model_type="evil", auto_map={"AutoConfig": "evil.C"})
    monkeypatch.setattr("builtins.input", lambda *asked: "y")
    assert "cannot load" in refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert not (tmp_path / "ran").exists()


def test_a_teacher_cut_short_by_its_config_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    change_config(tmp_path / "teacher", num_hidden_layers=3)
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "weights of 4 layers, but its config.json says 3" in said


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_students_of_a_wrapped_model_are_saved_without_its_prefix(prefix, tiny, tmp_path):
    for name in ("teacher", "pretrained"):
        shutil.copytree(tiny / name, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        save_file(
            {prefix + key: value for key, value in weights.items()},
            tmp_path / name / "model.safetensors",
            {"format": "pt"},
        )
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--max_steps", 1))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 1))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("s", "plain"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_of_a_wrapped_model_are_loaded(prefix, tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    save_file(
        {prefix + key: value for key, value in weights.items()},
        tmp_path / "teacher/model.safetensors",
        {"format": "pt"},
    )
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1)
    )
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 1))
    fingerprints = [
        json.loads((tmp_path / name / "run.json").read_text())["teacher"] for name in ("s", "plain")
    ]
    assert fingerprints[0] == fingerprints[1]


def test_weights_of_another_shape_are_named(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["classifier.weight"] = torch.zeros(2, 20)
    save_file(weights, tmp_path / "teacher/model.safetensors", {"format": "pt"})
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "classifier.weight, (2, 20) there and (2, 16)" in said


def test_a_mistyped_folder_is_no_network_fault(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tiny)
    said = refusal(capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tiny / "techer"))
    assert "does not exist" in said and "has teacher" in said
    (tmp_path / "runs/teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", "runs/teachr"))
    assert "does not exist; runs has teacher" in said
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tiny / "teacher/config.json")
    )
    assert "is a file" in said
