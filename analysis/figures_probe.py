"""The figure of a probed training, of analysis/probe.py."""

import itertools

from matplotlib.ticker import MaxNLocator

from analysis.figures import even, grid, style

AGREEMENT = "the same term on two mini-batches"
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


def draw_probe(table, structures):
    """What analysis/probe.py found, along steps: gradients, CKA's signal and noise, the memory.

    table: seed, step, quantity, term, other, value; lines are means over the seeds. structures: the
    names of the terms and groups that are not of VKD.
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
    """A line for each (name, Series by step or None) that is there."""
    for k, (name, values) in enumerate(found):
        if values is not None and len(values):
            axes.plot(values.index, values, **style(k), ms=4, lw=1.4, label=name)
    finish(axes, label)


def draw_pulls(axes, of, names, line):
    """The norms of the terms' gradients; of: with respect to what, a key of PULLS."""
    norms = [(name, line("weighted_norm", name, of)) for name in names]
    # a logarithm has no place for 0
    positive = [(name, None if norm is None else norm[norm > 0]) for name, norm in norms]
    plot(axes, positive, "norm of weight × gradient")
    axes.set_yscale("log")
    axes.set_title(PULLS[of], fontsize=10)


def draw_agreement(axes, names, line):
    """The cosine of a term's gradient on one mini-batch with its on another."""
    plot(axes, [(name, line("agreement", name, "")) for name in names], "cosine of gradients")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_title(AGREEMENT, fontsize=10)


def draw_cosines(axes, names, line):
    """The cosine of each term's gradient with each other's."""
    found = []
    for one, other in itertools.combinations(names, 2):
        both = line("cosine", one, other), line("cosine", other, one)  # one of them is there
        found.append((f"{one}, {other}", next((c for c in both if c is not None), None)))
    plot(axes, found, "cosine of gradients")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_title("do they pull the same way?", fontsize=10)


def draw_memory(axes, line):
    """What the student's memory becomes."""
    found = [(text, line(quantity, "M_s", other)) for (quantity, other), text in MEMORY.items()]
    plot(axes, found, "no unit")
    axes.set_title("the student's memory M_s", fontsize=10)


def draw_signals(axes, term, line):
    """CKA's signal and noise; a band is a standard deviation to each side."""
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
    """The rest of a panel: the names of the axes, its own legend below them."""
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
