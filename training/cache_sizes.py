"""The shapes and types of what the teacher cache stores of a sample, without torch or a teacher.

training/teacher_cache.py writes these numbers, scripts/estimate.py counts their bytes.
"""

import math
from typing import NamedTuple

BYTES = {"float16": 2, "float32": 4}  # per number


class Stored(NamedTuple):
    """What is stored of one sample: its numbers' shape, and their type by its name in torch."""

    shape: tuple
    dtype: str

    @property
    def bytes(self):
        return BYTES[self.dtype] * math.prod(self.shape)


def stored(needs, layers, *, length, hidden_size, num_labels, heads=1, centroids=0):
    """What to store of each sample, {kind: {layer: Stored}}; the layer is None for logits and
    attention.

    needs: the set of kinds that terms need, of logits, tokens, features, relations and attention;
    tokens are not stored beside features, as they are computed from these. layers: indices of the
    teacher's hidden states in use, the penultimate last. length: W, tokens of a sample. heads: A,
    the teacher's attention heads. centroids: C, of the memory.
    """
    found = {}
    if "logits" in needs:
        found["logits"] = {None: Stored((num_labels,), "float32")}
    if "features" in needs:
        found["features"] = {k: Stored((length, hidden_size), "float16") for k in layers}
    elif "tokens" in needs:
        found["tokens"] = {k: Stored((length, length), "float16") for k in layers}
    if "relations" in needs:  # distances and cosines
        found["relations"] = {layers[-1]: Stored((2, centroids), "float32")}
    if "attention" in needs:  # queries, keys and values
        shape = (3, heads, length, hidden_size // heads)
        found["attention"] = {None: Stored(shape, "float16")}
    return found
