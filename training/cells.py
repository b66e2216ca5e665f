"""What the cells of a results.csv may hold: numbers that a run can have, names of tasks.

A row that was made by hand, or by another project, is refused, and the error names the line and
column that are wrong.
"""

import math
import re
from typing import NamedTuple

from common import UserError
from tasks.glue import TASKS, get_task
from tasks.own import NAME

SLACK = 1e-9  # a correlation of 1 may be computed as a little more


class Limits(NamedTuple):
    """The numbers that a column may hold: finite, from `least` to `most`, and only whole ones if
    `whole`.
    """

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False

    @property
    def words(self):
        """The numbers that the column may hold, in words."""
        kind = "whole numbers" if self.whole else "finite numbers"
        if math.isfinite(self.most):
            return f"{kind} from {self.least:g} to {self.most:g}".removeprefix("finite ")
        return f"{kind} from {self.least:g} on" if math.isfinite(self.least) else kind

    def has(self, number):
        """Whether a number is within the limits."""
        within = self.least - SLACK <= number <= self.most + SLACK
        return within and math.isfinite(number) and (not self.whole or number.is_integer())


FRACTION, CORRELATION = Limits(0, 1), Limits(-1, 1)
AMOUNT, COUNT = Limits(0), Limits(0, whole=True)
METRICS = {  # of GLUE's tasks and of own files, all as fractions and not in %
    "mcc": CORRELATION,
    "acc": FRACTION,
    "f1": FRACTION,
    "f1_macro": FRACTION,
    "pearson": CORRELATION,
    "spearmanr": CORRELATION,
}


def is_number(text):
    """Whether pandas reads a cell as a number; unlike Python it takes 1_000 for text."""
    try:
        return text.isascii() and "_" not in text and float(text) is not None
    except ValueError:
        return False


def find_fault(column, text, limits, missing=False):
    """What is wrong with a cell of a column of numbers: two texts (what it has, what to do), or
    None.

    An empty cell is right, and so is a number within limits. text: the cell. limits: None for any
    number. missing: whether pandas reads the cell as no value, as it does "nan".
    """
    if missing and (limits is None or not text.strip()):
        return None
    has = f"{text!r} in the column {column}, which holds {limits.words if limits else 'numbers'}"
    if missing:
        return has, "mend or delete that line, or leave the cell empty"
    if not is_number(text):
        comma = " (decimal commas need semicolons between the cells)" if "," in text else ""
        return has, f"mend or delete that line{comma}"
    number = float(text)
    if limits is None or limits.has(number):
        return None
    if column.removesuffix("_mm") in METRICS and 1 < abs(number) <= 100:
        has = f"{has} (metrics are fractions, {number / 100:g} where {number:g} % is meant)"
    return has, "mend or delete that line"


def read_task(text, where, row=None):
    """The name of a cell's task: a task of GLUE as GLUE spells it, another task as the cell has it.

    text: the cell; a task of GLUE may have any spelling that --task_name takes. where: the file and
    line, for the error. row: column -> cell of the whole row, which tells whether it is of own
    files.
    UserError for a name that is neither GLUE's nor of own files.
    """
    text = str(text).strip()
    try:
        return get_task(text).name
    except UserError:
        if is_own(row or {}) and re.fullmatch(NAME, text):
            return text
        known = ", ".join(task.name for task in TASKS.values())
        raise UserError(
            f"{where} has the task {text!r}, expected a task name among {known}: mend it"
        ) from None


def is_own(row):
    """Whether a row of results, column -> cell, may be of own files: it has a score or a flag that
    rows of GLUE lack, or is of a run that was not evaluated.
    """
    there = {name for name in METRICS if str(row.get(name, "")).lower() not in ("", "nan", "none")}
    unscored = not there and "started" in row
    return unscored or "f1_macro" in there or str(row.get("--do_regression")).lower() == "true"
