"""MiniLM, deep self-attention distillation, in its first and second version.

Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
Compression of Pre-Trained Transformers", NeurIPS 2020, arXiv 2002.10957; and Wang, Bao, Huang,
Dong, Wei, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
Transformers", Findings of ACL 2021, arXiv 2012.15828. Both are for pre-training; here they are a
loss of fine-tuning. Queries, keys and values are those of the last layer.
"""

import torch

from baselines.shared import Term
from common import UserError
from precision import full_precision
from training.attention import has_position_bias

METHOD = {
    "name": "MiniLM",
    "help": "the last layer's attention distributions and value relations; with --relation_heads "
    "the self-relations of queries, keys and values, for teachers with other heads than the "
    "student's",
    "defaults": {"beta": 1.0, "relation_heads": None},
    "flags": {
        "relation_heads": {
            "role": "variant",
            "type": "int",
            "least": 1,
            "help": "MiniLM's second version, with so many heads. Default: the first version.",
        },
    },
    "needs": "attention",
}


def _log_relation(a, b, mask):
    """log softmax(a bᵀ / √d) over the keys that are not padding, (B, A, W, W).

    a, b: (B, A, W, d), of A heads. mask: (B, W) bool, True for real tokens.
    """
    scores = (a @ b.mT) / a.shape[-1] ** 0.5
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min).log_softmax(
        -1
    )


@full_precision
def relation_loss(a_s, b_s, a_t, b_t, mask):
    """KL(softmax(A_t B_tᵀ/√d) ‖ softmax(A_s B_sᵀ/√d)), mean over heads and tokens.

    a_s, b_s: (B, A, W, d_s). a_t, b_t: (B, A, W, d_t), detached. mask: (B, W) bool, True for real
    tokens; padding is neither query nor key. Returns a scalar: the mean over samples of (1/(A |x|))
    Σ_heads Σ_tokens, |x| being a sample's number of real tokens.
    """
    log_s, log_t = _log_relation(a_s, b_s, mask), _log_relation(a_t.detach(), b_t.detach(), mask)
    divergence = (log_t.exp() * (log_t - log_s)).sum(-1).mean(1)  # (B, A, W, W) -> (B, W)
    return ((divergence * mask).sum(-1) / mask.sum(-1)).mean()


def minilm_loss(attention_s, attention_t, mask):
    """MiniLM's L_AT + L_VR: the losses of attention distributions and of value relations.

    attention_s, attention_t: (queries, keys, values), (B, A, W, d) each; A is the same in both, d
    may differ. mask: (B, W) bool, True for real tokens. Returns a scalar.
    """
    (q_s, k_s, v_s), (q_t, k_t, v_t) = attention_s, attention_t
    return relation_loss(q_s, k_s, q_t, k_t, mask) + relation_loss(v_s, v_s, v_t, v_t, mask)


def relation_heads(x, heads):
    """Join the vectors of all A attention heads, and split them into `heads` new ones.

    x: (B, A, W, d). Returns (B, heads, W, A*d/heads).
    """
    return x.transpose(1, 2).flatten(2).unflatten(2, (heads, -1)).transpose(1, 2)


def minilm_v2_loss(attention_s, attention_t, mask, heads):
    """MiniLMv2: the sum of the relation losses of queries, keys and values, each with itself.

    Arguments as in minilm_loss, but A may differ. heads: the number of relation heads. Returns a
    scalar.
    """
    split = [
        (relation_heads(x_s, heads), relation_heads(x_t, heads))
        for x_s, x_t in zip(attention_s, attention_t, strict=True)
    ]
    return sum(relation_loss(x_s, x_s, x_t, x_t, mask) for x_s, x_t in split)


def structure(args):
    """{name: Term} of β (L_AT + L_VR), or with --relation_heads of β times minilm_v2_loss."""

    def loss(s, t, targets):
        mask = targets["attention_mask"]
        if args.relation_heads:
            return minilm_v2_loss(s.attention, t.attention, mask, args.relation_heads)
        return minilm_loss(s.attention, t.attention, mask)

    return {"attention": Term(args.beta, loss, "attention")}


def check(args, student, teacher):
    """Refuse models whose attention distributions cannot be read, or whose heads do not fit."""
    one, other, heads = student.config, teacher.config, args.relation_heads
    if heads and (one.hidden_size % heads or other.hidden_size % heads):
        raise UserError(
            f"--relation_heads must divide the widths of student and teacher, {one.hidden_size} "
            f"and {other.hidden_size}, found {heads}: pass a number that divides both"
        )
    if not heads and one.num_attention_heads != other.num_attention_heads:
        raise UserError(
            f"the student has {one.num_attention_heads} attention heads and the teacher "
            f"{other.num_attention_heads}: pass --relation_heads, for MiniLM's second version"
        )
    if not heads and has_position_bias(teacher):
        raise UserError(
            f"the attention of {type(teacher).__name__} adds a position bias to the products of "
            "queries and keys, which MiniLM's first version leaves out: pass --relation_heads for "
            "the second version, which compares no attention distributions"
        )
