"""The rows of a task as tokenised features, each split once in a cache."""

import errno
import hashlib
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from common import UserError, atomic_path, checksum, make_folder, sha256_of_file
from tasks.reading import read_examples
from tasks.task import expect, find_file

DISK_TYPES = {"input_ids": "int32", "attention_mask": "uint8", "token_type_ids": "uint8"}  # torch's
CHUNK = 1000  # examples a tokenizer call
NO_CLASS = -100  # the label of a row that has none; torch's cross-entropy leaves it out


class Features(NamedTuple):
    """A split as tensors of N rows, each padded to L = max_seq_length; the (N, L) lie in the cache,
    memory-mapped.
    """

    tensors: dict  # name -> DISK_TYPES of (N, L), and labels (N,), NO_CLASS or NaN where none is
    indices: list[str]  # (N,) the examples' own
    # of the whole file: file (name), sha256, rows, truncated (examples), and of a user's own file
    # read_sha256, of its content and how that is read, text_columns and label_column
    source: dict

    @property
    def fingerprint(self):
        """What the rows' texts are, as sha256: of a GLUE file its own."""
        return self.source.get("read_sha256", self.source["sha256"])


def select(features, rows):
    """The Features of these rows, (n,) indices, alone."""
    tensors = {key: value[rows] for key, value in features.tensors.items() if key != "labelled"}
    return features._replace(tensors=tensors, indices=[features.indices[i] for i in rows.tolist()])


def feature_cache_dir(cache_dir=None):
    """`cache_dir` if given, else fsd-glue in the user's cache folder; never the data folder."""
    try:
        return Path(
            cache_dir
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fsd-glue")
        )
    except RuntimeError:  # no HOME, and the system does not know the user
        raise UserError(
            "the tokenised rows need a folder, and this user has no home to keep them in: name one "
            "with --cache_dir"
        ) from None


def _make_cache_dir(folder):
    """The folder of tokenised rows, made and tried, as tokenising takes minutes."""
    try:
        make_folder(folder)
        reason = None if os.access(folder, os.W_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(
            f"the tokenised rows cannot be kept in {folder} ({reason}): name a folder with "
            "--cache_dir"
        )


def tokenizer_fingerprint(tokenizer):
    """The sha256 of what decides a tokenizer's output, whichever folder it was loaded from."""
    names = ("padding_side", "truncation_side", "pad_token_id", "model_input_names")
    state = {"class": type(tokenizer).__name__} | {name: getattr(tokenizer, name) for name in names}
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        # every call leaves its own truncation and padding in the backend
        state["backend"] = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        settings = {
            key: value
            for key, value in tokenizer.init_kwargs.items()
            if not key.endswith(("_file", "name_or_path"))
        }
        state |= {"vocab": sorted(tokenizer.get_vocab().items()), "init": settings}
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def load_features(
    task,
    data_dir,
    split,
    tokenizer,
    max_seq_length,
    cache_dir=None,
    overwrite_cache=False,
    max_samples=None,
):
    """The Features of a split, from the cache if that holds this very file, tokenizer and length.

    Labels are long, regression's float32; `max_samples` keeps the first N rows. UserError for a
    faulty file, a length without room for text, or max_samples below 1.
    """
    path = find_file(task, data_dir, split)
    special = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2)
    # at such a length tokenizers would, without a word, not truncate at all
    expect(
        max_seq_length > special,
        f"more than the {special} special tokens of a {task.name} row",
        f"max_seq_length {max_seq_length}",
        "pass a larger --max_seq_length",
    )
    expect(
        max_samples is None or max_samples > 0,
        f"a maximum of at least 1 {split} sample",
        max_samples,
        "raise it or leave it out",
    )
    data, words = sha256_of_file(path), tokenizer_fingerprint(tokenizer)
    read = data if task.is_glue else sha256_of_reading(task, path, data)
    form = "format 1" if task.is_glue else "format 2"  # own files were once read in another way
    facts = [form, task.name, split, max_seq_length, read, words]
    if not task.is_glue:  # whose classes the name does not tell
        facts += [task.label_column, task.labels]
    fingerprint = json.dumps(facts)
    # of a user's file also by what its name does not tell, so that no two runs take turns in one
    what = read if task.is_glue else hashlib.sha256(fingerprint.encode()).hexdigest()
    name = f"{task.name.lower()}_{split}_{max_seq_length}_{what[:8]}_{words[:8]}.safetensors"
    cache = feature_cache_dir(cache_dir) / name
    found = None if overwrite_cache else read_tensors(cache, fingerprint)
    if found is None:
        _make_cache_dir(cache.parent)
        found = _tokenize(
            task, split, read_examples(task, data_dir, split), tokenizer, max_seq_length
        )
        write_tensors(cache, fingerprint, *found)
        # memory-mapped, so that what was tokenised need not stay in memory
        found = read_tensors(cache, fingerprint)
    tensors, notes = found
    tensors = {key: tensor[:max_samples] for key, tensor in tensors.items()}
    if "labels" in tensors and task.labels:
        tensors["labels"] = tensors["labels"].long()
    indices, truncated = notes["indices"], notes["truncated"]
    source = {"file": path.name, "sha256": data, "rows": len(indices), "truncated": truncated}
    if not task.is_glue:
        source |= {"read_sha256": read, "text_columns": list(task.text_columns)}
        source["label_column"] = task.label_column
    return Features(tensors, indices[:max_samples], source)


def sha256_of_reading(task, path, data):
    """The sha256 of a user's file and of how its texts are read: by its ending, of these columns.

    data: the sha256 of its bytes.
    """
    how = [data, path.suffix.lower(), task.text_columns]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()


def _tokenize(task, split, examples, tokenizer, max_seq_length):
    """Examples -> compact tensors, {"indices": list, "truncated": number of examples over
    max_seq_length}.
    """

    def encode(examples, **options):
        texts = [example.text_a for example in examples]
        pairs = [example.text_b for example in examples] if len(task.text_columns) == 2 else None
        return tokenizer(texts, pairs, return_attention_mask=True, **options)

    import torch  # here, as the commands below do without it

    tensors, truncated = {}, 0
    for start in tqdm(
        range(0, len(examples), CHUNK), f"Tokenizing {task.name} {split}", disable=None
    ):
        chunk = examples[start : start + CHUNK]
        batch = encode(
            chunk, padding="max_length", truncation="longest_first", max_length=max_seq_length
        )
        for key in DISK_TYPES.keys() & batch.keys():
            if key not in tensors:
                dtype = getattr(torch, DISK_TYPES[key])
                tensors[key] = torch.empty(len(examples), max_seq_length, dtype=dtype)
            tensors[key][start : start + CHUNK] = torch.tensor(batch[key])
        full = [
            example
            for example, mask in zip(chunk, batch["attention_mask"], strict=True)
            if all(mask)
        ]
        if full:  # only a row without padding can have lost tokens
            truncated += sum(
                len(ids) > max_seq_length for ids in encode(full, verbose=False)["input_ids"]
            )
    if split not in task.submissions:
        none, dtype = (NO_CLASS, torch.int32) if task.labels else (math.nan, torch.float32)
        labels = [none if example.label is None else example.label for example in examples]
        tensors["labels"] = torch.tensor(labels, dtype=dtype)
    return tensors, {"indices": [example.index for example in examples], "truncated": truncated}


def logits_cache(task, rows, teacher, config, tokenizer, max_seq_length, device, cache_dir=None):
    """Where a teacher's logits of some rows of a split are kept, and what must be the same for them
    to count: what it reads of each.

    rows: Features. teacher, config, tokenizer: fingerprints.
    """
    read = hashlib.sha256()
    for name in sorted(DISK_TYPES.keys() & rows.tensors.keys()):
        read.update(rows.tensors[name].numpy())
    facts = [
        "logits 2",
        task.name,
        rows.fingerprint,
        read.hexdigest(),
        teacher,
        config,
        tokenizer,
        max_seq_length,
        device,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    name = f"{task.name.lower()}_logits_{max_seq_length}_{digest[:16]}.safetensors"
    return feature_cache_dir(cache_dir) / name, json.dumps(facts)


def write_tensors(path, fingerprint, tensors, notes):
    """Keep tensors by name and JSON-able notes in a file of a cache."""
    from safetensors.torch import save_file  # here, as it imports torch

    notes = json.dumps(notes)
    metadata = {"fingerprint": fingerprint, "notes": notes, "checksum": checksum(tensors, notes)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_tensors(path, fingerprint):
    """The (tensors, notes) that write_tensors stored; None for an absent, damaged or different
    file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None
    notes = metadata.get("notes", "")
    if (metadata.get("fingerprint"), metadata.get("checksum")) != (
        fingerprint,
        checksum(tensors, notes),
    ):
        return None
    return tensors, json.loads(notes)
