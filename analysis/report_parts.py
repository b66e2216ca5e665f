"""Topic, a chapter of the report, and helpers that make printed tables of numbers.

A "table to read" is the printed one, with text in its cells. A student is one folder with a trained
model; students of the same name are runs of one model.
"""

from collections import Counter

import numpy as np
import pandas as pd

from analysis.markdown import MISSING
from analysis.report_text import FIGURES, TABLES, TOPICS, fill_in

FIRST = " Of several runs of a model the first is drawn."


class Topic:
    """A chapter of the report.

    figures: name -> (Figure, alternative text, caption). data: name -> table for a CSV file. shown:
    name -> (table to read, caption). notes: what is missing, and why.
    """

    def __init__(self, name):
        self.title, text = TOPICS[name]
        self.text = fill_in(text)
        self.figures, self.data, self.shown, self.notes = {}, {}, {}, []

    def add_table(self, name, table, **facts):
        """Add a table to read. facts: the values for the {names} in its caption."""
        self.shown[name] = table, fill_in(TABLES[name], **facts)

    def add_figure(self, name, figure, kind=None, **facts):
        """Add a Figure. kind: the key of its two texts in FIGURES, by default `name`. facts: the
        values for the {names} in these texts.
        """
        alternative, caption = (fill_in(text, **facts) for text in FIGURES[kind or name])
        self.figures[name] = figure, alternative, caption


# ---- numbers as text -----------------------------------------------------------------------------


def spread(values, digits=2, scale=1.0):
    """A Series, times `scale`, as text: mean ± standard deviation without NaNs; MISSING if it has
    no number.
    """
    values = scale * values.dropna()
    if not len(values):
        return MISSING
    mean = f"{values.mean():.{digits}f}"
    # whole numbers that are all the same need no ± 0
    if len(values) == 1 or not (digits or np.ptp(values)):
        return mean
    return f"{mean} ± {values.std(ddof=1):.{digits}f}"


def by_model(frame, columns):
    """A table to read, with a row per model, in the frame's order.

    columns: heading -> (column of the frame, digits, factor).
    """
    groups = frame.groupby("name", sort=False)
    shown = pd.DataFrame(
        {
            heading: groups[column].agg(lambda values, d=digits, s=scale: spread(values, d, s))
            for heading, (column, digits, scale) in columns.items()
        }
    )
    return shown.reset_index(names="model")


def column_of(values, names, digits):
    """A column of a table to read: the numbers of the models `names`, as text.

    values: name -> number.
    """
    return [f"{values[name]:.{digits}f}" if name in values else MISSING for name in names]


def describe_runs(students):
    """How many runs a model has, in words."""
    counts = Counter(student.name for student in students).values()
    if max(counts) == 1:
        return "one run each"
    number = " to ".join(map(str, sorted({min(counts), max(counts)})))
    return f"mean ± standard deviation over {number} runs"


def describe_first(students):
    """The sentence that only a model's first run is drawn; "" if no model has several runs."""
    return FIRST if any(student.run for student in students) else ""


# ---- models --------------------------------------------------------------------------------------


def rows_by_student(subjects, numbers):
    """A table with a row per student: its name, run, folder, seed and numbers.

    numbers: a dict for each student, in the students' order.
    """
    rows = []
    for student, own in zip(subjects.students, numbers, strict=True):
        who = {"name": student.name, "run": student.run, "folder": student.folder.name}
        rows.append(who | {"seed": student.record.get("seed")} | own)
    return pd.DataFrame(rows)


def teacher_and_students(subjects):
    """[(name, Student or None, Comparison)]: first the teacher, with None and its comparison with
    itself; then all students.
    """
    pairs = zip(subjects.students, subjects.comparisons, strict=True)
    return [("teacher", None, subjects.itself), *((s.name, s, c) for s, c in pairs)]
