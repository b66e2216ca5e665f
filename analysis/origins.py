"""Sentences on where a table's numbers come from: seeds, budget, weights, machine, versions.

In all functions, runs is a table of runs (analysis/runs.py).
"""

import pandas as pd

from analysis.runs import groups_of, students_of, weight_words, weights_of
from training import flags

# the first words of a caption, in order; all others follow as their flags are declared
FIRST = ("learning rate", "epochs", "steps", "batch", "accumulation", "processes")


def describe_seeds(runs):
    """The students' seeds in words, and whether some methods lack some of them."""
    sets = {tuple(sorted(group.seed.unique())) for _, group in groups_of(students_of(runs))}
    words = ", ".join(map(str, sorted({seed for seeds in sets for seed in seeds})))
    return words if len(sets) == 1 else f"{words} (not every method has all)"


def told_in_captions():
    """What a caption may tell, in its order: a list of (column, the words for it, its usual value).

    A column with its usual value is left out of a caption. None: no value is usual.
    """
    told = [(flag.column, flag.caption, flag.usual) for flag in flags.named("budget", "data")]
    told += [("processes", "processes", 1), ("precision", "precision", None)]
    told += [(flag.column, flag.caption, flag.usual) for flag in flags.named("variant")]
    told = [entry for entry in told if entry[1]]
    return sorted(told, key=lambda entry: (*FIRST, entry[1]).index(entry[1]))


def describe_budget(runs):
    """The students' settings in words; if a setting has several values, "or" joins them."""
    students, told = students_of(runs), []
    by_steps = "--max_steps" in students and (students["--max_steps"] > 0).all()
    for column, words, usual in told_in_captions():
        # a value that only some runs have is a variant's, and the variant's name tells it
        if column not in students or students[column].isna().any():
            continue
        if by_steps and column == "--num_train_epochs":
            continue  # --max_steps decided instead
        values = students[column].drop_duplicates().sort_values()
        values = [value if isinstance(value, str) else f"{value:g}" for value in values]
        if column == "precision":  # accelerate's word for full precision is "no"
            values = ["float32" if value == "no" else value for value in values]
        if values and values != [str(usual)]:
            told.append(f"{words} {' or '.join(values)}")
    return ", ".join(told)


def describe_weights(runs):
    """The weights of each method in words, "PKD alpha 0.5, beta 100; RKD ...".

    runs: those of one task.
    """
    words = []
    for name, group in sorted(groups_of(runs), key=lambda pair: pair[0].rank()):
        first = group.iloc[0]
        own = [flag for flag in weights_of(group) if pd.notna(first[flag.column])]
        if own:
            words.append(f"{name} {', '.join(weight_words(first, own))}")
    return "; ".join(words)


def describe_provenance(runs):
    """Machine, minutes, versions and commits of runs, in words."""
    students = students_of(runs)

    def several(column):
        return " and ".join(map(str, students[column].dropna().unique()))

    # a sweep may have been shared among several machines
    machines = " and ".join(runs.machine.dropna().unique())
    where = machines if set(students.device) == {"cpu"} else f"{several('device')}; {machines}"
    commits = ", ".join(sorted({str(commit) for commit in runs.commit.dropna()}))
    return (
        f"{where}; {runs.minutes.sum():.0f} minutes of training in all; torch {several('torch')}, "
        f"transformers {several('transformers')}, commit {commits}"
    )
