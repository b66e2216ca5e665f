"""The figure of analysis/probe.py, which measures the loss terms' gradients, CKA and the student's
memory during a training.
"""

import itertools

from matplotlib.ticker import MaxNLocator

from analysis.figures import even, grid, style

AGREEMENT = "the same term on two mini-batches"
PULLS = {  # what a gradient is with respect to -> title of the panel of gradient norms
    "parameters": "pull on the student's parameters",
    "features": "pull on its penultimate features",
}
MEMORY = {  # (quantity, other) of the table -> name of the line
    ("memory_moved", ""): "|M_s - start| / |start|",
    ("memory_cka", "biased"): "CKA(M_t, M_s), biased",
    ("memory_cka", "debiased"): "CKA(M_t, M_s), debiased",
    ("memory_correlation", "euclidean"): "correlation of distances",
    ("memory_correlation", "cosine"): "correlation of cosines",
}


def draw_probe(table, structures):
    """A Figure: gradients, CKA's signal and noise, and the student's memory, along training steps.

    table: what analysis/probe.py writes, with the columns method, task, seed, step, quantity, term,
    other and value. Lines are means over the seeds. structures: the names of the loss terms, and of
    groups of terms, other than VKD's.
    """
    by_step = table.groupby(["quantity", "term", "other", "step"]).value.mean()

    def line(*key):
        return by_step[key] if key in by_step.index else None

    names = list(dict.fromkeys(table[table.quantity == "weighted_norm"].term))
    keys = ["parameters", "features", "cosine", AGREEMENT]
    keys += [term for term in ("L", "I") if line("rows", term, "") is not None]
    if table.quantity.str.startswith("memory_").any():
        keys.append("memory")
    title = f"{table.method.iloc[0]} on {table.task.iloc[0]}: what the loss terms pull at"
    figure, panels = grid(keys, even(len(keys), 3), (4.1, 3.7), title, "step")
    for axes, key in panels:
        if key in PULLS:
            draw_pulls(axes, key, names, line)
        elif key == AGREEMENT:
            draw_agreement(axes, names, line)
        elif key == "cosine":
            draw_cosines(axes, ["ce+kd", *structures], line)
        elif key == "memory":
            draw_memory(axes, line)
        else:
            draw_signals(axes, key, line)
    return figure


def plot(axes, found, label):
    """Draw a line for each pair (name, Series by step), and name the axes.

    found: the pairs; those with None instead of a Series are skipped. label: the y axis.
    """
    for k, (name, values) in enumerate(found):
        if values is not None and len(values):
            axes.plot(values.index, values, **style(k), ms=4, lw=1.4, label=name)
    finish(axes, label)


def draw_pulls(axes, of, names, line):
    """Draw the norm of each loss term's gradient, times the term's weight, along training steps.

    of: what the gradient is with respect to, "parameters" or "features". Here and in the functions
    below, names: the names of the loss terms; line(quantity, term, other): the numbers of the table
    with these three, a Series by step, or None if there are none.
    """
    norms = [(name, line("weighted_norm", name, of)) for name in names]
    # the axis is logarithmic: 0 cannot be drawn
    positive = [(name, None if norm is None else norm[norm > 0]) for name, norm in norms]
    plot(axes, positive, "norm of weight × gradient")
    axes.set_yscale("log")
    axes.set_title(PULLS[of], fontsize=10)


def draw_agreement(axes, names, line):
    """Draw the cosine between each term's gradients on two mini-batches."""
    plot(axes, [(name, line("agreement", name, "")) for name in names], "cosine of gradients")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_title(AGREEMENT, fontsize=10)


def draw_cosines(axes, names, line):
    """Draw the cosine between the gradients of every two of the terms `names`."""
    found = []
    for one, other in itertools.combinations(names, 2):
        # the table has each pair in one order only
        both = line("cosine", one, other), line("cosine", other, one)
        found.append((f"{one}, {other}", next((c for c in both if c is not None), None)))
    plot(axes, found, "cosine of gradients")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_title("do they pull the same way?", fontsize=10)


def draw_memory(axes, line):
    """Draw how far the student's memory M_s has moved, and how alike it is to the teacher's M_t."""
    found = [(text, line(quantity, "M_s", other)) for (quantity, other), text in MEMORY.items()]
    plot(axes, found, "no unit")
    axes.set_title("the student's memory M_s", fontsize=10)


def draw_signals(axes, term, line):
    """Draw CKA's signal (student and teacher on the same mini-batch or sample) and noise (on two
    unrelated ones), with bands of one standard deviation to each side. term: "L" or "I".
    """
    kinds = itertools.product(("biased", "debiased"), ("signal", "noise"))
    for k, (estimator, what) in enumerate(kinds):
        mean = line(f"cka_{what}", term, estimator)
        spread = line(f"cka_{what}_spread", term, estimator)
        if mean is None:
            continue
        look = style(k)
        axes.plot(mean.index, mean, **look, ms=4, lw=1.4, label=f"{what}, {estimator}")
        if spread is not None:
            band = {"color": look["color"], "alpha": 0.15, "lw": 0}
            axes.fill_between(mean.index, mean - spread, mean + spread, **band)
    n = line("rows", term, "").iloc[0]
    between = "samples" if term == "L" else "tokens"
    axes.set_title(f"{term}: CKA between {n:.0f} {between}, student and teacher", fontsize=10)
    finish(axes, "CKA")


def finish(axes, label):
    """Name the axes of a panel, and draw its own legend below it. label: the y axis."""
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
