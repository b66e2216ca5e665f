"""A shard of the teacher's cache: one safetensors file with a note of what it is.

safetensors itself notices no changed number, and two teachers' shards have one shape. So a shard
says whose it is, and has a checksum of its numbers: what lies in the wrong place, or was damaged on
the disk, is refused.
"""

import json

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common import UserError, atomic_path, checksum

AGAIN = "delete it to have it made again"


def write_shard(path, values, identity):
    """Write numbers (B, ...) with the identity that they have, JSON-able; no file half."""
    tensors, told = {"values": values}, json.dumps(identity)
    # one text, as safetensors writes several in a random order, and equal shards are equal files
    note = json.dumps({"identity": identity, "checksum": checksum(tensors, told)})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"shard": note})


def map_shard(path, dtype, shape):
    """The numbers of a shard, a tensor that is read where it is used, and its note.

    The note is {} in a shard of an earlier version. A UserError where the file has not this dtype,
    by its name in torch, and shape.
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
        raise UserError(f"{path} should hold {expected}, found {found}: {AGAIN}")
    return values, note


def check_identity(path, note, identity):
    """Refuse a shard that belongs elsewhere. It costs nothing."""
    found = note.get("identity")
    if found != identity:
        raise UserError(f"{path} should be {describe(identity)}, found {describe(found)}: {AGAIN}")


def describe(identity):
    """An identity in words."""
    if not isinstance(identity, dict):
        return "none that says what it is"
    return ", ".join(f"{key} {value}" for key, value in identity.items())


def check_numbers(path, values, note):
    """Refuse a shard whose numbers are not those that were written. It reads all of them."""
    if note.get("checksum") != checksum({"values": values}, json.dumps(note.get("identity"))):
        raise UserError(
            f"{path} holds other numbers than were written there, by its checksum: {AGAIN}"
        )
