"""utils_glue.py: features of a tokenizer, and the cache of them."""

import hashlib
from pathlib import Path

import pytest
import torch
from conftest import room_for
from glue_files import PAIRS, expect_error, put
from transformers import BertTokenizer

from tasks.features import CHUNK, feature_cache_dir, load_features, tokenizer_fingerprint
from tasks.glue import get_task

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]


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


# ---- what the tokenizer makes --------------------------------------------------------------------


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


def test_chunks_do_not_matter(load, tmp_path):
    """More rows than go to the tokenizer at once."""
    two, pairs = load().tensors, CHUNK // 2 + 1
    header, *rows = PAIRS.splitlines(keepends=True)
    put(tmp_path, "RTE/dev.tsv", header + "".join(rows * pairs))
    many = load()
    for key, tensor in many.tensors.items():
        repeats = (pairs, *(1 for _ in tensor.shape[1:]))
        assert torch.equal(tensor, two[key].repeat(repeats)), key
    assert many.indices == ["0", "1"] * pairs
    assert (many.source["rows"], many.source["truncated"]) == (2 * pairs, pairs)


def test_an_exact_fit_is_not_truncated(load):
    assert load(length=13).source["truncated"] == 0
    assert load(length=12).source["truncated"] == 1


def test_lengths_without_room_for_text_are_refused(load):
    with expect_error("3 special tokens", "max_seq_length 3"):
        load(length=3)


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


# ---- the cache -----------------------------------------------------------------------------------


def test_a_cache_hit_does_not_tokenize(load, tmp_path, tokenizer):
    first, calls = load(), CountingTokenizer.calls
    assert calls > 0
    assert equal(load(), first)
    again = CountingTokenizer.from_pretrained(tmp_path / "bert")
    # what a call asks for stays in the tokenizer
    again(["a"], truncation=True, max_length=3, padding="max_length")
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


def test_a_failing_write_leaves_no_cache(load, tmp_path):
    with room_for(100), pytest.raises(OSError, match="File too large"):
        load()
    assert list((tmp_path / "cache").iterdir()) == []


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
