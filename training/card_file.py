"""Which README.md of an output folder is a model card that this project wrote."""

from pathlib import Path

NAME = "README.md"
MARK = "<!-- A model card of FSD, written at the end of the run."
NOTE = f"{MARK} To keep a text of your own here, delete this line. -->"


def is_card(path):
    """Whether a file is a card of ours."""
    return path.is_file() and MARK.encode() in path.read_bytes()


def remove_card(folder):
    """Remove a folder's card, if it is one of ours; of a link, the link alone."""
    path = Path(folder) / NAME
    if is_card(path):
        path.unlink()
