"""Tokenizers: what is saved reads as the training did, and a wrong one is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import transformers
from conftest import WORDS, change_json, flags, refusal, save_models, write_task
from families import (
    ALBERT_UNITS,
    TOKENIZERS,
    cased_wordpiece,
    sentencepiece_unigram,
    shape_of,
    train_units,
)

import glue_with_cka_i
import train_teacher
from training.tokenizer import load_tokenizer

# ---- what is saved -------------------------------------------------------------------------------


TEXTS = ["The DOG sees a Café", "ÀÉÎ hears the CAFÉ", "naïve Œuvre ÇA"]


@pytest.mark.slow
@pytest.mark.parametrize("family", TOKENIZERS)
def test_what_is_saved_reads_as_the_training_did(family, tmp_path):
    """Cased text with accents; in another process; lower-cased as the family's own flag does it."""
    folder = save_models(tmp_path, family, TOKENIZERS[family](tmp_path), **shape_of(family, 2))
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


def test_a_general_tokenizer_of_a_bert_keeps_its_token_types(tiny, tmp_path):
    """transformers' general class keeps back the token types that the model was trained with."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/tokenizer_config.json"
    change_json(path, tokenizer_class="PreTrainedTokenizerFast")
    arguments = flags(
        tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1
    )
    tokenizer = load_tokenizer(glue_with_cka_i.make_parser().parse_args(arguments))
    plain = transformers.AutoTokenizer.from_pretrained(tiny / "teacher")
    assert dict(tokenizer("the dog", "a cat")) == dict(plain("the dog", "a cat"))
    glue_with_cka_i.main(arguments)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    assert dict(saved("the dog", "a cat")) == dict(plain("the dog", "a cat"))


def test_token_types_that_the_model_does_not_have(tmp_path):
    """A BERT of one token type, whose tokenizer marks the second text: it trains, and a stranger's
    pipeline runs.
    """
    folder = save_models(tmp_path, type_vocab_size=1)
    write_task(folder)
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--internal", "--max_steps", 2))
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "s"), device="cpu")
    assert classify([{"text": "the dog", "text_pair": "a cat"}])


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


# ---- what is refused -----------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    for file in (*(tmp_path / "teacher").glob("*token*"), *(tmp_path / "teacher").glob("vocab*")):
        file.unlink()
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "there is no tokenizer in" in said and "--tokenizer_name" in said


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
    lines = [" ".join(rng.permutation(WORDS[:20])) for _ in range(200)]
    train_units(tmp_path, lines, 50, **ALBERT_UNITS).rename(folder / "pretrained/spiece.model")
    words = flags(folder, tmp_path / "s", "--max_seq_length", 40, "--internal")
    assert "two tokenizers" in refusal(capsys, words)
