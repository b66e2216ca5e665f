"""The best setting of a search, as flags for the next command: the highest score, averaged over
seeds.

    python analysis/best.py RUNS_DIR --method VKD --flags alpha temperature learning_rate
    python glue_with_cka_i.py ... \\
      $(python analysis/best.py RUNS_DIR --name vkd- --expect 27 --flags alpha temperature)

prints, as of the first, "--alpha 0.5 --temperature 10 --learning_rate 5e-05"; of equal scores the
setting of the smallest values. The score is the mean of the task's metrics. The runs may differ in
the named flags and the seed alone.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.comparable import FACTS, ONE_OF, memory_kinds, settings_of
from analysis.markdown import to_markdown
from analysis.runs import check_evaluated, glue_score, metric_names, read_runs
from common import UserError
from tasks.glue import get_task

# columns that are no flags, in which all runs of a search are alike
SAME = ("task", "method", *ONE_OF, *FACTS)


def read_search(source, method, prefix, expected, task=None):
    """The runs of a search: of a method and task, with folder names that start with `prefix`, as
    many as expected.
    """
    runs = read_runs(source)
    if task:
        runs = runs[runs.task == get_task(task).name]
    if prefix and "--output_dir" not in runs:
        raise UserError(
            f"{source} does not have the names of the run folders (--output_dir) that --name "
            f"{prefix} asks for: give the folder of runs, or --method"
        )
    there = ", ".join(runs.method.unique())
    if method:
        runs = runs[runs.method == method]
    if prefix:
        runs = runs[[Path(str(folder)).name.startswith(prefix) for folder in runs["--output_dir"]]]
    if len(runs) == 0 or expected not in (None, len(runs)):
        asked = (task and f"of {task}", method and f"of {method}", prefix and f"named {prefix}*")
        found = " and ".join(filter(None, asked)) or "of any kind"
        raise UserError(
            f"{source} has {len(runs)} finished runs {found}, not {expected or 'one or more'}: "
            f"finish the search, or give its runs alone with --method (there are {there}) or --name"
        )
    return runs


def check_search(runs, flags):
    """Refuse runs that differ in anything but the flags of the search and the seed."""
    missing = [flag for flag in flags if flag not in runs or runs[flag].isna().all()]
    if missing:
        raise UserError(f"these runs do not have the flag {missing[0]}: name flags of theirs")
    for column in [
        c for c in (*SAME, *memory_kinds(), *settings_of(runs)) if c in runs and c not in flags
    ]:
        values = runs[column].unique()
        if len(values) > 1:
            raise UserError(
                f"these runs differ in {column} ({', '.join(map(str, values))}), which --flags "
                "does not name: give the runs of one search with --method or --name"
            )
    twice = runs[runs.duplicated([*flags, "seed"])]
    if len(twice):
        raise UserError(
            f"{as_flags(flags, twice.iloc[0])} with seed {twice.seed.iloc[0]} is there twice: give "
            "one run of each"
        )
    check_evaluated(runs)


def ranking(runs, flags):
    """A row a setting, best first: its flags, the mean and standard deviation of its score in %,
    and its seeds.
    """
    runs = runs.assign(score=100 * glue_score(runs, runs.task.iloc[0]))
    scores = runs.groupby(flags, dropna=False).score.agg(["mean", "std", "count"]).reset_index()
    return scores.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def as_flags(flags, row):
    """A setting as flags on a command line; whole numbers without a point, as an integer's flag
    wants them.
    """

    words = []
    for flag in flags:
        value = "" if pd.isna(row[flag]) else str(row[flag])
        if value == "True":
            words.append(flag)
        elif value not in ("", "False"):
            words.append(f"{flag} {value.removesuffix('.0')}")
    return " ".join(words)


def describe_best(runs, settings, flags):
    """The line for the reader: best score, how many settings and seeds, runner-up."""
    best, counts = settings.iloc[0], settings["count"]
    seeds = " to ".join(map(str, sorted({counts.min(), counts.max()})))
    metrics = " and ".join(metric_names(runs.task.iloc[0]))
    second = ""
    if len(settings) > 1:
        second = f"; next {settings['mean'][1]:.2f} with {as_flags(flags, settings.iloc[1])}"
    return (
        f"{runs.method.iloc[0]} on {runs.task.iloc[0]}: {best['mean']:.2f} (mean of {metrics}, %), "
        f"the best of {len(settings)} settings, seeds a setting: {seeds}{second}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=common.expand_path, help="A folder of runs, or a results.csv.")
    add("--flags", nargs="+", required=True, help="The flags that were searched over.")
    add("--method", help="Only the runs of this method.")
    add("--task", help="Only the runs of this task.")
    add("--name", metavar="PREFIX", help="Only the runs in folders whose names start so.")
    add(
        "--expect",
        type=int,
        metavar="N",
        help="Refuse a search of any other number of finished runs.",
    )
    add("--table", action="store_true", help="Print all settings, best first, as Markdown.")
    args = parser.parse_args(argv)
    flags = [f"--{flag.removeprefix('--')}" for flag in args.flags]
    runs = read_search(args.source, args.method, args.name, args.expect, args.task)
    check_search(runs, flags)
    settings = ranking(runs, flags)
    if args.table:
        spread = [
            f"{mean:.2f}" + (f" ± {std:.2f}" if pd.notna(std) else "")
            for mean, std in zip(settings["mean"], settings["std"], strict=True)
        ]
        shown = settings[flags].astype(object).assign(score=spread, seeds=settings["count"])
        print(to_markdown(shown, padded=True))
    else:
        print(as_flags(flags, settings.iloc[0]))
    common.say(describe_best(runs, settings, flags))


if __name__ == "__main__":
    sys.exit(common.cli(main))
