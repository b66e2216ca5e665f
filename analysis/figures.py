"""What all figures share: grids of panels, names, lines and markers, a legend, files.

Every function that draws returns a matplotlib Figure. "name" is a model's name as its user knows it
("teacher", "VKD", "FSD_I"), "run" tells the runs of one name apart; models are drawn in the order
in which they come. The colours are those of analysis/methods.py and the maps cividis, told apart by
the colour-blind too; lines and dots differ in shape as well.
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
    """The number of columns for `count` panels, at most `most` beside each other, that fills the
    rows most evenly.
    """
    return math.ceil(count / math.ceil(count / most))


def grid(keys, columns, size, title, xlabel="", **shared):
    """A Figure with a panel a key, and the pairs (axes, key) without the keys None, whose places
    stay empty.

    columns: panels beside each other. size: (width, height) of a panel in inches. xlabel: the
    lowest panels' name of the axis. shared: subplots' sharex, sharey.
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
            axes.xaxis.set_tick_params(
                labelbottom=True
            )  # shared axes have them in the last row alone
            axes.set_xlabel(xlabel, fontsize=9)
        axes.tick_params(labelsize=9)
    figure.suptitle(as_written(title), fontsize=12)
    return figure, [(axes, key) for axes, key in zip(panels, keys, strict=True) if key is not None]


def lines(text, inches=2):
    """Text of 10 points on as many lines as it needs; "FSD_L, debiased, ..." is the name of a
    model.
    """
    return as_written(textwrap.fill(str(text), round(12 * inches)))


def names_of(table):
    return list(dict.fromkeys(table["name"]))


def style(k):
    """Colour, line and marker of the k-th model: all three differ between neighbours."""
    return {
        "color": COLOURS[k % len(COLOURS)],
        "ls": LINES[k % len(LINES)],
        "marker": MARKERS[k % len(MARKERS)],
    }


def legend(figure, handles):
    """One legend below all panels, as many entries beside each other as the figure is wide."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / (5.5 * longest + 45))))
    for handle in handles:
        handle.set_label(as_written(handle.get_label()))
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(handles) / columns))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def save(figure, path):
    """Write a figure into a .png, .svg or .pdf; the same file for the same figure."""
    kind = Path(path).suffix[1:]
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "fsd"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata[kind])
