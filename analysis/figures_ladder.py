"""The figure of analysis/ladder.py: how well students of several sizes do."""

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import grid, legend, style

TEACHER = {"color": "black", "ls": "--", "lw": 1}
CONSTANT = {"color": "grey", "ls": ":", "lw": 1.2}
PANELS = {  # (column drawn along x, column drawn along y) -> names of the two axes
    ("layers", "score"): ("layers of the student", "score, %"),
    ("ms_alone", "score"): ("milliseconds a row, one by one", "score, %"),
    ("layers", "agreement"): ("layers of the student", "agreement with the teacher, %"),
}


def draw_ladder(table, is_regression=False):
    """A Figure: score against layers and time, and agreement with the teacher against layers.

    table: that of analysis/ladder.py, one row per model and seed, the teacher's first; score,
    agreement and constant (the score of the best constant answer) are not in %. Points are means
    over seeds, bars standard deviations. Students that copied chosen layers (--student_layers)
    instead of the first ones are hollow points. is_regression: the agreement is a correlation.
    """
    task, columns = table.task.iloc[0], ["layers", "score", "agreement", "ms_alone"]
    table = table.assign(score=100 * table.score, agreement=100 * table.agreement)
    groups = table.groupby("name", sort=False)
    means, spreads = groups[columns].mean(), groups[columns].std()
    facts = groups[["method", "copied"]].first()
    methods = list(dict.fromkeys(facts.method[facts.method != "teacher"]))
    title = f"{task}: how small can a student be?"
    figure, panels = grid(list(PANELS), 3, (3.7, 3.3), title)
    for axes, (x, y) in panels:
        for k, method in enumerate(methods):
            own = facts.method == method
            chosen = facts.copied.str.startswith("layer")
            draw_points(axes, means[own & ~chosen], spreads, x, y, style(k))
            draw_chosen(axes, means[own & chosen], spreads, x, y, style(k), facts.copied)
        if y == "score":
            axes.axhline(means.score["teacher"], **TEACHER)
            if x == "ms_alone":  # the teacher was timed together with the students
                axes.plot(means[x]["teacher"], means[y]["teacher"], "D", color="black", ms=5)
            axes.axhline(100 * table.constant.iloc[0], **CONSTANT)
        finish(axes, x, y, is_regression)
    legend(figure, handles_of(methods, facts))
    return figure


def draw_points(axes, means, spreads, x, y, look):
    """Draw the students of one method that copied first layers, joined by a line in order of size.

    means, spreads: tables with one row per model; x, y: the columns to draw; look: what style
    returns.
    """
    means = means.sort_values("layers")
    bars = spreads.loc[means.index]
    xerr = bars[x] if x != "layers" else None
    axes.errorbar(means[x], means[y], bars[y], xerr, **look, ms=5, lw=1.4, capsize=3, elinewidth=1)


def draw_chosen(axes, means, spreads, x, y, look, copied):
    """Draw the students of one method that copied chosen layers: points with their layers as text.

    copied: model's name -> "layers 0,2,4". The other arguments are those of draw_points.
    """
    bars = spreads.loc[means.index]
    xerr = bars[x] if x != "layers" else None
    if x == "layers":  # to the right of the student that copied as many first layers
        means = means.assign(layers=means.layers + 0.12)
    hollow = look | {"ls": "", "mfc": "white"}
    axes.errorbar(means[x], means[y], bars[y], xerr, **hollow, ms=6, capsize=3, elinewidth=1)
    for name, row in means.iterrows():
        text = copied[name].split()[-1]
        place = {"xytext": (6, -10), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(text, (row[x], row[y]), color=look["color"], **place)


def finish(axes, x, y, is_regression):
    xlabel, ylabel = PANELS[x, y]
    if y == "agreement" and is_regression:
        ylabel = "Pearson with the teacher, ×100"
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.grid(alpha=0.3)
    if x == "layers":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    else:
        axes.set_xlim(left=0)


def handles_of(methods, facts):
    """The legend's entries: one per method, hollow points if there are any, and the two lines."""
    handles = [
        Line2D([], [], **style(k), ms=5, lw=1.4, label=method) for k, method in enumerate(methods)
    ]
    if facts.copied.str.startswith("layer").any():
        hollow = {"ls": "", "marker": "o", "mfc": "white", "color": "grey"}
        handles.append(Line2D([], [], **hollow, label="chosen layers"))
    handles.append(Line2D([], [], **TEACHER, label="teacher"))
    handles.append(Line2D([], [], **CONSTANT, label="best constant answer"))
    return handles
