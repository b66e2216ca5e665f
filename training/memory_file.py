"""The file of a memory, with its centroids and the facts about them, and the file of the state of
an unfinished clustering.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common import UserError, atomic_path, checksum

FILE = "memory.safetensors"


def check_content(expected, tensors, facts):
    """ValueError unless tensors and facts have the checksum `expected`.

    None, which is the checksum of older files, passes.
    """
    if expected not in (None, checksum(tensors, json.dumps(facts))):
        raise ValueError("its content is not what was written there, by its checksum")


def save_state(path, tensors, metadata):
    """Write the tensors of KMeans.state and `metadata`, name -> text, as one safetensors file."""
    total = checksum(tensors, json.dumps(dict(sorted(metadata.items()))))
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata | {"checksum": total})


def load_state(path):
    """The tensors and metadata that save_state wrote; ValueError if they were changed since."""
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    check_content(metadata.pop("checksum", None), tensors, dict(sorted(metadata.items())))
    return tensors, metadata


def save_memory(path, centroids, facts):
    """Write centroids (C, W*D) and JSON-able facts about them as one safetensors file, whole or not
    at all.

    Returns the facts with a checksum among them: safetensors writes several metadata in a random
    order, and equal memories shall be equal files, so all is in one text.
    """
    tensors = {"centroids": centroids.detach().float().cpu().contiguous()}
    facts = facts | {"checksum": checksum(tensors, json.dumps(facts))}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"memory": json.dumps(facts)})
    return facts


def find_memory(path):
    """The path of a memory's file, given that file or its folder; UserError if there is none."""
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no memory {path}: give the folder that train_memory.py wrote as "
            "--teacher_memory_path"
        )
    return path


def load_memory(path, expected=None):
    """The centroids (C, W*D) and the facts, a dict, of a memory file.

    expected: facts, name -> value; UserError if the memory's differ, or if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts, centroids = json.loads(file.metadata()["memory"]), file.get_tensor("centroids")
        check_content(facts.pop("checksum", None), {"centroids": centroids}, facts)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no memory that train_memory.py wrote, or a damaged one "
            f"({type(error).__name__}: {error}): train it again"
        ) from None
    check_shape(path, centroids, facts)
    differ = [
        f"{name.replace('_', ' ')} is {short(facts.get(name))} there and {short(value)} here"
        for name, value in (expected or {}).items()
        if facts.get(name) != value
    ]
    if differ:
        raise UserError(
            f"the memory {path} does not belong to this run: its {', its '.join(differ)}; train "
            "one with train_memory.py and this run's teacher, task and --max_seq_length"
        )
    return centroids, facts


def check_shape(path, centroids, facts):
    """Refuse centroids whose number or width is not what the facts say, or that are not finite."""
    number, length, width = (
        facts.get(name) for name in ("num_centroid", "max_seq_length", "hidden_size")
    )
    right = (
        centroids.ndim == 2
        and centroids.numel()
        and number in (None, centroids.shape[0])
        and (None in (length, width) or length * width == centroids.shape[1])
    )
    if not right:
        raise UserError(
            f"{path} should hold {number} centroids of {length} tokens, {width} wide, but "
            f"holds numbers of the shape {tuple(centroids.shape)}: train it again"
        )
    if not centroids.isfinite().all():
        raise UserError(f"{path} has infinite or NaN centroids: train it again")


def short(value):
    """A value for a message; a fingerprint is cut to its first 12 characters."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
