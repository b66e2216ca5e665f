"""Markdown: a table as text, and texts between the markers of a file.

A text named NAME goes between the lines <!-- table NAME --> and <!-- end NAME --> of a file, its
markers. The text named claims goes between <!-- claims --> and <!-- end claims -->.
"""

import re
from pathlib import Path

import common
from common import UserError

MISSING = "–"  # the cell of a table without a number
ANY_MARKER = re.compile(r"<!-- ((table|end) \S+|claims) -->")


def to_markdown(table, padded=False):
    """A DataFrame as a Markdown table. padded: align the columns with spaces."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def read_document(path):
    """The text of a file to insert tables into; "" if there is no such file.

    Raises a UserError if the file is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 ({error}): save it in UTF-8, or name another file"
        ) from None


def start_marker(name):
    """The line that marks in a file where the text of this name begins: <!-- table NAME -->."""
    return "<!-- claims -->" if name == "claims" else f"<!-- table {name} -->"


def end_marker(name):
    """The line that marks in a file where the text of this name ends: <!-- end NAME -->."""
    return f"<!-- end {name} -->"


def lines_with(content, marker):
    """The numbers of the lines of a file's content that have the marker, counted from 1."""
    found = re.finditer(re.escape(marker), content)
    return [content.count("\n", 0, match.start()) + 1 for match in found]


def find_markers(path, content, name):
    """The offsets in a file's content at which the text of this name begins and ends.

    path: the file, for messages. Raises a UserError if a marker is missing or there twice, if they
    are in the wrong order, or if another marker stands between them.
    """
    start, end = start_marker(name), end_marker(name)
    if start not in content or end not in content:
        raise UserError(
            f"{path} has no lines {start} and {end}, between which the table goes: add them"
        )
    lines = {marker: lines_with(content, marker) for marker in (start, end)}
    for marker, numbers in lines.items():
        if len(numbers) > 1:
            raise UserError(
                f"{path} has {marker} more than once, in the lines "
                f"{', '.join(map(str, numbers))}: leave one of them"
            )
    begin, stop = content.index(start) + len(start), content.index(end)
    if stop < begin:
        raise UserError(
            f"{path} has {end} in line {lines[end][0]}, before {start} in line "
            f"{lines[start][0]}: put the end below the start"
        )
    inside = ANY_MARKER.search(content[begin:stop])
    if inside:
        raise UserError(
            f"{path} has {inside[0]} between {start} in line {lines[start][0]} and "
            f"{end} in line {lines[end][0]}: move it elsewhere, as all that is between these two "
            "lines is replaced"
        )
    return begin, stop


def insert(path, texts):
    """Put texts, name -> text, between the markers of their names in a file, in place of what is
    there. Raises the UserErrors of find_markers, and then writes none.
    """
    content = read_document(path)
    # all places are checked first, so that the line numbers in messages are those of the file
    for name in texts:
        find_markers(path, content, name)
    for name, text in texts.items():
        begin, stop = find_markers(path, content, name)
        content = f"{content[:begin]}\n{text}\n{content[stop:]}"
    with common.atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
