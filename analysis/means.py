"""Means instead of single runs: files of them, and the paper's own, analysis/published.csv.

A file of means has the columns method, task, metric, mean, std (both in %) and n. The paper's has
one more, table, and the numbers of its Tables 6 to 8 too: the CKA between teacher and student, the
mean rank of their relation differences, and the throughput relative to VKD's. They are those of
Jung, Kim, Na and Kim, "Feature structure distillation with Centered Kernel Alignment in BERT
transferring", Expert Systems with Applications 234 (2023) 120980, arXiv 2204.08922: BERT-base to 6
layers, dev sets, six runs; of Tables 4 to 8 it gives averages over its tasks alone.
"""

from pathlib import Path

from analysis.methods import Name, read_name
from analysis.runs import metric_names
from common import UserError
from training import results_csv
from training.cells import AMOUNT, METRICS, Limits, read_task

PUBLISHED = Path(__file__).resolve().with_name("published.csv")
SUMMARY = ["method", "task", "metric", "mean", "std", "n"]
NAMES_IN_THE_PAPER = {  # -> ours
    "teacher, BERT-base": "teacher",
    "FSD": "FSD_ILG",
    "without LG": "FSD_I",
    "without IG": "FSD_L",
    "without IL": "FSD_G",
    "without G": "FSD_IL",
}
NO_SCORES = {4, 5, 6, 7, 8}  # tables whose numbers are no scores of a task


def is_file_of_means(path):
    """True for a file whose header is that of a file of means."""
    return Path(path).is_file() and set(SUMMARY) <= set(results_csv.header_of(path))


def our_name(method):
    """The Name of a method in a file of means, which may have the paper's names."""
    if method in NAMES_IN_THE_PAPER:
        return Name(NAMES_IN_THE_PAPER[method])
    return read_name(method)


def read_file(path):
    """The rows of a file of means as they are, and the file's line of each."""
    limits = {"mean": Limits(), "std": AMOUNT, "n": Limits(1, whole=True)}
    return results_csv.read_table(path, SUMMARY, SUMMARY[:3], limits, "no file of means")


def read_means(path):
    """The scores in a file of means: SUMMARY and variant, with our names of methods and tasks."""
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
    """Refuse a metric that its task has not, and a mean that it cannot have."""
    names, metric = metric_names(row["task"]), row["metric"]
    if metric not in names:
        raise UserError(
            f"{where} has the metric {metric}, not one of {row['task']}'s: {', '.join(names)}"
        )
    limits = METRICS[metric.removesuffix("_mm")]
    if not limits.has(row["mean"] / 100) and row["mean"] == row["mean"]:  # NaN where there is none
        raise UserError(
            f"{where} has the mean {row['mean']:g}, expected % from {100 * limits.least:g} to "
            f"{100 * limits.most:g}: mend or delete that line"
        )


def published_scores():
    """The paper's scores, its Tables 2 and 3, as read_means has them."""
    return read_means(PUBLISHED)


def published_averages(table, metric):
    """Our name of a method -> the paper's number, of one of its Tables 4 to 8."""
    rows, _ = read_file(PUBLISHED)
    rows = rows[(rows.table == table) & (rows.metric == metric)]
    return {
        our_name(row.method).method: mean
        for row, mean in zip(rows.itertuples(), rows["mean"], strict=True)
    }
