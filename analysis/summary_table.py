"""The README's small table: a score per method and task beside the paper's, and the claims.

    python analysis/summary_table.py results/study_stsb.csv results/study_mrpc.csv \\
      --insert README.md

A method's score on a task is the mean of the task's metrics. Variants are left out; the tables of
analysis/tables.py have them. --insert puts the table between the file's lines <!-- table summary
--> and <!-- end summary -->. It is never wider than 120 columns.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import claims
from analysis.markdown import MISSING, insert, to_markdown
from analysis.means import published_scores
from analysis.origins import describe_seeds
from analysis.runs import groups_of, of_one_batch_size, task_score, tell_batch_size
from analysis.tables import read_sources
from analysis.tables_numbers import ALL_TASKS
from common import UserError

NAME = "summary"
WIDTH = 120  # columns of the table and of the lines below it


def read_scores(runs, task):
    """Name -> the Series of its runs' scores on a task, in %; published forms and the teacher."""
    runs = runs[runs.task == task]
    scores = 100 * task_score(runs, task)
    return {name: scores[group.index] for name, group in groups_of(runs) if not name.variant}


def show_scores(scores, usual):
    """The text of a cell: mean ± standard deviation, and the number of runs if it is not `usual`.

    scores: a Series in %, None without runs.
    """
    if scores is None:
        return MISSING
    if len(scores) == 1:
        return f"{scores.iloc[0]:.1f}"
    number = "" if len(scores) == usual else f" (n {len(scores)})"
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}{number}"


def summarize(runs):
    """The table to print: a row per method, two columns per task (ours, the paper's)."""
    found = {task: read_scores(runs, task) for task in ALL_TASKS if (runs.task == task).any()}
    names = sorted(
        {name for scores in found.values() for name in scores}, key=lambda name: name.rank()
    )
    rows, published = [{"method": str(name)} for name in names], published_scores()
    for task, scores in found.items():
        paper = published[published.task == task].groupby("method")["mean"].mean()
        of_task = runs[runs.task == task]
        best = claims.best_rival(of_task, task, claims.scores_of(of_task, task))
        usual = pd.Series([len(group) for group in scores.values()]).mode()[0]
        for name, row in zip(names, rows, strict=True):
            cell = show_scores(scores.get(name), usual)
            row[task] = f"{cell} *" if name == best else cell
            known = name.method in paper
            row[f"{task}, paper"] = f"{paper[name.method]:.1f}" if known else MISSING
    return pd.DataFrame(rows)


def describe_claims(comparisons):
    """In one sentence: how many comparisons the rule made, and which of them show a difference."""
    shown = [
        f"{found.method.in_a_sentence()} is {found.verdict} than {found.against.in_a_sentence()} "
        f"on {found.task}"
        for found in comparisons
        if found.verdict != claims.NO_DIFFERENCE
    ]
    count = len(shown)
    which = f"{count} show{'s' * (count == 1)} a difference" if count else "none shows a difference"
    return (
        f"Of {len(comparisons)} comparisons that a rule prescribes, {which} at "
        f"p < {claims.LEVEL:g} after Holm's correction{': ' * bool(count)}{'; '.join(shown)}."
    )


def seeds_of_tasks(runs):
    """The seeds in words: of all tasks, or, where tasks differ, of each one."""
    ours = runs[[not variant for variant in runs.variant]]
    tasks = [task for task in ALL_TASKS if (ours.task == task).any()]
    told = {task: describe_seeds(ours[ours.task == task]) for task in tasks}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{words} on {task}" for task, words in told.items())


def make_text(everything, sources, size=32):
    """The table as Markdown and, below it, a note on what its numbers are and on the claims.

    everything: a table of runs. size: of several batch sizes of a task, the one that counts.
    """
    runs = of_one_batch_size(everything, size)
    left_out = tell_batch_size(everything, runs, size)
    notes = (
        "Dev set, mean of the task's metrics in %, mean ± standard deviation over seeds "
        f"{seeds_of_tasks(runs)}; without ± it is one run; * is the best rival. Paper: BERT-base "
        f"to 6 layers; its FSD is beside FSD_ILG. {left_out}{' ' * bool(left_out)}"
        f"{describe_claims(claims.compare(runs, ALL_TASKS))} "
        f"Made from {' and '.join(Path(source).name for source in sources)}."
    )
    return f"{to_markdown(summarize(runs), padded=True)}\n\n{textwrap.fill(notes, WIDTH)}"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", type=common.expand_path, help="results.csv files or run folders.")
    add("--insert", type=common.expand_path_or_none, help="Put the table into this Markdown file.")
    args = parser.parse_args(argv)
    runs, _ = read_sources(args.sources, [], [])
    if not len(runs):
        has = "have" if args.sources[1:] else "has"
        raise UserError(
            f"{' and '.join(args.sources)} {has} only means of runs: give single runs, as "
            "--results_csv writes them"
        )
    text = make_text(runs, args.sources)
    if args.insert:
        insert(args.insert, {NAME: text})
    print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
