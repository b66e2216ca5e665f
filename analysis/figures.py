"""What all figures share: grids of panels, names, lines and markers, a legend, files.

In the modules analysis/figures_*.py, a function that makes a whole figure returns a matplotlib
Figure; one that draws a panel takes the panel as `axes`, a matplotlib Axes. In their tables the
column name is a model's name for the reader ("teacher", "VKD", "FSD_I"), and run tells the runs of
one name apart. Models are drawn in the order of the table. Colours are those of colours.py, and
cividis in maps, which the colour-blind can tell apart; lines and dots differ in shape, too.
"""

import math
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from colours import COLOURS, as_written
from common import atomic_path

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")


def even(count, most):
    """The number of columns, at most `most`, with which `count` panels fill rows most evenly."""
    return math.ceil(count / math.ceil(count / most))


def grid(keys, columns, size, title, xlabel="", **shared):
    """A Figure with one panel per key, and the list of the pairs (axes, key).

    keys: row by row; a key None leaves its place empty and has no pair. columns: the number of
    panels beside each other. size: (width, height) of a panel in inches. xlabel: the name of the x
    axis, below the lowest panel of each column. shared: sharex and sharey, as matplotlib's subplots
    takes them.
    """
    rows = math.ceil(len(keys) / columns)
    keys = [*keys, *[None] * (rows * columns - len(keys))]
    width = max(5.5, columns * size[0] + 0.9)
    title = textwrap.fill(title, round(11 * width))
    figure = Figure(
        figsize=(width, rows * size[1] + 0.9 + 0.2 * title.count("\n")),
        dpi=150,
        layout="constrained",
    )
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes, key, below in zip(panels, keys, [*keys[columns:], *[None] * columns], strict=True):
        if key is None:
            axes.remove()
        elif below is None:
            # shared axes would have labels in the last row only
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel(xlabel, fontsize=9)
        axes.tick_params(labelsize=9)
    figure.suptitle(as_written(title), fontsize=12)
    return figure, [(axes, key) for axes, key in zip(panels, keys, strict=True) if key is not None]


def lines(text, inches=2):
    """A text, for instance a model's name, wrapped to a width of `inches` at 10 points."""
    return as_written(textwrap.fill(str(text), round(12 * inches)))


def names_of(table):
    return list(dict.fromkeys(table["name"]))


def style(k):
    """Colour, line and marker of the k-th model, as keywords of matplotlib's plot.

    All three differ between one model and the next.
    """
    return {
        "color": COLOURS[k % len(COLOURS)],
        "ls": LINES[k % len(LINES)],
        "marker": MARKERS[k % len(MARKERS)],
    }


def legend(figure, handles):
    """Draw one legend below all panels, with as many entries beside each other as fit."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / (5.5 * longest + 45))))
    for handle in handles:
        handle.set_label(as_written(handle.get_label()))
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(handles) / columns))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def save(figure, path):
    """Write a figure into a .png, .svg or .pdf. The same figure always gives the same bytes."""
    kind = Path(path).suffix[1:]
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "fsd"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata[kind])
