"""The figures of a report on one task, features, predictions, relations, memories and cost of
models and teacher, and of a probed training.

Every function returns a matplotlib Figure. "name" is a model's name as its user knows it
("teacher", "VKD", "FSD_I"), "run" tells the runs of one name apart; models are drawn in the order
in which they come. The colours are those of Okabe and Ito and the maps cividis, told apart by the
colour-blind too; lines and dots differ in shape as well.
"""

import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from common import atomic_path

FSD, OTHER = "#D55E00", "#0072B2"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
MOST = 5000  # samples drawn in a projection
FEW = 8  # layers whose maps have numbers in the cells
RESTORATION = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "agreement",
    "pearson": "Pearson with the teacher",
    "spearmanr": "Spearman with the teacher",
    "loyalty_wrong": "where the teacher is wrong",
}
RELATIONS = {
    "rd_inter_euclidean": ("between samples, Euclidean", "difference, units of the features"),
    "rd_inter_cosine": ("between samples, cosine", "difference, no unit"),
    "rd_intra_euclidean": ("between tokens, Euclidean", "difference, units of the features"),
    "rd_intra_cosine": ("between tokens, cosine", "difference, no unit"),
}


# ---- grids of panels, shared by all --------------------------------------------------------------


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
    figure.suptitle(title, fontsize=12)
    return figure, [(axes, key) for axes, key in zip(panels, keys, strict=True) if key is not None]


def lines(text, inches=2):
    """Text of 10 points on as many lines as it needs; "FSD_L, debiased, ..." is the name of a
    model.
    """
    return textwrap.fill(str(text), round(12 * inches))


def names_of(table):
    return list(dict.fromkeys(table["name"]))


def is_fsd(name):
    return str(name).startswith("FSD")


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
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(handles) / columns))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


# ---- CKA -----------------------------------------------------------------------------------------


def heat_maps(maps, estimator, diagonals):
    """CKA between mini-batches of the teacher and of each model (the paper's Figure 4, its
    diagonals Table 6).

    maps: name -> (P, P), row p a mini-batch of the teacher, column q one of the model. estimator:
    biased or debiased. diagonals: name -> mean over all mini-batches, also those beyond the P that
    are drawn.
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


def layer_maps(maps, between):
    """CKA between every layer of the teacher and every layer of each model, biased above debiased.

    maps: name -> estimator -> (L_t+1, L_s+1), index 0 the embeddings. between: what the rows are,
    tokens or samples.
    """
    names, shapes = list(maps), [model["biased"].shape for model in maps.values()]
    columns = even(
        len(names), 4 if max(max(shapes)) <= FEW else 6
    )  # numbers in the cells need room
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
        image = draw_layers(axes, maps[name][estimator], low)
        axes.set_title(f"{lines(name, width)}\n{estimator}", fontsize=10)
    figure.colorbar(image, ax=[axes for axes, _ in panels], label="CKA", aspect=40)
    figure.supylabel("layer of the teacher (0 = embeddings)", fontsize=10)
    legend(
        figure,
        [
            Rectangle(
                (0, 0),
                1,
                1,
                fc="none",
                ec=FSD,
                lw=2,
                label="the penultimate pair, which FSD aligns",
            )
        ],
    )
    return figure


def draw_layers(axes, values, low):
    """One panel of layer_maps, values (L_t+1, L_s+1): numbers in the cells where those are few."""
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, origin="lower", aspect="auto")
    y, x = values.shape[0] - 2, values.shape[1] - 2
    for colour, width in (("white", 4), (FSD, 2)):  # the white rim sets it off from any ground
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc="none", ec=colour, lw=width))
    for (i, j), value in np.ndenumerate(values) if max(values.shape) <= FEW else ():
        axes.text(
            j,
            i,
            f"{round(value, 2) + 0:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="black" if image.norm(value) > 0.5 else "white",
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(13, integer=True))
    return image


# ---- predictions and relations -------------------------------------------------------------------


def draw_runs(axes, table, column, scale):
    """One panel: a row a model, a dot a run and a diamond for their mean."""
    names = names_of(table)
    for y, name in enumerate(names):
        values = scale * table.loc[table["name"] == name, column].dropna()
        colour, marker = (FSD, "o") if is_fsd(name) else (OTHER, "s")
        axes.scatter(
            values, [y - 0.15] * len(values), s=18, c=colour, marker=marker, alpha=0.7, linewidths=0
        )
        axes.scatter(
            values.mean(), y + 0.15, s=26, c=colour, marker="D", edgecolors="black", linewidths=0.8
        )
    axes.set_yticks(range(len(names)), map(lines, names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def runs_figure(table, panels, columns, title, scale=1):
    """A panel of draw_runs for each column in panels, column -> (title, name of the axis)."""
    names = names_of(table)
    width = 8.1 / columns
    figure, drawn = grid(list(panels), columns, (width, 0.9 + 0.3 * len(names)), title, sharey=True)
    for axes, column in drawn:
        draw_runs(axes, table, column, scale)
        axes.set_title(lines(panels[column][0], width), fontsize=10)
        axes.set_xlabel(panels[column][1], fontsize=9)
    figure.supylabel("model", fontsize=10)
    kinds = {is_fsd(name) for name in names}
    dots = [Line2D([], [], ls="", color=FSD, marker="o", mec="none", label="FSD, a run")] * (
        True in kinds
    )
    dots += [
        Line2D([], [], ls="", color=OTHER, marker="s", mec="none", label="other model, a run")
    ] * (False in kinds)
    legend(
        figure,
        [
            *dots,
            Line2D([], [], ls="", color="white", marker="D", mec="black", label="mean of its runs"),
        ],
    )
    return figure


def restoration(table):
    """How far the models restore the teacher's predictions (the paper's Figure 3), in percent.

    table: name, run and any of the columns RESTORATION, 0 to 1: a row a run.
    """
    columns = [column for column in RESTORATION if column in table and table[column].notna().any()]
    return runs_figure(
        table,
        {column: (RESTORATION[column], "%") for column in columns},
        even(len(columns), 3),
        "Predictions of the models, with the teacher's as the truth",
        100,
    )


def relation_differences(table):
    """Relation difference from the teacher (Eq. 12 and 13, the paper's Table 7). table: name, run
    and RELATIONS.
    """
    return runs_figure(
        table, RELATIONS, 2, "Relation difference at the end: lower is closer to the teacher"
    )


def relation_training(table):
    """Relation difference during training. table: name, run, step, epoch and RELATIONS; a row a run
    and log step.
    """
    figure, panels = grid(
        list(RELATIONS),
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


# ---- memory --------------------------------------------------------------------------------------


def occupancy(sizes, samples):
    """Samples at each centroid of the teacher's memory, a row a model. sizes: name -> (C,);
    samples: their sum.

    The centroids are in the order of the first model's samples, which is the teacher's where it is
    there.
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
    axes.set_xlabel(f"centroid, the fullest of the {next(iter(sizes))} first", fontsize=10)
    figure.colorbar(drawn, ax=axes, label="samples a centroid (white: none)", format="%g")
    return figure


def projection(panels, labels, label_names, centroids, explained, task):
    """Samples of every model on the two principal axes of the teacher's centroids.

    panels: name -> {"points": (N, 2), "centroids": (C, 2) or None}, the model's features and its
    own memory. labels: N numbers. label_names: None for a regression. centroids: (C, 2), the
    teacher's. explained: the axes' share of the centroids' variance, 0 to 1.
    """
    labels, count = np.asarray(labels), len(labels)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:MOST])
    said = (
        f"{count} samples" if count <= MOST else f"{MOST} of {count} samples, a fixed random choice"
    )
    columns = even(len(panels), 4)
    width = min(2.8, 9 / columns)
    colours = (
        labels[chosen] if label_names is None else np.array(COLOURS)[labels[chosen].astype(int)]
    )
    figure, drawn = grid(
        list(panels),
        columns,
        (width, 2.6),
        f"{task}: features of {said}",
        "first principal axis",
        sharex=True,
        sharey=True,
    )
    for axes, name in drawn:
        own = panels[name]["centroids"]
        shown = axes.scatter(
            *panels[name]["points"][chosen].T,
            c=colours,
            cmap=None if label_names else "cividis",
            s=7,
            alpha=0.55,
            linewidths=0,
            rasterized=True,
        )
        axes.scatter(*centroids.T, marker="x", c="black", s=14, linewidths=0.8)
        if own is not None:
            axes.scatter(
                *own.T, marker="^", facecolors="none", edgecolors="black", s=26, linewidths=0.9
            )
        axes.set_title(lines(name, width), fontsize=10)
    if label_names is None:
        figure.colorbar(shown, ax=[axes for axes, _ in drawn], label="score")
    figure.supylabel(
        f"second principal axis of the teacher's centroids\n(both: {100 * explained:.0f} % of "
        "their variance)",
        fontsize=10,
    )
    marks = [
        Line2D(
            [],
            [],
            ls="",
            marker="o",
            mec="none",
            color=COLOURS[k],
            label=f"{name} ({(labels == k).sum()})",
        )
        for k, name in enumerate(label_names or ())
    ]
    marks.append(Line2D([], [], ls="", marker="x", color="black", label="centroid of the teacher"))
    if any(panel["centroids"] is not None for panel in panels.values()):
        marks.append(
            Line2D(
                [],
                [],
                ls="",
                marker="^",
                mfc="none",
                color="black",
                label="centroid of the model's own",
            )
        )
    legend(figure, marks)
    return figure


# ---- cost ----------------------------------------------------------------------------------------


def cost(table, reference):
    """Throughput relative to a model (the paper's Table 8). table: name, training, inference; NaN:
    not measured.
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
        colours = [FSD if is_fsd(name) else OTHER for name in table["name"]]
        bars = axes.barh(range(len(table)), table[column].fillna(0), color=colours, height=0.6)
        axes.bar_label(
            bars,
            ["not measured" if np.isnan(v) else f"{v:.2f}" for v in table[column]],
            padding=3,
            fontsize=9,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )  # readable where the line at 1 is
        axes.axvline(1, color="black", ls="--", lw=1)
        axes.set_title(column, fontsize=10)
        axes.margins(x=0.15)
    panels[0][0].set_yticks(range(len(table)), map(lines, table["name"]))
    panels[0][0].set_ylim(len(table) - 0.4, -0.6)
    figure.supxlabel(f"samples a second, {reference} = 1", fontsize=10)
    figure.supylabel("model", fontsize=10)
    return figure


# ---- a probed training ---------------------------------------------------------------------------

BATCH = "the same term on two mini-batches"
PULLS = {
    "parameters": "pull on the student's parameters",
    "features": "pull on its penultimate features",
}
MEMORY = {
    ("memory_moved", ""): "|M_s - start| / |start|",
    ("memory_cka", "biased"): "CKA(M_t, M_s), biased",
    ("memory_cka", "debiased"): "CKA(M_t, M_s), debiased",
    ("memory_correlation", "euclidean"): "correlation of distances",
    ("memory_correlation", "cosine"): "correlation of cosines",
}


def probe(table, structures):
    """What analysis/probe.py found, along steps: gradients, CKA's signal and noise, the memory.

    table: seed, step, quantity, term, other, value; lines are means over the seeds. structures: the
    names of the terms and groups that are not of VKD.
    """
    by_step = table.groupby(["quantity", "term", "other", "step"]).value.mean()

    def line(*key):
        return by_step[key] if key in by_step.index else None

    def plot(axes, lines, label):
        for k, (name, values) in enumerate(lines):
            if values is not None and len(values):
                axes.plot(values.index, values, **style(k), ms=4, lw=1.4, label=name)
        finish(axes, label)

    names = list(dict.fromkeys(table[table.quantity == "weighted_norm"].term))
    has_memory = table.quantity.str.startswith("memory_").any()
    keys = [
        "parameters",
        "features",
        "cosine",
        BATCH,
        "L",
        "I",
        *(["memory"] if has_memory else []),
    ]
    figure, panels = grid(
        keys,
        even(len(keys), 3),
        (4.1, 3.7),
        f"{table.method.iloc[0]} on {table.task.iloc[0]}: what the loss terms pull at",
        "step",
    )
    for axes, key in panels:
        if key in PULLS:
            norms = [(name, line("weighted_norm", name, key)) for name in names]
            plot(
                axes,
                [(name, None if v is None else v[v > 0]) for name, v in norms],
                "norm of weight × gradient",
            )
            axes.set_yscale("log")
            axes.set_title(PULLS[key], fontsize=10)
        elif key == BATCH:
            plot(
                axes, [(name, line("agreement", name, "")) for name in names], "cosine of gradients"
            )
            axes.axhline(0, color="black", lw=0.8)
            axes.set_title(key, fontsize=10)
        elif key == "cosine":
            others = ["ce+kd", *structures]
            pairs = [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
            found = [
                [line("cosine", *pair), line("cosine", *pair[::-1])] for pair in pairs
            ]  # one of the two is there
            plot(
                axes,
                [
                    (", ".join(pair), next((v for v in both if v is not None), None))
                    for pair, both in zip(pairs, found, strict=True)
                ],
                "cosine of gradients",
            )
            axes.axhline(0, color="black", lw=0.8)
            axes.set_title("do they pull the same way?", fontsize=10)
        elif key == "memory":
            plot(
                axes,
                [
                    (text, line(quantity, "M_s", other))
                    for (quantity, other), text in MEMORY.items()
                ],
                "no unit",
            )
            axes.set_title("the student's memory M_s", fontsize=10)
        else:
            signals(axes, key, line)
    return figure


def signals(axes, term, line):
    """One panel of `probe`: CKA's signal and noise; a band is a standard deviation to each side."""
    for k, (estimator, what) in enumerate(
        (e, w) for e in ("biased", "debiased") for w in ("signal", "noise")
    ):
        mean, spread = (
            line(f"cka_{what}", term, estimator),
            line(f"cka_{what}_spread", term, estimator),
        )
        if mean is None:
            continue
        look = style(k)
        axes.plot(mean.index, mean, **look, ms=4, lw=1.4, label=f"{what}, {estimator}")
        if spread is not None:
            axes.fill_between(
                mean.index, mean - spread, mean + spread, color=look["color"], alpha=0.15, lw=0
            )
    rows = line("rows", term, "")
    between = "samples" if term == "L" else "tokens"
    axes.set_title(
        f"{term}: CKA between {rows.iloc[0]:.0f} {between}, student and teacher", fontsize=10
    )
    finish(axes, "CKA")


def finish(axes, label):
    """The rest of a panel of `probe`: the names of the axes, its own legend below them."""
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(
            fontsize=8,
            frameon=False,
            ncols=3 if len(axes.lines) > 5 else 2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
        )


def save(figure, path):
    """Write a figure into a .png, .svg or .pdf; the same file for the same figure."""
    kind = Path(path).suffix[1:]
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "fsd"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata[kind])
