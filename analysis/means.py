"""Means instead of single runs: files of means, and the paper's means, analysis/published.csv.

A file of means has the columns method, task, metric, mean, std (both in %) and n, the number of
runs. published.csv has one more column, table, and also numbers that are no scores: of Table 4 the
change of the score, in %, when a structure is left out (n: the number of tasks), of Table 6 the CKA
between teacher and student, of Table 7 the mean rank of the relation differences, of Table 8 the
throughput relative to VKD's. For these the paper gives only averages over its tasks.

The paper is Jung, Kim, Na and Kim, "Feature structure distillation with Centered Kernel Alignment
in BERT transferring", Expert Systems with Applications 234 (2023) 120980, arXiv 2204.08922:
BERT-base to 6 layers, dev sets, six runs.
"""

from pathlib import Path

from analysis.methods import Name, read_name
from analysis.runs import metric_names
from common import UserError
from training import results_csv
from training.cells import AMOUNT, METRICS, Limits, read_task

PUBLISHED = Path(__file__).resolve().with_name("published.csv")
SUMMARY = ["method", "task", "metric", "mean", "std", "n"]
NAMES_IN_THE_PAPER = {  # name in the paper's tables -> name in this project
    "teacher, BERT-base": "teacher",
    "FSD": "FSD_ILG",
    "without LG": "FSD_I",
    "without IG": "FSD_L",
    "without IL": "FSD_G",
    "without G": "FSD_IL",
}
NO_SCORES = {4, 5, 6, 7, 8}  # the paper's tables that have no scores of single tasks


def is_file_of_means(path):
    """True for a file that has all columns of a file of means."""
    return Path(path).is_file() and set(SUMMARY) <= set(results_csv.header_of(path))


def our_name(method):
    """The Name of a method in a file of means. method: a name of the paper or of this project."""
    if method in NAMES_IN_THE_PAPER:
        return Name(NAMES_IN_THE_PAPER[method])
    return read_name(method)


def read_file(path):
    """The rows of a file of means as a table, unchanged, and a list of each row's line in the file.

    Raises a UserError that names the line for a cell without the number or text that it needs.
    """
    limits = {"mean": Limits(), "std": AMOUNT, "n": Limits(1, whole=True)}
    return results_csv.read_checked_csv(path, SUMMARY, SUMMARY[:3], limits, "no file of means")


def read_means(path):
    """The scores in a file of means, as a table with the columns SUMMARY and variant.

    Methods and tasks have this project's names. Rows of the tables NO_SCORES are left out. Raises a
    UserError for a metric or a mean that the task cannot have.
    """
    means, lines = read_file(path)
    if "table" in means:
        scores = ~means.table.isin(NO_SCORES)
        means, lines = (
            means[scores],
            [line for line, is_score in zip(lines, scores, strict=True) if is_score],
        )
    where = [f"{path}, line {line}" for line in lines]
    means = means.assign(task=list(map(read_task, means.task, where)))
    for place, row in zip(where, means.to_dict("records"), strict=True):
        check_mean(row, place)
    names = [our_name(method) for method in means.method]
    return means[SUMMARY].assign(
        method=[name.method for name in names],
        variant=[name.variant for name in names],
    )


def check_mean(row, where):
    """Raise a UserError for a metric that the task lacks, and for a mean outside its limits.

    where: the file and line, for the message.
    """
    names, metric = metric_names(row["task"]), row["metric"]
    if metric not in names:
        raise UserError(
            f"{where} has the metric {metric}, not one of {row['task']}'s ({', '.join(names)}): "
            "mend or delete that line"
        )
    limits = METRICS[metric.removesuffix("_mm")]
    if not limits.has(row["mean"] / 100) and row["mean"] == row["mean"]:  # a missing mean is NaN
        raise UserError(
            f"{where} has the mean {row['mean']:g}, expected a percentage from "
            f"{100 * limits.least:g} to {100 * limits.most:g}: mend or delete that line"
        )


def published_scores():
    """The paper's scores, of its Tables 2 and 3, as read_means returns them."""
    return read_means(PUBLISHED)


def published_averages(table, metric):
    """A dict, method -> the paper's number: the average in one of its Tables 4 and 6 to 8.

    metric: "change" of Table 4, "diagonal" of 6, "rank" of 7, "training" or "inference" of 8.
    """
    rows, _ = read_file(PUBLISHED)
    rows = rows[(rows.table == table) & (rows.metric == metric)]
    return {
        our_name(row.method).method: mean
        for row, mean in zip(rows.itertuples(), rows["mean"], strict=True)
    }
