"""The paper's Tables 2 to 5 to read, and what is said below them; a part of analysis/tables.py."""

import pandas as pd

from analysis.markdown import MISSING
from analysis.means import NAMES_IN_THE_PAPER, published_averages
from analysis.origins import (
    describe_budget,
    describe_provenance,
    describe_seeds,
    describe_weights,
)
from analysis.runs import BATCH, names_of, with_names
from analysis.tables_numbers import (
    ALL_TASKS,
    PAPERS_METHODS,
    TASKS,
    ablation_rows,
    add_tests,
    add_tests_of_variants,
    long_form,
    statistics,
)

TITLES = {
    "2": "Table 2, small tasks, %",
    "3": "Table 3, large tasks, %",
    "4": "Table 4, change from FSD_ILG, %",
    "5": "Table 5, standard deviation over seeds and batch sizes, %",
}
METRIC_WORDS = {
    "acc": "acc",
    "f1": "F1",
    "f1_macro": "macro-F1",
    "mcc": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "acc_mm": "acc-mm",
}
WITHOUT = {ours: name for name, ours in NAMES_IN_THE_PAPER.items()}  # "without LG", of Table 4


# ---- cells ---------------------------------------------------------------------------------------


def number(mean, std):
    """A mean and its standard deviation, where there is one, as text."""
    spread = f" ± {std:.2f}" if pd.notna(std) else ""
    return MISSING if pd.isna(mean) else f"{mean:.2f}{spread}"


def join_metrics(numbers):
    """The metrics of a cell beside each other; one sign where all are missing."""
    return MISSING if set(numbers) == {MISSING} else "/".join(numbers)


def usual_n(rows):
    """The number of runs that most numbers are of."""
    return rows.n[rows.n > 0].mode().max()


def mark(text, is_best, p):
    """A number in bold where it is the best, with the sign of its p."""
    sign = "‡" if p < 0.01 else "†" if p < 0.05 else ""
    return f"**{text}**{sign}" if is_best else f"{text}{sign}"


def grid(rows, texts, best, published):
    """Rows of LONG as a table to read: a row a method, a column a task, its metrics beside each
    other.

    texts: the rows' numbers as text. best: the index of those in bold. published: True with columns
    of those.
    """
    rows = with_names(rows).assign(
        text=[
            mark(text, i in best, p)
            for i, text, p in zip(rows.index, texts, rows.p_value, strict=True)
        ],
        paper=list(map(number, rows.published_mean, rows.published_std)),
    )
    usual, columns = usual_n(rows), {}
    for task, column in rows.groupby("task", sort=False):
        metrics = "/".join(METRIC_WORDS[metric] for metric in column.metric.unique())
        groups = column.groupby("method", sort=False)
        other_n = groups.n.max().map(lambda n: f" (n {n})" if n not in (0, usual) else "")
        columns[f"{task} ({metrics})"] = groups.text.agg(join_metrics) + other_n
        if published:
            columns[f"{task}, paper"] = groups.paper.agg(join_metrics)
    return pd.DataFrame(columns).reset_index(names="method")


# ---- tables --------------------------------------------------------------------------------------


def scores_text(table, means, published, beside):
    """Table 2 or 3: its rows, its grid and what is to be said of it; beside: with the published
    numbers in it.
    """
    rows = long_form(table, means, TASKS[table], published, PAPERS_METHODS)
    rows = add_tests_of_variants(add_tests(rows))
    students = rows[rows.method != "teacher"].dropna(subset="mean")
    best = students.groupby(["task", "metric"])["mean"].idxmax()
    notes = [
        f"Dev set, mean ± standard deviation, n = {usual_n(rows)} unless the cell says otherwise; "
        f"{MISSING} is missing; the best student is bold."
    ]
    if beside:
        notes.append(
            "Paper: BERT-base to 6 layers, six runs (teacher: one); its FSD is beside FSD_ILG."
        )
    notes += [*describe_tests(rows), *describe_tests_of_variants(rows)]
    return rows, grid(rows, map(number, rows["mean"], rows["std"]), set(best), beside), notes


def describe_tests(rows):
    """A sentence on the tests of add_tests; none where there are none."""
    tests = rows.dropna(subset="p_value")
    if not len(tests):
        return []
    against = tests.groupby(["task", "metric"], sort=False).against.first()
    against = "; ".join(
        f"{task}, {METRIC_WORDS[metric]}: {name}" for (task, metric), name in against.items()
    )
    return [
        "† p < 0.05, ‡ p < 0.01: differs from the best baseline, Welch's t-test, two-sided, "
        f"{len(tests)} tests without a correction for their number: claims follow the "
        f"corrected table alone. Tested against: {against}."
    ]


def describe_tests_of_variants(rows):
    """A sentence with the p of add_tests_of_variants; none where there are none."""
    tests = with_names(rows.dropna(subset="p_form"))
    variants = []
    for (name, task), group in tests.groupby(["method", "task"], sort=False):
        values = [f"{METRIC_WORDS[row.metric]} {row.p_form:.3f}" for row in group.itertuples()]
        variants.append(f"{name}, {task}: {', '.join(values)}")
    if not variants:
        return []
    return [
        "Variants against the published form of their method, uncorrected p of the same test: "
        f"{'; '.join(variants)}."
    ]


def ablation_text(means):
    """Table 4: its rows, its grid and what is to be said of it."""
    rows = ablation_rows(means)
    found = {(row.method, row.task): row for row in rows.itertuples()}
    tasks = [task for task in ALL_TASKS if task in set(rows.task)]
    lines = []
    for method, published in published_averages(4, "change").items():
        changes = [
            f"{found[method, task].mean:+.2f}" if (method, task) in found else MISSING
            for task in (*tasks, "average")
        ]
        count = found[method, "average"].n if (method, "average") in found else 0
        lines.append([f"{WITHOUT[method]} ({method})", *changes, count, f"{published:+.2f}"])
    shown = pd.DataFrame(lines, columns=["method", *tasks, "average", "tasks", "average, paper"])
    note = (
        "Relative change of the score (the mean of a task's metrics) from that of FSD_ILG, "
        "averaged over the tasks that have both; the paper's average is over its nine tasks."
    )
    return rows, shown, [note]


def stability_text(runs, published):
    """Table 5: its rows, its grid and what is to be said of it; runs: those of tasks with several
    batch sizes.

    Methods that were not run with all of a task's batch sizes are left out: fewer runs spread less.
    """
    students = runs[runs.method != "teacher"]
    own = students.groupby(["task", "method", "variant"])[BATCH].transform("nunique")
    students = students[own == students.groupby("task")[BATCH].transform("nunique")]
    rows = long_form("5", statistics(students), ALL_TASKS, published.iloc[:0])
    steadiest = set(rows.dropna(subset="std").groupby(["task", "metric"])["std"].idxmin())
    sizes = ", ".join(f"{size:g}" for size in sorted(students[BATCH].unique()))
    texts = [MISSING if pd.isna(std) else f"{std:.2f}" for std in rows["std"]]
    note = (
        f"Standard deviation over all runs of a method, batch sizes {sizes}, n = "
        f"{usual_n(rows)} unless the cell says otherwise; the smallest is bold; methods that "
        "lack a batch size are left out. Paper: 6 seeds, batch sizes 8, 16, 32."
    )
    return rows, grid(rows, texts, steadiest, False), [note]


# ---- where the numbers come from -----------------------------------------------------------------


def describe_origin(runs, means, tasks, tuned):
    """Where the numbers of a table come from: seeds and budget a task, tasks with the same ones
    together; then weights, machines, and what is from files of means.
    """
    runs, budgets = runs[runs.task.isin(tasks)], {}
    for task, group in runs.groupby("task", sort=False):
        words = f"seeds {describe_seeds(group)}; students: {describe_budget(group)}"
        budgets.setdefault(words, []).append(task)
    notes = [f"{', '.join(names)}: {words}." for words, names in budgets.items()]
    for task, group in runs.groupby("task", sort=False):
        weights = describe_weights(group)
        notes += [f"Weights on {task}: {weights}."] if weights else []
    if tuned and len(runs):
        flags = ", ".join(flag.removeprefix("--") for flag in tuned)
        notes.append(f"Tuned for each method: {flags}.")
    if len(runs):
        notes.append(f"{describe_provenance(runs)}.")
    taken = dict.fromkeys(map(str, names_of(means[means.task.isin(tasks)])))
    if taken:
        notes.append(f"Not from single runs, but from a file of means: {', '.join(taken)}.")
    return notes


def describe_absent(means, tasks):
    """A sentence that names the tasks without a run; "" where there are none."""
    missing = [task for task in tasks if task not in set(means.task)]
    return f"No runs of {', '.join(missing)}." if missing else ""
