"""The paper's Tables 2 to 5 as printed, and the notes below them; a part of analysis/tables.py.

"Rows" are the numbers of a table, one per row, with the columns of tables_numbers.LONG; a "grid" is
the table that people read, one row per method.
"""

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
WITHOUT = {ours: name for name, ours in NAMES_IN_THE_PAPER.items()}  # FSD_I -> "without LG"


# ---- cells ---------------------------------------------------------------------------------------


def number(mean, std):
    """A mean as text, with ± its standard deviation if there is one."""
    spread = f" ± {std:.2f}" if pd.notna(std) else ""
    return MISSING if pd.isna(mean) else f"{mean:.2f}{spread}"


def join_metrics(numbers):
    """The texts of a cell's metrics, joined by "/"; a single sign if all of them are missing."""
    return MISSING if set(numbers) == {MISSING} else "/".join(numbers)


def usual_n(rows):
    """The number of runs that occurs most often among the rows."""
    return rows.n[rows.n > 0].mode().max()


def mark(text, is_best, p):
    """A number's text: bold if it is the best, with † if p < 0.05 and ‡ if p < 0.01."""
    sign = "‡" if p < 0.01 else "†" if p < 0.05 else ""
    return f"**{text}**{sign}" if is_best else f"{text}{sign}"


def grid(rows, texts, best, published):
    """Rows of LONG as a grid: a row per method, a column per task with all of the task's metrics.

    texts: each row's number as text. best: the index labels of the rows in bold. published: True to
    add a column with the paper's numbers for each task.
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
    """Table 2 or 3: (its rows, its grid, a list of notes).

    means, published: our numbers and the paper's, as `statistics` returns them. beside: whether the
    grid has the paper's numbers, too.
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
    """A list of one sentence on the tests that add_tests made; [] if it made none."""
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
    """A list of one sentence with every p of add_tests_of_variants; [] without any."""
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
    """Table 4: (its rows, its grid, a list of one note). means: rows as `statistics` makes them."""
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
    """Table 5: (its rows, its grid, a list of one note).

    runs: those of tasks with several batch sizes. Methods that lack one of a task's batch sizes are
    left out, as fewer runs spread less.
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
    """A list of sentences on where a table's numbers come from.

    First seeds and budget, in one sentence for all tasks that share them; then weights, what was
    tuned, machines and versions, and the methods whose numbers are from files of means. means: the
    rows of such files.
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
    """A sentence that names the tasks without a run; "" if every task has one."""
    missing = [task for task in tasks if task not in set(means.task)]
    return f"No runs of {', '.join(missing)}." if missing else ""
