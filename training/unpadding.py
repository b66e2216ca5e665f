"""Runs an encoder on a mini-batch's tokens without any padding, on a CPU: as one long row.

All rows stand in it one behind the other. Linear layers, norms and dropout compute each token by
itself, so they give the same; attention is computed within each row, for all rows of one length
together. Padding is taken out of the input of a model's encoder and put back, as 0, into its
output; embeddings and head are as they were. The gain: a mini-batch of 32 rows of MRPC that is cut
to its longest row is still one third padding.

Not on a GPU: there each length would be a kernel of its own, and the host is what limits a step.
"""

import contextlib
import functools
from typing import NamedTuple

import accelerate
import torch
import torch.nn.functional as F

# family -> the name of its encoder, which computes each token alone except in softmax(QKᵀ/√d)V
ENCODERS = {
    "bert": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
    "camembert": "encoder",
    "electra": "encoder",
    "distilbert": "transformer",
}


class Unpadding(NamedTuple):
    """How a mini-batch (k, W') becomes one row of its T tokens, beginning with its shortest row.

    places: (T,), the index of each token among the k*W' positions. groups: [(number of rows,
    length)], with the rows of one length together. shape: (k, W').
    """

    places: torch.Tensor
    groups: list
    shape: tuple

    def unpad(self, x):
        """(k, W', ...) -> (1, T, ...)."""
        return x.flatten(0, 1)[self.places].unsqueeze(0)

    def pad(self, x, dim=1):
        """(1, T, D) -> (k, W', D), or (1, A, T, d) with dim 2 -> (k, A, W', d); 0 at padding.

        An x of another shape, from outside the encoder, is returned as it is.
        """
        if x.shape[0] != 1 or x.shape[dim] != len(self.places):
            return x  # x is from outside the encoder
        x = x.movedim(dim, 0)  # (T, 1, ...)
        whole = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:])
        whole = whole.index_copy(0, self.places, x).unflatten(0, self.shape)  # (k, W', 1, ...)
        return whole.squeeze(2) if dim == 1 else whole.squeeze(2).movedim(1, dim)


active = []  # the Unpaddings of the open contexts; the last one is in use
WORTH = 0.1  # the share of padding in a mini-batch below which leaving it out gains nothing


def unpadding_of(mask):
    """The Unpadding of an attention mask (k, W')."""
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    mask = mask.bool()
    starts = torch.arange(mask.numel()).view(mask.shape)
    places = starts[order][mask[order]]
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    groups = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    return Unpadding(places, groups, tuple(mask.shape))


@functools.cache
def take_over():
    """Make transformers call `attend_within_rows` for attention while padding is left out."""
    from transformers import AttentionInterface  # here, as it imports for a second
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(module, query, key, value, attention_mask, **more):
        if active:
            return attend_within_rows(query, key, value, **more)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)

    AttentionInterface.register("sdpa", attend)


def attend_within_rows(query, key, value, **more):
    """Attention of the tokens of each row: (1, A, T, d) each -> (1, T, A, d), and None."""
    parts, start = [], 0
    for rows, length in active[-1].groups:
        stop = start + rows * length
        own = (
            x[0, :, start:stop].unflatten(1, (rows, length)).transpose(0, 1)
            for x in (query, key, value)
        )  # (rows, A, length, d)
        found = F.scaled_dot_product_attention(
            *own, dropout_p=more.get("dropout", 0.0), scale=more.get("scaling")
        )
        parts.append(found.transpose(1, 2).flatten(0, 1))  # (rows * length, A, d)
        start = stop
    return torch.cat(parts).unsqueeze(0), None


def encoder_of(model):
    """The model's encoder if it can do without padding; None for another family or device."""
    plain = accelerate.utils.extract_model_from_parallel(
        model, keep_fp32_wrapper=True, keep_torch_compile=True
    )
    if hasattr(plain, "_orig_mod") or plain.device.type != "cpu":
        return None
    config = plain.config
    name = ENCODERS.get(config.model_type)
    causal = getattr(config, "is_decoder", False)
    if name is None or causal or config._attn_implementation != "sdpa":
        return None
    return getattr(plain.base_model, name, None)


@contextlib.contextmanager
def without_padding(model, mask):
    """While the context is open, the model's encoder computes no padding. Yields the Unpadding, or
    None if padding stays.

    mask: the attention mask (k, W') of the forward that follows.
    """
    encoder = encoder_of(model)
    if encoder is None or mask.count_nonzero() > (1 - WORTH) * mask.numel():
        yield None
        return
    take_over()
    rows = unpadding_of(mask)

    def before(module, arguments, named):
        first, *rest = arguments or (named.pop("hidden_states"),)
        return (rows.unpad(first), *rest), named | {"attention_mask": None}

    def after(module, arguments, outputs):
        outputs.last_hidden_state = rows.pad(outputs.last_hidden_state)
        return outputs

    hooks = [
        encoder.register_forward_pre_hook(before, with_kwargs=True),
        encoder.register_forward_hook(after),
    ]
    active.append(rows)
    try:
        yield rows
    finally:
        active.pop()
        for hook in hooks:
            hook.remove()
