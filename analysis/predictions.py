"""The dev predictions of runs in one file, and the metrics of a results.csv computed again from it.

    python analysis/predictions.py RUNS_DIR [RUNS_DIR ...] --csv results/mrpc_predictions.csv
    python analysis/predictions.py results/mrpc_predictions.csv --check results/mrpc.csv

The file has a row per run and dev set (MNLI has two): the name of the run's folder, task, method,
seed, when the run started, the dev set, and the predictions in the order of the dev file, separated
by spaces. Predictions are numbers as in dev_predictions.tsv: classes, or for STS-B scores with the
9 digits that tell float32 apart. Before the runs of a dev set, a row named label has the true ones.

--check computes every metric with formulas of its own. It names each row of the results that
differs by more than 1e-6, each row without predictions, and each run that has predictions but no
row. Rows and predictions are matched by task, method and seed, and by the name of the run's folder
and its start if the results have them. With --data_dir the labels are compared with those of GLUE's
dev files there, too.
"""

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.runs import folder_names, metric_names, read_runs
from common import UserError
from tasks.glue import get_task
from tasks.reading import read_examples
from training import results_csv
from training.cells import is_number, read_task

COLUMNS = ("run", "task", "method", "seed", "started", "split", "predictions")
LABEL = "label"  # stands for the run in a row of true labels, whose method is empty
TOLERANCE = 1e-6
WHAT = "no file of predictions"


class Run(NamedTuple):
    """What tells a run from others; folder and started are "" if a table lacks them."""

    task: str
    method: str
    seed: int
    folder: str
    started: str

    def __str__(self):
        more = ", ".join(filter(None, (self.folder, self.started)))
        return f"{self.method} on {self.task} with seed {self.seed} ({more})"

    def is_row(self, row):
        """Whether a row of results can be that of this run.

        row: the facts in the row, as a Run; a folder or start that is "" there fits any run.
        """
        return (
            self[:3] == row[:3]
            and row.folder in ("", self.folder)
            and row.started in ("", self.started)
        )


def runs_of(rows):
    """The Run of each row of a table of runs."""
    started = rows.started.fillna("") if "started" in rows else [""] * len(rows)
    facts = zip(rows.task, rows.method, rows.seed, folder_names(rows), started, strict=True)
    return [
        Run(get_task(task).name, method, int(seed), name, str(start))
        for task, method, seed, name, start in facts
    ]


def dev_splits(task):
    """The names of a task's dev sets."""
    return [split for split in task.files if split.startswith("dev")]


def has_metrics(row, task):
    """Whether a row of results was evaluated."""
    return any(pd.notna(row.get(name)) for name in metric_names(task))


# ---- from folders to a file ---------------------------------------------------------------------


def collect(folders):
    """The predictions of all finished and evaluated runs in these folders of runs.

    Returns a dict, (task, split) -> {Run: its predictions, and LABEL: the true labels}, each a list
    of text.
    """
    found, indices = {}, {}
    for folder in folders:
        if Path(folder).is_file():
            raise UserError(
                f"--csv collects predictions from folders of runs, but {folder} is a "
                "file: name the folder that the runs are in"
            )
        rows = read_runs(folder)
        for run, (_, row) in zip(runs_of(rows), rows.iterrows(), strict=True):
            task, place = get_task(run.task), Path(row["--output_dir"])
            if not has_metrics(row, run.task) and not (place / "dev_predictions.tsv").is_file():
                common.say(f"note: {place} is left out, as the run was not evaluated")
                continue
            for split in dev_splits(task):
                path = place / f"{split}_predictions.tsv"
                index, labels, predictions = read_run(path, task)
                group = found.setdefault((run.task, split), {})
                same_rows = indices.setdefault((run.task, split), index) == index
                if not same_rows or group.setdefault(LABEL, labels) != labels:
                    raise UserError(
                        f"{path} has other rows or labels than the first {run.task} "
                        "run that was read: give runs that were scored on the same dev set"
                    )
                if run in group:
                    raise UserError(f"{run} is there twice: give each folder of runs once")
                group[run] = predictions
    if not found:
        raise UserError(
            f"no run in {', '.join(map(str, folders))} was evaluated: evaluate them with "
            "--do_eval, or name other folders"
        )
    return found


def read_run(path, task):
    """Three lists of text from a dev_predictions.tsv: its rows' indices, labels, predictions."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing, though the run was evaluated: evaluate the run again with "
            "--do_eval, or move its folder away"
        )
    keys = ("index", LABEL, "prediction")
    _, rows = results_csv.read_cells(path, keys, WHAT)
    index = [row["index", 0] for _, row in rows]
    return index, *(
        [word(task, row[name, 0], path, line) for line, row in rows] for name in keys[1:]
    )


def word(task, text, path, line):
    """One class or score as the file of predictions has it. text: as it was read.

    Raises a UserError if it is no class or score of the task. path, line: where it was read, for
    the message.
    """
    if task.labels is None and (not text or is_number(text)):
        return f"{float(text or 'nan'):.9g}"  # pandas writes NaN as nothing
    if task.labels and text in map(str, range(len(task.labels))):
        return text
    kind = f"class of {task.name}, 0 to {len(task.labels) - 1}" if task.labels else "number"
    raise results_csv.wrong_line(path, line, f"{text!r} where a {kind} is expected")


def write(path, found):
    """Write the file of predictions, whole or not at all. found: what `collect` returned."""
    with (
        common.atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (task, split), group in found.items():
            for run, words in group.items():
                facts = LABEL, task, "", "", ""
                if run != LABEL:
                    facts = run.folder, task, run.method, run.seed, run.started
                writer.writerow([*facts, split, " ".join(words)])


# ---- from a file to metrics ---------------------------------------------------------------------


def read(paths, data_dir=None):
    """Run -> {metric: value}, computed from files of predictions.

    data_dir: GLUE's folder, for a UserError if a file has other labels than the dev files there.
    """
    labels, metrics = {}, {}
    csv.field_size_limit(sys.maxsize)  # a dev set is one cell
    for path in paths:
        for line, cells in results_csv.read_cells(path, COLUMNS, WHAT)[1]:
            row = {name: cells[name, 0] for name in COLUMNS}
            task = get_task(read_task(row["task"], f"{path}, line {line}"))
            split = row["split"]
            if split not in dev_splits(task):
                raise results_csv.wrong_line(
                    path,
                    line,
                    f"{split!r} where a dev set of {task.name} is "
                    f"expected ({', '.join(dev_splits(task))})",
                )
            words = [word(task, text, path, line) for text in row["predictions"].split(" ")]
            values = np.array(words, dtype=np.int64 if task.labels else np.float32)
            if row["run"] == LABEL and not row["method"]:
                if (path, task.name, split) in labels:
                    raise results_csv.wrong_line(
                        path, line, f"the {split} labels of {task.name} a second time"
                    )
                labels[path, task.name, split] = values
                if data_dir:
                    check_labels(values, task, split, data_dir, path, line)
                continue
            truth = labels.get((path, task.name, split))
            if truth is None or len(truth) != len(values):
                has = "no row of labels before it" if truth is None else f"{len(truth)} labels"
                raise results_csv.wrong_line(path, line, f"{len(values)} predictions, but {has}")
            if not row["seed"].isdecimal():
                raise results_csv.wrong_line(
                    path, line, f"the seed {row['seed']!r}, not a whole number"
                )
            run = Run(task.name, row["method"], int(row["seed"]), row["run"], row["started"])
            own = metrics.setdefault(run, {})
            new = {
                name + split.removeprefix("dev"): FORMULAS[name](values, truth)
                for name in task.metrics
            }
            if new.keys() & own.keys():
                raise results_csv.wrong_line(
                    path, line, f"the {split} predictions of {run} a second time"
                )
            own |= new
    return metrics


def check_labels(labels, task, split, data_dir, path, line):
    """Refuse labels (N,) that are not those of GLUE's dev file, or of its first N rows.

    path, line: where they were read, for the message.
    """
    true = [example.label for example in read_examples(task, data_dir, split)]
    true = np.array(true[: len(labels)], dtype=labels.dtype)
    if len(true) < len(labels) or (true != labels).any():
        has = f"{split} labels of {task.name} that are not those in {data_dir}"
        raise results_csv.wrong_line(path, line, has, "do not trust the results, or name GLUE's")


def accuracy(predictions, labels):
    return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels)


def count_outcomes(predictions, labels):
    """The numbers of true and false positives, of false and true negatives; 1 is positive."""
    pairs = list(zip((predictions == 1).tolist(), (labels == 1).tolist(), strict=True))
    outcomes = (True, True), (True, False), (False, True), (False, False)
    return [pairs.count(outcome) for outcome in outcomes]


def f1(predictions, labels):
    tp, fp, fn, _ = count_outcomes(predictions, labels)
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def matthews(predictions, labels):
    tp, fp, fn, tn = count_outcomes(predictions, labels)
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(square) if square else 0.0


def pearson(predictions, labels):
    """The correlation; 0 if either is constant, as a constant model has learned nothing."""
    x, y = (np.asarray(values, np.float64) for values in (predictions, labels))
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def spearman(predictions, labels):
    if not np.isfinite(predictions).all():
        return math.nan
    return pearson(ranks(predictions), ranks(labels))


def ranks(values):
    """The rank of each value from 1 on; equal ones have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


FORMULAS = {"acc": accuracy, "f1": f1, "mcc": matthews, "pearson": pearson, "spearmanr": spearman}


# ---- the check ----------------------------------------------------------------------------------


def check(metrics, sources):
    """Compare results with metrics computed again. Returns (lines, whether all rows agree).

    There is a line for each problem, and a last one that sums up. metrics: what `read` returned.
    sources: results.csv files.
    """
    lines, seen, agree, total = [], set(), 0, 0
    for source in dict.fromkeys(str(Path(source).resolve()) for source in sources):
        rows = read_runs(source)
        for row_run, (_, row) in zip(runs_of(rows), rows.iterrows(), strict=True):
            matches = [run for run in metrics if run.is_row(row_run)]
            seen.update(matches)
            if not matches and not has_metrics(row, row_run.task):
                lines.append(f"note: {row_run} in {source} was not evaluated")
                continue
            total += 1
            problem = compare(row, metrics, matches)
            if problem:
                lines.append(f"{row_run} in {source}: {problem}")
            else:
                agree += 1
    without = [run for run in metrics if run not in seen]
    lines += [f"{run}: there are predictions, but no row" for run in without]
    end = f"; predictions without a row: {len(without)}" if without else ""
    lines.append(f"{agree} of {total} rows agree with their predictions{end}")
    return lines, agree == total > 0 and not without


def compare(row, metrics, matches):
    """What is wrong with a row of results, in words; "" if nothing is.

    metrics: what `read` returned. matches: the Runs in it that the row can belong to.
    """
    if not matches:
        return "there are no predictions"
    if len(matches) > 1:
        return f"it may be any of {len(matches)} runs with predictions: it names no folder"
    own = metrics[matches[0]]
    different = []
    for name in metric_names(matches[0].task):
        told, found = row.get(name, math.nan), own.get(name)
        if found is None:
            different.append(f"no predictions for {name}")
        elif not (abs(told - found) <= TOLERANCE or (pd.isna(told) and math.isnan(found))):
            different.append(f"{name} is {told:.7f}, but {found:.7f} by its predictions")
    return "; ".join(different)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=common.expand_path,
        help="Folders of runs; with --check, files of predictions.",
    )
    add("--csv", type=common.expand_path_or_none, help="Write the predictions to this file.")
    add(
        "--check",
        nargs="+",
        type=common.expand_path,
        metavar="RESULTS",
        help="Compare the files' metrics with these results.csv files.",
    )
    add(
        "--data_dir",
        type=common.expand_path,
        help="GLUE's folder: with --check, the files' labels must be those of its dev files.",
    )
    args = parser.parse_args(argv)
    if args.data_dir and not args.check:
        raise UserError("--data_dir is for --check alone: leave it out, or give --check")
    if bool(args.csv) == bool(args.check):
        raise UserError(
            "expected --csv to write predictions or --check to compare them, found "
            f"{'both' if args.csv else 'neither'}: give one of them"
        )
    if args.csv:
        found = collect(args.sources)
        write(args.csv, found)
        runs = {run for group in found.values() for run in group if run != LABEL}
        print(f"wrote {args.csv}: the predictions of {len(runs)} run{'s' * (len(runs) > 1)}")
        return 0
    lines, good = check(read(args.sources, args.data_dir), args.check)
    print("\n".join(lines))
    if args.data_dir:
        print(f"the labels are those of {args.data_dir}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(common.cli(main))
