"""The README's small table: one score a method and task, beside the paper's, and what is shown.

    python analysis/summary_table.py results/study_stsb.csv results/study_mrpc.csv --insert README.md

A method's score on a task is the mean of the task's metrics. Variants are left out; all of them are
in the tables of analysis/tables.py. --insert puts the table between the file's lines
<!-- table summary --> and <!-- end summary -->. It is never wider than 120 columns.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import claims, table, tables
from common import UserError

NAME = "summary"
WIDTH = 120  # columns of the table and of the lines below it


def read_scores(runs, task):
    """Method -> its runs' scores on a task in %; published forms only, with the teacher."""
    scores = 100 * table.score(runs[runs.task == task], task)
    return {
        method: scores[runs.method == method]
        for method in runs.method[runs.task == task].unique()
        if ", " not in method
    }


def show_scores(scores, usual):
    """One cell: mean ± standard deviation, and the number of runs where it is not the usual one."""
    if scores is None:
        return claims.MISSING
    if len(scores) == 1:
        return f"{scores.iloc[0]:.1f}"
    number = "" if len(scores) == usual else f" (n {len(scores)})"
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}{number}"


def published_scores(task):
    """Method -> the paper's score on a task in %: the mean over its metrics."""
    means = tables.read_means(tables.PUBLISHED)
    return means[means.task == task].groupby("method")["mean"].mean()


def summarize(runs):
    """The table of single runs: a row a method, two columns a task (ours, the paper's)."""
    found = {task: read_scores(runs, task) for task in tables.ALL if (runs.task == task).any()}
    methods = sorted({method for scores in found.values() for method in scores}, key=table.rank)
    rows = [{"method": method} for method in methods]
    for task, scores in found.items():
        paper = published_scores(task)
        of_task = runs[runs.task == task]
        best = claims.best_rival(of_task, task, claims.scores_of(of_task, task))
        usual = pd.Series([len(group) for group in scores.values()]).mode()[0]
        for row in rows:
            method = row["method"]
            cell = show_scores(scores.get(method), usual)
            row[task] = f"{cell} *" if method == best else cell
            row[f"{task}, paper"] = f"{paper[method]:.1f}" if method in paper else claims.MISSING
    return pd.DataFrame(rows)


def describe_claims(rows):
    """In one sentence: how many comparisons the rule made, and which of them show a difference."""
    shown = [
        f"{claims.named(row.method)} is {row.verdict} than {claims.named(row.against)} on {row.task}"
        for row in rows.itertuples()
        if row.verdict != claims.NO_DIFFERENCE
    ]
    count = len(shown)
    which = f"{count} show{'s' * (count == 1)} a difference" if count else "none shows a difference"
    return (
        f"Of {len(rows)} comparisons that a rule prescribes, {which} at p < {claims.LEVEL:g} after "
        f"Holm's correction{': ' * bool(count)}{'; '.join(shown)}."
    )


def make_text(runs, sources):
    """The table and, below it, what its numbers are and what may be said of them."""
    ours = runs[~runs.method.str.contains(", ", regex=False)]
    notes = (
        "Dev set, mean of the task's metrics in %, mean ± standard deviation over seeds "
        f"{table.seeds(ours)}; without ± it is one run; * is the best rival. Paper: BERT-base to 6 "
        f"layers; its FSD is beside FSD_ILG. {describe_claims(claims.compare(runs, tables.ALL))} "
        f"Made from {' and '.join(Path(source).name for source in sources)}."
    )
    return f"{table.markdown(summarize(runs), padded=True)}\n\n{textwrap.fill(notes, WIDTH)}"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", type=common.expand_path, help="results.csv files or run folders.")
    add("--insert", type=common.expand_path_or_none, help="Put the table into this Markdown file.")
    args = parser.parse_args(argv)
    runs, _ = tables.read_sources(args.sources, [], [])
    if not len(runs):
        raise UserError(
            f"{' and '.join(args.sources)} has means alone: give single runs, as --results_csv "
            "writes them"
        )
    text = make_text(tables.of_one_batch_size(runs, 32), args.sources)
    if args.insert:
        table.insert(args.insert, {NAME: text})
    print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
