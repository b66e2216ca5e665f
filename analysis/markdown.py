"""Markdown: a table as text, and texts between the markers of a file.

A text named NAME goes between the lines <!-- table NAME --> and <!-- end NAME --> of a file; the
one named claims between <!-- claims --> and <!-- end claims -->.
"""

import re
from pathlib import Path

import common
from common import UserError

MISSING = "–"  # what a table has where there is no number
ANY_MARKER = re.compile(r"<!-- ((table|end) \S+|claims) -->")


def to_markdown(table, padded=False):
    """A DataFrame as a Markdown table; padded, its columns are aligned as text too."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def read_document(path):
    """The text of a file that tables go into; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 ({error}): save it as such, or name another file"
        ) from None


def start_marker(name):
    """The line of a file after which the text of this name goes."""
    return "<!-- claims -->" if name == "claims" else f"<!-- table {name} -->"


def end_marker(name):
    """The line of a file before which the text of this name goes."""
    return f"<!-- end {name} -->"


def lines_with(content, marker):
    """The numbers of the lines in which a marker stands, from 1 on."""
    found = re.finditer(re.escape(marker), content)
    return [content.count("\n", 0, match.start()) + 1 for match in found]


def find_place(path, content, name):
    """Where the text of this name begins and ends in a file's content; refused where it is unclear.

    path: the file, for what is said of it. Returns two offsets.
    """
    start, end = start_marker(name), end_marker(name)
    if start not in content or end not in content:
        raise UserError(f"{path} has no lines {start} and {end} to put the table between")
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
            f"{lines[start][0]}: put it after that"
        )
    inside = ANY_MARKER.search(content[begin:stop])
    if inside:
        raise UserError(
            f"{path} has {inside[0]} between {start} in line {lines[start][0]} and "
            f"{end} in line {lines[end][0]}: put it elsewhere, as what is there is "
            "replaced"
        )
    return begin, stop


def insert(path, texts):
    """Put texts, name -> text, between a file's markers of these names: all or none."""
    content = read_document(path)
    # before any is filled, so that a refusal names the lines of the file as it is
    for name in texts:
        find_place(path, content, name)
    for name, text in texts.items():
        begin, stop = find_place(path, content, name)
        content = f"{content[:begin]}\n{text}\n{content[stop:]}"
    with common.atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
