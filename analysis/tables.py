"""Runs -> the paper's Tables 2 to 5, each number beside the published one, as Markdown, CSV and a
figure.

    python analysis/tables.py RUNS_DIR               # or results.csv, or several of both
    python analysis/tables.py results/*.csv --tuned learning_rate --csv tables.csv --figure t.svg
    python analysis/tables.py analysis/published.csv # a file of means instead of single runs

Tables 2 and 3 have scores, with Welch's t-test of FSD, Gram and Procrustes against the best
baseline, and of each variant against the published form of its method. Table 4 is the ablation,
Table 5 the spread over seeds and batch sizes. The claims say which differences between methods a
rule confirms, corrected for the number of tests (analysis/claims.py).

A file of means has the columns method, task, metric, mean, std (both in %) and n. --insert puts
each table into a file, between its lines <!-- table 2 --> and <!-- end 2 -->, and the claims
between <!-- claims --> and <!-- end claims -->. The runs of one task may differ only in seed and in
method, with the method's own options; the flags that --tuned names may also differ between methods,
not within one.

The published numbers are those of analysis/published.csv: BERT-base to 6 layers, dev sets, six
runs. The paper's FSD is FSD_ILG here.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import claims
from analysis.comparable import check_comparable, variant_columns
from analysis.figures_scores import draw_scores
from analysis.markdown import insert, read_document, start_marker, to_markdown
from analysis.means import (
    PUBLISHED,
    SUMMARY,
    is_file_of_means,
    published_averages,
    published_scores,
    read_means,
)
from analysis.runs import (
    BATCH,
    check_evaluated,
    name_variants,
    names_of,
    of_one_batch_size,
    read_runs,
    tell_batch_size,
    with_names,
)
from analysis.tables_numbers import ALL_TASKS, LONG, TASKS, statistics
from analysis.tables_text import (
    TITLES,
    ablation_text,
    describe_absent,
    describe_origin,
    scores_text,
    stability_text,
)
from common import UserError
from tasks.glue import get_task

# ---- reading -------------------------------------------------------------------------------------


def read_sources(sources, tasks, tuned):
    """Two tables from all sources: single runs with their variants, and rows of files of means.

    tasks: the only tasks to keep, [] for all. tuned: the columns of the flags that --tuned names.
    Refuses runs that may not stand in one table.
    """
    runs = [pd.DataFrame(columns=["method", "task", "seed"])]
    means = [pd.DataFrame(columns=[*SUMMARY, "variant"])]
    for source in sources:
        if is_file_of_means(source):
            means.append(read_means(source))
        else:
            runs.append(read_runs(source))
    runs, means = (pd.concat(parts[1:] or parts, ignore_index=True) for parts in (runs, means))
    if tasks:
        names = [get_task(task).name for task in tasks]
        runs, means = runs[runs.task.isin(names)], means[means.task.isin(names)]
    strange = [task for task in runs.task.unique() if task not in ALL_TASKS]
    if strange:
        raise UserError(
            f"the paper's tables are of GLUE's tasks, and {strange[0]} is none of them: leave its "
            "runs out, or use analysis/table.py and analysis/claims.py, which take any task"
        )
    if not len(runs) + len(means):
        raise UserError(
            f"{', '.join(sources)} has no run of {' or '.join(tasks) or 'any task'}: name other "
            "sources, or another --task"
        )
    runs = name_variants(runs)
    unknown = [flag for flag in tuned if flag not in runs]
    if unknown:
        raise UserError(
            f"--tuned {unknown[0].removeprefix('--')} is no flag that these runs record: name one "
            "that they were given"
        )
    for _, group in runs.groupby("task", sort=False):
        sizes = [BATCH] if BATCH in group else []
        check_comparable(group, sizes, [*tuned, *variant_columns()])
        check_evaluated(group)
    return runs, means


def check_once(runs, means):
    """Refuse a method with two numbers for one task, from runs and means or from two files."""
    numbers = pd.concat([statistics(runs), means])
    twice = numbers[numbers.duplicated(["method", "variant", "task", "metric"])]
    if len(twice):
        raise UserError(
            f"{names_of(twice)[0]} on {twice.task.iloc[0]} is there twice: give its numbers from "
            "one source alone"
        )


# ---- tables --------------------------------------------------------------------------------------


def make_table(table, all_runs, runs, given, published, args):
    """One of Tables 2 to 5: its rows, a DataFrame with LONG and variant, and its Markdown.

    all_runs: the runs of every batch size. runs: the same, but of a task with several batch sizes
    only those of --batch_size. given: the rows of files of means. published: the paper's scores.
    """
    title, none = f"**{TITLES[table]}**", pd.DataFrame(columns=[*LONG, "variant"])
    means = pd.concat([part for part in (statistics(runs), given) if len(part)])
    if table == "5":
        tasks = tasks_with_batch_sizes(all_runs)
        if not tasks:
            return none, f"{title}: no task has runs of several batch sizes."
        chosen, given = all_runs[all_runs.task.isin(tasks)], given.iloc[:0]
        rows, shown, notes = stability_text(chosen, published)
    elif table == "4":
        rows, shown, notes = ablation_text(means)
        tasks, parts = set(rows.task), list(published_averages(4, "change"))
        if not tasks:
            return (
                rows,
                f"{title}: no task has both FSD_ILG and an ablation of it ({', '.join(parts)}).",
            )
        forms = map(published_forms, (runs, given))
        chosen, given = (form[form.method.isin(["FSD_ILG", *parts])] for form in forms)
    else:
        tasks, chosen = TASKS[table], runs
        absent = describe_absent(means, tasks)
        if not set(tasks) & set(means.task):
            return none, f"{title}: {absent}"
        beside = PUBLISHED not in [Path(source).resolve() for source in args.sources]
        rows, shown, notes = scores_text(table, means, published, beside)
        notes += [absent] if absent else []
    if table != "5" and all_runs.task.isin(tasks).sum() > runs.task.isin(tasks).sum():
        notes.append(f"Of runs with several batch sizes, those of {args.batch_size} count here.")
    notes += describe_origin(chosen, given, tasks, args.tuned)
    return rows, "\n\n".join([title, to_markdown(shown, padded=True), "\n".join(notes)])


def tasks_with_batch_sizes(runs):
    """The tasks whose students were run with several batch sizes, in the paper's order."""
    if BATCH not in runs:
        return []
    sizes = runs[runs.method != "teacher"].groupby("task")[BATCH].nunique()
    return [task for task in ALL_TASKS if sizes.get(task, 0) > 1]


def published_forms(rows):
    """The rows of published forms alone, without those of variants."""
    return rows.loc[[not name.variant for name in names_of(rows)]]


def claims_text(comparisons, all_runs, runs, batch_size):
    """The claims as Markdown, with a line that names the batch size if runs of others are left out.

    all_runs: the runs of every batch size. runs: those that the claims are about.
    """
    told = tell_batch_size(all_runs, runs, batch_size)
    return claims.as_text(comparisons, runs) + (f"\n{told}" if told else "")


# ---- command line --------------------------------------------------------------------------------


def insert_where_marked(path, texts):
    """Put the tables into a file, each between its markers; tables without markers are left out.

    texts: name of a table -> its Markdown. Refuses a file with the markers of none.
    """
    content = read_document(path)
    names = [name for name in texts if start_marker(name) in content]
    if not names:
        raise UserError(
            f"{path} has no line {' or '.join(map(start_marker, texts))}, below which a table "
            "goes: add one and its end line, as in <!-- table 2 --> and <!-- end 2 -->"
        )
    insert(path, {name: texts[name] for name in names})


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=common.expand_path,
        help="Folders of runs, results.csv files, files of means; they are joined.",
    )
    names = [*TITLES, "claims"]
    add("--tables", nargs="+", choices=names, default=names, help="Only these tables.")
    add("--task", nargs="+", default=[], help="Only these tasks.")
    add(
        "--csv",
        type=common.expand_path_or_none,
        help="Write all tables to this file, a row a number.",
    )
    add(
        "--claims_csv",
        type=common.expand_path_or_none,
        help="Write the claims to this file, a row a comparison.",
    )
    add("--markdown", type=common.expand_path_or_none, help="Write the tables to this file.")
    add("--insert", type=common.expand_path_or_none, help="Put the tables into this Markdown file.")
    add(
        "--figure",
        type=common.expand_path_or_none,
        help="Draw the scores into this .png, .svg or .pdf.",
    )
    add(
        "--tuned",
        nargs="+",
        default=[],
        help="Flags tuned for each method, which may differ between methods.",
    )
    add(
        "--batch_size",
        type=int,
        default=32,
        help="Of runs with several batch sizes, Tables 2 to 4 and the figure "
        "take those of this one. Default 32.",
    )
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    args.tuned = [f"--{flag.removeprefix('--')}" for flag in args.tuned]
    all_runs, given = read_sources(args.sources, args.task, args.tuned)
    runs, published = of_one_batch_size(all_runs, args.batch_size), published_scores()
    check_once(runs, given)
    tables = {
        name: make_table(name, all_runs, runs, given, published, args)
        for name in args.tables
        if name in TITLES
    }
    texts = {name: text for name, (_, text) in tables.items()}
    if "claims" in args.tables or args.claims_csv:
        compared = claims.compare(runs, ALL_TASKS)
    if "claims" in args.tables:
        texts["claims"] = claims_text(compared, all_runs, runs, args.batch_size)
    if args.claims_csv:
        with common.atomic_path(args.claims_csv) as path:
            claims.as_table(compared).to_csv(path, index=False)
    if args.csv:
        write_numbers(args.csv, [rows for rows, _ in tables.values()])
    if args.markdown:
        with common.atomic_path(args.markdown) as path:
            path.write_text("\n\n".join(texts.values()) + "\n", encoding="utf-8")
    if args.insert:
        insert_where_marked(args.insert, texts)
    if args.figure:
        draw_scores(runs, args.figure, list(ALL_TASKS))
    print("\n\n".join(texts.values()))


def write_numbers(path, tables):
    """Write the rows of all tables into one CSV, methods by their printed names."""
    rows = pd.concat([with_names(rows) for rows in tables] or [pd.DataFrame(columns=LONG)])
    with common.atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)


if __name__ == "__main__":
    sys.exit(common.cli(main))
