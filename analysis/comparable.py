"""What may stand in one table: runs whose difference can only come from method and seed."""

from pathlib import Path

from analysis.runs import check_columns, groups_of
from common import UserError
from training.results_csv import PATHS

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
ONE_OF = {"teacher": "teachers", "memory": "teacher memories", "data": "training data"}
START = {
    "--copy_teacher": "whether they copy layers",
    "--model_name_or_path_for_copy": "what they copy layers from",
}
SHOWN = ("minutes", "parameters", "device", "machine", "torch", "transformers", "commit")
MEMORY_KIND = ("memory_init", "--mask_padding")  # each makes a memory of its own


def settings_of(runs):
    """The columns with flags that decide what a run computes."""
    return [c for c in runs if c.startswith("--") and c not in HARMLESS and not c.endswith(PATHS)]


def check_comparable(runs, free=(), tuned=()):
    """Refuse runs whose difference could come from anything but method, with its own options, and
    seed.

    free: further columns that may differ. tuned: columns that may differ between methods, not
    within one.
    """
    check_columns(runs, SHOWN)
    tasks = " and ".join(runs.task.unique())
    students = runs[runs.method != "teacher"]
    check_one_setting(students, tasks, (*free, *tuned))
    check_one_source(students, tasks)
    check_one_start(students, tasks)
    check_within_methods(runs, tasks, free)
    check_once(runs, tasks, free)


def check_one_setting(students, tasks, may_differ):
    """Refuse students with different budgets, or of different machines and versions."""
    for column in (*BUDGET, *SAME):
        if column not in students or column in may_differ:
            continue
        values = students[column].unique()
        if len(values) > 1:
            raise UserError(
                f"these {tasks} runs differ in {column} ({', '.join(map(str, values))}): only "
                "method and seed may differ in one table, so give those of one setting"
            )


def check_one_source(students, tasks):
    """Refuse students of different teachers, training data, or memories of one kind."""
    for column in [column for column in ONE_OF if column in students]:
        kinds = [kind for kind in MEMORY_KIND if column == "memory" and kind in students]
        groups = students.groupby(kinds, sort=False, dropna=False) if kinds else [((), students)]
        for _, group in groups:
            found = set(group[column].dropna()) - {""}
            if len(found) > 1:
                raise UserError(
                    f"these {tasks} students had different {ONE_OF[column]} "
                    f"({', '.join(sorted(found))}): give those of one"
                )


def check_one_start(students, tasks):
    """Refuse distilled students that did not start from the same layers."""
    if "teacher" not in students:
        return
    distilled = students[students.teacher.fillna("") != ""]
    for column in [column for column in START if column in distilled]:
        # paths by their names, as machines may share a sweep
        found = {Path(str(value)).name for value in distilled[column].fillna("")}
        if len(found) > 1:
            raise UserError(
                f"these {tasks} students differ in {START[column]}, {column} "
                f"({', '.join(sorted(found))}): give those of one start"
            )


def check_within_methods(runs, tasks, free):
    """Refuse runs of one method, or variant of it, that differ in any setting."""
    for name, group in groups_of(runs):
        for column in [column for column in settings_of(group) if column not in free]:
            values = group[column].unique()
            if len(values) > 1:
                raise UserError(
                    f"the {tasks} runs of {name} differ in {column} "
                    f"({', '.join(map(str, values))}): only the seed may differ between the runs "
                    "of a method, so give those of one setting"
                )


def check_once(runs, tasks, free):
    """Refuse a method that is there twice with one seed."""
    for name, group in groups_of(runs):
        twice = group[group.duplicated(["seed", *free])]
        if len(twice):
            raise UserError(
                f"{name} with seed {twice.seed.iloc[0]} is there twice for {tasks}: "
                "give one run of each"
            )
