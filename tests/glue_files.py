"""GLUE files for tests: made-up ones, and the official ones in the folder that FSD_GLUE names."""

import os
from pathlib import Path

import pytest

from common import UserError
from tasks.task import find_file, has_file

REAL_DATA = os.environ.get("FSD_GLUE")  # a folder with the official files
PAIR_LABEL = "index\tsentence1\tsentence2\tlabel"
PAIRS = f"{PAIR_LABEL}\n0\ta b\tc\tentailment\n1\ta b a b a b\tc c c c\tnot_entailment\n"


def put(folder, name, text):
    """Write text or bytes to folder/name, and make the folders needed; returns the path."""
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def expect_error(*parts):
    """pytest.raises for a UserError, "Expected ... .", that has all these parts, in any order."""
    lookaheads = "".join(f"(?=.*{part})" for part in parts)
    return pytest.raises(UserError, match=rf"(?s)^Expected{lookaheads}.*\.$")


def real_file(task, split):
    """The path of an official file in FSD_GLUE; without the file the test is skipped."""
    if not REAL_DATA:
        pytest.skip("set FSD_GLUE to a folder with the official GLUE files")
    if not has_file(task, REAL_DATA, split):
        pytest.skip(f"FSD_GLUE has no {split} file of {task.name}")
    return find_file(task, REAL_DATA, split)
