"""Runs -> one table: a row a method, mean ± standard deviation over its seeds, as Markdown.

    python analysis/table.py RUNS_DIR                       # or a results.csv that the runs appended to
    python analysis/table.py RUNS_DIR --csv results/mrpc.csv --insert README.md

--csv writes the single runs, without the paths of the machine they ran on. --insert puts the table into a file, in
place of what stands between the lines <!-- table TASK --> and <!-- end TASK -->. Runs that differ in their budget are
refused: only method, with weights and options of its own, and seed may differ; the teacher's row is free.
"""
import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import utils_glue
from training import records
from training.records import UserError

ORDER = ("teacher", "none", "VKD", "FSD_I", "FSD_L", "FSD_G", "FSD_IL", "FSD_IG", "FSD_LG", "FSD_ILG")
METRICS = ("mcc", "acc", "f1", "acc_mm", "pearson", "spearmanr")
BUDGET = {"--learning_rate": "learning rate", "--num_train_epochs": "epochs", "--max_steps": "steps at most",
          "--per_gpu_train_batch_size": "batch", "--gradient_accumulation_steps": "accumulation",
          "processes": "processes", "--max_seq_length": "length", "--max_train_samples": "training rows at most",
          "precision": "precision"}
HARMLESS = ("--logging_steps", "--save_steps", "--save_total_limit", "--per_gpu_eval_batch_size",
            "--resume_from_checkpoint", "--overwrite_output_dir", "--overwrite_cache", "--eval_all_checkpoints",
            "--evaluate_during_training", "--dataloader_num_workers")
SAME = ("--warmup_steps", "--weight_decay", "--adam_epsilon", "--max_grad_norm", "--do_lower_case",
        "--max_eval_samples", "--compile", "task", "parameters", "device", "torch", "transformers")
PATHS = ("_dir", "_file", "_path", "_csv", "name_or_path", "name_or_path_for_copy", "tokenizer_name", "config_name",
         "teacher_cache")


def read_runs(source):
    """One row a finished run, from a folder of run folders or from a results.csv."""
    source = Path(source)
    if source.is_file():
        return records.read_results(source)
    runs = [run for run in map(records.read_json, sorted(source.glob("*/run.json")))
            if run.get("finished") and run["method"] != "memory"]
    if not runs:
        raise UserError(f"{source} is neither a results.csv nor a folder with finished runs in it (RUN/run.json)")
    rows = pd.DataFrame([records.result_row(run) for run in runs])
    return rows.sort_values("started", kind="stable", ignore_index=True)


def check_comparable(runs):
    """Refuse runs whose difference could come from anything but method, with its own options, and seed."""
    students = runs[runs.method != "teacher"]
    for column in (*BUDGET, *SAME):
        values = students[column].unique() if column in students else []
        if len(values) > 1:
            raise UserError(f"these runs differ in {column} ({', '.join(map(str, values))}): only method and seed may "
                            "differ in one table, so give those of one setting")
    for column, name in (("teacher", "teachers"), ("memory", "teacher memories")):
        found = set(students[column].dropna()) - {""} if column in students else set()
        if len(found) > 1:
            raise UserError(f"these students had different {name} ({', '.join(sorted(found))}): give those of one")
    for method, group in students.groupby("method", sort=False):
        for column in [c for c in group if c.startswith("--") and c not in HARMLESS and not c.endswith(PATHS)]:
            values = group[column].unique()
            if len(values) > 1:
                raise UserError(f"the runs of {method} differ in {column} ({', '.join(map(str, values))}): only the "
                                "seed may differ between the runs of a method, so give those of one setting")
    twice = runs[runs.duplicated(["method", "seed"])]
    if len(twice):
        raise UserError(f"{twice.method.iloc[0]} with seed {twice.seed.iloc[0]} is there twice: give one run of each")


def summary(runs):
    """The table itself, metrics in percent; methods in the order of ORDER, others after them."""
    metrics = [name for name in METRICS if name in runs and runs[name].notna().any()]

    def cell(values):
        spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
        return f"{100 * values.mean():.2f}{spread}"

    rows = [{"method": method, **{name: cell(group[name]) for name in metrics}, "seeds": len(group),
             "parameters": f"{group.parameters.iloc[0] / 1e6:.1f} M", "minutes a run": f"{group.minutes.mean():.1f}"}
            for method, group in runs.groupby("method", sort=False)]
    rows.sort(key=lambda row: ORDER.index(row["method"]) if row["method"] in ORDER else len(ORDER))
    return pd.DataFrame(rows)


def markdown(table):
    """A Markdown table, without another dependency."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def caption(runs):
    """Where the numbers come from, in one line."""
    students = runs[runs.method != "teacher"] if (runs.method != "teacher").any() else runs
    first = students.iloc[0]
    budget = {name: first[column] for column, name in BUDGET.items() if column in first and pd.notna(first[column])}
    budget = ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}"
                       for name, value in budget.items()
                       if value != -1 and (name, value) not in (("accumulation", 1), ("processes", 1)))
    commits = ", ".join(sorted({str(c) for c in runs.commit}))
    seeds = ", ".join(map(str, sorted(runs.seed.unique())))
    machines = " and ".join(runs.machine.unique())  # a sweep may have been shared among several
    where = machines if first.device == "cpu" else f"{first.device}; {machines}"
    return (f"{first.task} dev set, mean ± standard deviation over seeds {seeds}; students: {budget}; "
            f"{where}; {runs.minutes.sum():.0f} minutes of training in all; torch {first.torch}, transformers "
            f"{first.transformers}, commit {commits}.")


def insert(path, name, text):
    """Put text between a file's first markers of this name."""
    path, start, end = Path(path), f"<!-- table {name} -->", f"<!-- end {name} -->"
    content = path.read_text(encoding="utf-8")
    if start not in content or end not in content:
        raise UserError(f"{path} has no lines {start} and {end} to put the table between")
    before, _, rest = content.partition(start)
    after = rest.partition(end)[2]
    with records.atomic_path(path) as temporary:
        temporary.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", help="A folder of runs, or a results.csv.")
    parser.add_argument("--task", help="Only this task's runs.")
    parser.add_argument("--csv", help="Write the single runs to this file.")
    parser.add_argument("--insert", help="Put the table into this Markdown file.")
    args = parser.parse_args(argv)
    runs = read_runs(args.runs)
    if args.task:
        runs = runs[runs.task == utils_glue.get_task(args.task).name]
    if not len(runs):
        raise UserError(f"{args.runs} has no run of the task {args.task}")
    check_comparable(runs)
    text = f"{markdown(summary(runs))}\n\n{caption(runs)}"
    if args.csv:
        with records.atomic_path(args.csv) as path:
            runs.drop(columns=[c for c in runs if c.startswith("--") and c.endswith(PATHS)]).to_csv(path, index=False)
    if args.insert:
        insert(args.insert, runs.task.iloc[0], text)
    print(text)


if __name__ == "__main__":
    sys.exit(records.cli(main))
