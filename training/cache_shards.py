"""A shard of the teacher cache: one safetensors file of numbers, with a note of what they are.

safetensors does not notice a changed number, and the shards of two teachers have the same shape. So
the note has the shard's identity (its entry, its number and its cache) and a checksum of its
numbers: a shard in the wrong place, or damaged on the disk, is refused.
"""

import json

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common import UserError, atomic_path, checksum

AGAIN = "delete it to have it made again"


def write_shard(path, values, identity):
    """Write numbers (B, ...) and their identity, a JSON-able dict, as a shard; whole or not
    at all.
    """
    tensors, told = {"values": values}, json.dumps(identity)
    # one text: safetensors writes several in random order, but equal shards shall be equal files
    note = json.dumps({"identity": identity, "checksum": checksum(tensors, told)})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"shard": note})


def map_shard(path, dtype, shape):
    """A shard's numbers, a tensor whose data is read from the disk on use, and its note, a dict.

    The note is {} in a shard of an earlier version. UserError if the file cannot be read, or its
    numbers are not of this dtype (by its name in torch) and shape.
    """
    expected, note = f"{dtype} {tuple(shape)}", {}
    try:
        with safe_open(path, framework="pt") as file:
            values = file.get_tensor("values")
            note = json.loads((file.metadata() or {}).get("shard", "{}"))
        if not isinstance(note, dict):
            raise ValueError("a note that is no JSON object")
        found = f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
    except (OSError, ValueError, SafetensorError) as error:
        found = f"{type(error).__name__}: {error}"
    if found != expected:
        raise UserError(f"the cache file {path} should hold {expected}, found {found}: {AGAIN}")
    return values, note


def check_identity(path, note, identity):
    """Refuse a shard whose note tells of another identity. No numbers are read for this."""
    found = note.get("identity")
    if found != identity:
        raise UserError(
            f"the cache file {path} should hold {describe(identity)}, found {describe(found)}: "
            f"{AGAIN}"
        )


def describe(identity):
    """A shard's identity, a dict or None, in words: "entry logits, shard 0, cache 0123..."."""
    if not isinstance(identity, dict):
        return "no note of what it holds"
    return ", ".join(f"{key} {value}" for key, value in identity.items())


def check_numbers(path, values, note):
    """Refuse a shard whose numbers are not those that were written. All of them are read."""
    if note.get("checksum") != checksum({"values": values}, json.dumps(note.get("identity"))):
        raise UserError(
            f"the numbers in the cache file {path} have changed since they were written, by its "
            f"checksum: {AGAIN}"
        )
