"""The tables of a probe, as Markdown, from the numbers in its CSV (analysis/probe.py).

found: a table of probe.COLUMNS, with the numbers of one or several runs. A cell is the mean over
the measured steps and the runs. Of several runs most have ± the standard deviation over them; that
of the CKA table is within a step.
"""

from analysis.markdown import MISSING, to_markdown

# in the table -> in the CSV
NORMS = {
    "‖∂/∂θ‖": "parameters",
    "‖∂/∂H‖": "features",
    "‖∂/∂M_s‖": "memory",
}


def means(found, quantity):
    """{(term, other): mean over all measured steps and runs} of a quantity."""
    own = found[found.quantity == quantity]
    return own.groupby(["term", "other"], sort=False).value.mean().to_dict()


def spreads(found, quantity):
    """{(term, other): standard deviation over the runs of a run's mean}; {} of a single run."""
    own = found[found.quantity == quantity]
    if own.seed.nunique() < 2:
        return {}
    keys = ["term", "other"]
    return own.groupby([*keys, "seed"], sort=False).value.mean().groupby(keys).std().to_dict()


def number(value, digits=3, spread=None):
    if value is None:
        return MISSING
    if spread is None or value == spread == 0:  # as the norm of a gradient that a term has not
        return f"{value:.{digits}g}"
    return f"{value:.{digits}g} ± {spread:.2g}"


def gradients_table(found):
    """The table of gradients to print: a row per term, with means over steps and runs.

    Its columns are weight, value, norms, agreement, and the cosines with ce+kd, with each structure
    and with the total. Of several runs all but weight and cosines have their standard deviation.
    """
    import pandas as pd

    weights, values, norms, cosines, agree = (
        means(found, name) for name in ("weight", "value", "weighted_norm", "cosine", "agreement")
    )
    value_spreads, norm_spreads, agree_spreads = (
        spreads(found, name) for name in ("value", "weighted_norm", "agreement")
    )
    names = list(dict.fromkeys(term for term, _ in norms))
    others = [name for name in ("ce+kd", *structures(found), "total") if name in names]

    def cosine(a, b):
        return "1" if a == b else number(cosines.get((a, b), cosines.get((b, a))), 2)

    rows = [
        {
            "term": name,
            "weight": number(weights.get((name, ""))),
            "value": number(values.get((name, "")), 3, value_spreads.get((name, ""))),
            **{
                sign: number(norms.get((name, of)), 3, norm_spreads.get((name, of)))
                for sign, of in NORMS.items()
            },
            "agreement": number(agree.get((name, "")), 2, agree_spreads.get((name, ""))),
            **{f"cos {other}": cosine(name, other) for other in others},
        }
        for name in names
    ]
    return pd.DataFrame(rows)


def structures(found):
    """The names of the terms that VKD lacks, with G in place of F_MM, F_E and F_C."""
    terms = list(dict.fromkeys(found[found.quantity == "weighted_norm"].term))
    return [
        term for term in terms if term not in ("ce", "kd", "ce+kd", "F_MM", "F_E", "F_C", "total")
    ]


def cka_table(found):
    """The table of CKA to print: signal and noise of L and I, means over steps and runs.

    Each is a mean ± standard deviation within a step.
    """
    import pandas as pd

    rows, widths, values = (means(found, name) for name in ("rows", "width", "cka_signal"))

    def pair(what, term, estimator):
        mean, spread = (
            means(found, name).get((term, estimator)) for name in (what, f"{what}_spread")
        )
        return f"{mean:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")

    between = {"L": "samples, L", "I": "tokens, I"}
    return pd.DataFrame(
        [
            {
                "CKA between": between[term],
                "estimator": estimator,
                "n": f"{rows[term, '']:.0f}",
                "width of student, teacher": (
                    f"{widths[term, 'student']:.0f}, {widths[term, 'teacher']:.0f}"
                ),
                "signal": pair("cka_signal", term, estimator),
                "noise": pair("cka_noise", term, estimator),
            }
            for term, estimator in values
        ]
    )


def memory_table(found):
    """The table of M_s to print: its numbers at the first and last measured step, over the runs."""
    import pandas as pd

    own = found[found.quantity.str.startswith("memory_")]
    steps = [own.step.min(), own.step.max()] if len(own) else []
    keys = ["quantity", "term", "other"]
    ends = [own[own.step == step].groupby(keys, sort=False).value for step in steps]
    ends = [(end.mean(), end.std() if own.seed.nunique() > 1 else {}) for end in ends]
    words = {
        "memory_moved": "distance from its start / the start's norm",
        "memory_cka": "CKA(M_t, M_s)",
        "memory_cosine": "cosine of features to centroids",
        "memory_correlation": "correlation of h_s to M_s with h_t to M_t",
    }
    rows = []
    for key in ends[0][0].index if ends else []:
        quantity, term, other = key
        of = [words[quantity], "" if term == "M_s" else term, other]
        row = {"of M_s": ", ".join(filter(None, of))}
        for step, (mean, spread) in zip(steps, ends, strict=True):
            row[f"step {step}"] = number(mean.get(key), 3, spread.get(key))
        rows.append(row)
    return pd.DataFrame(rows)


def report(found):
    """All tables and the line below them, as Markdown. found: a table of COLUMNS."""
    tables = [make(found) for make in (gradients_table, cka_table, memory_table)]
    steps = sorted(found.step.unique())
    task, method, seeds, commits = (
        ", ".join(map(str, sorted(found[name].unique())))
        for name in ("task", "method", "seed", "commit")
    )
    several = found.seed.nunique() > 1
    runs = ", ± standard deviation over the seeds" if several else ""
    caption = (
        f"{task}, {method}, seed{'s' * several} {seeds}; means over {len(steps)} steps from "
        f"{steps[0]} to {steps[-1]} (of M_s: these two){runs}. "
        "Gradients are those of a term times its weight; "
        "agreement is the cosine between those of θ on two mini-batches; signal and noise ± "
        f"standard deviation within a step. Commit {commits}."
    )
    return "\n\n".join([*(to_markdown(one) for one in tables if len(one)), caption])
