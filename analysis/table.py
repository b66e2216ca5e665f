"""Runs -> one table: a row per method, mean ± standard deviation over its seeds, as Markdown.

    python analysis/table.py RUNS_DIR                   # or a results.csv that the runs appended to
    python analysis/table.py RUNS_DIR --csv results/mrpc.csv --insert README.md

--csv writes the single runs, with the names of their folders (run) but without the paths of the
machine they ran on. --insert puts the table into a file, in place of the text between the lines
<!-- table TASK --> and <!-- end TASK -->; --marker gives another name than TASK. Variants of a
method have rows of their own; the weights stand below the table. The students' runs may differ only
in seed, method and variant, with the method's own weights; runs that differ in anything else, such
as the epochs, are refused. A teacher may have been trained in another way.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.comparable import check_comparable, variant_columns
from analysis.markdown import insert, to_markdown
from analysis.origins import (
    describe_budget,
    describe_provenance,
    describe_seeds,
    describe_weights,
)
from analysis.runs import groups_of, name_variants, of_task, publishable, read_runs
from common import UserError

COLUMNS = ("mcc", "acc", "f1", "f1_macro", "acc_mm", "pearson", "spearmanr")


def summarise(runs):
    """The table to print: a row per method and variant, in the order of Name.rank, with its metrics
    in %.
    """
    metrics = [name for name in COLUMNS if name in runs and runs[name].notna().any()]

    def cell(values):
        spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
        return f"{100 * values.mean():.2f}{spread}"

    rows = [
        {
            "method": str(name),
            **{metric: cell(group[metric]) for metric in metrics},
            "seeds": len(group),
            "parameters": f"{group.parameters.iloc[0] / 1e6:.1f} M",
            "minutes a run": f"{group.minutes.mean():.1f}",
        }
        for name, group in sorted(groups_of(runs), key=lambda pair: pair[0].rank())
    ]
    return pd.DataFrame(rows)


def describe(runs):
    """The line below the table of one task: seeds, settings, machine, versions and weights."""
    scores = "mean ± standard deviation over seeds" if runs.seed.nunique() > 1 else "seed"
    whose = "" if (runs.method == "teacher").all() else "students: "
    weights = describe_weights(runs)
    return (
        f"{runs.task.iloc[0]} dev set, {scores} {describe_seeds(runs)}; "
        f"{whose}{describe_budget(runs)}; {describe_provenance(runs)}."
        f"{f' Weights: {weights}.' if weights else ''}"
    )


def check_one_task(runs):
    """Refuse runs of several tasks, teachers' runs included: a mean over tasks is no score."""
    if runs.task.nunique() > 1:
        raise UserError(
            f"these runs are of the tasks {', '.join(runs.task.unique())}: pick one with --task"
        )


def check_scores(runs):
    """Refuse a metric that only some runs have: its mean would be over fewer than "seeds" says."""
    for name in [name for name in COLUMNS if name in runs and runs[name].notna().any()]:
        without = runs[runs[name].isna()]
        if len(without):
            run = without.iloc[0]
            raise UserError(
                f"the {run.task} run of {run.method} with seed {run.seed} has no {name}, and "
                "other runs have one: evaluate it with --do_eval"
            )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=common.expand_path, help="A folder of runs, or a results.csv.")
    parser.add_argument("--task", help="Only this task's runs.")
    parser.add_argument(
        "--csv", type=common.expand_path_or_none, help="Write the single runs to this file."
    )
    parser.add_argument(
        "--no_table",
        action="store_true",
        help="Write --csv and no table: of a search, whose settings do not belong in one.",
    )
    parser.add_argument(
        "--insert", type=common.expand_path_or_none, help="Put the table into this Markdown file."
    )
    parser.add_argument(
        "--marker",
        help="The name in the markers of --insert, where a file has several tables of a task. "
        "Default: the task.",
    )
    args = parser.parse_args(argv)
    if args.marker and not args.insert:
        raise UserError(
            "--marker names the place of the table in --insert's file: pass --insert, too"
        )
    if args.no_table and (args.insert or not args.csv):
        raise UserError(
            "--no_table leaves only --csv to be written: pass --csv with it, and leave --insert out"
        )
    runs = read_runs(args.runs)
    if args.task:
        runs = of_task(runs, args.task)
    if not len(runs):
        raise UserError(f"{args.runs} has no run of {args.task}: name another task with --task")
    named = name_variants(runs)
    if not args.no_table:
        check_one_task(named)
        check_scores(named)
        check_comparable(named, (), variant_columns())
    if args.csv:
        with common.atomic_path(args.csv) as path:
            publishable(runs).to_csv(path, index=False)
    if not args.no_table:
        text = f"{to_markdown(summarise(named))}\n\n{describe(named)}"
        if args.insert:
            insert(args.insert, {args.marker or runs.task.iloc[0]: text})
        print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
