"""Runs as a table: read from folders or a results.csv, named by method and variant, scored.

A table of runs has the columns of results.csv. name_variants gives it one more, variant: the words
of the options that make another method of one, () for its published form (analysis/methods.py).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.methods import Name
from common import UserError
from tasks.glue import get_task
from tasks.own import CLASSIFICATION, REGRESSION
from training import flags, records, results_csv

BATCH = "--per_gpu_train_batch_size"
# even where all of a column are digits
TEXTS = dict.fromkeys(
    ("commit", "teacher", "memory", "data", "dev_data", "torch", "transformers"), str
)


# ---- reading -------------------------------------------------------------------------------------


def read_runs(source):
    """One row a finished run, from a folder of run folders or from a results.csv."""
    source = Path(source)
    if not source.exists():
        raise UserError(
            f"there is no {source}, neither a results.csv nor a folder of runs: give one of these"
        )
    if not source.is_file():
        return read_folders(source)
    if "predictions" in results_csv.header_of(source):
        raise UserError(
            f"{source} has the predictions of runs, not their results: give the results.csv"
        )
    runs = results_csv.read_results(source, TEXTS, (*results_csv.RESULT, "task"))
    check_columns(runs, ["task"])
    if not len(runs):
        raise UserError(f"{source} has a header and no row of a run: give a table with runs")
    return runs


def read_folders(source):
    """One row a finished run of a folder of run folders, in the order in which they started."""
    rows = []
    for path in sorted(source.glob("*/run.json")):
        run = records.read_run(path.parent)
        # a run of train_memory.py has no score
        if run.get("finished") and run.get("method") != "memory":
            with records.complete_run(path.parent):
                row = results_csv.result_row(run) | {"--output_dir": str(path.parent)}
            rows.append(results_csv.check_row(row, path))
    if not rows:
        raise UserError(
            f"{source} is neither a results.csv nor a folder with finished runs in it "
            "(RUN/run.json): give one of these"
        )
    return pd.DataFrame(rows).sort_values("started", kind="stable", ignore_index=True)


def check_columns(runs, names):
    """Refuse runs that do not say what a table says of them."""
    missing = [name for name in names if name not in runs]
    if missing:
        raise UserError(
            f"these runs have no column {missing[0]}: give a results.csv as --results_csv writes it"
        )


# ---- naming --------------------------------------------------------------------------------------


def name_variants(runs):
    """The runs with the column variant: the words of their options that are not the default.

    Where the runs of one variant differ in a weight, as beta, that is among the words too; those of
    a published form are not told apart by it, as nobody knows then which of them is the published.
    """
    runs = runs.assign(variant=[option_words(row) for _, row in runs.iterrows()])
    variants = runs.variant.copy()
    for _, group in runs.groupby(["task", "method", "variant"]):
        if group.variant.iloc[0]:
            differ = [
                flag for flag in weights_of(group) if group[flag.column].nunique(dropna=False) > 1
            ]
            for i, row in group.iterrows():
                variants[i] = (*row.variant, *weight_words(row, differ))
    return runs.assign(variant=variants)


def option_words(run):
    """What the options of a run, a row of a table, are called in its name."""
    values = {flag.name: run.get(flag.column) for flag in flags.named("variant")}
    given = {name: value for name, value in values.items() if pd.notna(value)}
    return flags.variant_words(run.method, given)


def weights_of(runs):
    """The flags of the role weight that a table of runs has."""
    return [flag for flag in flags.named("weight") if flag.column in runs]


def weight_words(run, weights):
    """These weights of a run in words, ("beta 1", "gamma_i 0.5")."""
    return tuple(f"{flag.name} {run[flag.column]:g}" for flag in weights)


def names_of(rows):
    """The Name of each row of a table with the columns method and, where it has one, variant."""
    variants = rows.variant if "variant" in rows else [()] * len(rows)
    return [Name(*pair) for pair in zip(rows.method, variants, strict=True)]


def with_names(rows):
    """The rows with their names as method, as a table prints them, and without variant."""
    return rows.assign(method=list(map(str, names_of(rows)))).drop(columns="variant")


def groups_of(runs):
    """[(Name, its rows)] of the methods in a table, in the order in which they come."""
    keys = ["method", "variant"] if "variant" in runs else ["method"]
    return [(Name(*key), group) for key, group in runs.groupby(keys, sort=False)]


def students_of(runs):
    """The runs that are no teacher's, or all where there are only those."""
    return runs[runs.method != "teacher"] if (runs.method != "teacher").any() else runs


def of_one_batch_size(runs, size):
    """The runs with this batch size, of tasks that were run with several; the others' runs all."""
    kept = [runs.iloc[:0]]
    for (task, _), group in runs.groupby([runs.task, runs.method == "teacher"], sort=False):
        sizes = sorted(group[BATCH].unique()) if BATCH in group else []
        if len(sizes) > 1 and size not in sizes:
            raise UserError(
                f"the {task} runs have batches of {', '.join(map(str, sizes))}, none of {size}: "
                "name one with --batch_size"
            )
        kept.append(group[group[BATCH] == size] if len(sizes) > 1 else group)
    return pd.concat(kept).sort_index()


# ---- scores --------------------------------------------------------------------------------------


def find_task(name):
    """The Task of GLUE with this name, in any spelling; None of one with own files."""
    try:
        return get_task(name)
    except UserError:
        return None


def of_task(runs, name):
    """The runs of a task, whose name may be in any spelling if it is GLUE's."""
    task = find_task(name)
    return runs[runs.task == (task.name if task else name)]


def metric_names(task, scores=()):
    """The columns with a task's metrics; those of MNLI's second dev set end in _mm.

    scores: where those of own files are: a row, a table or a mapping with their names.
    """
    task = find_task(task)
    if task is None:
        macro = CLASSIFICATION[-1]
        return CLASSIFICATION if macro in scores and np.any(pd.notna(scores[macro])) else REGRESSION
    return [
        name + split.removeprefix("dev")
        for split in task.files
        if split.startswith("dev")
        for name in task.metrics
    ]


def glue_score(metrics, task):
    """The mean of a task's metrics, as GLUE scores it. metrics: a mapping, a row or a table with
    their names.
    """
    names = metric_names(task, metrics)
    return sum(metrics[name] for name in names) / len(names)


def check_evaluated(runs):
    """Refuse runs of a task that lack one of its metrics."""
    task = runs.task.iloc[0]
    for name in metric_names(task, runs):
        without = runs[runs[name].isna()] if name in runs else runs
        if len(without):
            run = without.iloc[0]
            raise UserError(
                f"the {task} run of {names_of(without)[0]} with seed {run.seed} has no {name}: "
                "evaluate it with --do_eval"
            )


# ---- publishing ----------------------------------------------------------------------------------


def folder_names(runs):
    """The name of each run's folder, "" where the table does not tell: as text, in the order of the
    rows.
    """

    def name(row):
        given = row.get("--output_dir") if pd.notna(row.get("--output_dir")) else row.get("run")
        return Path(str(given)).name if pd.notna(given) else ""

    return [name(row) for row in runs.to_dict("records")]


def is_place(column):
    """Whether a column is that of a flag that names a file, a folder or a model."""
    flag = flags.find(column)
    return flag is not None and flag.is_place


def publishable(runs):
    """The runs without paths; of their folders, with the names."""
    kept = runs.drop(columns=[column for column in runs if column == "run" or is_place(column)])
    names = folder_names(runs)
    if any(names):
        kept.insert(list(kept).index("seed") + 1, "run", names)
    return kept
