"""What a teacher cache holds of each sample, and how that is made of the teacher's outputs."""

from typing import NamedTuple

import torch

import cka
from relations import PSI
from training.batches import flat
from training.cache_sizes import Stored, stored


class Entry(NamedTuple):
    """One folder of a cache: what it holds of each sample, and how that is made of the teacher's
    outputs.

    source: which output: the index of a hidden state, "logits" or "attention". make: (that output,
    MiniBatch) -> (B, *shape), with fewer columns if padding was cut off. padding: whether padded
    positions hold what the teacher computes there; if not, they hold 0.
    """

    source: int | str
    stored: Stored
    make: object
    padding: bool

    @property
    def shape(self):
        """The shape of a sample's numbers."""
        return self.stored.shape

    @property
    def dtype(self):
        return getattr(torch, self.stored.dtype)

    @property
    def bytes(self):
        """The bytes of a sample's numbers."""
        return self.stored.bytes


def entries(needs, layers, config, args, masked, memories=None, memory_name=""):
    """{kind: {name: Entry}} of what terms need: logits, tokens, features, relations, attention.

    needs: a set of these kinds. layers: the teacher's hidden states in use, the penultimate last.
    config: the teacher's. masked: whether the rows have a `mask` for the structures.
    """
    suffix = "-masked" if masked else ""
    estimator = getattr(args, "cka_estimator", None)

    def keep(x, batch):
        return x

    def structure_tokens(h, batch):
        return cka.token_structure(h, batch.targets.get("mask"), estimator).matrix

    def relate_to_memory(h, batch):
        rows = flat(h, batch.targets)
        found = cka.memory_relations(rows, memories.teacher)
        return torch.stack([found[psi] for psi in PSI], 1)  # (B, 2, C)

    def stack_attention(qkv, batch):
        return torch.stack(qkv, 1)  # (B, 3, A, W, d)

    how = {  # kind -> an entry's name, how it is made, whether it holds padding
        "logits": ("logits", keep, False),
        "features": ("features-{layer}", keep, True),  # with and without a mask
        "tokens": (f"tokens-{{layer}}-{estimator}{suffix}", structure_tokens, not masked),
        "relations": (f"relations-{memory_name[:16]}{suffix}", relate_to_memory, not masked),
        "attention": ("attention", stack_attention, False),
    }
    sizes = stored(
        needs,
        layers,
        length=args.max_seq_length,
        hidden_size=config.hidden_size,
        num_labels=config.num_labels,
        heads=getattr(config, "num_attention_heads", 1),  # FNet has none
        centroids=len(memories.student) if memories else 0,
    )
    wanted = {}
    for kind, found in sizes.items():
        name, make, padding = how[kind]
        wanted[kind] = {
            name.format(layer=layer): Entry(kind if layer is None else layer, size, make, padding)
            for layer, size in found.items()
        }
    return wanted
