"""Runs -> the paper's Tables 2 to 5, each number beside the published one, as Markdown, CSV and a
figure.

    python analysis/tables.py RUNS_DIR                          # or results.csv, or several of both
    python analysis/tables.py results/*.csv --tuned learning_rate --csv tables.csv --figure tables.svg
    python analysis/tables.py analysis/published.csv            # a file of means instead of single runs

Tables 2 and 3: scores, with Welch's t-test against the best baseline, and of variants against their
published form; 4: ablation; 5: spread over seeds and batch sizes; claims: what may be said of the
methods, by a rule and with a correction for the number of tests (analysis/claims.py). A file of
means has the columns method, task, metric, mean, std (both in %) and n. --insert puts each table
into a file, between its lines <!-- table 2 --> and <!-- end 2 -->, and the claims between <!--
claims --> and <!-- end claims -->. Runs of one task may differ in nothing but method, with options
of its own, and seed; what --tuned names may differ between methods, not within one.

The published numbers (analysis/published.csv, ABLATIONS) are those of Jung, Kim, Na and Kim,
"Feature structure distillation with Centered Kernel Alignment in BERT transferring", Expert Systems
with Applications 234 (2023) 120980, arXiv 2204.08922: BERT-base to 6 layers, dev sets, six runs.
Its FSD is FSD_ILG here.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import claims, scores, table
from common import UserError
from glue_data.tasks import get_task
from training import results_csv

PUBLISHED = Path(__file__).resolve().with_name("published.csv")
OURS = {"teacher, BERT-base": "teacher", "FSD": "FSD_ILG"}  # the paper's names -> ours
PAPERS_METHODS = ("teacher", "VKD", "PKD", "RKD", "MiniLM", "FSD_ILG")
TASKS = {  # table -> task -> metrics, all in the paper's order
    "2": {
        "WNLI": ["acc"],
        "RTE": ["acc"],
        "STS-B": ["pearson", "spearmanr"],
        "CoLA": ["mcc"],
        "MRPC": ["f1", "acc"],
    },
    "3": {"SST-2": ["acc"], "QNLI": ["acc"], "QQP": ["acc", "f1"], "MNLI": ["acc", "acc_mm"]},
}
ALL = TASKS["2"] | TASKS["3"]
TITLES = {
    "2": "Table 2, small tasks, %",
    "3": "Table 3, large tasks, %",
    "4": "Table 4, change from FSD_ILG, %",
    "5": "Table 5, standard deviation over seeds and batch sizes, %",
}
WORDS = {
    "acc": "acc",
    "f1": "F1",
    "mcc": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "acc_mm": "acc-mm",
}
ABLATIONS = {
    "FSD_I": ("without LG", -0.78),
    "FSD_L": ("without IG", -0.90),
    "FSD_G": ("without IL", -0.86),
    "FSD_IL": ("without G", -0.48),
}  # the paper's change from FSD, average over tasks, %
SUMMARY = ["method", "task", "metric", "mean", "std", "n"]
LONG = [
    "table",
    "task",
    "metric",
    "method",
    "mean",
    "std",
    "n",
    "published_mean",
    "published_std",
    "p_value",
    "against",
    "p_form",
]
BATCH = "--per_gpu_train_batch_size"
VARIANTS = {
    "--cka_estimator": "biased",
    "--mask_padding": "False",
    "--group_by_length": "False",
    "--intra_reduction": "mean_log",
    "--do_layerwise": "False",
    "--student_memory_learning_rate": "",
    "--between": "samples",
    "--relation_heads": "",
    "--sample_features": "flat",
    "memory_init": "kmeans++",
    "--student_memory_init": "matched",
    "--student_layers": "",
}  # flag -> default
USED_BY = {
    "--cka_estimator": "FSD",
    "--intra_reduction": "FSD",  # idle where FSD's scripts run VKD
    "--student_memory_init": "FSD.*G",  # and that where they run without G
    "--group_by_length": "(?!teacher)",
}  # a teacher has no variants
WEIGHTS = [
    f"--{name}"
    for name in (
        "alpha",
        "temperature",
        "beta",
        "gamma_i",
        "gamma_l",
        "gamma_g",
        "gamma_m",
        "gamma_d",
        "gamma_a",
    )
]
MISSING = "–"


# ---- reading -------------------------------------------------------------------------------------


def read_sources(sources, tasks, tuned):
    """Single runs, and the rows of files of means, from all sources; both only of `tasks`, where
    any are named.
    """
    runs, means = (
        [pd.DataFrame(columns=["method", "task", "seed"])],
        [pd.DataFrame(columns=SUMMARY)],
    )
    for source in sources:
        found = read_means(source)
        (runs if found is None else means).append(
            table.read_runs(source) if found is None else found
        )
    runs, means = (pd.concat(parts[1:] or parts, ignore_index=True) for parts in (runs, means))
    if tasks:
        names = [get_task(task).name for task in tasks]
        runs, means = runs[runs.task.isin(names)], means[means.task.isin(names)]
    if not len(runs) + len(means):
        raise UserError(
            f"{', '.join(sources)} has no run of {' or '.join(tasks) or 'any task'}: name another"
        )
    runs = name_variants(runs)
    unknown = [flag for flag in tuned if flag not in runs]
    if unknown:
        raise UserError(
            f"--tuned {unknown[0].removeprefix('--')} is no setting of these runs: name a flag of "
            "theirs"
        )
    for _, group in runs.groupby("task", sort=False):
        table.check_comparable(
            group, [BATCH] if BATCH in group else [], [*tuned, "--student_layers"]
        )  # which name_variants has put into the names
        table.check_evaluated(group)
    return runs, means


def read_means(path):
    """The rows of a file of means, in our names of methods and tasks; None where the file is none."""
    if not Path(path).is_file() or not set(SUMMARY) <= set(results_csv.header_of(path)):
        return None
    means, lines = results_csv.read_table(
        path, SUMMARY, SUMMARY[:3], SUMMARY[3:], "no file of means"
    )
    for line, metric, task in zip(lines, means.metric, means.task, strict=True):
        if metric not in table.metric_names(task):
            raise UserError(
                f"{path}, line {line} has the metric {metric}, not one of {task}'s: "
                f"{', '.join(table.metric_names(task))}"
            )
    return means[SUMMARY].assign(
        method=means.method.replace(OURS), task=[get_task(task).name for task in means.task]
    )


def name_variants(runs):
    """The runs, with the options that make another method of one in its name: "FSD_L, debiased"."""

    def words(flag, value):
        name = flag.removeprefix("--")
        number = value if isinstance(value, (str, bool)) else f"{value:g}"
        return (
            name
            if str(value) == "True"
            else value
            if flag == "--cka_estimator"
            else f"{name} {number}"
        )

    def name(row):
        flags = [
            flag for flag in VARIANTS if flag in row and re.match(USED_BY.get(flag, ""), row.method)
        ]
        return ", ".join(
            [
                row.method,
                *(
                    words(flag, row[flag])
                    for flag in flags
                    if pd.notna(row[flag]) and str(row[flag]) not in (VARIANTS[flag], "False", "")
                ),
            ]
        )

    return tell_weights(runs.assign(method=[name(row) for _, row in runs.iterrows()]))


def tell_weights(runs):
    """The runs, with the weights in which those of one variant differ in its name: "FSD_G, ...,
    beta 1e-06".
    """
    method = runs.method.copy()
    for (_, variant), group in runs.groupby(["task", "method"]):
        differ = [
            flag for flag in WEIGHTS if flag in group and group[flag].nunique(dropna=False) > 1
        ]
        if ", " in variant:
            method[group.index] = [
                ", ".join(
                    [variant, *(f"{flag.removeprefix('--')} {row[flag]:g}" for flag in differ)]
                )
                for _, row in group.iterrows()
            ]
    return runs.assign(method=method)


def of_one_batch_size(runs, size):
    """The runs with this batch size, of tasks that were run with several; the others' runs all."""
    kept = [runs.iloc[:0]]
    for (task, _), group in runs.groupby([runs.task, runs.method == "teacher"], sort=False):
        sizes = sorted(group[BATCH].unique()) if BATCH in group else []
        if len(sizes) > 1 and size not in sizes:
            raise UserError(
                f"the {task} runs have batches of {', '.join(map(str, sizes))}, none of {size}: "
                "name one with --batch_size"
            )
        kept.append(group[group[BATCH] == size] if len(sizes) > 1 else group)
    return pd.concat(kept).sort_index()


# ---- numbers -------------------------------------------------------------------------------------


def statistics(runs):
    """Mean and standard deviation (%) and n: one row a method, task and metric, as a file of means
    has them.
    """
    rows = []
    for (method, task), group in runs.groupby(["method", "task"], sort=False):
        for metric in table.metric_names(task):
            values = 100 * group[metric]
            rows.append((method, task, metric, values.mean(), values.std(ddof=1), len(values)))
    return pd.DataFrame(rows, columns=SUMMARY)


def long_form(name, means, tasks, published, methods=()):
    """A table as rows of LONG, a row a task, metric and method; `methods` are there even where no
    run is.
    """
    means = means[means.task.isin(tasks)]
    methods = sorted(dict.fromkeys([*methods, *means.method]), key=table.rank)
    rows = pd.DataFrame(
        [
            (name, task, metric, method)
            for task, metrics in tasks.items()
            if task in set(means.task)
            for metric in metrics
            for method in methods
        ],
        columns=LONG[:4],
    )
    published = published.rename(columns={"mean": "published_mean", "std": "published_std"}).drop(
        columns="n"
    )
    rows = (
        rows.merge(means, "left")
        .merge(published, "left")
        .assign(p_value=math.nan, against=None, p_form=math.nan)
    )
    return rows.assign(n=rows.n.fillna(0).astype(int))[LONG]


def welch(row, baseline):
    """p of Welch's t-test between two rows of means; NaN where one has a single run or neither any
    spread.
    """
    if not (min(row.n, baseline.n) > 1 and row["std"] + baseline["std"] > 1e-9):
        return math.nan
    from scipy.stats import ttest_ind_from_stats  # here, as it imports for a second

    return ttest_ind_from_stats(
        row["mean"],
        row["std"],
        row.n,
        baseline["mean"],
        baseline["std"],
        baseline.n,
        equal_var=False,
    ).pvalue


def add_tests(rows):
    """Fill p_value and against: FSD, Gram and Procrustes, each against the best baseline of its
    task and metric.
    """
    for _, column in rows.dropna(subset="mean").groupby(["task", "metric"], sort=False):
        baselines = column[~column.method.str.match("teacher|none|FSD")]
        for i, row in (
            column[column.method.str.match("FSD|Gram|Procrustes")].iterrows()
            if len(baselines)
            else ()
        ):
            best = baselines.loc[baselines["mean"].idxmax()]
            if row.method != best.method:
                rows.loc[i, ["p_value", "against"]] = welch(row, best), best.method
    return rows


def add_tests_of_variants(rows):
    """Fill p_form: each variant, as "FSD_I, mask_padding", against the published form of its
    method, FSD_I.
    """
    found = {
        (row.method, row.task, row.metric): row for _, row in rows.dropna(subset="mean").iterrows()
    }
    for i, row in rows[rows.method.str.contains(", ")].dropna(subset="mean").iterrows():
        form = found.get((row.method.split(", ")[0], row.task, row.metric))
        rows.loc[i, "p_form"] = math.nan if form is None else welch(row, form)
    return rows


def ablation(means):
    """Table 4 as rows of LONG: the change of a task's score from FSD_ILG's, and the average over
    the tasks, in %.
    """
    scores, rows = {}, []
    for key, group in means.groupby(["method", "task"], sort=False):
        metrics = dict(zip(group.metric, group["mean"], strict=True))
        if metrics.keys() >= set(table.metric_names(key[1])):
            scores[key] = table.score(metrics, key[1]), group.n.min()
    for method, (_, published) in ABLATIONS.items():
        tasks = [
            task
            for task in ALL
            if (method, task) in scores and scores.get(("FSD_ILG", task), [0])[0] > 0
        ]
        changes = [
            100 * (scores[method, task][0] / scores["FSD_ILG", task][0] - 1) for task in tasks
        ]
        rows += [
            ("4", task, "change", method, change, math.nan, scores[method, task][1])
            for task, change in zip(tasks, changes, strict=True)
        ]
        if tasks:
            rows.append(
                ("4", "average", "change", method, sum(changes) / len(tasks), published, len(tasks))
            )
    columns = ["table", "task", "metric", "method", "mean", "published_mean", "n"]
    return pd.DataFrame(rows, columns=columns).reindex(columns=LONG)


# ---- text ----------------------------------------------------------------------------------------


def number(mean, std):
    spread = f" ± {std:.2f}" if pd.notna(std) else ""
    return MISSING if pd.isna(mean) else f"{mean:.2f}{spread}"


def grid(rows, texts, best, published):
    """Rows of LONG as a table to read: a row a method, a column a task, its metrics beside each
    other.

    texts: the rows' numbers as text. best: the index of those in bold. published: True with columns
    of those.
    """
    texts = [
        (f"**{text}**" if i in best else text) + ("‡" if p < 0.01 else "†" if p < 0.05 else "")
        for i, text, p in zip(rows.index, texts, rows.p_value, strict=True)
    ]
    rows = rows.assign(text=texts, paper=list(map(number, rows.published_mean, rows.published_std)))
    usual, columns = usual_n(rows), {}
    for task, column in rows.groupby("task", sort=False):
        names, groups = (
            "/".join(WORDS[m] for m in column.metric.unique()),
            column.groupby("method", sort=False),
        )
        columns[f"{task} ({names})"] = groups.text.agg(joined) + groups.n.max().map(
            lambda n: f" (n {n})" if n not in (0, usual) else ""
        )
        columns |= {f"{task}, paper": groups.paper.agg(joined)} if published else {}
    return pd.DataFrame(columns).reset_index(names="method")


def joined(numbers):
    """The metrics of a cell beside each other; one sign where all are missing."""
    return MISSING if set(numbers) == {MISSING} else "/".join(numbers)


def usual_n(rows):
    return rows.n[rows.n > 0].mode().max()


def scores_text(name, means, published, beside):
    """Table 2 or 3: its rows, its grid and what is to be said of it; beside: with the published
    numbers in it.
    """
    rows = add_tests_of_variants(
        add_tests(long_form(name, means, TASKS[name], published, PAPERS_METHODS))
    )
    students = rows[rows.method != "teacher"].dropna(subset="mean")
    best = students.groupby(["task", "metric"])["mean"].idxmax()
    notes = [
        f"Dev set, mean ± standard deviation, n = {usual_n(rows)} unless the cell says otherwise; "
        f"{MISSING} is missing; the best student is bold."
    ]
    if beside:
        notes.append(
            "Paper: BERT-base to 6 layers, six runs (teacher: one); its FSD is beside FSD_ILG."
        )
    tests = rows.dropna(subset="p_value")
    if len(tests):
        against = tests.groupby(["task", "metric"], sort=False).against.first()
        against = "; ".join(
            f"{task}, {WORDS[metric]}: {method}" for (task, metric), method in against.items()
        )
        notes.append(
            "† p < 0.05, ‡ p < 0.01: differs from the best baseline, Welch's t-test, two-sided, "
            f"{len(tests)} tests without a correction for their number: claims follow the "
            f"corrected table alone. Tested against: {against}."
        )
    variants = [
        f"{method}, {task}: "
        + ", ".join(f"{WORDS[row.metric]} {row.p_form:.3f}" for row in group.itertuples())
        for (method, task), group in rows.dropna(subset="p_form").groupby(
            ["method", "task"], sort=False
        )
    ]
    if variants:
        notes.append(
            "Variants against the published form of their method, uncorrected p of the same test: "
            f"{'; '.join(variants)}."
        )
    return rows, grid(rows, map(number, rows["mean"], rows["std"]), set(best), beside), notes


def ablation_text(means):
    """Table 4: its rows, its grid and what is to be said of it."""
    rows = ablation(means)
    found = {(row.method, row.task): row for row in rows.itertuples()}
    tasks = [task for task in ALL if task in set(rows.task)]

    def line(method, name, published):
        cells = [
            f"{found[method, task].mean:+.2f}" if (method, task) in found else MISSING
            for task in (*tasks, "average")
        ]
        count = found[method, "average"].n if (method, "average") in found else 0
        return [f"{name} ({method})", *cells, count, f"{published:+.2f}"]

    lines = [line(method, *facts) for method, facts in ABLATIONS.items()]
    shown = pd.DataFrame(lines, columns=["method", *tasks, "average", "tasks", "average, paper"])
    return (
        rows,
        shown,
        [
            "Relative change of the score (the mean of a task's metrics) from that of FSD_ILG, "
            "averaged over the tasks that have both; the paper's average is over its nine tasks."
        ],
    )


def stability_text(runs, published):
    """Table 5: its rows, its grid and what is to be said of it; runs: those of tasks with several
    batch sizes.

    Methods that were not run with all of a task's batch sizes are left out: fewer runs spread less.
    """
    students = runs[runs.method != "teacher"]
    sizes = students.groupby(["task", "method"])[BATCH].transform("nunique")
    students = students[sizes == students.groupby("task")[BATCH].transform("nunique")]
    rows = long_form("5", statistics(students), ALL, published.iloc[:0])
    steadiest = set(rows.dropna(subset="std").groupby(["task", "metric"])["std"].idxmin())
    sizes = ", ".join(f"{size:g}" for size in sorted(students[BATCH].unique()))
    texts = [MISSING if pd.isna(std) else f"{std:.2f}" for std in rows["std"]]
    return (
        rows,
        grid(rows, texts, steadiest, False),
        [
            f"Standard deviation over all runs of a method, batch sizes {sizes}, n = "
            f"{usual_n(rows)} unless the cell says otherwise; the smallest is bold; methods that "
            "lack a batch size are left out. Paper: 6 seeds, batch sizes 8, 16, 32."
        ],
    )


def weights(runs):
    """The weights of each method's runs of one task in words, "PKD alpha 0.5, beta 100; RKD ..."."""
    words = {}
    for method, group in sorted(
        runs.groupby("method", sort=False), key=lambda item: table.rank(item[0])
    ):
        first = group.iloc[0]
        own = [
            f"{flag.removeprefix('--')} {first[flag]:g}"
            for flag in WEIGHTS
            if pd.notna(first.get(flag))
        ]
        words |= {method: f"{method} {', '.join(own)}"} if own else {}
    return "; ".join(words.values())


def origin(runs, means, tasks, tuned):
    """Where the numbers of a table come from: seeds and budget a task, tasks with the same ones
    together.
    """
    runs, budgets = runs[runs.task.isin(tasks)], {}
    for task, group in runs.groupby("task", sort=False):
        budgets.setdefault(
            f"seeds {table.seeds(group)}; students: {table.budget(group)}", []
        ).append(task)
    notes = [f"{', '.join(names)}: {words}." for words, names in budgets.items()]
    for task, group in runs.groupby("task", sort=False):
        notes += [f"Weights on {task}: {weights(group)}."] if weights(group) else []
    if tuned and len(runs):
        notes.append(
            f"Tuned for each method: {', '.join(flag.removeprefix('--') for flag in tuned)}."
        )
    notes += [f"{table.provenance(runs)}."] if len(runs) else []
    taken = means[means.task.isin(tasks)].method.unique()
    return notes + (
        [f"Not from single runs, but from a file of means: {', '.join(taken)}."]
        if len(taken)
        else []
    )


def absent(means, tasks):
    """A sentence that names the tasks without a run; "" where there are none."""
    missing = [task for task in tasks if task not in set(means.task)]
    return f"No runs of {', '.join(missing)}." if missing else ""


def claims_text(rows, all_runs, runs, batch_size):
    """The claims as Markdown, and of which batch size."""
    chosen = f"\nOf runs with several batch sizes, those of {batch_size} count here."
    return claims.text(rows, runs) + (chosen if len(all_runs) > len(runs) else "")


def make_table(name, all_runs, runs, given, published, args):
    """The rows of LONG and the Markdown of one table. all_runs: of every batch size; runs: those of
    one.
    """
    means = pd.concat([part for part in (statistics(runs), given) if len(part)])
    title, tuned, rows = f"**{TITLES[name]}**", args.tuned, pd.DataFrame(columns=LONG)
    if name == "5":
        sizes = (
            all_runs[all_runs.method != "teacher"].groupby("task")[BATCH].nunique()
            if BATCH in all_runs
            else {}
        )
        tasks = [task for task in ALL if sizes.get(task, 0) > 1]
        chosen, given = all_runs[all_runs.task.isin(tasks)], given.iloc[:0]
        if not tasks:
            return rows, f"{title}: no task has runs of several batch sizes."
        rows, shown, notes = stability_text(chosen, published)
    elif name == "4":
        rows, shown, notes = ablation_text(means)
        tasks, methods = set(rows.task), ("FSD_ILG", *ABLATIONS)
        chosen, given = runs[runs.method.isin(methods)], given[given.method.isin(methods)]
        if not tasks:
            return (
                rows,
                f"{title}: no task has both FSD_ILG and an ablation of it "
                f"({', '.join(ABLATIONS)}).",
            )
    else:
        tasks, chosen = TASKS[name], runs
        if not set(tasks) & set(means.task):
            return rows, f"{title}: {absent(means, tasks)}"
        beside = PUBLISHED not in [Path(source).resolve() for source in args.sources]
        rows, shown, notes = scores_text(name, means, published, beside)
        notes += [absent(means, tasks)] if absent(means, tasks) else []
    if name != "5" and all_runs.task.isin(tasks).sum() > runs.task.isin(tasks).sum():
        notes.append(f"Of runs with several batch sizes, those of {args.batch_size} count here.")
    notes += origin(chosen, given, tasks, tuned)
    return rows, "\n\n".join([title, table.markdown(shown, padded=True), "\n".join(notes)])


# ---- command line --------------------------------------------------------------------------------


def insert(path, texts):
    """Put each table between its markers in a file, where the file has them."""
    content = table.read_marked(path)
    names = [name for name in texts if table.marker(name) in content]
    if not names:
        raise UserError(
            f"{path} has no line {' or '.join(map(table.marker, texts))} to put a table after"
        )
    table.insert(path, {name: texts[name] for name in names})


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
    runs, published = of_one_batch_size(all_runs, args.batch_size), read_means(PUBLISHED)
    twice = pd.concat([statistics(runs), given])[["method", "task", "metric"]]
    twice = twice[twice.duplicated()]
    if len(twice):
        raise UserError(
            f"{twice.method.iloc[0]} on {twice.task.iloc[0]} is there twice: give it from one "
            "source"
        )
    tables = {
        name: make_table(name, all_runs, runs, given, published, args)
        for name in args.tables
        if name in TITLES
    }
    texts = {name: text for name, (_, text) in tables.items()}
    if "claims" in args.tables or args.claims_csv:
        compared = claims.compare(runs, ALL)
    if "claims" in args.tables:
        texts["claims"] = claims_text(compared, all_runs, runs, args.batch_size)
    if args.claims_csv:
        with common.atomic_path(args.claims_csv) as path:
            compared.to_csv(path, index=False)
    if args.csv:
        with common.atomic_path(args.csv) as path:
            pd.concat([rows for rows, _ in tables.values()] or [pd.DataFrame(columns=LONG)]).to_csv(
                path, index=False
            )
    if args.markdown:
        with common.atomic_path(args.markdown) as path:
            path.write_text("\n\n".join(texts.values()) + "\n", encoding="utf-8")
    if args.insert:
        insert(args.insert, texts)
    if args.figure:
        scores.draw(runs, args.figure, list(ALL))
    print("\n\n".join(texts.values()))


if __name__ == "__main__":
    sys.exit(common.cli(main))
