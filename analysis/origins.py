"""Where the numbers of a table come from, in words: seeds, budget, weights, machine, versions."""

import pandas as pd

from analysis.comparable import BUDGET
from analysis.runs import WEIGHTS, groups_of, students_of, weight_words

USUAL = {"accumulation": ["1"], "processes": ["1"], "warm-up": ["0"]}  # what goes without saying


def describe_seeds(runs):
    """The students' seeds in words."""
    sets = {tuple(sorted(group.seed.unique())) for _, group in groups_of(students_of(runs))}
    words = ", ".join(map(str, sorted({seed for seeds in sets for seed in seeds})))
    return words if len(sets) == 1 else f"{words} (not every method has all)"


def describe_budget(runs):
    """The students' settings in words; several values of one stand beside each other."""
    students, words = students_of(runs), []
    for column, name in BUDGET.items():
        # where only some have a value it is a variant's, which has it in its name
        if column not in students or students[column].isna().any():
            continue
        values = students[column].drop_duplicates().sort_values()
        values = [value if isinstance(value, str) else f"{value:g}" for value in values]
        # -1 is what --max_steps has where it is not given
        if values and values != ["-1"] and values != USUAL.get(name):
            words.append(f"{name} {' or '.join(values)}")
    return ", ".join(words)


def describe_weights(runs):
    """The weights of each method's runs of one task, "PKD alpha 0.5, beta 100; RKD ..."."""
    words = []
    for name, group in sorted(groups_of(runs), key=lambda pair: pair[0].rank()):
        first = group.iloc[0]
        own = weight_words(first, [flag for flag in WEIGHTS if pd.notna(first.get(flag))])
        if own:
            words.append(f"{name} {', '.join(own)}")
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
