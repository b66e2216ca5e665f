"""The best setting of a search, as flags for the next command: the setting whose score, averaged
over seeds, is the highest.

    python analysis/best.py RUNS_DIR --method VKD --flags alpha temperature learning_rate
    python glue_with_cka_i.py ... \\
      $(python analysis/best.py RUNS_DIR --name vkd- --expect 27 --flags alpha temperature)

The first command prints, for instance, "--alpha 0.5 --temperature 10 --learning_rate 5e-05". Of
settings with equal scores it takes the one with the smallest values. The score is the mean of the
task's metrics. The runs may differ only in the named flags and the seed.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.comparable import FACTS, ONE_OF, memory_kinds, settings_of
from analysis.markdown import to_markdown
from analysis.runs import (
    check_evaluated,
    folder_names,
    metric_names,
    of_task,
    read_runs,
    task_score,
)
from common import UserError
from training import flags

# columns that are no flags and must be alike in all runs of a search
SAME = ("task", "method", *ONE_OF, *FACTS)
# flags that decide what a model begins with; only if none is searched, initial_weights are alike
STARTS = ("--student_layers", "--student_num_hidden_layers", "--model_name_or_path_for_copy")


def read_search(source, method, prefix, expected, task=None):
    """The runs of a search, as a table (analysis/runs.py).

    method, task, prefix: keep only the runs of this method, of this task, and in folders whose
    names start with the prefix; None keeps all. expected: the number of runs that must remain, None
    for one or more. Raises a UserError for any other number.
    """
    runs = read_runs(source)
    if task:
        runs = of_task(runs, task)
    if prefix and len(runs) and not any(folder_names(runs)):
        raise UserError(
            f"{source} has no column run or --output_dir with the names of the run folders, "
            f"which --name {prefix} is compared with: give the folder of runs, or choose runs with "
            "--method"
        )
    there = ", ".join(runs.method.unique()) or "none"
    if method:
        runs = runs[runs.method == method]
    if prefix:
        runs = runs[[name.startswith(prefix) for name in folder_names(runs)]]
    if len(runs) == 0 or expected not in (None, len(runs)):
        asked = (task and f"of {task}", method and f"of {method}", prefix and f"named {prefix}*")
        found = " and ".join(filter(None, asked)) or "of any kind"
        raise UserError(
            f"{source} has {len(runs)} finished runs {found}, not {expected or 'one or more'}: "
            f"finish the search, or choose its runs with --method (there are {there}) or --name"
        )
    return runs


def read_columns(words):
    """The table's columns for the searched flags, each once. words: the flags, with or without
    dashes.
    """
    found = {}
    for word in words:
        name = word.removeprefix("--")
        known = flags.known().get(name)
        column = known.column if known else f"--{name}"
        if column in ("task", "seed"):
            raise UserError(
                f"--flags {name} cannot be searched over, as the runs of a search are of one task "
                "and its scores are means over seeds: name the flags that were searched over"
            )
        found[column] = None
    return list(found)


def as_flag(column):
    """The flag of a table's column, with the dashes that a column such as memory_init lacks."""
    return f"--{column.removeprefix('--')}"


def check_search(runs, searched):
    """Raise a UserError for runs that differ in anything but the searched flags and the seed.

    Likewise for two runs of one setting and seed, and for runs without scores. searched: the
    columns of the searched flags.
    """
    check_values(runs, searched)
    start = () if {*STARTS} & {*searched} else ("initial_weights",)
    for column in (*SAME, *start, *memory_kinds(), *settings_of(runs)):
        if column not in runs or column in searched:
            continue
        # memories may differ between the settings of a searched flag of train_memory.py
        kinds = [kind for kind in memory_kinds() if column == "memory" and kind in searched]
        groups = runs.groupby(kinds, dropna=False) if kinds else [((), runs)]
        if column == "initial_weights":  # runs of earlier versions do not say
            groups = [((), runs[runs[column].fillna("") != ""])]
        differ = [values for _, group in groups if len(values := group[column].unique()) > 1]
        if differ:
            raise UserError(
                f"these runs differ in {column} ({', '.join(map(str, differ[0]))}), which --flags "
                "does not name: choose the runs of one search with --method or --name"
            )
    twice = runs[runs.duplicated([*searched, "seed"])]
    if len(twice):
        raise UserError(
            f"{describe_setting(searched, twice.iloc[0])} with seed {twice.seed.iloc[0]} is there "
            "twice: give one run of each setting and seed"
        )
    check_evaluated(runs)


def check_values(runs, searched):
    """Raise a UserError for a searched flag that no run has, and for one that a run lacks.

    An empty cell means that the flag was off or not given. Only a flag that is off or not given by
    default may have one.
    """
    for column in searched:
        if column not in runs or runs[column].isna().all():
            raise UserError(
                f"these runs do not have the flag {as_flag(column)}: name with --flags only "
                "flags that these runs were given"
            )
        flag, without = flags.find(column), runs[runs[column].isna()]
        if len(without) and flag and flag.default not in (None, "", False):
            run = without.iloc[0]
            raise UserError(
                f"the {run.task} run of {run.method} with seed {run.seed} has no value of "
                f"{as_flag(column)}, which no run is without: mend or delete the row of this run"
            )


def ranking(runs, searched):
    """A table with one row per setting, the best first.

    Columns: the searched flags, and mean and std (of the score over seeds, in %) and count (of the
    seeds).
    """
    runs = runs.assign(score=100 * task_score(runs, runs.task.iloc[0]))
    scores = runs.groupby(searched, dropna=False).score.agg(["mean", "std", "count"]).reset_index()
    return scores.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def as_flags(searched, row, absent=""):
    """A setting, a row of ranking, as the words of a command line.

    Whole numbers are written without a decimal point, as integer flags need them. absent: a word to
    put before each flag that the setting lacks; "" leaves such flags out.
    """
    words = []
    for column in searched:
        value, flag = "" if pd.isna(row[column]) else str(row[column]), as_flag(column)
        if value == "True":
            words.append(flag)
        elif value not in ("", "False"):
            words.append(f"{flag} {value.removesuffix('.0')}")
        elif absent:
            words.append(f"{absent} {flag}")
    return " ".join(words)


def describe_setting(searched, row):
    """A setting in words, with "no" before each flag that was not given."""
    return as_flags(searched, row, "no")


def describe_best(runs, settings, searched):
    """A line for the reader: best score, number of settings and seeds, second-best setting."""
    best, counts = settings.iloc[0], settings["count"]
    seeds = " to ".join(map(str, sorted({counts.min(), counts.max()})))
    metrics = " and ".join(metric_names(runs.task.iloc[0], runs))
    second = ""
    if len(settings) > 1:
        runner_up = describe_setting(searched, settings.iloc[1])
        second = f"; next {settings['mean'][1]:.2f} with {runner_up}"
    shown = describe_setting(searched, best)
    if shown != as_flags(searched, best):  # as_flags leaves out a flag that is off
        second = f", with {shown}{second}"
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
    add(
        "--flags",
        nargs="+",
        action="extend",
        required=True,
        help="The flags that were searched over.",
    )
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
    searched = read_columns(args.flags)
    runs = read_search(args.source, args.method, args.name, args.expect, args.task)
    check_search(runs, searched)
    settings = ranking(runs, searched)
    if args.table:
        spread = [
            f"{mean:.2f}" + (f" ± {std:.2f}" if pd.notna(std) else "")
            for mean, std in zip(settings["mean"], settings["std"], strict=True)
        ]
        shown = settings[searched].astype(object).assign(score=spread, seeds=settings["count"])
        print(to_markdown(shown, padded=True))
    else:
        print(as_flags(searched, settings.iloc[0]))
    common.say(describe_best(runs, settings, searched))
    for column in [column for column in searched if column in memory_kinds()]:
        common.say(f"note: {as_flag(column)} is a flag of train_memory.py, whose memory was used")


if __name__ == "__main__":
    sys.exit(common.cli(main))
