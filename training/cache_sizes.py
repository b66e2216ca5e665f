"""What a teacher's cache stores of a sample, in numbers: known without torch and without a teacher.

training/teacher_cache.py writes it, scripts/estimate.py counts its bytes.
"""

import math
from typing import NamedTuple

BYTES = {"float16": 2, "float32": 4}  # of a number


class Stored(NamedTuple):
    """The numbers of one sample: their shape, and their type by its name in torch."""

    shape: tuple
    dtype: str

    @property
    def bytes(self):
        return BYTES[self.dtype] * math.prod(self.shape)


def stored(needs, layers, *, length, hidden_size, num_labels, heads=1, centroids=0):
    """{kind: {layer: Stored}} of what terms need; the layer is None where it has none.

    needs: a set among logits, tokens, features, relations and attention; where features are stored,
    tokens are made of them. layers: the teacher's hidden states in use, the penultimate last.
    length: tokens of a sample. heads: the teacher's, of its attention. centroids: of the memory.
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
