"""A report's figures of the teacher's memory, the centroids that train_memory.py found: how many
samples are nearest to each centroid, and where samples and centroids lie.
"""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import even, grid, legend, lines
from colours import COLOURS, as_written

MOST = 5000  # samples that a projection draws at most


def draw_occupancy(sizes, samples):
    """A Figure: how many samples are nearest to each centroid of the teacher's memory.

    sizes: name -> counts (C,), drawn as one row per model. samples: the sum of each row's
    counts. Centroids are sorted by the counts of the first model, the fullest first.
    """
    counts = np.array(list(sizes.values()))  # (models, C)
    counts = counts[:, np.argsort(-counts[0], kind="stable")]
    figure, [(axes, _)] = grid(
        ["all"],
        1,
        (8.1, 0.9 + 0.3 * len(sizes)),
        f"{samples} samples at the {counts.shape[1]} centroids of the teacher's memory",
    )
    drawn = axes.imshow(
        np.ma.masked_equal(counts, 0),
        aspect="auto",
        cmap="cividis",
        interpolation="nearest",
        norm=LogNorm(1, max(2, counts.max())),
        extent=(0.5, counts.shape[1] + 0.5, len(sizes) - 0.5, -0.5),
    )
    axes.set_yticks(
        range(len(sizes)),
        [
            lines(f"{name}, {(row > 0).sum()} in use", 3)
            for name, row in zip(sizes, counts, strict=True)
        ],
    )
    axes.set_yticks(np.arange(len(sizes) - 1) + 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="grey", lw=0.5)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("model", fontsize=10)
    first = as_written(f"centroid, the fullest of the {next(iter(sizes))} first")
    axes.set_xlabel(first, fontsize=10)
    figure.colorbar(drawn, ax=axes, label="samples a centroid (white: none)", format="%g")
    return figure


def draw_projection(panels, labels, label_names, centroids, explained, task):
    """A Figure: samples of every model on the two principal axes of the teacher's centroids.

    panels: name -> {"points": (N, 2), "centroids": (C, 2) or None}: the model's features and the
    centroids of its own memory, projected on these axes. labels: (N,), classes as numbers, or
    scores. label_names: the names of the classes, None for a regression. centroids: the teacher's,
    projected, (C, 2). explained: the share of the centroids' variance along both axes, 0 to 1.
    """
    labels, count = np.asarray(labels), len(labels)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:MOST])
    said = f"{count} samples"
    if count > MOST:
        said = f"{MOST} of {count} samples, a fixed random choice"
    title = f"{task}: features of {said}"
    columns = even(len(panels), 4)
    width = min(2.8, 9 / columns)
    size, axis = (width, 2.6), "first principal axis"
    figure, drawn = grid(list(panels), columns, size, title, axis, sharex=True, sharey=True)
    dots = {"c": labels[chosen], "cmap": "cividis"}
    if label_names is not None:
        dots = {"c": np.array(COLOURS)[labels[chosen].astype(int) % len(COLOURS)], "cmap": None}
    for axes, name in drawn:
        shown = draw_samples(axes, panels[name]["points"][chosen], dots)
        draw_centroids(axes, centroids, panels[name]["centroids"])
        axes.set_title(lines(name, width), fontsize=10)
    if label_names is None:
        figure.colorbar(shown, ax=[axes for axes, _ in drawn], label="score")
    share = f"(both: {100 * explained:.0f} % of their variance)"
    figure.supylabel(
        f"second principal axis of the teacher's centroids\n{share}",
        fontsize=10,
    )
    has_own = any(panel["centroids"] is not None for panel in panels.values())
    legend(figure, marks_of_a_plane(labels, label_names or (), has_own))
    return figure


def draw_samples(axes, points, dots):
    """Draw samples (N, 2) as dots. dots: their colours, as the keywords c and cmap of scatter."""
    return axes.scatter(*points.T, **dots, s=7, alpha=0.55, linewidths=0, rasterized=True)


def draw_centroids(axes, centroids, own):
    """Draw the teacher's centroids (C, 2) as crosses, and the model's own, if any, as triangles."""
    axes.scatter(*centroids.T, marker="x", c="black", s=14, linewidths=0.8)
    if own is not None:
        triangles = {"marker": "^", "facecolors": "none", "edgecolors": "black"}
        axes.scatter(*own.T, **triangles, s=26, linewidths=0.9)


def marks_of_a_plane(labels, label_names, has_own):
    """The legend's entries of a projection: classes with their numbers of samples, and centroids.

    has_own: whether any model has centroids of its own.
    """

    def mark(marker, colour, label, **more):
        return Line2D([], [], ls="", marker=marker, color=colour, label=label, **more)

    marks = [
        mark("o", COLOURS[k % len(COLOURS)], f"{name} ({(labels == k).sum()})", mec="none")
        for k, name in enumerate(label_names)
    ]
    marks.append(mark("x", "black", "centroid of the teacher"))
    if has_own:
        marks.append(mark("^", "black", "centroid of the model's own", mfc="none"))
    return marks
