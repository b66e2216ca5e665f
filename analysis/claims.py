"""Claims by rule: what may be said of methods on a task.

    python analysis/claims.py RUNS_DIR               # or results.csv, or several of both

The task may be any, also one of your own files; for GLUE's tasks analysis/tables.py makes the same
claims and puts them into a page. Runs of one task may differ only in method, in the options of each
method, and in seed; the flags that --tuned names may differ between methods, not within one. Of a
task with several batch sizes, the runs of --batch_size count, and what that leaves out is said.

Each run counts as one number, the task's score in % (the mean of its metrics). Among the methods of
a task with two runs or more, the rule compares VKD with the student alone; every published form of
FSD, and FSD_I without padding, with the best rival; FSD_ILG and FSD_IL with FSD_I; and every
variant (a method with further options) with the published form of its method. The test is Welch's
t-test, two-sided, with Holm's correction over all comparisons of the task: "better" and "worse"
need a corrected p < 0.01.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.comparable import check_comparable, variant_columns
from analysis.markdown import MISSING, to_markdown
from analysis.methods import FORMS, Name, rivals
from analysis.runs import (
    BATCH,
    check_evaluated,
    groups_of,
    name_variants,
    of_one_batch_size,
    of_task,
    read_runs,
    task_score,
    tell_batch_size,
)
from analysis.significance import holm, sample_of, welch
from common import UserError

WITHOUT_PADDING = Name("FSD_I", ("mask_padding",))
OURS = (Name("FSD_I"), WITHOUT_PADDING, *map(Name, FORMS[1:]))
PARTS = (("FSD_ILG", "FSD_I"), ("FSD_IL", "FSD_I"))  # what L and G add to I
LEVEL = 0.01
ALONE, RIVAL, PART, VARIANT = "student alone", "best rival", "part", "published form"
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
TITLE = "**Claims by rule**"


class Comparison(NamedTuple):
    """The comparison of two methods on a task.

    kind: ALONE, RIVAL, PART or VARIANT. n, n_against: the number of runs of each method.
    difference: mean of `method` minus mean of `against`, in percentage points; low, high: the ends
    of its 95 % interval. p_value, p_holm: p before and after Holm's correction. verdict: BETTER,
    WORSE or NO_DIFFERENCE. Without a test low, high and both p are NaN.
    """

    task: str
    kind: str
    method: Name
    against: Name
    n: int
    n_against: int
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    verdict: str


# ---- numbers ------------------------------------------------------------------------------------


def compare(runs, tasks):
    """A list of the Comparisons on all tasks, in the order of `tasks`. runs: a table of runs."""
    return [
        comparison
        for task in tasks
        if (runs.task == task).any()
        for comparison in compare_task(runs[runs.task == task], task)
    ]


def compare_task(runs, task):
    """A list of the Comparisons on one task. runs: the table of its runs."""
    scores = scores_of(runs, task)
    pairs = pairs_to_compare(scores, best_rival(runs, task, scores))
    samples = {name: sample_of(values) for name, values in scores.items()}
    tests = [welch(samples[name], samples[against]) for _, name, against in pairs]
    corrected = holm([test.p_value for test in tests])
    found = []
    for (kind, name, against), test, p_holm in zip(pairs, tests, corrected, strict=True):
        verdict = NO_DIFFERENCE
        if p_holm < LEVEL:  # False of NaN
            verdict = BETTER if test.value > 0 else WORSE
        numbers = len(scores[name]), len(scores[against])
        found.append(Comparison(task, kind, name, against, *numbers, *test, p_holm, verdict))
    return found


def scores_of(runs, task, fewest=2):
    """A dict, Name -> Series of the scores of its runs in %, of students with enough runs.

    fewest: the smallest number of runs. The dict is sorted by rank, then by the name as text.
    """
    scores = 100 * task_score(runs, task)
    groups = {
        name: scores[group.index] for name, group in groups_of(runs) if name.method != "teacher"
    }
    return {
        name: groups[name]
        for name in sorted(groups, key=lambda name: (name.rank(), str(name)))
        if len(groups[name]) >= fewest
    }


def best_rival(runs, task, scores):
    """The Name of the rival with the highest mean score; None without rivals, or if the single run
    of another rival, which is not compared yet, is above that mean.

    Means are over the seeds that all rivals share, or over all runs of each rival if they share no
    seed. scores: what scores_of returns.
    """
    found = names_of_rivals(scores)
    seeds = {name: set(group.seed) for name, group in groups_of(runs)}
    common = set.intersection(*(seeds[name] for name in found)) if found else set()
    shared = scores_of(runs[runs.seed.isin(common)], task, 1) if common else scores
    best = max(found, key=lambda name: shared[name].mean(), default=None)
    all_scores = scores_of(runs, task, 1)
    single = [name for name in names_of_rivals(all_scores) if name not in scores]
    above = best and any(all_scores[name].mean() > shared[best].mean() for name in single)
    return None if above else best


def names_of_rivals(scores):
    """A list of the Names of the rivals in `scores`. One without runs of its published form is
    represented by its variants, for instance MiniLM with --relation_heads.
    """
    found = []
    for method in rivals():
        variants = [name for name in scores if name.method == method]
        published = Name(method)
        found += [published] if published in scores else variants
    return found


def pairs_to_compare(scores, best):
    """A list of (kind, Name, Name to compare it with) for all comparisons on one task.

    scores: what scores_of returns. best: the Name of the best rival, or None.
    """
    pairs = [(ALONE, Name("VKD"), Name("none"))]
    if best:
        pairs += [(RIVAL, form, best) for form in OURS]
    pairs += [(PART, Name(whole), Name(part)) for whole, part in PARTS]
    pairs += [(VARIANT, name, name.published_form()) for name in scores if name.variant]
    return [pair for pair in pairs if pair[1] in scores and pair[2] in scores]


def as_table(comparisons):
    """The Comparisons as a table for a CSV: one row each, with the methods' names as text."""
    rows = pd.DataFrame(comparisons, columns=Comparison._fields)
    return rows.assign(method=rows.method.map(str), against=rows.against.map(str))


# ---- words --------------------------------------------------------------------------------------


def as_text(comparisons, runs):
    """The Comparisons as Markdown: a table, one sentence per task, and the rule."""
    exceptions = [*sentences_of_single_runs(runs), *sentences_without_p(comparisons)]
    if not comparisons:
        none = "no task has single runs of two methods that the rule compares, two runs of each."
        return "\n\n".join([f"{TITLE}: {none}", *exceptions])
    shown = to_markdown(pd.DataFrame(map(line, comparisons)), padded=True)
    tasks = itertools.groupby(comparisons, key=lambda comparison: comparison.task)
    sentences = [f"- {sentence(list(group))}" for _, group in tasks]
    return "\n\n".join(
        [TITLE, shown, "\n".join(sentences), "\n".join([describe_rule(runs), *exceptions])]
    )


def describe_rule(runs):
    """The text below the table: what is compared, and how."""
    present = [method for method in rivals() if (runs.method == method).any()]
    return (
        "Score: the mean of the task's metrics, one number a run; difference and interval in "
        "points. Welch's t-test, two-sided; p (Holm) is corrected over all comparisons of the "
        f"task, and better or worse is only what has p < {LEVEL:g} after that. The 95 % intervals "
        "are Welch's, each for itself, uncorrected. The best rival is the one of "
        f"{', '.join(present)} that the task has with two runs or more, by the mean over the "
        "seeds that these share, or over all seeds of each if they share none; there is none while "
        "the single run of another one is above it."
    )


def line(comparison):
    """A Comparison as a row of the printed table, heading -> cell."""
    found = comparison
    rival = ", the best rival" if found.kind == RIVAL else ""
    interval = MISSING if math.isnan(found.low) else f"{found.low:+.2f} to {found.high:+.2f}"
    pair = f"{found.method.in_a_sentence()} against {found.against.in_a_sentence()}"
    return {
        "task": found.task,
        "comparison": f"{pair}{rival}",
        "runs": f"{found.n}/{found.n_against}",
        "difference": f"{found.difference:+.2f}",
        "95 % interval": interval,
        "p": p_text(found.p_value),
        "p (Holm)": p_text(found.p_holm),
        "verdict": found.verdict,
    }


def sentence(comparisons):
    """A sentence on one task: which methods are better, worse, or not shown to differ.

    The correction is mentioned once, with the first clause, and "the best rival" once, too.
    """
    count, clauses, rival_is_told = len(comparisons), [], False
    correction = f" after correction over {count} comparison{'s' * (count > 1)}"
    for verdict in (BETTER, WORSE):
        for found in [found for found in comparisons if found.verdict == verdict]:
            rival = ", the best rival," if found.kind == RIVAL and not rival_is_told else ""
            rival_is_told = rival_is_told or found.kind == RIVAL
            low, high = sorted((abs(found.low), abs(found.high)))  # of one sign, as p < 0.05
            p = p_text(found.p_holm)
            clauses.append(
                f"{found.method.in_a_sentence()} is {verdict} than "
                f"{found.against.in_a_sentence()}{rival} by "
                f"{abs(found.difference):.1f} points ({low:.1f} to {high:.1f}, "
                f"p {p if p.startswith('<') else f'= {p}'}{correction})"
            )
            correction = ""
    undecided = clauses_without_difference(comparisons, rival_is_told)
    if undecided:
        clauses.append(f"no difference is shown {', '.join(undecided)}{correction}")
    return f"{comparisons[0].task}: {'; '.join(clauses)}."


def clauses_without_difference(comparisons, rival_is_told):
    """Clauses of comparisons that show no difference, ["between VKD and any of ...", ...].

    Comparisons with the same method share a clause. rival_is_told: whether the sentence has named
    the best rival already.
    """
    groups = {}
    for found in comparisons:
        if found.verdict == NO_DIFFERENCE:
            groups.setdefault(found.against, []).append(found)
    clauses = []
    for against, group in groups.items():
        is_rival = any(found.kind == RIVAL for found in group)
        rival = ", the best rival," if is_rival and not rival_is_told else ""
        form = against.in_a_sentence()
        names = [
            found.method.in_a_sentence().replace(f"{form} with", "itself with") for found in group
        ]
        others = names[0] if len(names) == 1 else f"any of {', '.join(names[:-1])} or {names[-1]}"
        clauses.append(f"between {form}{rival} and {others}")
    return clauses


def sentences_of_single_runs(runs):
    """A list of one sentence on the methods left out for having a single run; [] without any."""
    found = []
    for task, group in runs.groupby("task", sort=False):
        single = [
            name.in_a_sentence()
            for name, scores in scores_of(group, task, 1).items()
            if len(scores) == 1
        ]
        if single:
            found.append(f"{task}: {', '.join(single)}")
    return [f"Left out, with a single run: {'; '.join(found)}."] if found else []


def sentences_without_p(comparisons):
    """A list of one sentence, which names the comparisons whose p is undefined; [] without any."""
    found = [
        f"{found.task}: {found.method.in_a_sentence()} against {found.against.in_a_sentence()}"
        for found in comparisons
        if math.isnan(found.p_value)
    ]
    if not found:
        return []
    return [f"No p, as no run differs from the others of its method: {'; '.join(found)}."]


def p_text(p):
    """A p as text with three significant digits, or as many as say on which side of LEVEL it is;
    "< 0.0001" below that; MISSING if it is NaN.
    """
    if math.isnan(p):
        return MISSING
    if p < 0.0001:
        return "< 0.0001"
    digits = (f"{p:.{number}g}" for number in range(3, 18))
    return next(text for text in digits if (float(text) < LEVEL) == (p < LEVEL))


# ---- command line -------------------------------------------------------------------------------


def read_comparable(sources, task, tuned):
    """A table of the runs of all sources, with the column variant.

    Raises a UserError if the runs of a task must not be compared. task: keep only its runs; None
    keeps all. tuned: columns that may differ between methods.
    """
    runs = name_variants(pd.concat(map(read_runs, sources), ignore_index=True))
    if task:
        runs = of_task(runs, task)
    if not len(runs):
        raise UserError(
            f"{' and '.join(sources)} has no run of {task}: name another task with --task"
        )
    for _, group in runs.groupby("task", sort=False):
        check_comparable(group, [BATCH] if BATCH in group else [], [*tuned, *variant_columns()])
        check_evaluated(group)
    return runs


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", type=common.expand_path, help="results.csv files or run folders.")
    add("--task", help="Only this task's runs.")
    add("--tuned", nargs="+", default=[], help="Flags tuned for each method.")
    add("--batch_size", type=int, default=32, help="Of several, the one that counts. Default 32.")
    args = parser.parse_args(argv)
    tuned = [f"--{flag.removeprefix('--')}" for flag in args.tuned]
    everything = read_comparable(args.sources, args.task, tuned)
    runs = of_one_batch_size(everything, args.batch_size)
    print(as_text(compare(runs, list(runs.task.unique())), runs))
    if told := tell_batch_size(everything, runs, args.batch_size):
        print(told)


if __name__ == "__main__":
    sys.exit(common.cli(main))
