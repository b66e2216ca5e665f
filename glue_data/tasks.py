"""The tasks of GLUE: where their rows lie, what these mean, and how to read them as they are."""

from pathlib import Path
from typing import NamedTuple

from common import UserError


class Task(NamedTuple):
    """One GLUE task: where its rows lie, what they mean, how GLUE scores them."""

    name: str  # as GLUE spells it
    folder: str  # below the data folder
    files: dict[str, str]  # split -> file name
    rows: dict[str, int]  # split -> official number of rows
    text_columns: tuple[str, ...]  # one or two
    label_column: str
    labels: tuple[str, ...] | None  # the words of class 0, 1, ...; None for regression
    metrics: tuple[str, ...]
    submissions: dict[str, str]  # test split -> file name in GLUE's submission zip
    downloads: dict[str, str]  # path below the base URL -> file name in the folder
    headerless: tuple[str, ...]  # the columns of train and dev where these have no header line

    def header_lines(self, split):
        """The number of header lines of a split's file, 0 or 1."""
        return int(split in self.submissions or not self.headerless)


def _task(
    name,
    rows,
    text_columns=("sentence1", "sentence2"),
    label_column="label",
    labels=("0", "1"),
    metrics=("acc",),
    **fields,
):
    """A row of the table; what is not given is what most tasks have. `rows` has the order of the
    files.
    """
    usual = {
        "folder": name,
        "files": {split: f"{split}.tsv" for split in ("train", "dev", "test")},
        "submissions": {"test": f"{name}.tsv"},
        "headerless": (),
        "downloads": {f"glue/data/{name}.zip": f"{name}.zip"},
    }
    fields = usual | fields
    return Task(
        name=name,
        rows=dict(zip(fields["files"], rows, strict=True)),
        text_columns=text_columns,
        label_column=label_column,
        labels=labels,
        metrics=metrics,
        **fields,
    )


NLI_LABELS = ("contradiction", "entailment", "neutral")
RTE_LABELS = ("entailment", "not_entailment")
TASKS = {
    task.name.lower(): task
    for task in (
        _task(
            "CoLA",
            (8551, 1043, 1063),
            ("sentence",),
            metrics=("mcc",),
            headerless=("source", "label", "star", "sentence"),
        ),
        _task("SST-2", (67349, 872, 1821), ("sentence",)),
        _task(
            "MRPC",
            (3668, 408, 1725),
            ("#1 String", "#2 String"),
            "Quality",
            metrics=("acc", "f1"),
            downloads={
                "senteval/senteval_data/msr_paraphrase_train.txt": "msr_paraphrase_train.txt",
                "senteval/senteval_data/msr_paraphrase_test.txt": "msr_paraphrase_test.txt",
                "glue/data/mrpc_dev_ids.tsv": "dev_ids.tsv",
            },
        ),
        _task(
            "STS-B",
            (5749, 1500, 1379),
            label_column="score",
            labels=None,
            metrics=("pearson", "spearmanr"),
        ),
        _task(
            "QQP",
            (363846, 40430, 390965),
            ("question1", "question2"),
            "is_duplicate",
            metrics=("acc", "f1"),
            downloads={"glue/data/QQP-clean.zip": "QQP-clean.zip"},
        ),
        _task(
            "MNLI",
            (392702, 9815, 9832, 9796, 9847),
            label_column="gold_label",
            labels=NLI_LABELS,
            files={
                "train": "train.tsv",
                "dev": "dev_matched.tsv",
                "dev_mm": "dev_mismatched.tsv",
                "test": "test_matched.tsv",
                "test_mm": "test_mismatched.tsv",
            },
            submissions={"test": "MNLI-m.tsv", "test_mm": "MNLI-mm.tsv"},
        ),
        _task(
            "QNLI",
            (104743, 5463, 5463),
            ("question", "sentence"),
            labels=RTE_LABELS,
            downloads={"glue/data/QNLIv2.zip": "QNLIv2.zip"},
        ),
        _task("RTE", (2490, 277, 3000), labels=RTE_LABELS),
        _task("WNLI", (635, 71, 146)),
        _task(
            "AX",
            (1104,),
            labels=NLI_LABELS,
            metrics=("mcc",),
            files={"test": "diagnostic.tsv"},
            folder="diagnostic",
            downloads={"glue/data/AX.tsv": "diagnostic.tsv"},
        ),
    )
}


def expect(condition, expected, found, advice):
    """UserError in one sentence unless the condition holds."""
    if not condition:
        raise UserError(f"Expected {expected}, found {found}; {advice}.")


def get_task(name):
    """The Task of a name in any case, with or without hyphen (SST-2, sst2); UserError lists the
    choices.
    """
    keys = {key.replace("-", ""): key for key in TASKS}
    key = name.lower().replace("-", "")
    expect(key in keys, f"a task name among {', '.join(TASKS)}", repr(name), "choose one of these")
    return TASKS[keys[key]]


class Example(NamedTuple):
    """One row: its index as in the file, one or two texts, a class index or score (None in a test
    split).
    """

    index: str
    text_a: str
    text_b: str | None
    label: int | float | None


def find_file(task, data_dir, split):
    """The path of a split's file, data_dir/FOLDER/file or data_dir/file; UserError names both
    places.
    """
    expect(
        split in task.files,
        f"a split of {task.name} among {', '.join(task.files)}",
        repr(split),
        "choose one of these",
    )
    places = [Path(data_dir, task.folder, task.files[split]), Path(data_dir, task.files[split])]
    found = [place for place in places if place.is_file()]
    expect(
        found,
        f"the {split} rows of {task.name} in {places[0]} or {places[1]}",
        "neither",
        f"run `python utils_glue.py download --data_dir {data_dir} --tasks {task.name.lower()}`",
    )
    return found[0]


def has_file(task, data_dir, split):
    """True where the file of a split is in data_dir."""
    try:
        return bool(find_file(task, data_dir, split))
    except UserError:
        return False


def read_lines(path):
    """The lines of a UTF-8 file, without BOM and line ends; only a newline ends one, so U+0085
    stays text.
    """
    data = Path(path).read_bytes()
    try:
        lines = data.decode("utf-8").removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"Expected UTF-8 text, found the byte 0x{byte:02x} in {path}, line {line}; download "
            "the file again or save it as UTF-8."
        ) from error
    if not lines[-1]:
        lines.pop()  # what follows the last line end
    return [line.removesuffix("\r") for line in lines]


def read_examples(task, data_dir, split):
    """Read an official .tsv, split on tabs alone, into a list of Examples (label None in a test
    split).

    UserError names file and line of a missing column, a wrong number of columns, an empty text, an
    unknown label, or bytes that are not UTF-8, and names a file without rows.
    """
    path = find_file(task, data_dir, split)
    lines, first = read_lines(path), task.header_lines(split)
    expect(len(lines) > first, "data rows", f"none in {path}", "download the file again")
    columns = lines[0].split("\t") if first else task.headerless
    needed = (
        task.text_columns if split in task.submissions else (*task.text_columns, task.label_column)
    )
    missing = [column for column in needed if column not in columns]
    expect(
        not missing,
        f"the columns {', '.join(needed)}",
        f"no {', '.join(missing)} in {path}, line 1",
        f"use the official {split} file of {task.name}",
    )
    return [
        _parse_row(task, split, columns, line, number - first, f"{path}, line {number + 1}")
        for number, line in enumerate(lines[first:], start=first)
    ]


def _parse_row(task, split, columns, line, position, where):
    """One line -> Example. Without a column of an index or id, the row's position is its index."""
    cells = line.split("\t")
    expect(
        len(cells) == len(columns),
        f"{len(columns)} columns",
        f"{len(cells)} in {where}",
        "correct that row",
    )
    row = dict(zip(columns, cells, strict=True))
    texts = [row[column] for column in task.text_columns]
    expect(
        any(text.strip() for text in texts),
        f"text in {' or '.join(task.text_columns)}",
        f"none in {where}",
        "fill it in or remove that row",
    )
    label = None if split in task.submissions else parse_label(task, row[task.label_column], where)
    return Example(
        row.get("index", row.get("id", str(position))), texts[0], (*texts, None)[1], label
    )


def parse_label(task, word, where):
    """A label's word -> class index, or float from 0 to 5 for regression."""
    if task.labels:
        expect(
            word in task.labels,
            f"a label among {', '.join(task.labels)}",
            f"{word!r} in {where}",
            "correct that row",
        )
        return task.labels.index(word)
    try:
        score = float(word)
    except ValueError:
        score = float("nan")  # fails the comparison, too
    expect(0 <= score <= 5, "a score from 0 to 5", f"{word!r} in {where}", "correct that row")
    return score


def count_rows(task, split, path):
    """The number of data rows of a split's file."""
    return len(read_lines(path)) - task.header_lines(split)
