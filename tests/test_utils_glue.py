"""utils_glue.py: reading, cached features, metrics, submission files and download, on small made-up
files.
"""

import contextlib
import hashlib
import http.server
import io
import math
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

import tasks.download as download
import utils_glue
from common import UserError, cli
from tasks.download import download_task
from tasks.glue import TASKS, get_task
from tasks.reading import read_examples
from tasks.submission import write_submission, zip_submission
from tasks.task import find_file, has_file
from utils_glue import (
    compute_metrics,
    feature_cache_dir,
    load_features,
    predictions_from_logits,
    tokenizer_fingerprint,
)

REAL_DATA = os.environ.get("FSD_GLUE")  # a folder with the official files
PAIRS = (
    "index\tsentence1\tsentence2\tlabel\n"
    "0\ta b\tc\tentailment\n"
    "1\ta b a b a b\tc c c c\tnot_entailment\n"
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]


def put(folder, name, text):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def expect_error(*parts):
    """A UserError whose one sentence holds all the parts."""
    lookaheads = "".join(f"(?=.*{part})" for part in parts)
    return pytest.raises(UserError, match=rf"(?s)^Expected{lookaheads}.*\.$")


# ------------------------------------------------------------------------------------------ table,
# reading


@pytest.mark.parametrize(
    "name, key",
    [
        ("SST-2", "sst-2"),
        ("sst2", "sst-2"),
        ("STSB", "sts-b"),
        ("wnli", "wnli"),
        ("CoLA", "cola"),
        ("AX", "ax"),
    ],
)
def test_task_names(name, key):
    assert get_task(name) is TASKS[key]


def test_unknown_task_lists_the_choices():
    with expect_error("cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli, ax", "'snli'"):
        get_task("snli")


def test_both_places_are_found_and_both_are_named(tmp_path):
    rte = get_task("rte")
    with expect_error(
        str(tmp_path / "RTE" / "dev.tsv"),
        str(tmp_path / "dev.tsv"),
        f"utils_glue.py download --data_dir {tmp_path} --tasks rte",
    ):
        find_file(rte, tmp_path, "dev")
    outside = put(tmp_path, "dev.tsv", PAIRS)
    assert find_file(rte, tmp_path, "dev") == outside
    inside = put(tmp_path, "RTE/dev.tsv", PAIRS)
    assert find_file(rte, tmp_path, "dev") == inside
    with expect_error("train, dev, test", "'dev_mm'"):
        find_file(rte, tmp_path, "dev_mm")


MNLI_SIDES = "\t".join(["n/a"] * 7)
MNLI_HEADER = "index\tp1\tp2\tgenre\tb1\tb2\ts1\ts2\tsentence1\tsentence2\tlabel1\tgold_label\n"
MNLI_DEV = MNLI_HEADER.replace("label1", "label1\tlabel2")
PAIR_LABEL = "index\tsentence1\tsentence2\tlabel"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
READABLE = {  # id -> (task, split, file, content, expected examples)
    "cola without header": (
        "cola",
        "train",
        "train.tsv",
        "gj04\t1\t\tA b.\ngj04\t0\t*\tB a.\n",
        [("0", "A b.", None, 1), ("1", "B a.", None, 0)],
    ),
    "cola test with header": (
        "cola",
        "test",
        "test.tsv",
        "index\tsentence\n0\tA b.\n",
        [("0", "A b.", None, None)],
    ),
    "no final newline": (
        "cola",
        "dev",
        "dev.tsv",
        "gj04\t1\t\tA\ngj04\t1\t\tB",
        [("0", "A", None, 1), ("1", "B", None, 1)],
    ),
    "byte order mark": (
        "mrpc",
        "dev",
        "dev.tsv",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tx\ty\n",
        [("0", "x", "y", 1)],
    ),
    "quotes": (
        "sst-2",
        "dev",
        "dev.tsv",
        'sentence\tlabel\n" a ""b\t1\n\'c"\t0\n',
        [("0", '" a ""b', None, 1), ("1", "'c\"", None, 0)],
    ),
    "carriage returns": (
        "wnli",
        "dev",
        "dev.tsv",
        f"{PAIR_LABEL}\r\n3\ta\tb\t1\r\n",
        [("3", "a", "b", 1)],
    ),
    "only newlines end rows": (
        "sst-2",
        "train",
        "train.tsv",
        "sentence\tlabel\na\x85b\u2028c\x0bd\t1\ne\rf\t0\n",
        [("0", "a\x85b\u2028c\x0bd", None, 1), ("1", "e\rf", None, 0)],
    ),
    "scores": (
        "sts-b",
        "dev",
        "dev.tsv",
        "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.800\n1\ta\tb\t5\n",
        [("0", "a", "b", 3.8), ("1", "a", "b", 5.0)],
    ),
    "mnli with extra rows": (
        "mnli",
        "train",
        "train.tsv",
        MNLI_HEADER
        + "40\t1\t1e\ttravel\t(\t(\t(\t(\ta\tb\tneutral\tneutral\n"
        + f"1000000\t{MNLI_SIDES}\tc\td\tn/a\tcontradiction\n",
        [("40", "a", "b", 2), ("1000000", "c", "d", 0)],
    ),
    "mnli matched": (
        "mnli",
        "dev",
        "dev_matched.tsv",
        f"{MNLI_DEV}5\t{MNLI_SIDES}\ta\tb\tneutral\tneutral\tentailment\n",
        [("5", "a", "b", 1)],
    ),
    "mnli mismatched": (
        "mnli",
        "dev_mm",
        "dev_mismatched.tsv",
        f"{MNLI_DEV}6\t{MNLI_SIDES}\tc\td\tentailment\tneutral\tneutral\n",
        [("6", "c", "d", 2)],
    ),
    "qqp": ("qqp", "train", "train.tsv", f"{QQP}\n9\tn/a\tn/a\ta\tb\t1\n", [("9", "a", "b", 1)]),
    "qqp test": (
        "qqp",
        "test",
        "test.tsv",
        "id\tquestion1\tquestion2\n0\ta\tb\n",
        [("0", "a", "b", None)],
    ),
    "qnli": (
        "qnli",
        "dev",
        "dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\ta\tb\tnot_entailment\n",
        [("0", "a", "b", 1)],
    ),
    "ax": (
        "ax",
        "test",
        "diagnostic.tsv",
        "index\tsentence1\tsentence2\n0\ta\tb",
        [("0", "a", "b", None)],
    ),
}


@pytest.mark.parametrize("task, split, file, content, expected", READABLE.values(), ids=READABLE)
def test_reading(tmp_path, task, split, file, content, expected):
    task = get_task(task)
    put(tmp_path, f"{task.folder}/{file}", content)
    assert [tuple(example) for example in read_examples(task, tmp_path, split)] == expected


HEADER = f"{PAIR_LABEL}\n"
UNREADABLE = {  # id -> (task, content, parts of the error)
    "columns": (
        "rte",
        f"{HEADER}0\ta\tb\tentailment\n1\tb\tentailment\n",
        ["4 columns", "found 3", "line 3"],
    ),
    "blank line": ("rte", f"{HEADER}\n0\ta\tb\tentailment\n", ["4 columns", "found 1", "line 2"]),
    "empty text": (
        "rte",
        f"{HEADER}0\t \t\tentailment\n",
        ["sentence1 or sentence2", "none", "line 2"],
    ),
    "label": (
        "rte",
        f"{HEADER}0\ta\tb\tneutral\n",
        ["entailment, not_entailment", "'neutral'", "line 2"],
    ),
    "second header": ("rte", PAIRS + HEADER, ["'label'", "line 4"]),
    "not utf-8": (
        "rte",
        f"{HEADER}0\ta\tb\tentailment\n".encode() + b"1\t\xe9\n",
        ["UTF-8", "0xe9", "line 3"],
    ),
    "empty file": ("rte", "", ["rows", "none"]),
    "header alone": ("rte", HEADER, ["rows", "none"]),
    "empty cola": ("cola", "", ["rows", "none"]),
    "missing column": (
        "rte",
        "index\tsentence1\tlabel\n0\ta\tentailment\n",
        ["no sentence2", "line 1"],
    ),
    "test file as dev": ("rte", "index\tsentence1\tsentence2\n0\ta\tb\n", ["no label", "line 1"]),
    "high score": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\t5.1\n",
        ["0 to 5", "'5.1'", "line 2"],
    ),
    "low score": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\t-0.1\n",
        ["0 to 5", "'-0.1'", "line 2"],
    ),
    "score nan": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\tnan\n",
        ["0 to 5", "'nan'", "line 2"],
    ),
    "no score": ("sts-b", "sentence1\tsentence2\tscore\na\tb\tx\n", ["0 to 5", "'x'", "line 2"]),
    "cola label": ("cola", "gj04\t1\t\ta\ngj04\t2\t\tb\n", ["0, 1", "'2'", "line 2"]),
}


@pytest.mark.parametrize("task, content, parts", UNREADABLE.values(), ids=UNREADABLE)
def test_faulty_files(tmp_path, task, content, parts):
    path = put(tmp_path, "dev.tsv", content)
    with expect_error(str(path), *parts):
        read_examples(get_task(task), tmp_path, "dev")


EXTRACTS = {  # rows of an extract of the large tasks that will do in place of all of them
    "QQP": {"train": 32946, "dev": 1000},
    "QNLI": {"train": 9833, "dev": 5463, "test": 5463},
    "MNLI": {"train": 15130, "dev": 9815, "dev_mm": 1000},
}


def real_file(task, split):
    """The path of an official file in FSD_GLUE; a test without it is skipped, and says so."""
    if not REAL_DATA:
        pytest.skip("set FSD_GLUE to a folder with the official GLUE files")
    if not has_file(task, REAL_DATA, split):
        pytest.skip(f"FSD_GLUE has no {split} file of {task.name}")
    return find_file(task, REAL_DATA, split)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_real_files(task):
    """Every official file reads with the table's number of rows, an extract with its own."""
    extract = EXTRACTS.get(task.name, {})
    for split in extract or task.rows:
        real_file(task, split)
        examples = read_examples(task, REAL_DATA, split)
        rows = len(examples)
        assert rows in (task.rows[split], extract.get(split))
        if split in task.submissions:
            assert [example.index for example in examples] == [
                str(number) for number in range(rows)
            ]
        elif task.labels:
            assert {example.label for example in examples} == set(range(len(task.labels)))


# ------------------------------------------------------------------------------------------------
# features


class CountingTokenizer(BertTokenizer):
    calls = 0

    def __call__(self, *args, **kwargs):
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(CountingTokenizer, "calls", 0)
    put(tmp_path, "bert/vocab.txt", "\n".join(WORDS))
    return CountingTokenizer.from_pretrained(tmp_path / "bert")


@pytest.fixture
def load(tmp_path, tokenizer):
    """load_features of PAIRS as RTE dev rows, of eight tokens unless said otherwise."""
    put(tmp_path, "RTE/dev.tsv", PAIRS)

    def load(tokenizer=tokenizer, length=8, **kwargs):
        cache_dir = tmp_path / "cache"
        return load_features(
            get_task("rte"), tmp_path, "dev", tokenizer, length, cache_dir, **kwargs
        )

    return load


def equal(first, second):
    tensors, others = first.tensors, second.tensors
    return (
        first[1:] == second[1:]
        and list(tensors) == list(others)
        and all(
            torch.equal(tensors[key], others[key]) and tensors[key].dtype == others[key].dtype
            for key in tensors
        )
    )


def test_features(load, tmp_path, tokenizer):
    features = load()
    pad, cls, sep, a, b, c = (
        WORDS.index(word) for word in ("[PAD]", "[CLS]", "[SEP]", "a", "b", "c")
    )
    rows = [[cls, a, b, sep, c, sep, pad, pad], [cls, a, b, a, sep, c, c, sep]]
    assert features.tensors["input_ids"].tolist() == rows
    assert features.tensors["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 8]
    assert features.tensors["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert features.tensors["labels"].tolist() == [0, 1]
    assert {key: tensor.dtype for key, tensor in features.tensors.items()} == {
        "input_ids": torch.int32,
        "attention_mask": torch.uint8,
        "token_type_ids": torch.uint8,
        "labels": torch.int64,
    }
    assert features.indices == ["0", "1"]
    digest = hashlib.sha256(PAIRS.encode()).hexdigest()
    assert features.source == {"file": "dev.tsv", "sha256": digest, "rows": 2, "truncated": 1}
    assert [path.name[:9] for path in (tmp_path / "cache").iterdir()] == ["rte_dev_8"]
    content = next((tmp_path / "cache").iterdir()).read_bytes()
    assert digest.encode() in content and tokenizer_fingerprint(tokenizer).encode() in content
    assert [path.name for path in (tmp_path / "RTE").iterdir()] == ["dev.tsv"], (
        "data folder touched"
    )


def test_chunks_do_not_matter(load, monkeypatch):
    whole = load()
    monkeypatch.setattr(utils_glue, "CHUNK", 1)
    assert equal(load(overwrite_cache=True), whole)


def test_an_exact_fit_is_not_truncated(load):
    assert load(length=13).source["truncated"] == 0
    assert load(length=12).source["truncated"] == 1


def test_scores_and_test_splits(tmp_path, tokenizer):
    put(tmp_path, "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.8\n")
    put(tmp_path, "CoLA/test.tsv", "index\tsentence\n0\ta\n")
    labels = load_features(
        get_task("sts-b"), tmp_path, "dev", tokenizer, 8, tmp_path / "c"
    ).tensors["labels"]
    assert labels.dtype == torch.float32 and labels.item() == pytest.approx(3.8)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    features = load_features(get_task("cola"), tmp_path, "test", tokenizer, 8, tmp_path / "c")
    assert features.tensors.keys() == {"input_ids", "attention_mask"}
    assert features.tensors["input_ids"].shape == (1, 8)


def test_a_cache_hit_does_not_tokenize(load, tmp_path, tokenizer):
    first, calls = load(), CountingTokenizer.calls
    assert calls > 0
    assert equal(load(), first)
    again = CountingTokenizer.from_pretrained(tmp_path / "bert")
    again(
        ["a"], truncation=True, max_length=3, padding="max_length"
    )  # leaves its state in the tokenizer
    calls += 1
    assert equal(load(tokenizer=again), first)
    assert equal(load(), first)
    assert CountingTokenizer.calls == calls
    load(overwrite_cache=True)
    assert CountingTokenizer.calls > calls


def test_max_samples_comes_after_the_cache(load):
    load()
    calls, features = CountingTokenizer.calls, load(max_samples=1)
    assert CountingTokenizer.calls == calls
    assert features.indices == ["0"] and {len(tensor) for tensor in features.tensors.values()} == {
        1
    }
    assert features.source["rows"] == 2
    with expect_error("at least 1", "found 0"):
        load(max_samples=0)


def test_changes_rebuild_the_cache(load, tmp_path):
    first = load()
    assert load(length=9).tensors["input_ids"].shape == (2, 9)
    tokenizer = CountingTokenizer.from_pretrained(tmp_path / "bert", truncation_side="left")
    assert load(tokenizer=tokenizer).tensors["input_ids"][1, 1] == WORDS.index("b")
    put(tmp_path, "other/vocab.txt", "\n".join(WORDS[:5] + WORDS[:4:-1]))
    other = load(tokenizer=CountingTokenizer.from_pretrained(tmp_path / "other"))
    assert not torch.equal(other.tensors["input_ids"], first.tensors["input_ids"])
    put(tmp_path, "RTE/dev.tsv", PAIRS.replace("a b\tc", "a d\tc"))
    assert not torch.equal(load().tensors["input_ids"], first.tensors["input_ids"])
    put(tmp_path, "RTE/dev.tsv", PAIRS)
    calls = CountingTokenizer.calls
    assert equal(load(), first) and CountingTokenizer.calls == calls


def flip_last_byte(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-5],
        flip_last_byte,
        lambda data: data.replace(b"format 1", b"format 0"),
        lambda data: data.replace(b"__metadata__", b"__metadada__"),
    ],
)
def test_damaged_caches_are_rebuilt(load, tmp_path, damage):
    first = load()
    path = next((tmp_path / "cache").iterdir())
    good = path.read_bytes()
    assert damage(good) != good
    path.unlink()  # what `first` holds is mapped from the old file
    path.write_bytes(damage(good))
    calls = CountingTokenizer.calls
    assert equal(load(), first) and CountingTokenizer.calls > calls
    calls = CountingTokenizer.calls
    assert equal(load(), first) and CountingTokenizer.calls == calls, "the cache was repaired"


def test_a_failing_write_leaves_no_cache(load, tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        load()
    assert list((tmp_path / "cache").iterdir()) == []


def test_lengths_without_room_for_text_are_refused(load):
    with expect_error("3 special tokens", "max_seq_length 3"):
        load(length=3)


def test_default_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert feature_cache_dir() == feature_cache_dir("") == tmp_path / "fsd-glue"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert feature_cache_dir() == Path.home() / ".cache" / "fsd-glue"
    assert feature_cache_dir(str(tmp_path)) == tmp_path


def test_fingerprints_without_a_backend():
    """Slow tokenizers are told apart by vocabulary and arguments."""

    class Slow:
        padding_side = truncation_side = "right"
        pad_token_id, model_input_names = 0, ["input_ids"]

        def __init__(self, vocab, **init_kwargs):
            self.get_vocab, self.init_kwargs = lambda: vocab, init_kwargs

    first, reordered, renumbered, configured = map(
        tokenizer_fingerprint,
        [
            Slow({"a": 0, "b": 1}),
            Slow({"b": 1, "a": 0}),
            Slow({"a": 1, "b": 0}),
            Slow({"a": 0, "b": 1}, x=1),
        ],
    )
    assert first == reordered and len({first, renumbered, configured}) == 3


# -------------------------------------------------------------------------------------------------
# metrics


def average_ranks(values):
    return np.array(
        [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
    )


def plain_pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())


def plain_mcc(p, y):
    """The general (K classes) form: the correlation of the one-hot matrices."""
    p, y = np.eye(3)[p], np.eye(3)[y]
    p, y = p - p.mean(0), y - y.mean(0)
    return (p * y).sum() / math.sqrt((p * p).sum() * (y * y).sum())


def plain_f1(p, y):
    return 2 * (p * y).sum() / (p.sum() + y.sum())


PLAIN = {
    "acc": lambda p, y: np.mean(p == y),
    "f1": plain_f1,
    "mcc": plain_mcc,
    "pearson": plain_pearson,
    "spearmanr": lambda p, y: plain_pearson(average_ranks(p), average_ranks(y)),
}
NAMES = {
    "cola": ["mcc"],
    "mrpc": ["acc", "f1"],
    "qqp": ["acc", "f1"],
    "sts-b": ["pearson", "spearmanr"],
    "ax": ["mcc"],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TASKS)
def test_metrics(name, seed):
    task, rng = get_task(name), np.random.default_rng(seed)
    if task.labels:
        labels = rng.integers(len(task.labels), size=50)
        logits = rng.normal(size=(50, len(task.labels))) + np.eye(len(task.labels))[labels]
        predictions = np.array(
            [max(range(len(row)), key=row.__getitem__) for row in logits.tolist()]
        )
    else:
        labels = rng.integers(11, size=50) / 2
        logits = (labels + rng.normal(size=50)).round(1)[:, None].astype(np.float32)
        predictions = logits[:, 0]
    found = predictions_from_logits(task, logits)
    assert found.shape == (50,) and (found == predictions).all()
    metrics = compute_metrics(task, found, labels)
    assert list(metrics) == NAMES.get(name, ["acc"])
    assert all(type(value) is float for value in metrics.values())
    for metric, value in metrics.items():
        assert value == pytest.approx(PLAIN[metric](predictions, labels), abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_constant_predictions_are_silent():
    labels = np.array([0, 1, 2.5])
    assert compute_metrics(get_task("sts-b"), np.ones(3), labels) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("sts-b"), np.ones(1), np.ones(1)) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("sts-b"), labels, np.ones(3)) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
    }
    assert compute_metrics(get_task("cola"), np.zeros(2, int), np.array([0, 1])) == {"mcc": 0.0}
    assert compute_metrics(get_task("mrpc"), np.zeros(2, int), np.zeros(2, int)) == {
        "acc": 1.0,
        "f1": 0.0,
    }


def test_metrics_want_equal_shapes():
    with expect_error(r"\(3,\)", r"\(2,\)"):
        compute_metrics(get_task("rte"), np.zeros(2), np.zeros(3))


# ----------------------------------------------------------------------------------------
# submission files


@pytest.mark.parametrize(
    "name, split, file, predictions, words",
    [
        ("mnli", "test_mm", "MNLI-mm.tsv", [2, 0, 1], ["neutral", "contradiction", "entailment"]),
        ("rte", "test", "RTE.tsv", [1, 0], ["not_entailment", "entailment"]),
        ("qqp", "test", "QQP.tsv", [1, 0], ["1", "0"]),
        ("sts-b", "test", "STS-B.tsv", [5.2, -0.1, 2.34567], ["5.000", "0.000", "2.346"]),
    ],
)
def test_submission_files(tmp_path, name, split, file, predictions, words):
    indices = [str(number) for number in range(len(words))]
    write_submission(tmp_path / "new" / file, get_task(name), split, indices, np.array(predictions))
    rows = [f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True)]
    assert (tmp_path / "new" / file).read_bytes().decode() == "index\tprediction\n" + "".join(rows)


def test_submission_file_names(tmp_path):
    for split, name in (("test", "RTE-test.tsv"), ("dev", "RTE.tsv")):
        with expect_error(split, "RTE"):
            write_submission(tmp_path / name, get_task("rte"), split, ["0"], [0])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """Two folders with all eleven files, for official splits cut down to three rows."""
    for number, (key, task) in enumerate(list(TASKS.items())):
        monkeypatch.setitem(TASKS, key, task._replace(rows=dict.fromkeys(task.rows, 3)))
        for split, name in task.submissions.items():
            folder = tmp_path / "one" if number % 2 else tmp_path / "two" / "submission"
            write_submission(folder / name, task, split, range(3), [0, 1, 0])
    return [tmp_path / "one", tmp_path / "two"]


def test_zip_of_all_eleven(submission, tmp_path, capsys):
    args = ["submit", *map(str, submission), "--output", str(tmp_path / "a.zip")]
    assert cli(utils_glue.main, args) == 0 and "a.zip" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(archive.namelist()) == {
            "CoLA.tsv",
            "SST-2.tsv",
            "MRPC.tsv",
            "STS-B.tsv",
            "QQP.tsv",
            "MNLI-m.tsv",
            "MNLI-mm.tsv",
            "QNLI.tsv",
            "RTE.tsv",
            "WNLI.tsv",
            "AX.tsv",
        }
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}, (
            "the clock is in the zip"
        )
        rows = ["index\tprediction", "0\tcontradiction", "1\tentailment", "2\tcontradiction", ""]
        assert archive.read("AX.tsv").decode().split("\n") == rows
    for path in tmp_path.rglob("*.tsv"):
        path.touch()
    zip_submission(submission[::-1], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


BROKEN = {  # id -> (new content of one/WNLI.tsv, parts of the error)
    "header": ("id\tprediction\n0\t0\n1\t1\n2\t0\n", ["header", "id.tprediction"]),
    "count": ("index\tprediction\n0\t0\n1\t1\n", ["3 rows", "found 2"]),
    "word": ("index\tprediction\n0\t0\n1\tentailment\n2\t0\n", ["0, 1", "'entailment'", "line 3"]),
    "index": ("index\tprediction\n0\t0\n2\t1\n1\t0\n", ["index 1", "found '2'", "line 3"]),
    "empty": ("", ["header", "''"]),
}


@pytest.mark.parametrize("content, parts", BROKEN.values(), ids=BROKEN)
def test_broken_submission_files(submission, tmp_path, content, parts):
    path = next(tmp_path.rglob("WNLI.tsv"))
    path.write_text(content)
    with expect_error(str(path), *parts):
        zip_submission(submission, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_every_problem_is_named(submission, tmp_path):
    next(tmp_path.rglob("QNLI.tsv")).unlink()
    scores = next(tmp_path.rglob("STS-B.tsv"))
    scores.write_text("index\tprediction\n0\t1\n1\t6\n2\t0\n")
    put(tmp_path / "one", "submission/AX.tsv", "")
    put(tmp_path / "one", "AX.tsv", "")
    with pytest.raises(UserError) as caught:
        zip_submission(submission, tmp_path / "a.zip")
    problems = str(caught.value).split("\n")
    assert (
        [
            "STS-B" in problems[0] and "'6'" in problems[0],
            "QNLI.tsv in exactly one of" in problems[1],
            "AX.tsv in exactly one of" in problems[2],
        ]
        == [True] * 3
        == [True] * len(problems)
    )


# ------------------------------------------------------------------------------------------------
# download


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) on 127.0.0.1; the first `failures` requests get a 503."""

    files, failures, requests, cut = {}, 0, 0, 0

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            body = self.server.files.get(self.requestline.split()[1][1:])
            if body is None or self.server.requests <= self.server.failures:
                return self.send_error(404 if body is None else 503)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - self.server.cut])

        def log_message(self, *args):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.url, self.files = f"http://127.0.0.1:{self.server_port}", {}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "RETRY_WAITS", (0, 0, 0))
    monkeypatch.setattr(download, "CHECKSUMS", put(tmp_path, "sums/glue.sha256", ""))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


QNLI_FILES = {
    "train.tsv": "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tentailment\n",
    "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tc\td\tnot_entailment\n",
    "test.tsv": "index\tquestion\tsentence\n0\ta\td\n",
}
SMALL_QNLI = TASKS["qnli"]._replace(rows={"train": 2, "dev": 1, "test": 1})


def zip_of(files):
    with contextlib.closing(io.BytesIO()) as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()


@pytest.fixture
def qnli(server, monkeypatch):
    """The server with a QNLI archive: another folder, a stray copy, a resource fork, escaping
    members.
    """
    strays = ["QNLIv2/original/dev.tsv", "__MACOSX/train.tsv", "../../../test.tsv", "../../new.tsv"]
    files = {f"QNLIv2/{name}": content for name, content in QNLI_FILES.items()}
    server.files["glue/data/QNLIv2.zip"] = zip_of(
        {"QNLIv2/": ""} | files | dict.fromkeys(strays, "stray")
    )
    monkeypatch.setitem(TASKS, "qnli", SMALL_QNLI)
    return server


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


QNLI_PLACED = {f"QNLI/{name}": content for name, content in QNLI_FILES.items()}


def test_download_of_a_zip(qnli, tmp_path, capsys):
    args = [
        "download",
        "--data_dir",
        str(tmp_path / "data"),
        "--tasks",
        "QNLI",
        "--base_url",
        qnli.url,
    ]
    assert cli(utils_glue.main, args) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED
    assert files_below(tmp_path).keys() == {
        "sums/glue.sha256",
        *(f"data/{name}" for name in QNLI_PLACED),
    }
    assert cli(utils_glue.main, args) == 0 and qnli.requests == 1, "a task already there is skipped"
    put(tmp_path, "data/QNLI/dev.tsv", "mine")
    assert cli(utils_glue.main, [*args, "--overwrite"]) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED
    capsys.readouterr()
    assert cli(utils_glue.main, ["check", "--data_dir", str(tmp_path / "data")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["QNLI", "train", "2", "2"],
        ["QNLI", "dev", "1", "1"],
        ["QNLI", "test", "1", "1"],
    ]


def test_a_partial_folder_is_not_replaced(qnli, tmp_path):
    mine = put(tmp_path, "QNLI/train.tsv", "mine")
    with expect_error("without dev.tsv, test.tsv", "--overwrite"):
        download_task(SMALL_QNLI, tmp_path, qnli.url)
    assert mine.read_text() == "mine" and qnli.requests == 0


def mrpc_row(number):
    return f'{number % 2}\t{number}\t{number + 10}\tFirst "{number} .\tSecond {number} .'


def test_download_of_mrpc(server, tmp_path):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = "\r\n".join(["\ufeff" + header, *map(mrpc_row, range(4))])
    test = "\n".join(["\ufeff" + header, *map(mrpc_row, (8, 9)), ""])
    sources = {
        "senteval/senteval_data/msr_paraphrase_train.txt": train,
        "senteval/senteval_data/msr_paraphrase_test.txt": test,
        "glue/data/mrpc_dev_ids.tsv": "2\t12\n1\t11\n",
    }
    server.files = {path: text.encode() for path, text in sources.items()}
    task = TASKS["mrpc"]._replace(rows={"train": 2, "dev": 2, "test": 2})
    download_task(task, tmp_path, server.url)
    found = {name: (tmp_path / "MRPC" / name).read_bytes().decode() for name in task.files.values()}
    assert found == {
        "train.tsv": "\n".join(["\ufeff" + header, mrpc_row(0), mrpc_row(3), ""]),
        "dev.tsv": "\n".join(["\ufeff" + header, mrpc_row(1), mrpc_row(2), ""]),
        "test.tsv": "\n".join(
            [header.replace("Quality", "index"), mrpc_row(8), "1" + mrpc_row(9)[1:], ""]
        ),
    }
    for path, name in task.downloads.items():
        assert (tmp_path / "MRPC" / name).read_bytes() == server.files[path]


def test_real_mrpc_is_split_as_glue_does(tmp_path):
    folder = real_file(get_task("mrpc"), "test").parent
    for name in ("msr_paraphrase_train.txt", "dev_ids.tsv"):
        if not (folder / name).is_file():
            pytest.skip(f"FSD_GLUE has no {name} of MRPC, as Microsoft publishes it")
        put(tmp_path, name, (folder / name).read_bytes())
    test = (folder / "test.tsv").read_text(encoding="utf-8")
    rows = ["0\t" + row.split("\t", 1)[1] + "\n" for row in test.split("\n")[:-1]]
    put(tmp_path, "msr_paraphrase_test.txt", "".join(rows))
    download._split_mrpc(tmp_path)
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_wrong_checksums_and_row_counts_are_refused(qnli, tmp_path, monkeypatch, capsys):
    args = [
        "download",
        "--data_dir",
        str(tmp_path / "data"),
        "--tasks",
        "qnli",
        "--base_url",
        qnli.url,
    ]
    good = hashlib.sha256(QNLI_FILES["dev.tsv"].encode()).hexdigest()
    monkeypatch.setitem(TASKS, "qnli", SMALL_QNLI._replace(rows={"train": 3, "dev": 1, "test": 1}))
    bad = "0" * 64
    for sums, parts in (
        (f"{bad}  QNLI/dev.tsv\n{bad}  RTE/dev.tsv\n", ["QNLI/dev.tsv", bad, good]),
        (
            f"{good}  QNLI/dev.tsv\n{bad}  RTE/dev.tsv\n",
            ["number of rows 3 of QNLI/train.tsv", "found 2"],
        ),
    ):
        download.CHECKSUMS.write_text(sums)
        assert cli(utils_glue.main, args) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: Expected")
        assert all(part in error for part in [*parts, "--no_verify"])
        assert list((tmp_path / "data").iterdir()) == []
    assert cli(utils_glue.main, [*args, "--no_verify"]) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED


def test_two_failures_are_retried(qnli, tmp_path):
    qnli.failures = 2
    download_task(SMALL_QNLI, tmp_path, qnli.url + "/")
    assert qnli.requests == 3 and files_below(tmp_path / "QNLI") == QNLI_FILES


def test_dead_servers_and_broken_archives(qnli, tmp_path):
    download = {"task": SMALL_QNLI, "data_dir": tmp_path / "data", "base_url": qnli.url}
    url = f"{qnli.url}/glue/data/QNLIv2.zip"
    qnli.failures = 4
    with expect_error(url, "503", "4 tries", "--base_url"):
        download_task(**download)
    qnli.failures, qnli.cut = 0, 10
    with expect_error(url, r"ended after \d+ of \d+ bytes"):
        download_task(**download)
    qnli.cut, qnli.files["glue/data/QNLIv2.zip"] = 0, b"<html>"
    with expect_error("QNLIv2.zip", "not a zip"):
        download_task(**download)
    qnli.files["glue/data/QNLIv2.zip"] = zip_of({"x/train.tsv": ""})
    with expect_error("QNLIv2.zip", "no dev.tsv, test.tsv"):
        download_task(**download, verify=False)
    with expect_error("http://127.0.0.1:9/glue/data/QNLIv2.zip", "refused"):
        download_task(**download | {"base_url": "http://127.0.0.1:9"})
    assert list((tmp_path / "data").iterdir()) == []


def known_checksums():
    """[[digest, place]] of glue.sha256."""
    text = Path(download.__file__).with_name("glue.sha256").read_text()
    return [line.split("  ") for line in text.splitlines()]


def test_known_checksums():
    """glue.sha256 has sha256sum's format and names files of the table alone."""
    lines = known_checksums()
    known = {
        f"{task.folder}/{name}"
        for task in TASKS.values()
        for name in (*task.files.values(), *task.downloads.values())
    }
    assert len(lines) == 15 and {place for _, place in lines} <= known
    assert all(len(digest) == 64 and int(digest, 16) for digest, _ in lines)


def test_real_files_have_the_known_checksums():
    real_file(get_task("rte"), "train")
    for digest, place in known_checksums():
        file = Path(REAL_DATA, place)
        if place != "QNLI/train.tsv" and file.is_file():  # of QNLI an extract will do
            assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, place


def test_check_without_data(tmp_path):
    with expect_error(str(tmp_path / "RTE"), "none", "download"):
        utils_glue.main(["check", "--data_dir", str(tmp_path)])
