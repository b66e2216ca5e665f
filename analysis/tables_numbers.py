"""The numbers of the paper's Tables 2 to 5, one per row; a part of analysis/tables.py.

LONG lists the columns of such a table, which has one row per task, metric and method. "Rows of
LONG" are a DataFrame with these columns and one more, variant, so that a method and its variant
stay apart until a table is printed. mean and std are in %, n is the number of runs; published_mean
and published_std are the paper's; p_value is the p of the test against the method named in
`against`, p_form the p of the test of a variant against the published form of its method.
"""

import math

import pandas as pd

from analysis.means import SUMMARY, published_averages
from analysis.methods import Name, is_fsd
from analysis.runs import groups_of, metric_names, names_of, task_score
from analysis.significance import Sample, welch

TASKS = {  # table -> task -> metrics, all in the paper's order
    "2": {
        "WNLI": ["acc"],
        "RTE": ["acc"],
        "STS-B": ["pearson", "spearmanr"],
        "CoLA": ["mcc"],
        "MRPC": ["f1", "acc"],
    },
    "3": {"SST-2": ["acc"], "QNLI": ["acc"], "QQP": ["acc", "f1"], "MNLI": ["acc", "acc_mm"]},
}
ALL_TASKS = TASKS["2"] | TASKS["3"]
PAPERS_METHODS = ("teacher", "VKD", "PKD", "RKD", "MiniLM", "FSD_ILG")
NEW_BESIDE_THEM = ("Gram", "Procrustes")  # tested against the best baseline, as FSD is
LONG = [
    "table",
    "task",
    "metric",
    "method",
    "mean",
    "std",
    "n",
    "published_mean",
    "published_std",
    "p_value",
    "against",
    "p_form",
]
NUMBER = ["task", "metric", "method", "variant"]  # the columns that identify a number


def statistics(runs):
    """A table with the mean and standard deviation (ddof 1), both in %, and n of each method, task
    and metric, with the columns of means.read_means.
    """
    rows = []
    for name, of_method in groups_of(runs):
        for task, group in of_method.groupby("task", sort=False):
            for metric in metric_names(task, group):
                values = 100 * group[metric]
                numbers = values.mean(), values.std(ddof=1), len(values)
                rows.append((name.method, task, metric, *numbers, name.variant))
    return pd.DataFrame(rows, columns=[*SUMMARY, "variant"])


def long_form(table, means, tasks, published, methods=()):
    """The numbers of one of the paper's tables beside the paper's: a DataFrame with a row per task,
    metric and method, and the columns of LONG and variant. p_value, against and p_form are empty.

    table: the table's number as text. means: our numbers, as `statistics` returns them. published:
    the paper's, in the same form. tasks: task -> its metrics; tasks without a row in means are left
    out. methods: names of methods that get rows even if no run has them.
    """
    means = means[means.task.isin(tasks)]
    names = dict.fromkeys([*map(Name, methods), *names_of(means)])
    rows = pd.DataFrame(
        [
            (table, task, metric, *name)
            for task, metrics in tasks.items()
            if task in set(means.task)
            for metric in metrics
            for name in sorted(names, key=Name.rank)
        ],
        columns=["table", *NUMBER],
    )
    papers = published.rename(columns={"mean": "published_mean", "std": "published_std"})
    rows = rows.merge(means, "left", on=NUMBER)
    rows = rows.merge(papers.drop(columns="n"), "left", on=NUMBER)
    rows = rows.assign(p_value=math.nan, against=None, p_form=math.nan)
    return rows.assign(n=rows.n.fillna(0).astype(int))[[*LONG, "variant"]]


def p_of(row, other):
    """The p of Welch's t-test between two rows of means; NaN if no test is possible."""
    one, two = (Sample(found["mean"], found["std"] ** 2, found["n"]) for found in (row, other))
    return welch(one, two).p_value


def add_tests(rows):
    """Fill p_value and against, and return the rows.

    FSD, Gram and Procrustes are each tested against the best baseline of the task and metric.
    """
    for _, column in rows.dropna(subset="mean").groupby(["task", "metric"], sort=False):
        ours = column.method.map(is_fsd)
        baselines = column[~ours & ~column.method.isin(("teacher", "none"))]
        if not len(baselines):
            continue
        best = baselines.loc[baselines["mean"].idxmax()]
        for i, row in column[ours | column.method.isin(NEW_BESIDE_THEM)].iterrows():
            if i != best.name:
                rows.loc[i, "p_value"] = p_of(row, best)
                rows.loc[i, "against"] = str(Name(best.method, best.variant))
    return rows


def add_tests_of_variants(rows):
    """Fill p_form: test each variant against the published form of its method. Returns the rows."""
    there = rows.dropna(subset="mean")
    found = {
        (name, row.task, row.metric): row
        for name, (_, row) in zip(names_of(there), there.iterrows(), strict=True)
    }
    for (name, task, metric), row in found.items():
        form = found.get((name.published_form(), task, metric))
        if name.variant and form is not None:
            rows.loc[row.name, "p_form"] = p_of(row, form)
    return rows


def ablation_rows(means):
    """The rows of Table 4: the relative change of each ablation's score from FSD_ILG's, on each
    task and on average over the tasks; in %.
    """
    scores, rows = {}, []
    for name, of_method in groups_of(means):
        for task, group in of_method.groupby("task", sort=False):
            metrics = dict(zip(group.metric, group["mean"], strict=True))
            if metrics.keys() >= set(metric_names(task)):
                scores[name, task] = task_score(metrics, task), group.n.min()
    whole = {task: found for (name, task), (found, _) in scores.items() if name == Name("FSD_ILG")}
    for method, published in published_averages(4, "change").items():
        # there is no relative change from a score of 0 or below
        tasks = [
            task for task in ALL_TASKS if (Name(method), task) in scores and whole.get(task, 0) > 0
        ]
        changes = []
        for task in tasks:
            found, n = scores[Name(method), task]
            changes.append(100 * (found / whole[task] - 1))
            rows.append(("4", task, "change", method, (), changes[-1], math.nan, n))
        if tasks:
            average = sum(changes) / len(tasks)
            rows.append(("4", "average", "change", method, (), average, published, len(tasks)))
    columns = ["table", *NUMBER, "mean", "published_mean", "n"]
    return pd.DataFrame(rows, columns=columns).reindex(columns=[*LONG, "variant"])
