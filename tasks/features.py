"""A task's rows as token ids, here called features: each split is tokenised once, and cached.

The features that the losses compare are hidden states of a model; they are not in this file.
"""

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

DISK_TYPES = {"input_ids": "int32", "attention_mask": "uint8", "token_type_ids": "uint8"}  # dtypes
CHUNK = 1000  # examples a tokenizer call
NO_CLASS = -100  # the label of a row that has none; torch's cross-entropy leaves it out


class Features(NamedTuple):
    """N tokenised rows of a split, each padded to L = max_seq_length.

    Tensors (N, L) are memory-mapped from the file in the cache.
    """

    tensors: dict  # name -> (N, L), see DISK_TYPES; labels (N,), NO_CLASS or NaN if a row has none
    indices: list[str]  # (N,), Example.index of each row
    # facts of the whole file: file (its name), sha256, rows, truncated (number of rows that were
    # cut); of a user's own file also read_sha256 (sha256_of_reading), text_columns, label_column
    source: dict

    @property
    def fingerprint(self):
        """A sha256 that stands for the rows' texts: read_sha256, or a GLUE file's sha256."""
        return self.source.get("read_sha256", self.source["sha256"])


def select(features, rows):
    """The Features of some rows only. rows: (n,), indices into `features`."""
    tensors = {key: value[rows] for key, value in features.tensors.items() if key != "labelled"}
    return features._replace(tensors=tensors, indices=[features.indices[i] for i in rows.tolist()])


def feature_cache_dir(cache_dir=None):
    """`cache_dir` if given, else fsd-glue in the user's cache folder; refused without a home."""
    try:
        return Path(
            cache_dir
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fsd-glue")
        )
    except RuntimeError:  # no HOME, and the system does not know the user
        raise UserError(
            "the tokenised rows need a folder, and this user has no home folder: name one with "
            "--cache_dir"
        ) from None


def _make_cache_dir(folder):
    """Make the folder of tokenised rows; refuse an unwritable one before minutes of tokenising."""
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
    """The Features of a split, from the cache if it has those of this file, tokenizer and length.

    Labels are int64 classes, or float32 scores. max_samples: keep only so many first rows.
    UserError for a faulty file, a length without room for text, or max_samples below 1.
    """
    path = find_file(task, data_dir, split)
    special = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2)
    # at such a length tokenizers would not truncate at all, and not say so
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
    form = "format 1" if task.is_glue else "format 2"  # format 1 read own files in another way
    facts = [form, task.name, split, max_seq_length, read, words]
    if not task.is_glue:  # whose classes the task's name does not tell
        facts += [task.label_column, task.labels]
    fingerprint = json.dumps(facts)
    # all facts of a user's file are in its cache's name, so that no two runs overwrite each other's
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
    """The sha256 of a user's file and of what decides how it is read: its ending, its columns.

    data: the sha256 of the file's bytes.
    """
    how = [data, path.suffix.lower(), task.text_columns]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()


def _tokenize(task, split, examples, tokenizer, max_seq_length):
    """Tokenise Examples. Returns the tensors of Features, by name, and notes:

    {"indices": list, "truncated": number of examples longer than max_seq_length}.
    """

    def encode(examples, **options):
        texts = [example.text_a for example in examples]
        pairs = [example.text_b for example in examples] if len(task.text_columns) == 2 else None
        return tokenizer(texts, pairs, return_attention_mask=True, **options)

    import torch  # here, so that importing this file does not wait for it

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
    """The path of the cached logits of a teacher for some rows, and the facts behind them, as JSON.

    Logits in the cache count only if the facts are the same. rows: Features, whose token ids are
    among the facts. teacher, config, tokenizer: fingerprints, texts.
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
    """Write {name: tensor} and JSON-able notes to a cache file.

    fingerprint: a text that tells what they were made from; read_tensors asks for the same.
    """
    from safetensors.torch import save_file  # here, as it imports torch

    notes = json.dumps(notes)
    metadata = {"fingerprint": fingerprint, "notes": notes, "checksum": checksum(tensors, notes)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_tensors(path, fingerprint):
    """The (tensors, notes) that write_tensors wrote; None if the file is absent, damaged, or has
    another fingerprint.
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
