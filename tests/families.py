"""Families of models: tokenizers of their own classes, and what their small configs have."""

import json
import shutil

import sentencepiece
import transformers
from conftest import WORDS
from test_models import byte_level, sentencepiece_unigram

CASED = "The Dog Café THE DOG CAFÉ ÀÉÎ".split()


def cased_wordpiece(family):
    """The family's own class over a cased vocabulary, with the uncased words in it, too."""

    def make(folder):
        special = "[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> <pad> <mask>".split()
        words = [*special, *WORDS, *CASED, "cafe", "café", "aei", "naive"]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
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
LAYERS = {"distilbert": "n_layers", "xlnet": "n_layer"}  # what it is called there
FIELDS = {
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 24},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "modernbert": {
        "cls_token_id": 0,
        "sep_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "local_attention": 4,
    },
    "xlnet": {"d_model": 16, "n_head": 2, "d_inner": 24, "max_position_embeddings": None},
}


def shape_of(family, layers=4):
    """What a small model of a family has besides conftest's SHAPE; None takes a field away."""
    own = {LAYERS[family]: layers} if family in LAYERS else {}
    return {"num_hidden_layers": layers} | own | FIELDS.get(family, {})
