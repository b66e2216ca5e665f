"""GLUE from end to end: the task table, reading, cached features, metrics, submission files, download.

    python utils_glue.py download --data_dir data --tasks rte mrpc
    python utils_glue.py check --data_dir data
    python utils_glue.py submit outputs/cola outputs/rte ... --output submission.zip
"""
import argparse
import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from common import UserError, atomic_path, checksum, cli, expand_path, make_folder, sha256_of_file


class Task(NamedTuple):
    """One GLUE task: where its rows lie, what they mean, how GLUE scores them."""
    name: str                       # as GLUE spells it
    folder: str                     # below the data folder
    files: dict[str, str]           # split -> file name
    rows: dict[str, int]            # split -> official number of rows
    text_columns: tuple[str, ...]   # one or two
    label_column: str
    labels: tuple[str, ...] | None  # the words of class 0, 1, ...; None for regression
    metrics: tuple[str, ...]
    submissions: dict[str, str]     # test split -> file name in GLUE's submission zip
    downloads: dict[str, str]       # path below the base URL -> file name in the folder
    headerless: tuple[str, ...]     # the columns of train and dev where these have no header line

    def header_lines(self, split):
        """The number of header lines of a split's file, 0 or 1."""
        return int(split in self.submissions or not self.headerless)


def _task(name, rows, text_columns=("sentence1", "sentence2"), label_column="label", labels=("0", "1"),
          metrics=("acc",), **fields):
    """A row of the table; what is not given is what most tasks have. `rows` has the order of the files."""
    usual = {"folder": name, "files": {split: f"{split}.tsv" for split in ("train", "dev", "test")},
             "submissions": {"test": f"{name}.tsv"}, "headerless": (),
             "downloads": {f"glue/data/{name}.zip": f"{name}.zip"}}
    fields = usual | fields
    return Task(name=name, rows=dict(zip(fields["files"], rows, strict=True)), text_columns=text_columns,
                label_column=label_column, labels=labels, metrics=metrics, **fields)


NLI_LABELS = ("contradiction", "entailment", "neutral")
RTE_LABELS = ("entailment", "not_entailment")
TASKS = {task.name.lower(): task for task in (
    _task("CoLA", (8551, 1043, 1063), ("sentence",), metrics=("mcc",),
          headerless=("source", "label", "star", "sentence")),
    _task("SST-2", (67349, 872, 1821), ("sentence",)),
    _task("MRPC", (3668, 408, 1725), ("#1 String", "#2 String"), "Quality", metrics=("acc", "f1"),
          downloads={"senteval/senteval_data/msr_paraphrase_train.txt": "msr_paraphrase_train.txt",
                     "senteval/senteval_data/msr_paraphrase_test.txt": "msr_paraphrase_test.txt",
                     "glue/data/mrpc_dev_ids.tsv": "dev_ids.tsv"}),
    _task("STS-B", (5749, 1500, 1379), label_column="score", labels=None, metrics=("pearson", "spearmanr")),
    _task("QQP", (363846, 40430, 390965), ("question1", "question2"), "is_duplicate", metrics=("acc", "f1"),
          downloads={"glue/data/QQP-clean.zip": "QQP-clean.zip"}),
    _task("MNLI", (392702, 9815, 9832, 9796, 9847), label_column="gold_label", labels=NLI_LABELS,
          files={"train": "train.tsv", "dev": "dev_matched.tsv", "dev_mm": "dev_mismatched.tsv",
                 "test": "test_matched.tsv", "test_mm": "test_mismatched.tsv"},
          submissions={"test": "MNLI-m.tsv", "test_mm": "MNLI-mm.tsv"}),
    _task("QNLI", (104743, 5463, 5463), ("question", "sentence"), labels=RTE_LABELS,
          downloads={"glue/data/QNLIv2.zip": "QNLIv2.zip"}),
    _task("RTE", (2490, 277, 3000), labels=RTE_LABELS),
    _task("WNLI", (635, 71, 146)),
    _task("AX", (1104,), labels=NLI_LABELS, metrics=("mcc",), files={"test": "diagnostic.tsv"},
          folder="diagnostic", downloads={"glue/data/AX.tsv": "diagnostic.tsv"}),
)}


def expect(condition, expected, found, advice):
    """UserError in one sentence unless the condition holds."""
    if not condition:
        raise UserError(f"Expected {expected}, found {found}; {advice}.")


def get_task(name):
    """The Task of a name in any case, with or without hyphen (SST-2, sst2); UserError lists the choices."""
    keys = {key.replace("-", ""): key for key in TASKS}
    key = name.lower().replace("-", "")
    expect(key in keys, f"a task name among {', '.join(TASKS)}", repr(name), "choose one of these")
    return TASKS[keys[key]]


# ------------------------------------------------------------------------------------------------- reading
class Example(NamedTuple):
    """One row: its index as in the file, one or two texts, a class index or score (None in a test split)."""
    index: str
    text_a: str
    text_b: str | None
    label: int | float | None


def find_file(task, data_dir, split):
    """The path of a split's file, data_dir/FOLDER/file or data_dir/file; UserError names both places."""
    expect(split in task.files, f"a split of {task.name} among {', '.join(task.files)}", repr(split),
            "choose one of these")
    places = [Path(data_dir, task.folder, task.files[split]), Path(data_dir, task.files[split])]
    found = [place for place in places if place.is_file()]
    expect(found, f"the {split} rows of {task.name} in {places[0]} or {places[1]}", "neither",
            f"run `python utils_glue.py download --data_dir {data_dir} --tasks {task.name.lower()}`")
    return found[0]


def has_file(task, data_dir, split):
    """True where the file of a split is in data_dir."""
    try:
        return bool(find_file(task, data_dir, split))
    except UserError:
        return False


def read_lines(path):
    """The lines of a UTF-8 file, without BOM and line ends; only a newline ends one, so U+0085 stays text."""
    data = Path(path).read_bytes()
    try:
        lines = data.decode("utf-8").removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        raise UserError(f"Expected UTF-8 text, found the byte 0x{byte:02x} in {path}, line {line}; download "
                        "the file again or save it as UTF-8.") from error
    if not lines[-1]:
        lines.pop()  # what follows the last line end
    return [line.removesuffix("\r") for line in lines]


def read_examples(task, data_dir, split):
    """Read an official .tsv, split on tabs alone, into a list of Examples (label None in a test split).

    UserError names file and line of a missing column, a wrong number of columns, an empty text, an unknown
    label, or bytes that are not UTF-8, and names a file without rows.
    """
    path = find_file(task, data_dir, split)
    lines, first = read_lines(path), task.header_lines(split)
    expect(len(lines) > first, "data rows", f"none in {path}", "download the file again")
    columns = lines[0].split("\t") if first else task.headerless
    needed = task.text_columns if split in task.submissions else (*task.text_columns, task.label_column)
    missing = [column for column in needed if column not in columns]
    expect(not missing, f"the columns {', '.join(needed)}", f"no {', '.join(missing)} in {path}, line 1",
            f"use the official {split} file of {task.name}")
    return [_parse_row(task, split, columns, line, number - first, f"{path}, line {number + 1}")
            for number, line in enumerate(lines[first:], start=first)]


def _parse_row(task, split, columns, line, position, where):
    """One line -> Example; where a file has no index or id column, the row's position is its index."""
    cells = line.split("\t")
    expect(len(cells) == len(columns), f"{len(columns)} columns", f"{len(cells)} in {where}",
            "correct that row")
    row = dict(zip(columns, cells, strict=True))
    texts = [row[column] for column in task.text_columns]
    expect(any(text.strip() for text in texts), f"text in {' or '.join(task.text_columns)}",
            f"none in {where}", "fill it in or remove that row")
    label = None if split in task.submissions else parse_label(task, row[task.label_column], where)
    return Example(row.get("index", row.get("id", str(position))), texts[0], (*texts, None)[1], label)


def parse_label(task, word, where):
    """A label's word -> class index, or float from 0 to 5 for regression."""
    if task.labels:
        expect(word in task.labels, f"a label among {', '.join(task.labels)}", f"{word!r} in {where}",
                "correct that row")
        return task.labels.index(word)
    try:
        score = float(word)
    except ValueError:
        score = float("nan")  # fails the comparison, too
    expect(0 <= score <= 5, "a score from 0 to 5", f"{word!r} in {where}", "correct that row")
    return score


# ------------------------------------------------------------------------------------------------ features
DISK_TYPES = {"input_ids": "int32", "attention_mask": "uint8", "token_type_ids": "uint8"}  # torch's
CHUNK = 1000  # examples a tokenizer call


class Features(NamedTuple):
    """A split as tensors of N rows, each padded to L = max_seq_length; the (N, L) lie in the cache, memory-mapped."""
    tensors: dict       # name -> DISK_TYPES of (N, L), and labels (N,)
    indices: list[str]  # (N,) the examples' own
    source: dict        # of the whole file: file (name), sha256, rows, truncated (examples)


def feature_cache_dir(cache_dir=None):
    """`cache_dir` if given, else fsd-glue in the user's cache folder; never the data folder."""
    try:
        return Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fsd-glue"))
    except RuntimeError:  # no HOME, and the system does not know the user
        raise UserError("the tokenised rows need a folder, and this user has no home to keep them in: name one with "
                        "--cache_dir") from None


def _make_cache_dir(folder):
    """The folder of tokenised rows, made and tried, as tokenising takes minutes."""
    try:
        make_folder(folder)
        reason = None if os.access(folder, os.W_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"the tokenised rows cannot be kept in {folder} ({reason}): name a folder with --cache_dir")


def tokenizer_fingerprint(tokenizer):
    """The sha256 of what decides a tokenizer's output, whichever folder it was loaded from."""
    names = ("padding_side", "truncation_side", "pad_token_id", "model_input_names")
    state = {"class": type(tokenizer).__name__} | {name: getattr(tokenizer, name) for name in names}
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        # every call leaves its own truncation and padding in the backend
        state["backend"] = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        settings = {key: value for key, value in tokenizer.init_kwargs.items()
                    if not key.endswith(("_file", "name_or_path"))}
        state |= {"vocab": sorted(tokenizer.get_vocab().items()), "init": settings}
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def load_features(task, data_dir, split, tokenizer, max_seq_length, cache_dir=None, overwrite_cache=False,
                  max_samples=None):
    """The Features of a split, from the cache if that holds this very file, tokenizer and length.

    Labels are long, regression's float32; `max_samples` keeps the first N rows. UserError for a faulty file, a
    length without room for text, or max_samples below 1.
    """
    path = find_file(task, data_dir, split)
    special = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2)
    # at such a length tokenizers would, without a word, not truncate at all
    expect(max_seq_length > special, f"more than the {special} special tokens of a {task.name} row",
            f"max_seq_length {max_seq_length}", "pass a larger --max_seq_length")
    expect(max_samples is None or max_samples > 0, f"a maximum of at least 1 {split} sample", max_samples,
            "raise it or leave it out")
    data, words = sha256_of_file(path), tokenizer_fingerprint(tokenizer)
    fingerprint = json.dumps(["format 1", task.name, split, max_seq_length, data, words])
    name = f"{task.name.lower()}_{split}_{max_seq_length}_{data[:8]}_{words[:8]}.safetensors"
    cache = feature_cache_dir(cache_dir) / name
    found = None if overwrite_cache else read_tensors(cache, fingerprint)
    if found is None:
        _make_cache_dir(cache.parent)
        found = _tokenize(task, split, read_examples(task, data_dir, split), tokenizer, max_seq_length)
        write_tensors(cache, fingerprint, *found)
        found = read_tensors(cache, fingerprint)  # memory-mapped, so that what was tokenised need not stay in memory
    tensors, notes = found
    tensors = {key: tensor[:max_samples] for key, tensor in tensors.items()}
    if "labels" in tensors and task.labels:
        tensors["labels"] = tensors["labels"].long()
    indices, truncated = notes["indices"], notes["truncated"]
    source = {"file": path.name, "sha256": data, "rows": len(indices), "truncated": truncated}
    return Features(tensors, indices[:max_samples], source)


def _tokenize(task, split, examples, tokenizer, max_seq_length):
    """Examples -> compact tensors, {"indices": list, "truncated": number of examples over max_seq_length}."""
    def encode(examples, **options):
        texts = [example.text_a for example in examples]
        pairs = [example.text_b for example in examples] if len(task.text_columns) == 2 else None
        return tokenizer(texts, pairs, return_attention_mask=True, **options)

    import torch  # here, as the commands below do without it
    tensors, truncated = {}, 0
    for start in tqdm(range(0, len(examples), CHUNK), f"Tokenizing {task.name} {split}", disable=None):
        chunk = examples[start:start + CHUNK]
        batch = encode(chunk, padding="max_length", truncation="longest_first", max_length=max_seq_length)
        for key in DISK_TYPES.keys() & batch.keys():
            if key not in tensors:
                dtype = getattr(torch, DISK_TYPES[key])
                tensors[key] = torch.empty(len(examples), max_seq_length, dtype=dtype)
            tensors[key][start:start + CHUNK] = torch.tensor(batch[key])
        full = [example for example, mask in zip(chunk, batch["attention_mask"], strict=True) if all(mask)]
        if full:  # only a row without padding can have lost tokens
            truncated += sum(len(ids) > max_seq_length for ids in encode(full, verbose=False)["input_ids"])
    if split not in task.submissions:
        dtype = torch.int32 if task.labels else torch.float32
        tensors["labels"] = torch.tensor([example.label for example in examples], dtype=dtype)
    return tensors, {"indices": [example.index for example in examples], "truncated": truncated}


def logits_cache(task, rows, teacher, config, tokenizer, max_seq_length, device, cache_dir=None):
    """Where a teacher's logits of a split's first rows are kept, and what must be the same for them to count.

    rows: Features. teacher, config, tokenizer: fingerprints.
    """
    facts = ["logits 1", task.name, rows.source["sha256"], len(rows.indices), teacher, config, tokenizer,
             max_seq_length, device]
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
    """The (tensors, notes) that write_tensors stored; None for an absent, damaged or different file."""
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None
    notes = metadata.get("notes", "")
    if (metadata.get("fingerprint"), metadata.get("checksum")) != (fingerprint, checksum(tensors, notes)):
        return None
    return tensors, json.loads(notes)


# ------------------------------------------------------------------------------------------------- metrics
def predictions_from_logits(task, logits):
    """Logits (N, K) -> class indices (N,), or for STS-B, where K is 1, scores (N,)."""
    return np.argmax(logits, axis=1) if task.labels else np.asarray(logits)[:, 0]


def _correlation(statistic, predictions, labels):
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    import scipy.stats  # here, as it imports for a second, and one task of ten needs it
    function = getattr(scipy.stats, statistic)
    return function(predictions.astype(np.float64), labels.astype(np.float64)).statistic


def _score(name, predictions, labels, **options):
    import sklearn.metrics  # here, as it imports for a second
    return getattr(sklearn.metrics, name)(labels, predictions, **options)


METRICS = {  # (predictions, labels) -> number
    "acc": lambda predictions, labels: _score("accuracy_score", predictions, labels),
    "f1": lambda predictions, labels: _score("f1_score", predictions, labels, zero_division=0),
    "mcc": lambda predictions, labels: _score("matthews_corrcoef", predictions, labels),
    "pearson": lambda predictions, labels: _correlation("pearsonr", predictions, labels),
    "spearmanr": lambda predictions, labels: _correlation("spearmanr", predictions, labels),
}


def compute_metrics(task, predictions, labels):
    """The task's metrics of predictions (N,) and labels (N,), by GLUE's names.

    A correlation with a constant, which has no value, silently counts as 0.0: a model that predicts one score
    for all rows has learned nothing, its evaluation does not fail.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    expect(predictions.shape == labels.shape, f"predictions of the labels' shape {labels.shape}",
            predictions.shape, "evaluate the same rows")
    return {name: float(METRICS[name](predictions, labels)) for name in task.metrics}


# --------------------------------------------------------------------------------------- submission files
def write_submission(path, task, split, indices, predictions):
    """Write predictions (N,) of a test split's rows with their indices (N,) to `path`, in GLUE's format.

    Classes become the task's words, scores are clipped to [0, 5]. UserError if the file name is not GLUE's.
    """
    name = task.submissions.get(split)
    expect(Path(path).name == name, f"GLUE's file name for the {split} split of {task.name}, {name}", path,
            "pass a test split and its file name")
    if task.labels:
        words = [task.labels[prediction] for prediction in predictions]
    else:
        words = [f"{score:.3f}" for score in np.clip(predictions, 0, 5)]
    rows = [f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True)]
    with atomic_path(path) as temporary:
        temporary.write_text("index\tprediction\n" + "".join(rows), encoding="utf-8", newline="\n")


# -------------------------------------------------------------------------------------------- command line
def count_rows(task, split, path):
    """The number of data rows of a split's file."""
    return len(read_lines(path)) - task.header_lines(split)


def check_data(data_dir):
    """Print the number of rows of every split found in data_dir/FOLDER beside the official one."""
    splits = [(task, split, Path(data_dir, task.folder, name))
              for task in TASKS.values() for split, name in task.files.items()]
    splits = [(task, split, path) for task, split, path in splits if path.is_file()]
    expect(splits, f"task folders such as {Path(data_dir, 'RTE')}", "none",
            f"run `python utils_glue.py download --data_dir {data_dir}`")
    print(f"{'task':<6} {'split':<8} {'rows':>8} {'official':>8}")
    for task, split, path in splits:
        rows, official = count_rows(task, split, path), task.rows[split]
        print(f"{task.name:<6} {split:<8} {rows:>8,} {official:>8,}{'' if rows == official else '  differs'}")


def main(argv=None):
    """The command line; UserError for every mistake a user can mend."""
    from leaderboard.download import BASE_URL, download_task  # here, as they import this module
    from leaderboard.submission import zip_submission
    parser = argparse.ArgumentParser(description="Download and check GLUE data; pack predictions.")
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="Download the official data.")
    download.add_argument("--data_dir", type=expand_path, required=True, help="The folder that gets one "
                          "folder for each task.")
    download.add_argument("--tasks", nargs="+", default=["all"], help="The tasks to download, or all.")
    download.add_argument("--base_url", default=BASE_URL, help="The server, or a mirror with the same paths.")
    download.add_argument("--overwrite", action="store_true", help="Replace the folders already there.")
    download.add_argument("--no_verify", action="store_true", help="Keep files other than the official ones.")
    check = commands.add_parser("check", help="Count the rows found beside the official ones.")
    check.add_argument("--data_dir", type=expand_path, required=True, help="The folder with one folder for each task.")
    submit = commands.add_parser("submit", help="Check the eleven prediction files and zip them.")
    submit.add_argument("folders", nargs="+", type=expand_path, help="The folders that hold the files, or "
                        "submission/.")
    submit.add_argument("--output", type=expand_path, required=True, help="The zip file to write.")
    args = parser.parse_args(argv)
    if args.command == "check":
        check_data(args.data_dir)
    elif args.command == "submit":
        zip_submission(args.folders, args.output)
        print(f"wrote {args.output}")
    else:
        for task in TASKS.values() if args.tasks == ["all"] else map(get_task, args.tasks):
            download_task(task, args.data_dir, args.base_url, args.overwrite, not args.no_verify)


if __name__ == "__main__":
    sys.exit(cli(main))
