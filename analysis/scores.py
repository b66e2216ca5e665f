"""The figure of analysis/tables.py: method against score, a dot a run, with mean, spread and the
teacher.
"""

import itertools
import math
from pathlib import Path

import common
from analysis import table
from common import UserError

BASELINE, FSD = "#0072B2", "#D55E00"  # of Okabe and Ito, told apart by the colour-blind too


def draw_task(axes, runs, task, methods):
    """One panel: a row a method, a dot a run, mean ± standard deviation; the teacher's mean as a
    dashed line.
    """
    scores = 100 * table.score(runs, task)
    groups = {
        method: scores[runs.method == method] for method in methods if method in set(runs.method)
    }
    counts = [len(values) for values in groups.values()] or [0]
    for method, values in groups.items():
        y = methods.index(method)
        colour, shape = (FSD, "o") if method.startswith("FSD") else (BASELINE, "s")
        axes.scatter(
            values, [y - 0.2] * len(values), s=16, c=colour, marker=shape, alpha=0.7, linewidths=0
        )
        axes.errorbar(
            values.mean(),
            y + 0.15,
            xerr=values.std() if len(values) > 1 else None,
            fmt="D",
            ms=4,
            color=colour,
            ecolor="black",
            mec="black",
            capsize=3,
            lw=1,
        )
    teacher = scores[runs.method == "teacher"]
    if len(teacher) and "teacher" not in methods:
        axes.axvline(teacher.mean(), color="black", ls="--", lw=1)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(
        f"{task}, n = {' to '.join(map(str, sorted({min(counts), max(counts)})))} runs", fontsize=10
    )
    axes.set_xlabel("score, mean of the task's metrics, %", fontsize=9)


def draw(runs, path, order):
    """Score of every method with its spread, a panel a task in this order, into a .png, .svg or
    .pdf.
    """
    path, tasks = Path(path), [task for task in order if task in set(runs.task)]
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--figure {path} must end in .png, .svg or .pdf")
    if not tasks:
        raise UserError(
            "--figure draws single runs and there are only means: give a folder of runs or a "
            "results.csv"
        )
    from matplotlib.figure import Figure  # here, as most tables are made without a figure

    columns = min(3, len(tasks))
    lines, methods = (
        math.ceil(len(tasks) / columns),
        sorted(table.students_of(runs).method.unique(), key=table.rank),
    )
    figure = Figure(
        figsize=(2.5 + 3.5 * columns, lines * (0.9 + 0.34 * len(methods)) + 1.2),
        layout="constrained",
    )
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for axes, task in itertools.zip_longest(panels, tasks):
        if task:
            draw_task(axes, runs[runs.task == task], task, methods)
        else:
            axes.set_axis_off()
    panel = figure.axes[0]
    panel.scatter([], [], s=16, c=FSD, label="FSD, a run")
    panel.scatter([], [], s=16, c=BASELINE, marker="s", label="other student, a run")
    panel.errorbar(
        [],
        [],
        xerr=[],
        fmt="D",
        ms=4,
        color="black",
        capsize=3,
        lw=1,
        label="mean ± standard deviation",
    )
    panel.plot([], [], color="black", ls="--", lw=1, label="teacher, mean")
    figure.legend(
        loc="outside lower center", ncols=4 if columns > 1 else 2, frameon=False, fontsize=9
    )
    figure.suptitle("Scores of the students on GLUE's dev sets")
    figure.supylabel("method", fontsize=10)
    with common.atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
