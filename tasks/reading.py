"""The rows of a task's file: tab-separated as GLUE has them, comma-separated, or JSON lines.

| ends in        | is                                                                          |
| -------------- | --------------------------------------------------------------------------- |
| .tsv           | a header line, tabs between cells, and no quoting, as in GLUE's             |
| .csv           | a header line, commas, and cells in double quotes where they need it        |
| .json, .jsonl  | one object a line                                                           |

All are UTF-8, with or without a byte order mark. A mistake is a UserError with file and line.
"""

import csv
import io
import json
import math
import re
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

from common import UserError, readable, say
from tasks.task import CORRECT, Example, expect, find_file

FORMATS = (".csv", ".tsv", ".json", ".jsonl")
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which no file can hold
SPACED_QUOTE = re.compile(r',[ \t]+"(?![",\r\n])')  # a comma, spaces, and a quote that opens


class Table(NamedTuple):
    """A file's columns, and its rows: [(place in the file, for messages, {column: cell})].

    A cell is text; in JSON lines it is any JSON value, and a row may lack a column.
    """

    columns: list
    rows: list


# ---- files ---------------------------------------------------------------------------------------


def read_text(path):
    """The text of a UTF-8 file, without byte order mark (BOM). UserError for other bytes."""
    with readable(path):
        data = Path(path).read_bytes()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"Expected UTF-8 text, found the byte 0x{byte:02x} in {path}, line {line}; save the "
            "file as UTF-8, or download it again."
        ) from error


def read_lines(path):
    """The lines of a UTF-8 file, without BOM and line ends; only a newline ends a line, so
    U+0085 stays text.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line end
    return [line.removesuffix("\r") for line in lines]


def read_table(path, columns=None):
    """The Table of a file, read by its ending. columns: those of a .tsv without a header line."""
    kind = Path(path).suffix.lower()
    if kind == ".csv":
        return read_csv(path)
    if kind in (".json", ".jsonl"):
        return read_json_lines(path)
    return read_tsv(path, columns)


def read_tsv(path, columns=None):
    """The Table of a tab-separated file; empty lines at its end are no rows."""
    lines, first = read_lines(path), 0 if columns else 1
    while lines and not lines[-1]:
        lines.pop()
    header = [name.strip() for name in lines[0].split("\t")] if lines else []
    columns = list(columns or header)
    rows = [
        pair_up(columns, line.split("\t"), f"{path}, line {number + 1}")
        for number, line in enumerate(lines[first:], start=first)
    ]
    return Table(columns, rows)


def read_csv(path):
    """The Table of a comma-separated file (RFC 4180); empty lines are no rows.

    If the header has spaces after its commas, the spaces after all commas are left out.
    """
    csv.field_size_limit(sys.maxsize)  # a cell may be a whole book
    text = read_text(path)
    columns, rows, line = [], [], 1
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        spaced = any(name.startswith(" ") for name in header[1:])
        source = io.StringIO(text, newline="")
        reader = csv.reader(source, strict=True, skipinitialspace=spaced)
        columns = [name.strip() for name in next(reader, [])]
        line = reader.line_num + 1
        for cells in reader:
            where = f"{path}, line {line}"
            if any(re.match(r'\s+"', cell) for cell in cells) and SPACED_QUOTE.search(text):
                refuse_spaced_quote(where)
            if cells:
                rows.append(pair_up(columns, cells, where))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"Expected comma-separated cells, in double quotes where they hold commas, quotes or "
            f"line ends, found {error} in {path}, line {line}; {CORRECT}."
        ) from None
    return Table(columns, rows)


def refuse_spaced_quote(where):
    """UserError for a cell with spaces before its opening quote: its quotes would become text."""
    raise UserError(
        f"Expected a quote right behind the comma, found spaces between them in {where}; delete "
        "the spaces, or put one behind each comma of the first line, too."
    )


def pair_up(columns, cells, where):
    """A row of a Table; refused if it has more or fewer cells than there are columns."""
    expect(
        len(cells) == len(columns), f"{len(columns)} columns", f"{len(cells)} in {where}", CORRECT
    )
    return where, dict(zip(columns, cells, strict=True))


def read_json_lines(path):
    """The Table of a file with a JSON object a line; its columns are all that any row has."""
    rows, columns = [], {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = f"{error}"
        expect(
            isinstance(row, dict),
            'a JSON object on each line, as {"text": "...", "label": "..."}',
            f"{row if isinstance(row, str) else type(row).__name__} in {where}",
            "save the file as JSON lines",
        )
        if "\\u" in line:  # only an escape can be half a character: all else was UTF-8
            refuse_surrogates(row, where)
        columns |= dict.fromkeys(row)
        rows.append((where, row))
    return Table(list(columns), rows)


def refuse_surrogates(row, where):
    """UserError for half a character, as of a cut emoji, in a JSON object's names or values."""
    if found := SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        half = f"\\u{ord(found[0]):04x}"
        raise UserError(
            f"Expected whole characters, found {half}, half of one, in {where}; write it with its "
            "other half, as \\ud83d\\ude00 has, or take it out."
        )


# ---- examples ------------------------------------------------------------------------------------


def read_examples(task, data_dir, split):
    """The Examples of a split; in a test split their label is None.

    UserError names file and line of a missing column, a wrong number of columns, an empty text, an
    unknown label, or bytes that are not UTF-8, and names a file without rows.
    """
    path = find_file(task, data_dir, split)
    headerless = task.headerless if split not in task.submissions else ()
    columns, rows = read_table(path, headerless)
    expect(rows, "data rows", f"none in {path}", task.again)
    check_columns(task, split, columns, path)
    examples = [parse_row(task, split, place, *row) for place, row in enumerate(rows)]
    if not task.is_glue and path.suffix.lower() == ".tsv":
        tell_of_quotes(path, examples)
    return examples


def check_columns(task, split, columns, path):
    """Refuse a file that lacks a column, or has one twice."""
    needed = task.columns(split)
    missing = [column for column in needed if column not in columns]
    expect(
        not missing,
        f"the columns {', '.join(needed)}",
        f"no {', '.join(missing)} in {path}, line 1",
        f"use the official {split} file of {task.name}"
        if task.is_glue
        else "name the file's own with --text_column_names and --label_column_name",
    )
    twice = [column for column in needed if columns.count(column) > 1]
    expect(
        not twice,
        "one column of each name",
        f"two named {twice[:1]} in {path}, line 1",
        "rename one",
    )


def parse_row(task, split, position, where, row):
    """A row of a Table -> Example. Its index is its cell "index" or "id", else its position."""
    texts = [row.get(column) for column in task.text_columns]
    for column, text in zip(task.text_columns, texts, strict=True):
        expect(
            isinstance(text, str),
            f"text in {column}",
            f"{'nothing' if text is None else repr(text)} in {where}",
            CORRECT,
        )
    expect(
        any(text.strip() for text in texts),
        f"text in {' or '.join(task.text_columns)}",
        f"none in {where}",
        "fill it in or remove that row",
    )
    named = [row.get(column) for column in ("index", "id")]
    index = next((cell for cell in named if word_of(cell)), position)
    label = None
    if split not in task.submissions and task.label_column is not None:
        label = read_label(task, split, row.get(task.label_column), where)
    return Example(str(index), texts[0], (*texts, None)[1], label)


def word_of(cell):
    """A label as text: "" for a blank cell, null or NaN; other values as JSON writes them.

    2.0 becomes 2, as pandas writes decimals in a column of whole numbers with gaps. A letter with
    an accent is the same as one character and as two (Unicode NFC).
    """
    if cell is None or cell != cell:  # only NaN differs from itself
        return ""
    word = cell.strip() if isinstance(cell, str) else json.dumps(cell)
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", unicodedata.normalize("NFC", word))


def read_label(task, split, cell, where):
    """The label in a cell; None if a training row of a task with `partial` has none."""
    expect(
        not isinstance(cell, list | dict),
        "a word or a number as a label",
        f"a list or an object in {where}",
        CORRECT,
    )
    word = word_of(cell)
    if not word and task.partial and split == "train":
        return None
    return parse_label(task, word, where)


def parse_label(task, word, where):
    """A label as text -> its class index, or a regression's score, a float; else UserError."""
    if task.labels:
        expect(
            word in task.labels,
            f"a label among {', '.join(task.labels)}",
            f"{word!r} in {where}",
            CORRECT,
        )
        return task.labels.index(word)
    try:
        score = float(word)
    except ValueError:
        score = math.nan  # which the comparison below refuses
    least, most = task.scores or (-math.inf, math.inf)
    wanted = "a score from {:g} to {:g}".format(*task.scores) if task.scores else "a number"
    expect(math.isfinite(score) and least <= score <= most, wanted, f"{word!r} in {where}", CORRECT)
    return score


def tell_of_quotes(path, examples):
    """Print a note if texts of a .tsv look as if they were quoted."""
    texts = (text for example in examples for text in (example.text_a, example.text_b or ""))
    number = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in texts)
    if number:
        say(
            f"note: {number} texts of {path} begin and end with double quotes, which stay part of "
            "the text: a .tsv has no quoting, so save the file as .csv if they are meant as such"
        )


def count_rows(task, split, path):
    """The number of data rows of a split's official file."""
    return len(read_lines(path)) - task.header_lines(split)
