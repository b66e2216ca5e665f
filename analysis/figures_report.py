"""The figures of a report on one task: CKA, predictions, relations and cost of the models."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from analysis.figures import even, grid, legend, lines, names_of, style
from analysis.methods import FSD_COLOUR, OTHER_COLOUR, colour_of, is_fsd
from colours import as_written

FEW = 8  # a map of up to so many layers, embeddings included, has numbers in its cells
RESTORATION = {  # column: similarity of predictions to the teacher's -> title of its panel
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "agreement",
    "pearson": "Pearson with the teacher",
    "spearmanr": "Spearman with the teacher",
    "loyalty_wrong": "where the teacher is wrong",
}
RELATIONS = {  # column: relation difference -> (title of its panel, name of the axis)
    "rd_inter_euclidean": ("between samples, Euclidean", "difference, units of the features"),
    "rd_inter_cosine": ("between samples, cosine", "difference, no unit"),
    "rd_intra_euclidean": ("between tokens, Euclidean", "difference, units of the features"),
    "rd_intra_cosine": ("between tokens, cosine", "difference, no unit"),
}


# ---- CKA -----------------------------------------------------------------------------------------


def draw_heat_maps(maps, estimator, diagonals):
    """A Figure: CKA between mini-batches of the teacher and of each model (the paper's Figure 4).

    maps: name -> (P, P); row p is a mini-batch of the teacher, column q a mini-batch of the model.
    estimator: biased or debiased. diagonals: name -> the mean CKA between teacher and model on the
    same mini-batch, over all mini-batches, not only the P that are drawn (the paper's Table 6).
    """
    columns = even(len(maps), 5)
    width = min(2.4, 9 / columns)
    figure, panels = grid(
        list(maps), columns, (width, width + 0.4), "CKA between mini-batches of teacher and model"
    )
    low, high = (
        extreme([extreme(values) for values in maps.values()]) for extreme in (np.nanmin, np.nanmax)
    )
    for axes, name in panels:
        image = axes.imshow(maps[name], cmap="cividis", vmin=low, vmax=high)
        axes.set_title(f"{lines(name, width)}\ndiagonal {diagonals[name]:.3f}", fontsize=10)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    figure.colorbar(image, ax=[axes for axes, _ in panels], label=f"CKA, {estimator}", aspect=30)
    figure.supxlabel("mini-batch of the model", fontsize=10)
    figure.supylabel("mini-batch of the teacher", fontsize=10)
    return figure


def draw_layer_maps(maps, between):
    """A Figure: CKA between each layer of the teacher and each layer of a model, for every model.

    Biased CKA is above debiased CKA.
    maps: name -> estimator -> (L_t+1, L_s+1), for L_t layers of the teacher and L_s of the model;
    index 0 is the embeddings. between: what CKA compares, "tokens" or "samples".
    """
    names, shapes = list(maps), [model["biased"].shape for model in maps.values()]
    # numbers in the cells need room
    columns = even(len(names), 4 if max(max(shapes)) <= FEW else 6)
    blocks = [
        [*names[i : i + columns], *[None] * columns][:columns]
        for i in range(0, len(names), columns)
    ]
    keys = [
        name and (name, estimator)
        for block in blocks
        for estimator in ("biased", "debiased")
        for name in block
    ]
    width = min(2.4, 9 / columns)
    figure, panels = grid(
        keys,
        columns,
        (width, 1 + 0.17 * shapes[0][0]),
        f"CKA between layers of teacher and model, {between} as rows",
        "layer of the model",
    )
    low = min(0, *(np.nanmin(values) for model in maps.values() for values in model.values()))
    for axes, (name, estimator) in panels:
        image = draw_layer_map(axes, maps[name][estimator], low)
        axes.set_title(f"{lines(name, width)}\n{estimator}", fontsize=10)
    figure.colorbar(image, ax=[axes for axes, _ in panels], label="CKA", aspect=40)
    figure.supylabel("layer of the teacher (0 = embeddings)", fontsize=10)
    frame = {"fc": "none", "ec": FSD_COLOUR, "lw": 2}
    label = "the penultimate pair, which FSD aligns"
    legend(figure, [Rectangle((0, 0), 1, 1, **frame, label=label)])
    return figure


def draw_layer_map(axes, values, low):
    """Draw one panel of draw_layer_maps, and return its image, for the colour bar.

    values: (L_t+1, L_s+1). low: the CKA at the lower end of the colours. Small maps have numbers in
    their cells.
    """
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, origin="lower", aspect="auto")
    y, x = values.shape[0] - 2, values.shape[1] - 2
    for colour, width in (("white", 4), (FSD_COLOUR, 2)):  # a white rim sets the frame off
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc="none", ec=colour, lw=width))
    if max(values.shape) <= FEW:
        for (i, j), value in np.ndenumerate(values):
            text = f"{round(value, 2) + 0:.2f}"  # + 0, so that there is no -0.00
            colour = "black" if image.norm(value) > 0.5 else "white"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(13, integer=True))
    return image


# ---- predictions and relations -------------------------------------------------------------------


def draw_runs(axes, table, column, scale):
    """Draw one panel: a row per model, with a dot per run and a diamond at the mean of the dots.

    table: one row per run. column: what is drawn, times `scale`.
    """
    names = names_of(table)
    for y, name in enumerate(names):
        values = scale * table.loc[table["name"] == name, column].dropna()
        colour, marker = colour_of(name), "o" if is_fsd(name) else "s"
        dots = {"s": 18, "marker": marker, "alpha": 0.7, "linewidths": 0}
        axes.scatter(values, [y - 0.15] * len(values), c=colour, **dots)
        diamond = {"s": 26, "marker": "D", "edgecolors": "black", "linewidths": 0.8}
        axes.scatter(values.mean(), y + 0.15, c=colour, **diamond)
    axes.set_yticks(range(len(names)), map(lines, names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def runs_figure(table, panels, columns, title, scale=1):
    """A Figure with a panel of draw_runs for each of several columns of the table.

    panels: column -> (title, name of the axis). columns: the number of panels beside each other.
    """
    names = names_of(table)
    width = 8.1 / columns
    figure, drawn = grid(list(panels), columns, (width, 0.9 + 0.3 * len(names)), title, sharey=True)
    for axes, column in drawn:
        draw_runs(axes, table, column, scale)
        axes.set_title(lines(panels[column][0], width), fontsize=10)
        axes.set_xlabel(panels[column][1], fontsize=9)
    figure.supylabel("model", fontsize=10)
    legend(figure, marks_of_runs(names))
    return figure


def marks_of_runs(names):
    """The legend's entries for draw_runs: FSD and other models, if there are any, and the mean."""

    def mark(colour, marker, edge, label):
        return Line2D([], [], ls="", color=colour, marker=marker, mec=edge, label=label)

    kinds, marks = {is_fsd(name) for name in names}, []
    if True in kinds:
        marks.append(mark(FSD_COLOUR, "o", "none", "FSD, a run"))
    if False in kinds:
        marks.append(mark(OTHER_COLOUR, "s", "none", "other model, a run"))
    return [*marks, mark("white", "D", "black", "mean of its runs")]


def draw_restoration(table):
    """A Figure: how far the models restore the teacher's predictions (the paper's Figure 3), in %.

    table: one row per run, with the columns name and run and any of RESTORATION, as fractions.
    """
    columns = [column for column in RESTORATION if column in table and table[column].notna().any()]
    return runs_figure(
        table,
        {column: (RESTORATION[column], "%") for column in columns},
        even(len(columns), 3),
        "Predictions of the models, with the teacher's as the truth",
        100,
    )


def draw_relation_differences(table):
    """A Figure: the models' relation differences from the teacher (the paper's Eq. 12 and 13, Table
    7). table: one row per run, with the columns name, run and RELATIONS.
    """
    panels = {column: RELATIONS[column] for column in measured(table)}
    title = "Relation difference at the end: lower is closer to the teacher"
    return runs_figure(table, panels, 2, title)


def measured(table):
    """A list of those columns of RELATIONS that have a number in some row of the table."""
    return [column for column in RELATIONS if table[column].notna().any()]


def draw_relation_training(table):
    """A Figure: relation differences during training: means over runs, and each run as a thin line.

    table: one row per run and logged step, with the columns name, run, step, epoch and RELATIONS.
    """
    figure, panels = grid(
        measured(table),
        2,
        (4.2, 2.6),
        "Relation difference during training: lower is closer to the teacher",
        "epoch",
        sharex=True,
    )
    names = names_of(table)
    for axes, column in panels:
        for k, name in enumerate(names):
            model, look = table[table["name"] == name], style(k)
            runs = list(model.groupby("run", sort=False))
            for _, run in runs if len(runs) > 1 else ():
                axes.plot(run.epoch, run[column], color=look["color"], lw=0.6, alpha=0.3)
            mean = model.groupby("step")[["epoch", column]].mean()
            axes.plot(
                mean.epoch,
                mean[column],
                **look,
                lw=1.6,
                ms=5,
                markevery=(0.02 * k, 0.2),
                label=name,
            )
        axes.set_title(RELATIONS[column][0], fontsize=10)
        axes.set_ylabel(RELATIONS[column][1], fontsize=9)
        axes.grid(alpha=0.3)
    legend(figure, [Line2D([], [], **style(k), ms=5, label=name) for k, name in enumerate(names)])
    return figure


# ---- cost ----------------------------------------------------------------------------------------


def draw_cost(table, reference):
    """A Figure: throughput relative to that of the model named `reference` (the paper's Table 8).

    table: one row per model, with the columns name, training and inference, the two throughputs
    divided by those of the reference; NaN where not measured.
    """
    figure, panels = grid(
        ["training", "inference"],
        2,
        (4.2, 0.6 + 0.3 * len(table)),
        f"Throughput relative to {reference}: higher is faster",
        sharex=True,
        sharey=True,
    )
    for axes, column in panels:
        colours = list(map(colour_of, table["name"]))
        bars = axes.barh(range(len(table)), table[column].fillna(0), color=colours, height=0.6)
        texts = ["not measured" if np.isnan(v) else f"{v:.2f}" for v in table[column]]
        # a white ground keeps numbers readable over the line at 1
        ground = {"fc": "white", "ec": "none", "pad": 1}
        axes.bar_label(bars, texts, padding=3, fontsize=9, bbox=ground)
        axes.axvline(1, color="black", ls="--", lw=1)
        axes.set_title(column, fontsize=10)
        axes.margins(x=0.15)
    panels[0][0].set_yticks(range(len(table)), map(lines, table["name"]))
    panels[0][0].set_ylim(len(table) - 0.4, -0.6)
    figure.supxlabel(as_written(f"samples a second, {reference} = 1"), fontsize=10)
    figure.supylabel("model", fontsize=10)
    return figure
