"""training/unpadding.py: an encoder computes real tokens alone, and gives back whole rows."""

import pytest
import torch
import transformers
from conftest import SHAPE
from padded_runs import LENGTH, RUNS, flags_of, in_float64, losses_and_gradients
from stopped_runs import loop_of

from training import unpadding
from training.batches import MiniBatch, Rows


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
def test_an_encoder_computes_no_padding(name, tiny_without_dropout, tmp_path, widths):
    main, _, _ = RUNS[name]
    loop = loop_of(main, flags_of(name, tiny_without_dropout, tmp_path / "s"))
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
