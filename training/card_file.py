"""Tells a model card that this project wrote from any other README.md in an output folder."""

from pathlib import Path

NAME = "README.md"
MARK = "<!-- A model card of FSD, written at the end of the run."
NOTE = f"{MARK} To keep a text of your own here, delete this line. -->"


def is_card(path):
    """Whether a file is a model card that this project wrote."""
    return path.is_file() and MARK.encode() in path.read_bytes()


def remove_card(folder):
    """Remove the README.md of a folder if this project wrote it as a card; of a link, only the
    link.
    """
    path = Path(folder) / NAME
    if is_card(path):
        path.unlink()
