"""How small can a student be? The runs of scripts/ladder -> one table, one figure, one CSV.

    python analysis/ladder.py runs/mrpc-ladder --csv ladder.csv --markdown ladder.md \\
      --figure ladder.svg
    python analysis/ladder.py ladder.csv --figure ladder.svg --insert PAGE    # measures nothing

A ladder is a set of runs of one task (also one of your own files), one teacher and one setting,
whose students differ in size, method and seed. For each student this command measures

    score         on the dev set: the mean of the task's metrics (for MNLI, on its first dev set)
    agreement     with the teacher: the share of dev rows to which student and teacher give the same
                  answer, by the predictions that the run wrote; for a regression, the Pearson
                  correlation between their scores
    parameters    of the student, and the megabytes (10^6 bytes) of its stored weights
    ms a row      milliseconds per row for 32 dev rows, one by one and in one mini-batch, which is
                  as wide as its longest row: the median over --rounds; in each round the teacher
                  and all students of a seed take turns

The table shows mean ± standard deviation over seeds. Times depend on this device and its other
work: compare only times of one command. The second command draws a CSV that the first one wrote.
"""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis.comparable import check_comparable
from analysis.ladder_checks import check_one_kind
from analysis.markdown import find_markers, insert, read_document, to_markdown
from analysis.methods import read_name
from analysis.origins import describe_budget, describe_provenance, describe_seeds, describe_weights
from analysis.report_parts import by_model
from analysis.runs import check_evaluated, metric_names, name_variants, names_of, read_folders
from analysis.tables_text import METRIC_WORDS
from common import UserError
from training import flags, results_csv

SIZES = ("--student_num_hidden_layers", "--student_layers")
NUMBERS = ("score", "agreement", "parameters", "megabytes", "ms_alone", "ms_batch")
KEYS = ("name", "method", "task", "seed", "layers", "copied", *NUMBERS)
TOLD = ("constant", "rows", "rounds", "timed_rows", "timed_on", "timed_precision", "timed_commit")
FIGURES = (".png", ".svg", ".pdf")


# ---- runs ----------------------------------------------------------------------------------------


def copied(run):
    """The layers that a student copied, in words: "3 layers" (the first ones), "layers 0,2,4".

    run: a row of a table of runs, with the column layers.
    """
    picked = run.get("--student_layers")
    if pd.notna(picked) and picked != "":
        return f"layer{'s' * (',' in str(picked))} {picked}"
    return f"{run['layers']} layer{'s' * (run['layers'] > 1)}"


def read_students(folder):
    """The students in a folder of runs: a table of runs with the columns name, layers and copied.

    Raises a UserError for runs of several tasks or settings, and for runs without scores or model.
    """
    runs = read_folders(Path(folder))
    runs = runs[runs.method != "teacher"]
    if not len(runs):
        raise UserError(
            f"{folder} has no finished run of a student: give a folder of scripts/ladder"
        )
    if runs.task.nunique() > 1:
        raise UserError(
            f"the runs in {folder} are of the tasks {', '.join(runs.task.unique())}, but a ladder "
            "is of one: give a folder with the runs of one task"
        )
    check_evaluated(runs)
    runs["layers"] = [count_layers(place) for place in runs["--output_dir"]]
    runs["copied"] = [copied(run) for _, run in runs.iterrows()]
    same_size = name_variants(runs.drop(columns=[c for c in SIZES if c in runs]))
    names = names_of(same_size)
    runs["name"] = [f"{name}, {size}" for name, size in zip(names, runs.copied, strict=True)]
    check_one_kind(runs)  # first, as it says more of what is wrong
    check_comparable(same_size, free=("layers", "copied", "parameters"))
    runs["method"] = [str(name) for name in names]
    return runs.reset_index(drop=True)


def count_layers(folder):
    config = common.read_json(Path(folder, "config.json"))
    layers = config.get("num_hidden_layers") or config.get("n_layers")
    if not layers:
        raise UserError(
            f"{folder} has no trained model to measure, as it has no config.json: run it again, "
            "and keep the models of a ladder until they are measured"
        )
    return layers


def read_measured(path):
    """The table in a CSV that this command wrote; a UserError for another CSV."""
    keys = [*KEYS, *TOLD]
    filled = KEYS[:7]
    table, _ = results_csv.read_checked_csv(
        path, keys, filled, NUMBERS, "no table of analysis/ladder.py"
    )
    return table


# ---- the table -----------------------------------------------------------------------------------


def in_order(table):
    """The table's rows in the order in which they are shown: the teacher's, then method by method.

    Within a method, students of first layers come by size, then those of chosen layers.
    """
    names = [read_name(method) for method in table.method]
    keys = [
        (method != "teacher", name.rank(), method, size.startswith("layer"), layers, size, seed)
        for name, method, size, layers, seed in zip(
            names, table.method, table.copied, table.layers, table.seed, strict=True
        )
    ]
    return table.iloc[sorted(range(len(table)), key=keys.__getitem__)].reset_index(drop=True)


def is_regression(table):
    """Whether the task, of GLUE or of own files, is a regression: its metrics are correlations."""
    return "pearson" in metrics_of(table)


def metrics_of(table):
    """The names of the metrics whose mean is the score; for MNLI, those of the first dev set."""
    names = metric_names(table.task.iloc[0], table)
    return [name for name in names if not name.endswith("_mm")]


def summarise(table):
    """The table to print, one row per model, as text: mean ± standard deviation over seeds."""
    teacher = table[table.method == "teacher"].set_index("seed").ms_alone
    table = table.assign(faster=table.seed.map(teacher) / table.ms_alone)
    # numbers that are alike in all rows of a model are kept in one, so that they show no spread
    again = table["name"].duplicated()
    table.loc[again, ["parameters", "megabytes"]] = float("nan")
    table.loc[again & (table.method == "teacher"), ["score", "agreement"]] = float("nan")
    table.loc[table.method == "teacher", "faster"] = float("nan")
    agreement = ("agreement, %", "agreement", 1, 100)
    if is_regression(table):
        agreement = ("Pearson with the teacher", "agreement", 3, 1)
    columns = [
        ("score", "score", 1, 100),
        agreement,
        ("parameters, M", "parameters", 1, 1e-6),
        ("MB", "megabytes", 1, 1),
        ("ms a row, alone", "ms_alone", 2, 1),
        (f"in a batch of {table.timed_rows.iloc[0]}", "ms_batch", 2, 1),
        ("times as fast", "faster", 1, 1),
    ]
    shown = by_model(table, {heading: tuple(how) for heading, *how in columns})
    shown["model"] = shown.model.replace("teacher", f"teacher, {table.layers.iloc[0]} layers")
    shown["seeds"] = table.groupby("name", sort=False).size().to_list()
    return shown


def describe(table):
    """Lines of text on where the table's numbers come from."""
    first, students = table.iloc[0], table[table.method != "teacher"]
    # made anew from its cells: empty cells in the teacher's rows had changed the columns' types
    students = pd.DataFrame(students.to_dict("list")).drop(columns=[*SIZES], errors="ignore")
    seeds = describe_seeds(students.assign(method=students["name"]).drop(columns="name"))
    metrics = [METRIC_WORDS[name] for name in metrics_of(table)]
    score = f"the mean of {' and '.join(metrics)}" if len(metrics) > 1 else metrics[0]
    agreement = "the share of rows with the same answer"
    if is_regression(table):
        agreement = "the Pearson correlation with its scores"
    return [
        f"{first.task} dev set, {first['rows']} rows, mean ± standard deviation over seeds "
        f"{seeds}. Score: {score}; the best constant answer has {100 * first.constant:.1f}. "
        f"Agreement with the teacher: {agreement}. MB: 10^6 bytes of stored weights.",
        f"ms a row: of {first.timed_rows} dev rows one by one, and in one mini-batch; the median "
        f"of {first.rounds} rounds, in which all models of a seed have their turn; precision "
        f"{first.timed_precision}, {first.timed_on}, commit {first.timed_commit}. Times as fast "
        "as the teacher: one by one.",
        f"Students: {describe_budget(students)}; {describe_weights(students)}; trained on "
        f"{describe_provenance(students)}.",
    ]


def as_text(table):
    return "\n".join([to_markdown(summarise(table), padded=True), "", *describe(table)])


# ---- command line --------------------------------------------------------------------------------


def make_parser():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("source", type=common.expand_path, help="A folder of runs, or a CSV of this command.")
    add("--teacher", metavar="TEACHER", help="Default: as the runs name it.")
    add("--data_dir", help="Of a task of GLUE. Default: as the runs name it.")
    add("--validation_file", help="Of files of your own. Default: as the runs name it.")
    add("--rounds", type=int, default=10, help="Rounds of timing. Default 10.")
    add("--bf16", action="store_true", help="Time models in mixed precision.")
    add("--no_cuda", action="store_true", help="Time them on the CPU.")
    add("--csv", help="Write all numbers to this file.")
    add("--markdown", help="Write the table to this file.")
    add("--figure", help="Draw it into this .png, .svg or .pdf.")
    add(
        "--insert",
        metavar="FILE",
        help="Put the table into this Markdown file, between its lines <!-- table NAME --> and "
        "<!-- end NAME -->, NAME being that of the CSV without its ending.",
    )
    return parser


def check_arguments(args):
    """Raise a UserError for arguments that cannot work, and make the folders of the outputs.

    Returns the NAME of the markers in --insert's file, None without --insert.
    """
    if args.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {args.rounds}")
    if args.figure and Path(args.figure).suffix not in FIGURES:
        raise UserError(
            f"--figure {args.figure} must end in {', '.join(FIGURES[:-1])} or {FIGURES[-1]}"
        )
    if not Path(args.source).exists():
        raise UserError(
            f"there is no {args.source}: give a folder of runs, or a CSV of this command"
        )
    csv = args.csv or (args.source if Path(args.source).is_file() else None)
    if args.insert and not csv:
        raise UserError(
            "--insert puts the table between the lines <!-- table NAME --> and <!-- end NAME -->, "
            "NAME being the CSV without its ending, and there is no CSV: pass one with --csv"
        )
    name = Path(csv).stem if args.insert else None
    if name:
        find_markers(args.insert, read_document(args.insert), name)
    places = {flag: getattr(args, flag) for flag in ("csv", "markdown", "figure")}
    parents = {flag: place and common.follow(place).parent for flag, place in places.items()}
    common.make_folders(args, **parents)
    return name


def measure_runs(args):
    import huggingface_hub  # imported here, as this takes seconds
    import transformers

    from analysis.ladder_measures import measure

    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return measure(read_students(args.source), args)


def main(argv=None):
    args = make_parser().parse_args(argv)
    name = check_arguments(args)
    is_table = Path(args.source).is_file()
    table = in_order(read_measured(args.source) if is_table else measure_runs(args))
    if args.csv:
        with common.atomic_path(args.csv) as path:
            table.to_csv(path, index=False)
    text = as_text(table)
    if args.markdown:
        with common.atomic_path(args.markdown) as path:
            path.write_text(f"{text}\n", encoding="utf-8")
    if args.figure:
        from analysis.figures import save  # imported here, as this takes seconds
        from analysis.figures_ladder import draw_ladder

        save(draw_ladder(table, is_regression(table)), args.figure)
    if args.insert:
        insert(args.insert, {name: text})
    print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
