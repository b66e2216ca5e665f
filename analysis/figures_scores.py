"""The figure of analysis/tables.py: each method's scores, one dot per run, with their mean and
standard deviation, and the teacher's mean.
"""

import itertools
import math
from pathlib import Path

from analysis.methods import FSD_COLOUR, OTHER_COLOUR, Name, colour_of, is_fsd
from analysis.runs import groups_of, names_of, students_of, task_score
from colours import as_written
from common import UserError

DOTS = {"s": 16, "alpha": 0.7, "linewidths": 0}
DIAMOND = {"fmt": "D", "ms": 4, "capsize": 3, "lw": 1}
TEACHER = {"color": "black", "ls": "--", "lw": 1}


def draw_task(axes, runs, task, names):
    """Draw one task's panel: a row per method, with a dot per run and mean ± standard deviation.

    The teacher's mean is a dashed line. runs: the table of the task's runs. names: the Names of the
    rows, from the top, also those of methods without a run of this task.
    """
    scores = 100 * task_score(runs, task)
    found = {name: scores[group.index] for name, group in groups_of(runs)}
    groups = {name: found[name] for name in names if name in found}
    for name, values in groups.items():
        y, colour = names.index(name), colour_of(name.method)
        marker = "o" if is_fsd(name.method) else "s"
        axes.scatter(values, [y - 0.2] * len(values), c=colour, marker=marker, **DOTS)
        spread = values.std() if len(values) > 1 else None
        axes.errorbar(
            values.mean(),
            y + 0.15,
            xerr=spread,
            color=colour,
            ecolor="black",
            mec="black",
            **DIAMOND,
        )
    teacher = Name("teacher")
    if teacher not in names and (runs.method == teacher.method).any():
        axes.axvline(scores[runs.method == teacher.method].mean(), **TEACHER)
    axes.set_yticks(range(len(names)), map(as_written, names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    counts = [len(values) for values in groups.values()] or [0]
    number = " to ".join(map(str, sorted({min(counts), max(counts)})))
    axes.set_title(as_written(f"{task}, n = {number} runs"), fontsize=10)
    axes.set_xlabel("score, mean of the task's metrics, %", fontsize=9)


def draw_scores(runs, path, order):
    """Write the figure, with one panel per task of `runs`, into a .png, .svg or .pdf.

    order: the tasks in the order of their panels. Raises a UserError for another ending of `path`,
    and if there are no single runs of these tasks.
    """
    path, tasks = Path(path), [task for task in order if task in set(runs.task)]
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--figure {path} must end in .png, .svg or .pdf")
    if not tasks:
        raise UserError(
            "--figure draws single runs, and there are only means in the files given: give a "
            "folder of runs or a results.csv"
        )
    from matplotlib.figure import Figure  # here, as most tables are made without a figure

    from analysis.figures import save

    names = sorted(dict.fromkeys(names_of(students_of(runs))), key=Name.rank)
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    size = 2.5 + 3.5 * columns, rows * (0.9 + 0.34 * len(names)) + 1.2
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, task in itertools.zip_longest(panels, tasks):
        if task:
            draw_task(axes, runs[runs.task == task], task, names)
        else:
            axes.set_axis_off()
    add_legend(figure, columns)
    figure.suptitle("Scores of the students on GLUE's dev sets")
    figure.supylabel("method", fontsize=10)
    save(figure, path)


def add_legend(figure, columns):
    """Draw one legend below all panels; its entries are empty marks in the first panel."""
    panel = figure.axes[0]
    panel.scatter([], [], s=16, c=FSD_COLOUR, label="FSD, a run")
    panel.scatter([], [], s=16, c=OTHER_COLOUR, marker="s", label="other student, a run")
    panel.errorbar([], [], xerr=[], color="black", label="mean ± standard deviation", **DIAMOND)
    panel.plot([], [], label="teacher, mean", **TEACHER)
    beside = 4 if columns > 1 else 2
    figure.legend(loc="outside lower center", ncols=beside, frameon=False, fontsize=9)
