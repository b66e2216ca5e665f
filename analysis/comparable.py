"""What may stand in one table: runs whose difference can only come from method and seed.

Every function check_... raises a UserError for runs that it refuses. runs: a table of runs
(analysis/runs.py), students: the same without the teacher's; tasks: the task's name, for messages.
"""

from pathlib import Path

import pandas as pd

from analysis.runs import check_columns, groups_of
from common import UserError
from training import flags

# columns that are no flags and must be alike in all students of a table
FACTS = ("processes", "precision", "task", "parameters", "device", "torch", "transformers")
ONE_OF = {  # column with the fingerprint of what a student used -> its name in messages
    "teacher": "teachers",
    "memory": "teacher memories",
    "data": "training data",
    "dev_data": "rows to be scored on",
}
# flags that say which rows a model was scored on, and how they were read: alike in students and
# teachers, whose budgets may differ
ROWS = ("--max_eval_samples", "--text_column_names", "--label_column_name")
# columns by whose values students rightly begin with weights of their own; "copied" is a ladder's
STARTS_APART = ("parameters", "--student_layers", "copied")
SHOWN = ("minutes", "parameters", "device", "machine", "torch", "transformers", "commit")
IN_NO_RESULT = ("free", "place", "action")  # roles of flags that no result depends on


def memory_kinds():
    """The columns of train_memory.py's variant flags: each setting of them makes another memory."""
    return [flag.column for flag in flags.MEMORY if flag.role == "variant"]


def variant_columns():
    """The columns of the flags that name_variants (analysis/runs.py) writes into a run's name."""
    return [flag.column for flag in flags.named("variant")]


def columns_alike():
    """The columns in which all students of a table must be alike, as the keys of a dict.

    These are FACTS, the flags of budget and data, and the variant flags that a caption mentions.
    """
    told = [flag for flag in flags.named("variant") if flag.caption]
    alike = [*flags.named("budget", "data"), *told]
    return dict.fromkeys([*(flag.column for flag in alike), *FACTS])


def settings_of(runs):
    """The columns of the flags that decide what a run computes. Undeclared flags are among them, as
    they may do so.
    """
    found = []
    for column in [column for column in runs if column.startswith("--")]:
        flag = flags.find(column)
        if flag is None or not (flag.is_place or flag.role in IN_NO_RESULT):
            found.append(column)
    return found


def check_comparable(runs, free=(), tuned=()):
    """Refuse runs whose difference could come from anything but seed, method and its own options.

    free: further columns that may differ. tuned: columns that may differ between methods, not
    within one.
    """
    check_columns(runs, SHOWN)
    tasks = " and ".join(runs.task.unique())
    students = runs[runs.method != "teacher"]
    check_one_setting(students, tasks, (*free, *tuned))
    check_one_source(students, tasks)
    check_one_start(students, tasks)
    check_rows(runs, tasks)
    check_within_methods(runs, tasks, free)
    check_once(runs, tasks, free)


def check_one_setting(students, tasks, may_differ):
    """Refuse students with different budgets, data, devices or versions.

    may_differ: columns that are not checked.
    """
    for column in columns_alike():
        if column not in students or column in may_differ:
            continue
        values = students[column].unique()
        if len(values) > 1:
            raise UserError(
                f"these {tasks} runs differ in {column} ({', '.join(map(str, values))}): only "
                f"method and seed may differ in one table, so give runs with the same {column}"
            )


def check_one_source(students, tasks):
    """Refuse students with different teachers, training data, dev data, or memories of one kind.

    Memories are of one kind if they are alike in the columns of memory_kinds.
    """
    for column in [column for column in ONE_OF if column in students]:
        kinds = []
        if column == "memory":
            kinds = [kind for kind in memory_kinds() if kind in students]
        groups = students.groupby(kinds, sort=False, dropna=False) if kinds else [((), students)]
        for _, group in groups:
            found = set(group[column].dropna()) - {""}
            if len(found) > 1:
                raise UserError(
                    f"these {tasks} students had different {ONE_OF[column]} "
                    f"({', '.join(sorted(found))}, by checksum): give students that had the same"
                )


def check_one_start(students, tasks):
    """Refuse students that began with different weights, by checksum; and distilled ones of which
    that is not known, and which did not copy from models of the same name.
    """
    known = "initial_weights" in students and students.initial_weights.fillna("").ne("").all()
    if "teacher" in students:
        distilled = students[students.teacher.fillna("") != ""]
        for flag in [flag for flag in flags.named("start") if flag.column in distilled]:
            if known and flag.is_place:
                continue
            # only the last part of a path, as the machines that share a sweep may differ in folders
            found = {Path(str(value)).name for value in distilled[flag.column].fillna("")}
            if len(found) > 1:
                raise UserError(
                    f"these {tasks} students differ in {flag.caption}, {flag.column} "
                    f"({', '.join(sorted(found))}): give students that started alike"
                )
    if "initial_weights" not in students:
        return
    apart = [column for column in STARTS_APART if column in students]
    groups = students.groupby(apart, sort=False, dropna=False) if apart else [((), students)]
    for _, group in groups:
        found = set(group.initial_weights.dropna()) - {""}
        if len(found) > 1:
            raise UserError(
                f"these {tasks} students began with different weights "
                f"({', '.join(sorted(found))}, by checksum): give students that started alike"
            )


def check_rows(runs, tasks):
    """Refuse a teacher that was scored on other rows than the students, and teachers that were
    trained on different data or from different weights. A teacher is free in its budget only.
    """
    teachers = runs[runs.method == "teacher"]
    who = "runs, the teacher's among them,"
    for column, group, whose, what in (
        ("data", teachers, "teachers", ONE_OF["data"]),
        ("initial_weights", teachers, "teachers", "initial weights"),
        ("dev_data", runs, who, ONE_OF["dev_data"]),
    ):
        found = set(group[column].dropna()) - {""} if column in group else ()
        if len(found) > 1:
            raise UserError(
                f"these {tasks} {whose} had different {what} "
                f"({', '.join(sorted(found))}, by checksum): give runs that had the same"
            )
    for column in [column for column in ROWS if column in runs]:
        found = [describe_value(value) for value in runs[column].unique()]
        if len(set(found)) > 1:
            raise UserError(
                f"these {tasks} {who} differ in {column} "
                f"({', '.join(found)}): all must be scored on the same rows, read alike, so give "
                f"runs with the same {column}"
            )


def describe_value(value):
    """The text of a flag's value; "not given" for an empty cell."""
    if pd.isna(value) or value == "":
        return "not given"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_within_methods(runs, tasks, free):
    """Refuse runs of one method and variant that differ in a setting other than the columns in
    `free`.
    """
    for name, group in groups_of(runs):
        for column in [column for column in settings_of(group) if column not in free]:
            values = group[column].unique()
            if len(values) > 1:
                raise UserError(
                    f"the {tasks} runs of {name} differ in {column} "
                    f"({', '.join(map(str, values))}): only the seed may differ between the runs "
                    f"of a method, so give runs with the same {column}"
                )


def check_once(runs, tasks, free):
    """Refuse two runs of one method and variant with the same seed and values of `free`."""
    for name, group in groups_of(runs):
        twice = group[group.duplicated(["seed", *free])]
        if len(twice):
            raise UserError(
                f"{name} with seed {twice.seed.iloc[0]} is there twice for {tasks}: "
                "give one run of each method and seed"
            )
