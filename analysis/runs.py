"""Tables of runs: reading them from run folders or a results.csv, naming their methods, scores.

A table of runs is a DataFrame with one row per finished run and the columns of results.csv, one
"--FLAG" per flag among them. name_variants adds the column variant, a tuple of words for the
options that make a variant of a method, () for its published form (see analysis/methods.py). A
user's own task is read from the user's own files, not GLUE's. To refuse is to raise a UserError.
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
# columns read as text, even if all their cells are digits
TEXTS = dict.fromkeys(
    (
        "commit",
        "teacher",
        "memory",
        "data",
        "dev_data",
        "initial_weights",
        "torch",
        "transformers",
    ),
    str,
)


# ---- reading -------------------------------------------------------------------------------------


def read_runs(source):
    """A table with one row per finished run. source: a folder of run folders, or a results.csv."""
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
        raise UserError(f"{source} has a header, but no row of a run: give a table with runs")
    return runs


def read_folders(source):
    """A table of the finished runs in a folder of run folders, by the time at which they started.

    Runs of train_memory.py are left out.
    """
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
    """Refuse a table of runs that lacks one of the columns `names`."""
    missing = [name for name in names if name not in runs]
    if missing:
        raise UserError(
            f"these runs have no column {missing[0]}: give a results.csv as --results_csv writes it"
        )


# ---- naming --------------------------------------------------------------------------------------


def name_variants(runs):
    """The runs with a column variant: words for each run's options that are not the default.

    If runs of one variant differ in a weight, such as beta, the weight is among the words too. Runs
    of a published form are not told apart by weights, as nobody could say which weight is the
    published one.
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
    """What tells a run from its method's published form, a tuple of words such as "debiased".

    run: a row of a table.
    """
    values = {flag.name: run.get(flag.column) for flag in flags.named("variant")}
    given = {name: value for name, value in values.items() if pd.notna(value)}
    return flags.variant_words(run.method, given)


def weights_of(runs):
    """The Flags with the role weight that have a column in a table of runs."""
    return [flag for flag in flags.named("weight") if flag.column in runs]


def weight_words(run, weights):
    """A run's weights in words, ("beta 1", "gamma_i 0.5"). weights: the Flags to tell of."""
    return tuple(f"{flag.name} {run[flag.column]:g}" for flag in weights)


def names_of(rows):
    """The Name of each row of a table, from its column method and, if there is one, variant."""
    variants = rows.variant if "variant" in rows else [()] * len(rows)
    return [Name(*pair) for pair in zip(rows.method, variants, strict=True)]


def with_names(rows):
    """The rows as a table prints them: the column method has the whole name, variant is gone."""
    return rows.assign(method=list(map(str, names_of(rows)))).drop(columns="variant")


def groups_of(runs):
    """[(Name, the rows of that Name)] of a table, in the order in which the Names first occur."""
    keys = ["method", "variant"] if "variant" in runs else ["method"]
    return [(Name(*key), group) for key, group in runs.groupby(keys, sort=False)]


def students_of(runs):
    """The students' runs of a table; all runs if the table has only teachers'."""
    return runs[runs.method != "teacher"] if (runs.method != "teacher").any() else runs


def of_one_batch_size(runs, size):
    """The runs; of a task with several batch sizes, only those of batch size `size`.

    A task's teachers and its students are looked at separately. Refuses a task that has several
    batch sizes, but not this one.
    """
    kept = [runs.iloc[:0]]
    for (task, _), group in runs.groupby([runs.task, runs.method == "teacher"], sort=False):
        sizes = sorted(group[BATCH].unique()) if BATCH in group else []
        if len(sizes) > 1 and size not in sizes:
            raise UserError(
                f"the {task} runs have batches of {', '.join(map(str, sizes))}, none of {size}: "
                "choose one of their batch sizes with --batch_size"
            )
        kept.append(group[group[BATCH] == size] if len(sizes) > 1 else group)
    return pd.concat(kept).sort_index()


def tell_batch_size(runs, kept, size):
    """A sentence on the runs that of_one_batch_size left out, "" if it kept them all; it names the
    methods of which it kept none.
    """
    if len(kept) == len(runs):
        return ""
    lost = []
    for task, group in runs.groupby("task", sort=False):
        there = {name for name, _ in groups_of(kept[kept.task == task])}
        lost += [f"{name} on {task}" for name, _ in groups_of(group) if name not in there]
    and_lost = f" There are none of {', '.join(lost)}." if lost else ""
    return f"Of runs with several batch sizes, those of {size} count here.{and_lost}"


# ---- scores --------------------------------------------------------------------------------------


def find_task(name):
    """The Task of GLUE with this name, in any spelling; None for the name of a user's own task."""
    try:
        return get_task(name)
    except UserError:
        return None


def of_task(runs, name):
    """The runs of one task. name: a task of GLUE in any spelling, or a user's own task exactly as
    the table has it.
    """
    task = find_task(name)
    return runs[runs.task == (task.name if task else name)]


def metric_names(task, scores=()):
    """The names of the columns with a task's metrics; those of MNLI's second dev set end in _mm.

    scores: a row, a table or a mapping that may have metrics by name. It is only needed for a
    user's own task, to tell a classification from a regression.
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


def task_score(metrics, task):
    """A task's score as GLUE defines it: the mean of its metrics, in their unit.

    metrics: a mapping or a row that has the metrics by name; or a table, which gives a Series.
    """
    names = metric_names(task, metrics)
    return sum(metrics[name] for name in names) / len(names)


def check_evaluated(runs):
    """Refuse runs of one task if any of them lacks one of the task's metrics."""
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
    """The name of each run's folder as text, in the order of the rows; "" if the table lacks it."""

    def name(row):
        given = row.get("--output_dir") if pd.notna(row.get("--output_dir")) else row.get("run")
        return Path(str(given)).name if pd.notna(given) else ""

    return [name(row) for row in runs.to_dict("records")]


def is_place(column):
    """Whether a column is that of a flag whose value is a file, a folder or a model."""
    flag = flags.find(column)
    return flag is not None and flag.is_place


def publishable(runs):
    """The runs without any paths; their column run has the names of the run folders alone."""
    kept = runs.drop(columns=[column for column in runs if column == "run" or is_place(column)])
    names = folder_names(runs)
    if any(names):
        kept.insert(list(kept).index("seed") + 1, "run", names)
    return kept
