"""MiniLM's losses against transformers' own attention and numpy; what is heard of attention."""

import itertools
import math

import pytest
import torch
import transformers
from conftest import SHAPE, draw, draw_attention, save_models, write_task
from families import shape_of
from scipy.special import rel_entr, softmax

from baselines import minilm
from tasks.features import load_features
from tasks.glue import get_task
from training.attention import heard, last_attention


def eager_attention(folder, batch):
    """The last layer's attention distributions, by transformers' own eager attention, and its
    values (B, W, D).
    """
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = model(**batch, output_attentions=True, output_hidden_states=True)
        values = model.bert.encoder.layer[-1].attention.self.value(out.hidden_states[-2])
    return out.attentions[-1].double().numpy(), values.double().numpy()


def test_minilm_is_that_of_transformers_own_attention(tmp_path):
    """Attention distributions from transformers' eager form, value relations and KL by SciPy."""
    folders = [
        save_models(tmp_path / name, seed=seed, **shape) / "teacher"
        for name, seed, shape in (("s", 1, {"num_hidden_layers": 2}), ("t", 2, {"hidden_size": 32}))
    ]
    write_task(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0])
    rows = load_features(get_task("rte"), tmp_path, "train", tokenizer, 24).tensors
    batch = {key: value[:6].long() for key, value in rows.items() if key != "labels"}
    mask, found = batch["attention_mask"].bool(), []
    for folder in folders:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad(), heard(model) as attention:
            model(**batch)
        found.append(attention)
    assert [x.shape for x in found[1]] == [(6, 2, 24, 16)] * 3

    (a_s, v_s), (a_t, v_t) = (eager_attention(folder, batch) for folder in folders)
    total = 0
    for i, length in enumerate(mask.sum(1).tolist()):
        for head in range(2):
            for token in range(length):
                total += (
                    rel_entr(a_t[i, head, token, :length], a_s[i, head, token, :length]).sum()
                    / length
                )
                p = [
                    softmax(x[i, :length] @ x[i, token] / math.sqrt(len(x[i, token])))
                    for x in (
                        v[:, :, head * v.shape[2] // 2 : (head + 1) * v.shape[2] // 2]
                        for v in (v_t, v_s)
                    )
                ]
                total += rel_entr(*p).sum() / length
    assert minilm.minilm_loss(*found, mask).item() == pytest.approx(total / (6 * 2), rel=1e-4)


def test_minilm_v2_is_that_of_numpy_for_other_heads_and_widths():
    s, t, mask = (
        draw_attention(2, 12, 20),
        draw_attention(4, 24, 30),
        torch.ones(3, 5, dtype=torch.bool),
    )
    total = 0
    for x_s, x_t in zip(s, t, strict=True):
        joined = [x.numpy().transpose(0, 2, 1, 3).reshape(3, 5, -1) for x in (x_t, x_s)]
        for i, head in itertools.product(range(3), range(6)):
            part = [x[i, :, head * x.shape[2] // 6 : (head + 1) * x.shape[2] // 6] for x in joined]
            p_t, p_s = (softmax(x @ x.T / math.sqrt(x.shape[1]), axis=1) for x in part)
            total += rel_entr(p_t, p_s).sum() / (5 * 6 * 3)
    assert minilm.minilm_v2_loss(s, t, mask, 6).item() == pytest.approx(total, rel=1e-10)
    assert torch.equal(minilm.relation_heads(s[0], 2), s[0])


def test_minilm_knows_no_padding():
    """More padding, and whatever stands there, change neither loss nor gradient."""
    s, t, mask = (
        draw_attention(2, 8, 40),
        draw_attention(2, 12, 50),
        torch.ones(3, 5, dtype=torch.bool),
    )
    mask[1, 3:] = False
    s[0].requires_grad_()
    value = minilm.minilm_loss(s, t, mask)
    (gradient,) = torch.autograd.grad(value, s[0])
    assert (gradient[1, :, 3:] == 0).all() and (gradient[1, :, :3] != 0).all()
    noisy = [
        torch.cat([x.where(mask[:, None, :, None], 100.0), draw(0, 3, 2, 4, x.shape[3])], 2)
        for x in (*s, *t)
    ]
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
    assert minilm.minilm_loss(noisy[:3], noisy[3:], longer).item() == pytest.approx(
        value.item(), rel=1e-12
    )
    assert minilm.minilm_loss(t, t, mask) == 0
    assert torch.autograd.gradcheck(lambda q: minilm.minilm_loss([q, *s[1:]], t, mask), s[0])


@pytest.mark.parametrize(
    "family, changes",
    [
        (family, shape_of(family))
        for family in ("bert", "roberta", "electra", "mpnet", "albert", "distilbert")
    ],
)
def test_attention_is_heard_in_each_family(family, changes):
    """What is heard are the projections of the last layer's input, whatever the family calls
    them.
    """
    config = transformers.AutoConfig.for_model(family, **SHAPE | changes, vocab_size=40)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    tokens = torch.arange(3, 15).view(2, 6)
    with torch.no_grad(), heard(model) as attention:
        h = model(tokens, output_hidden_states=True).hidden_states[-2]
        names = ("query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin")
        projections = [m for name, m in model.named_modules() if name.split(".")[-1] in names][-3:]
        wanted = [p(h).view(2, 6, 2, 8).transpose(1, 2) for p in projections]
    for found, expected in zip(attention, wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert not any(m._forward_hooks for m in last_attention(model)[1])
