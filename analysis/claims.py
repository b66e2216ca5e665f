"""Claims by rule: what may be said of methods on a task; a part of analysis/tables.py.

One number a run, the task's score in % (analysis/table.score). On each task, of methods with two
runs or more: VKD against the student alone; every published form of FSD, and FSD_I without padding,
against the best rival; ILG and IL against I; every variant, as "FSD_I, mask_padding", against the
published form of its method.
Welch's t-test, two-sided, with Holm's correction over all comparisons of the task: "better" and
"worse" need p < 0.01 after it.
"""

import math

import pandas as pd

from analysis import table

RIVALS = ("none", "VKD", "PKD", "RKD", "MiniLM", "Gram", "Procrustes")
OURS = ("FSD_I", "FSD_I, mask_padding", "FSD_L", "FSD_G", "FSD_IL", "FSD_IG", "FSD_LG", "FSD_ILG")
PARTS = (("FSD_ILG", "FSD_I"), ("FSD_IL", "FSD_I"))  # what L and G add to I
LEVEL = 0.01
ALONE, RIVAL, PART, VARIANT = "student alone", "best rival", "part", "published form"
COLUMNS = [
    "task",
    "kind",
    "method",
    "against",
    "n",
    "n_against",
    "difference",
    "low",
    "high",
    "p_value",
    "p_holm",
    "verdict",
]
NO_DIFFERENCE, MISSING = "no difference shown", "–"
TITLE = "**Claims by rule**"
RULE = (
    "Score: the mean of the task's metrics, one number a run; difference and interval in "
    "points. Welch's t-test, two-sided; p (Holm) is corrected over all comparisons of the "
    f"task, and better or worse is only what has p < {LEVEL:g} after that. The 95 % intervals "
    "are Welch's, each for itself, uncorrected. The best rival is the one of "
    f"{', '.join(RIVALS)} with the highest mean over the seeds that all of them have."
)


# ---- numbers ------------------------------------------------------------------------------------


def compare(runs, tasks):
    """All comparisons of single runs, rows of COLUMNS; tasks in the order of `tasks`."""
    found = [
        compare_task(runs[runs.task == task], task) for task in tasks if (runs.task == task).any()
    ]
    return pd.DataFrame([row for rows in found for row in rows], columns=COLUMNS)


def compare_task(runs, task):
    """The comparisons of one task as tuples of COLUMNS."""
    scores, rows = scores_of(runs, task), []
    found = pairs(scores, best_rival(runs, task, scores))
    tests = [welch(scores[method], scores[against]) for _, method, against in found]
    corrected = holm([p for *_, p in tests])
    for (kind, method, against), test, p in zip(found, tests, corrected, strict=True):
        verdict = ("better" if test[0] > 0 else "worse") if p < LEVEL else NO_DIFFERENCE
        rows.append(
            (
                task,
                kind,
                method,
                against,
                len(scores[method]),
                len(scores[against]),
                *test,
                p,
                verdict,
            )
        )
    return rows


def scores_of(runs, task, fewest=2):
    """Method -> the scores of its runs in %, for students with at least so many runs."""
    scores, students = 100 * table.score(runs, task), set(runs.method) - {"teacher"}
    groups = {method: scores[runs.method == method] for method in sorted(students)}
    return {
        method: groups[method]
        for method in sorted(groups, key=table.rank)
        if len(groups[method]) >= fewest
    }


def best_rival(runs, task, scores):
    """The rival with the highest mean over the seeds that all rivals have, else over all of its
    own.

    Of a method that was run as a variant alone, as MiniLM with --relation_heads, that stands for
    it.
    """
    rivals = []
    for name in RIVALS:
        variants = [method for method in scores if method.startswith(f"{name}, ")]
        rivals += [name] if name in scores else variants
    seeds = [set(runs.seed[runs.method == method]) for method in rivals]
    common = set.intersection(*seeds) if seeds else set()
    shared = scores_of(runs[runs.seed.isin(common)], task, 1) if common else scores
    return max(rivals, key=lambda method: shared[method].mean(), default=None)


def pairs(scores, best):
    """(kind, method, against) of all comparisons among the methods of one task.

    best: the best rival, or None.
    """
    found = [(ALONE, "VKD", "none")]
    if best:
        found += [(RIVAL, form, best) for form in OURS]
    found += [(PART, *pair) for pair in PARTS]
    found += [(VARIANT, method, method.split(", ")[0]) for method in scores if ", " in method]
    return [pair for pair in found if pair[1] in scores and pair[2] in scores]


def welch(a, b):
    """The difference of the means, a - b, its 95 % interval's two ends, and p, by Welch's t-test.

    The latter three are NaN where neither has any spread.
    """
    difference = a.mean() - b.mean()
    if a.std(ddof=1) + b.std(ddof=1) <= 1e-9:
        return difference, math.nan, math.nan, math.nan
    from scipy.stats import t  # here, as it imports for a second

    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(u + v)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    half = t.ppf(0.975, freedom) * error
    p = 2 * t.sf(abs(difference) / error, freedom)
    return difference, difference - half, difference + half, p


def holm(p_values):
    """Holm's correction: of m, the k-th smallest times m - k + 1, never below one before it.

    NaN counts among the m, as the largest, and stays NaN.
    """
    m, corrected, largest = len(p_values), [math.nan] * len(p_values), 0.0
    order = sorted(range(m), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    for k, i in enumerate(order):
        if not math.isnan(p_values[i]):
            corrected[i] = largest = max(largest, min(1.0, (m - k) * p_values[i]))
    return corrected


# ---- words --------------------------------------------------------------------------------------


def text(rows, runs):
    """The comparisons as Markdown: a table, a sentence a task, and the rule."""
    exceptions = [*alone(runs), *flat(rows)]
    if not len(rows):
        none = "no task has single runs of two methods that the rule compares, two runs of each."
        return "\n\n".join([f"{TITLE}: {none}", *exceptions])
    shown = table.markdown(pd.DataFrame(map(line, rows.itertuples())), padded=True)
    sentences = [f"- {sentence(group)}" for _, group in rows.groupby("task", sort=False)]
    return "\n\n".join([TITLE, shown, "\n".join(sentences), "\n".join([RULE, *exceptions])])


def line(row):
    """A comparison as a line of the table."""
    rival = ", the best rival" if row.kind == RIVAL else ""
    interval = MISSING if math.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}"
    return {
        "task": row.task,
        "comparison": f"{named(row.method)} against {named(row.against)}{rival}",
        "runs": f"{row.n}/{row.n_against}",
        "difference": f"{row.difference:+.2f}",
        "95 % interval": interval,
        "p": p_text(row.p_value),
        "p (Holm)": p_text(row.p_holm),
        "verdict": row.verdict,
    }


def sentence(rows):
    """What the rule lets one say of a task: what is better, what worse, what not shown to differ.

    The correction and the best rival are told where they come up first.
    """
    count, clauses, told = len(rows), [], False
    correction = f" after correction over {count} comparison{'s' * (count > 1)}"
    for verdict in ("better", "worse"):
        for row in rows[rows.verdict == verdict].itertuples():
            rival = ", the best rival," if row.kind == RIVAL and not told else ""
            told = told or row.kind == RIVAL
            low, high = sorted((abs(row.low), abs(row.high)))  # of one sign, as p < 0.05
            p = p_text(row.p_holm)
            clauses.append(
                f"{named(row.method)} is {verdict} than {named(row.against)}{rival} by "
                f"{abs(row.difference):.1f} points ({low:.1f} to {high:.1f}, "
                f"p {p if p.startswith('<') else f'= {p}'}{correction})"
            )
            correction = ""
    between = []
    for against, group in rows[rows.verdict == NO_DIFFERENCE].groupby("against", sort=False):
        rival = ", the best rival," if (group.kind == RIVAL).any() and not told else ""
        names = [
            named(method).replace(f"{named(against)} with", "itself with")
            for method in group.method
        ]
        others = names[0] if len(names) == 1 else f"any of {', '.join(names[:-1])} or {names[-1]}"
        between.append(f"between {named(against)}{rival} and {others}")
    if between:
        clauses.append(f"no difference is shown {', '.join(between)}{correction}")
    return f"{rows.task.iloc[0]}: {'; '.join(clauses)}."


def alone(runs):
    """A sentence on the methods that are left out; none where there are none."""
    found = []
    for task, group in runs.groupby("task", sort=False):
        single = [named(m) for m, scores in scores_of(group, task, 1).items() if len(scores) == 1]
        found += [f"{task}: {', '.join(single)}"] if single else []
    return [f"Left out, with a single run: {'; '.join(found)}."] if found else []


def flat(rows):
    """A sentence on the comparisons without a p; none where there are none."""
    found = [
        f"{row.task}: {named(row.method)} against {named(row.against)}"
        for row in rows.itertuples()
        if math.isnan(row.p_value)
    ]
    return (
        [f"No p, as no run differs from the others of its method: {'; '.join(found)}."]
        if found
        else []
    )


def named(method):
    """A method in a sentence: "FSD_I, a, b" is "FSD_I with a + b"."""
    name, _, options = method.partition(", ")
    name = "the student alone" if name == "none" else name
    return f"{name} with {options.replace(', ', ' + ')}" if options else name


def p_text(p):
    return MISSING if math.isnan(p) else f"{p:.3g}" if p >= 0.0001 else "< 0.0001"
