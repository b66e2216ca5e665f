"""Runs -> one table: a row a method, mean ± standard deviation over its seeds, as Markdown.

    python analysis/table.py RUNS_DIR                       # or a results.csv that the runs appended to
    python analysis/table.py RUNS_DIR --csv results/mrpc.csv --insert README.md

--csv writes the single runs, with the names of their folders (run) but without the paths of the machine they ran on.
--insert puts the table into a file, in place of what stands between the lines <!-- table TASK --> and
<!-- end TASK -->. Runs that differ in their budget are refused: only method, with weights and
options of its own, and seed may differ; the teacher's row is free.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from common import UserError
from glue_data.tasks import get_task
from training import records, results_csv
from training.results_csv import PATHS

ORDER = (
    "teacher",
    "none",
    "VKD",
    "PKD",
    "RKD",
    "MiniLM",
    "Gram",
    "Procrustes",
    "FSD_I",
    "FSD_L",
    "FSD_G",
    "FSD_IL",
    "FSD_IG",
    "FSD_LG",
    "FSD_ILG",
)
METRICS = ("mcc", "acc", "f1", "acc_mm", "pearson", "spearmanr")
BUDGET = {
    "--learning_rate": "learning rate",
    "--num_train_epochs": "epochs",
    "--max_steps": "steps at most",
    "--per_gpu_train_batch_size": "batch",
    "--gradient_accumulation_steps": "accumulation",
    "processes": "processes",
    "--warmup_ratio": "warm-up",
    "--max_seq_length": "length",
    "--max_train_samples": "training rows at most",
    "precision": "precision",
    "--student_layers": "copied layers",
}
HARMLESS = (
    "--logging_steps",
    "--save_steps",
    "--save_total_limit",
    "--per_gpu_eval_batch_size",
    "--resume_from_checkpoint",
    "--overwrite_output_dir",
    "--overwrite_cache",
    "--eval_all_checkpoints",
    "--evaluate_during_training",
    "--dataloader_num_workers",
)
SAME = (
    "--warmup_steps",
    "--weight_decay",
    "--adam_epsilon",
    "--max_grad_norm",
    "--do_lower_case",
    "--max_eval_samples",
    "--compile",
    "task",
    "parameters",
    "device",
    "torch",
    "transformers",
)
TEXTS = dict.fromkeys(
    ("commit", "teacher", "memory", "data", "torch", "transformers"), str
)  # even if all digits
ONE_OF = {"teacher": "teachers", "memory": "teacher memories", "data": "training data"}
START = {
    "--copy_teacher": "whether they copy layers",
    "--model_name_or_path_for_copy": "what they copy layers from",
}
SHOWN = ("minutes", "parameters", "device", "machine", "torch", "transformers", "commit")
MEMORY_KIND = ("memory_init", "--mask_padding")  # each makes a memory of its own


def read_runs(source):
    """One row a finished run, from a folder of run folders or from a results.csv."""
    source = Path(source)
    if source.is_file():
        if "predictions" in results_csv.header_of(source):
            raise UserError(
                f"{source} has the predictions of runs, not their results: give the results.csv"
            )
        runs = results_csv.read_results(source, TEXTS, (*results_csv.RESULT, "task"))
        check_columns(runs, ["task"])
        return runs
    rows = []
    for path in sorted(source.glob("*/run.json")):
        run = records.read_run(path.parent)
        if run.get("finished") and run.get("method") != "memory":
            with records.complete_run(path.parent):
                rows.append(results_csv.result_row(run) | {"--output_dir": str(path.parent)})
    if not rows:
        raise UserError(
            f"{source} is neither a results.csv nor a folder with finished runs in it "
            "(RUN/run.json)"
        )
    return pd.DataFrame(rows).sort_values("started", kind="stable", ignore_index=True)


def check_columns(runs, names):
    """Refuse runs that do not say what a table says of them."""
    missing = [name for name in names if name not in runs]
    if missing:
        raise UserError(
            f"these runs have no column {missing[0]}: give a results.csv as --results_csv writes it"
        )


def metric_names(task):
    """The columns with a task's metrics; those of MNLI's second dev set end in _mm."""
    task = get_task(task)
    return [
        name + split.removeprefix("dev")
        for split in task.files
        if split.startswith("dev")
        for name in task.metrics
    ]


def score(metrics, task):
    """The mean of a task's metrics, as GLUE scores it. metrics: a mapping, a row or a table with
    their names.
    """
    names = metric_names(task)
    return sum(metrics[name] for name in names) / len(names)


def check_evaluated(runs):
    """Refuse runs of a task that lack one of its metrics."""
    task = runs.task.iloc[0]
    for name in metric_names(task):
        without = runs[runs[name].isna()] if name in runs else runs
        if len(without):
            run = without.iloc[0]
            raise UserError(
                f"the {task} run of {run.method} with seed {run.seed} has no {name}: evaluate it "
                "with --do_eval"
            )


def rank(method):
    """The key that sorts methods as in ORDER, a method's variants behind it and others last."""
    base = method.partition(",")[0]
    return ORDER.index(base) if base in ORDER else len(ORDER), method != base


def check_comparable(runs, free=(), tuned=()):
    """Refuse runs whose difference could come from anything but method, with its own options, and
    seed.

    free: further columns that may differ. tuned: columns that may differ between methods, not
    within one.
    """
    check_columns(runs, SHOWN)
    students, tasks = runs[runs.method != "teacher"], " and ".join(runs.task.unique())
    for column in [c for c in (*BUDGET, *SAME) if c in students and c not in (*free, *tuned)]:
        values = students[column].unique()
        if len(values) > 1:
            raise UserError(
                f"these {tasks} runs differ in {column} ({', '.join(map(str, values))}): only "
                "method and seed may differ in one table, so give those of one setting"
            )
    for column in [c for c in ONE_OF if c in students]:
        kind = [c for c in MEMORY_KIND if c in students and column == "memory"]
        for _, group in (
            students.groupby(kind, sort=False, dropna=False) if kind else [((), students)]
        ):
            found = set(group[column].dropna()) - {""}
            if len(found) > 1:
                raise UserError(
                    f"these {tasks} students had different {ONE_OF[column]} "
                    f"({', '.join(sorted(found))}): give those of one"
                )
    distilled = (
        students[students.teacher.fillna("") != ""] if "teacher" in students else students.iloc[:0]
    )
    for column in [
        c for c in START if c in distilled
    ]:  # paths by their names, as machines may share a sweep
        found = {Path(str(value)).name for value in distilled[column].fillna("")}
        if len(found) > 1:
            raise UserError(
                f"these {tasks} students differ in {START[column]}, {column} "
                f"({', '.join(sorted(found))}): give those of one start"
            )
    for method, group in runs.groupby("method", sort=False):
        for column in [c for c in settings(group) if c not in free]:
            values = group[column].unique()
            if len(values) > 1:
                raise UserError(
                    f"the {tasks} runs of {method} differ in {column} "
                    f"({', '.join(map(str, values))}): only the seed may differ between the runs "
                    "of a method, so give those of one setting"
                )
    twice = runs[runs.duplicated(["method", "seed", *free])]
    if len(twice):
        raise UserError(
            f"{twice.method.iloc[0]} with seed {twice.seed.iloc[0]} is there twice for {tasks}: "
            "give one run of each"
        )


def settings(runs):
    """The columns with flags that decide what a run computes."""
    return [c for c in runs if c.startswith("--") and c not in HARMLESS and not c.endswith(PATHS)]


def summary(runs):
    """The table itself, metrics in percent; methods in the order of ORDER, others after them."""
    metrics = [name for name in METRICS if name in runs and runs[name].notna().any()]

    def cell(values):
        spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
        return f"{100 * values.mean():.2f}{spread}"

    rows = [
        {
            "method": method,
            **{name: cell(group[name]) for name in metrics},
            "seeds": len(group),
            "parameters": f"{group.parameters.iloc[0] / 1e6:.1f} M",
            "minutes a run": f"{group.minutes.mean():.1f}",
        }
        for method, group in runs.groupby("method", sort=False)
    ]
    rows.sort(key=lambda row: rank(row["method"]))
    return pd.DataFrame(rows)


def markdown(table, padded=False):
    """A Markdown table, without another dependency; padded, its columns are aligned as text too."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def caption(runs):
    """Where the numbers of one task come from, in one line."""
    return (
        f"{runs.task.iloc[0]} dev set, mean ± standard deviation over seeds {seeds(runs)}; "
        f"students: {budget(runs)}; {provenance(runs)}."
    )


def seeds(runs):
    """The students' seeds in words."""
    sets = {tuple(sorted(group.seed.unique())) for _, group in students_of(runs).groupby("method")}
    words = ", ".join(map(str, sorted({seed for found in sets for seed in found})))
    return words if len(sets) == 1 else f"{words} (not every method has all)"


def students_of(runs):
    """The runs that are no teacher's, or all where there are only those."""
    return runs[runs.method != "teacher"] if (runs.method != "teacher").any() else runs


def budget(runs):
    """The students' settings in words; several values of one stand beside each other."""
    students, words = students_of(runs), []
    for column, name in BUDGET.items():
        # where some have none it is a variant's, which has it in its name
        common = column in students and students[column].notna().all()
        values = students[column].drop_duplicates().sort_values() if common else []
        values = [value if isinstance(value, str) else f"{value:g}" for value in values]
        usual = {"accumulation": ["1"], "processes": ["1"], "warm-up": ["0"]}
        if values and values != ["-1"] and values != usual.get(name):
            words.append(f"{name} {' or '.join(values)}")
    return ", ".join(words)


def provenance(runs):
    """Machine, minutes, versions and commits of runs, in words."""
    students = students_of(runs)

    def several(column):
        return " and ".join(map(str, students[column].dropna().unique()))

    machines = " and ".join(
        runs.machine.dropna().unique()
    )  # a sweep may have been shared among several
    where = machines if set(students.device) == {"cpu"} else f"{several('device')}; {machines}"
    commits = ", ".join(sorted({str(commit) for commit in runs.commit.dropna()}))
    return (
        f"{where}; {runs.minutes.sum():.0f} minutes of training in all; torch {several('torch')}, "
        f"transformers {several('transformers')}, commit {commits}"
    )


def read_marked(path):
    """The text of a file that tables go into; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 ({error}): save it as such, or name another file"
        ) from None


def marker(name):
    """The line of a file after which a text of this name goes."""
    return "<!-- claims -->" if name == "claims" else f"<!-- table {name} -->"


def marked(path, content, name):
    """Where the text between a file's markers of this name begins and ends; else a UserError."""
    start, end = markers = marker(name), f"<!-- end {name} -->"
    if start not in content or end not in content:
        raise UserError(f"{path} has no lines {start} and {end} to put the table between")
    lines = {
        line: [
            content.count("\n", 0, found.start()) + 1
            for found in re.finditer(re.escape(line), content)
        ]
        for line in markers
    }
    for line, numbers in lines.items():
        if len(numbers) > 1:
            raise UserError(
                f"{path} has {line} more than once, in the lines "
                f"{', '.join(map(str, numbers))}: leave one of them"
            )
    begin, stop = content.index(start) + len(start), content.index(end)
    if stop < begin:
        raise UserError(
            f"{path} has {end} in line {lines[end][0]}, before {start} in line "
            f"{lines[start][0]}: put it after that"
        )
    inside = re.search(r"<!-- ((table|end) \S+|claims) -->", content[begin:stop])
    if inside:
        raise UserError(
            f"{path} has {inside[0]} between {start} in line {lines[start][0]} and "
            f"{end} in line {lines[end][0]}: put it elsewhere, as what is there is "
            "replaced"
        )
    return begin, stop


def insert(path, texts):
    """Put texts, name -> text, between a file's markers of these names: all or none."""
    content = read_marked(path)
    for name in texts:
        marked(path, content, name)
    for name, text in texts.items():
        begin, stop = marked(path, content, name)
        content = f"{content[:begin]}\n{text}\n{content[stop:]}"
    with common.atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def run_names(runs):
    """The name of each run's folder, "" where the table does not tell: as text, in the order of the
    rows.
    """

    def name(row):
        given = row.get("--output_dir") if pd.notna(row.get("--output_dir")) else row.get("run")
        return Path(str(given)).name if pd.notna(given) else ""

    return [name(row) for row in runs.to_dict("records")]


def publishable(runs):
    """The runs without paths; of their folders, with the names."""
    kept = runs.drop(
        columns=[c for c in runs if c == "run" or (c.startswith("--") and c.endswith(PATHS))]
    )
    names = run_names(runs)
    if any(names):
        kept.insert(list(kept).index("seed") + 1, "run", names)
    return kept


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=common.expand_path, help="A folder of runs, or a results.csv.")
    parser.add_argument("--task", help="Only this task's runs.")
    parser.add_argument(
        "--csv", type=common.expand_path_or_none, help="Write the single runs to this file."
    )
    parser.add_argument(
        "--no_table",
        action="store_true",
        help="Write --csv and no table: of a search, whose settings do not belong in one.",
    )
    parser.add_argument(
        "--insert", type=common.expand_path_or_none, help="Put the table into this Markdown file."
    )
    args = parser.parse_args(argv)
    if args.no_table and (args.insert or not args.csv):
        raise UserError("--no_table goes with --csv and without --insert")
    runs = read_runs(args.runs)
    if args.task:
        runs = runs[runs.task == get_task(args.task).name]
    if not len(runs):
        raise UserError(f"{args.runs} has no run of the task {args.task}")
    if not args.no_table:
        check_comparable(runs)
    if args.csv:
        with common.atomic_path(args.csv) as path:
            publishable(runs).to_csv(path, index=False)
    if not args.no_table:
        text = f"{markdown(summary(runs))}\n\n{caption(runs)}"
        if args.insert:
            insert(args.insert, {runs.task.iloc[0]: text})
        print(text)


if __name__ == "__main__":
    sys.exit(common.cli(main))
