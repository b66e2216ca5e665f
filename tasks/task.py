"""What a task is: texts to classify or to score, where its rows lie, and how it is judged.

A GLUE task, or AX, is a row of the table in tasks/glue.py; tasks/own.py makes a task of a user's
files.
"""

import re
import unicodedata
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from common import UserError

CORRECT = "correct that row"  # the advice in messages about a bad row
NONE = MappingProxyType({})


class Task(NamedTuple):
    """Where a task's rows lie, what they mean, how it is scored.

    files: split -> a file's name in DATA_DIR/folder, or an own file's path. Splits are train, test
    and others whose names begin with dev or test. labels: the words of class 0, 1, ...; None for a
    regression. scores: a regression's least and greatest score, if known. submissions: test split
    -> name of the file of predictions. headerless: the columns of the train and dev files, if these
    have no header line. partial: whether training rows may lack a label. Only GLUE's tasks have
    rows, split -> official number of rows, and downloads, path on the server -> file name. again:
    the advice in messages about a file without rows.
    """

    name: str
    files: dict
    text_columns: tuple[str, ...]  # one or two
    label_column: str | None
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    scores: tuple[float, float] | None = None
    submissions: dict = NONE
    folder: str = ""
    headerless: tuple[str, ...] = ()
    partial: bool = False
    rows: dict = NONE
    downloads: dict = NONE
    again: str = "download the file again"

    @property
    def is_glue(self):
        """Whether the task is one of GLUE's, whose files have known content."""
        return bool(self.rows)

    def columns(self, split):
        """The columns that a split's rows must have."""
        optional = self.partial and split == "train"
        if split in self.submissions or self.label_column is None or optional:
            return self.text_columns
        return *self.text_columns, self.label_column

    def header_lines(self, split):
        """The number of header lines of a split's official file, 0 or 1."""
        return int(split in self.submissions or not self.headerless)


class Example(NamedTuple):
    """One row: its index as in the file, one or two texts, and its label.

    The label is a class index or a score; None in a test split and where a row has none.
    """

    index: str
    text_a: str
    text_b: str | None
    label: int | float | None


def expect(condition, expected, found, advice):
    """Raise a UserError, in one sentence, unless the condition holds."""
    if not condition:
        raise UserError(f"Expected {expected}, found {found}; {advice}.")


def plain(word):
    """A class's name in lower case with _ between words: "Not entailment" -> "not_entailment"."""
    word = unicodedata.normalize("NFC", str(word).casefold())
    return re.sub(r"[\W_]+", "_", word).strip("_")


def find_file(task, data_dir, split):
    """The path of a split's file, data_dir/FOLDER/file or data_dir/file.

    UserError, which names both places, if neither exists, and for an unknown split.
    """
    expect(
        split in task.files,
        f"a split of {task.name} among {', '.join(task.files)}",
        repr(split),
        "choose one of these",
    )
    file = task.files[split]
    places = [Path(data_dir or "", task.folder, file), Path(data_dir or "", file)]
    found = [place for place in places if place.is_file()]
    expect(
        found,
        f"the {split} rows of {task.name} in {places[0]} or {places[1]}",
        "neither",
        f"run `python utils_glue.py download --data_dir {data_dir} --tasks {task.name.lower()}`",
    )
    return found[0]


def has_file(task, data_dir, split):
    """True if the task has this split, and its file exists."""
    try:
        return bool(find_file(task, data_dir, split))
    except UserError:
        return False
