"""The picture of a memory: samples and centroids on the two principal axes of the centroids."""

import numpy as np
from matplotlib.figure import Figure

from colours import COLOURS, as_written
from tasks.features import NO_CLASS

MOST = 20_000  # so many samples are drawn at most, chosen at random


def picture_of_clusters(table, centroids, sizes, explained, labels, task):
    """A matplotlib Figure: samples as dots coloured by label, centroids as circles with an area
    that grows with their number of samples.

    table: columns label, x, y, one row per sample. centroids: (C, 2). sizes: C numbers of samples.
    explained: the axes' share of the centroids' variance, 0 to 1. labels: the task's label names,
    None for a regression.
    """
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    drawn = table if len(table) <= MOST else table.sample(MOST, random_state=0)
    dots = {"s": 9, "alpha": 0.55, "linewidths": 0}
    unlabelled = (table.label == NO_CLASS).any()
    if labels is None:
        shown = axes.scatter(drawn.x, drawn.y, c=drawn.label, cmap="cividis", **dots)
        figure.colorbar(shown, ax=axes, label="score")
    else:
        for k, name in [*enumerate(labels), *([(NO_CLASS, "no label")] if unlabelled else [])]:
            rows, number = drawn[drawn.label == k], (table.label == k).sum()
            colour = "lightgrey" if k == NO_CLASS else COLOURS[k % len(COLOURS)]
            said = as_written(f"{name} ({number})")
            axes.scatter(rows.x, rows.y, c=colour, label=said, **dots)
    occupied = np.array(sizes) > 0
    area = 12 + 500 * np.array(sizes) / max(sizes)
    axes.scatter(
        *centroids[occupied].T,
        s=area[occupied],
        facecolors="none",
        edgecolors="black",
        linewidths=1,
        label="centroid, area by samples",
    )
    if not occupied.all():
        axes.scatter(
            *centroids[~occupied].T,
            marker="x",
            c="black",
            s=25,
            linewidths=1,
            label="empty centroid",
        )
    # by itself matplotlib would leave out a class whose name begins with _
    marks = axes.collections if labels is not None else axes.collections[1:]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False)
    title = f"{task}: teacher features of {len(table)} samples, {len(sizes)} centroids"
    axes.set_title(as_written(title))
    axes.set_xlabel("first principal axis of the centroids")
    axes.set_ylabel(f"second principal axis (both: {100 * explained:.0f} % of their variance)")
    return figure
