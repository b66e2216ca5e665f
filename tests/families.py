"""Families of models (BERT, RoBERTa, ...): small configs, and tokenizers of their own classes.

A function that makes a tokenizer takes a folder, for its files, and returns the tokenizer.
"""

import json
import random
import shutil

import sentencepiece
import torch
import transformers
from conftest import WORDS, save_models, sentence, wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = "The Dog Café THE DOG CAFÉ ÀÉÎ".split()
ALBERT_UNITS = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "control_symbols": "[CLS],[SEP]",
    "user_defined_symbols": "[MASK]",
}


def byte_level(folder):
    """A RoBERTa tokenizer whose tokens are single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=62,
    )


def train_units(folder, lines, size, **more):
    """Train a sentencepiece vocabulary on lines of text; returns the path of its model.

    size: of the vocabulary. more: options of SentencePieceTrainer.
    """
    (folder / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "unit"),
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **more,
    )
    return folder / "unit.model"


def sentencepiece_unigram(folder):
    """An ALBERT tokenizer on a sentencepiece vocabulary trained on the toy sentences."""
    rng = random.Random(0)
    unit = train_units(folder, [sentence(rng) for _ in range(300)], 60, **ALBERT_UNITS)
    folder = folder / "sentencepiece"
    folder.mkdir()
    unit.rename(folder / "spiece.model")
    (folder / "config.json").write_text('{"model_type": "albert"}')
    return transformers.AutoTokenizer.from_pretrained(folder, model_max_length=64)


def cased_wordpiece(family):
    """A maker of the family's own tokenizer, over a vocabulary with cased and uncased words."""

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
    """A maker of the family's own tokenizer, over cased sentencepiece units."""

    def make(folder):
        unit = train_units(folder, CASED + WORDS, 70)
        own = folder / "pieces"
        own.mkdir()
        for name in ("sentencepiece.bpe.model", "spm.model", "spiece.model"):
            shutil.copy(unit, own / name)
        (own / "config.json").write_text(json.dumps({"model_type": family}))
        return transformers.AutoTokenizer.from_pretrained(own, model_max_length=62)

    return make


TOKENIZERS = {  # family -> what makes a tokenizer of the family's own class
    **{family: cased_wordpiece(family) for family in ("bert", "distilbert", "electra", "mpnet")},
    "roberta": byte_level,
    "modernbert": byte_level,
    "albert": sentencepiece_unigram,
    **{family: pieces(family) for family in ("xlm-roberta", "camembert", "deberta-v2", "xlnet")},
}
LAYERS = {"distilbert": "n_layers", "xlnet": "n_layer"}  # the config's name of the number of layers
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
    """Fields of a family's small config besides conftest's SHAPE; None removes a field."""
    own = {LAYERS[family]: layers} if family in LAYERS else {}
    return {"num_hidden_layers": layers} | own | FIELDS.get(family, {})


# ---- any tokenizer that fits ---------------------------------------------------------------------

MAKERS = {
    **dict.fromkeys(("bert", "distilbert", "electra", "deberta-v2", "xlnet"), wordpiece),
    **dict.fromkeys(("roberta", "mpnet", "modernbert"), byte_level),
    "albert": sentencepiece_unigram,
}
FAMILIES = {  # families that tests train -> (what makes the tokenizer, fields of the config)
    family: (MAKERS[family], shape_of(family))
    for family in ("bert", "roberta", "distilbert", "electra", "albert", "xlnet", "mpnet")
}


def save_family(folder, family):
    """save_models of a family, with a tokenizer that the family can use."""
    return save_models(folder, family, MAKERS[family](folder), **shape_of(family))


def permute_vocabulary(source, folder):
    """Copy the model in `source` to `folder`, with vocabulary and embeddings in another order."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    words = [*SPECIAL, *reversed(WORDS)]
    folder.mkdir()
    (folder / "words").write_text("\n".join(words) + "\n")
    places = tokenizer.convert_tokens_to_ids(words)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.copy_(embeddings[places])
    model.save_pretrained(folder)
    transformers.BertTokenizer(vocab=str(folder / "words"), model_max_length=64).save_pretrained(
        folder
    )
    return folder
