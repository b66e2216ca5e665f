"""The measurements of analysis/ladder.py: students of several sizes beside their teacher.

Seeds are measured one after the other. The teacher and all students of a seed are in memory
together and take turns, so that their times can be compared. subjects: the teacher, the students of
a seed and the dev rows, loaded (report_subjects.Subjects); theirs: the arguments in the run.json of
a run with a teacher; args: those of analysis/ladder.py.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis import report
from analysis.ladder_checks import (
    check_scores,
    check_subjects,
    find_leading_run,
    place_of_rows,
)
from analysis.report_measures import restoration
from analysis.report_subjects import Subjects
from analysis.runs import publishable
from analysis.timing import megabytes, milliseconds, time_rounds
from common import UserError, say
from tasks.metrics import compute_metrics, predictions_from_logits
from training import classes, records, results_csv
from training.batches import MiniBatch, Rows
from training.checks import check_data
from training.padding_flags import PADDING

BATCH = 32  # rows that are timed, one by one and in one mini-batch
# flags of the runs that decide which rows are read and how: KEPT without a value, NAMED with one
KEPT = ("do_lower_case", *(flag.name for flag in PADDING))
NAMED = ("tokenizer_name", "max_eval_samples", "cache_dir", "max_seq_length")


# ---- what is compared ----------------------------------------------------------------------------


def subjects_of(runs, theirs, args):
    """Load and check the Subjects of one seed: the teacher, the dev rows, and a student per run.

    runs: the table of the seed's runs, whose column name has the students' names. Rows are read as
    the runs read them; a student's tokenizer is the one in its folder.
    """
    words = ["--model_name_or_path", args.teacher or theirs["model_name_or_path"]]
    words += [*words_of_rows(theirs, args), "--output_dir", args.source]
    words += ["--task_name", theirs["task_name"], "--per_gpu_eval_batch_size", str(BATCH)]
    words += [f"--{name}" for name in KEPT if theirs.get(name)]
    words += [f"--{name}" for name in ("bf16", "no_cuda") if getattr(args, name)]
    words += [
        word for name in NAMED if theirs.get(name) for word in (f"--{name}", str(theirs[name]))
    ]
    pairs = zip(runs["name"], runs["--output_dir"], strict=True)
    words += ["--students", *(f"{name}={folder}" for name, folder in pairs)]
    found = report.make_parser().parse_args(words)
    check_data(found)
    subjects = Subjects(found)
    check_subjects(subjects)
    return subjects


def words_of_rows(theirs, args):
    """The words of the flags that name the dev rows: GLUE's folder, or the file of own rows.

    args may name another place than the runs did, to which the rows were moved. Raises a UserError
    for --validation_file with a task of GLUE, and for --data_dir with own files.
    """
    if not (theirs.get("train_file") or theirs.get("validation_file")):
        if args.validation_file:
            raise UserError(
                f"--validation_file {args.validation_file} is of files of your own, but these runs "
                f"are of {theirs['task_name']}: name GLUE's folder with --data_dir"
            )
        return ["--data_dir", args.data_dir or theirs["data_dir"]]
    if args.data_dir:
        raise UserError(
            f"--data_dir {args.data_dir} is a folder of GLUE's files, but these runs are of files "
            "of your own: name the dev rows with --validation_file, if they were moved"
        )
    words = ["--validation_file", args.validation_file or theirs["validation_file"]]
    for name in ("text_column_names", "label_column_name"):
        words += [f"--{name}", theirs[name]] if theirs.get(name) else []
    return [*words, *(["--do_regression"] if theirs.get("do_regression") else [])]


def logits_of(model, subjects):
    """A model's logits of all rows, an array (N, K), in full precision as in runs' predictions."""
    rows, found = Rows(subjects.features.tensors), []
    with torch.no_grad():
        for indices in torch.arange(len(subjects.labels)).split(subjects.batch_size):
            batch = MiniBatch(rows[indices], subjects.accelerator.device)
            found.append(batch.forward(model).logits)
    return torch.cat(found).double().cpu().numpy()


def read_logits(folder, subjects, count):
    """The logits in a run's dev_predictions.tsv, an array (N, K). count: K.

    Raises a UserError if the file is missing, or has other rows than `subjects`.
    """
    path = Path(folder) / "dev_predictions.tsv"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: evaluate that run again with --do_eval, or move its folder away"
        )
    names = [f"logit_{k}" for k in range(count)]
    keys = ["index", "label", *names]
    table, _ = results_csv.read_checked_csv(
        path, keys, keys[1:], keys[1:], "no file of predictions"
    )
    same = list(table["index"].fillna("")) == list(subjects.features.indices)
    if not same or not np.allclose(table["label"].astype(float), subjects.labels):
        raise UserError(
            f"{path} has predictions for other rows than those of "
            f"{subjects.features.source['file']}: give the rows that this run was evaluated on, "
            f"with --{place_of_rows(subjects.args)}"
        )
    return table[names].to_numpy()


# ---- what is measured ----------------------------------------------------------------------------


def measure(runs, args):
    """The table that analysis/ladder.py writes as a CSV: per seed a row of the teacher, and one row
    per run.

    runs: what ladder.read_students returns.
    """
    rows, z_t, facts = [], None, records.provenance()
    theirs = find_leading_run(runs, args)["arguments"]
    for seed, group in runs.groupby("seed", sort=True):
        say(f"seed {seed}: {len(group)} students")
        subjects = subjects_of(group, theirs, args)
        if z_t is None:
            z_t = logits_of(subjects.teacher, subjects)
            warn_of_teacher(z_t, subjects)
        times = time_all(subjects, args.rounds)
        rows.append(teacher_row(subjects, z_t, seed, times["teacher"]))
        students = {student.name: student for student in subjects.students}
        for _, run in group.iterrows():
            rows.append(student_row(run, students[run["name"]], subjects, z_t, times))
    told = {
        "constant": classes.constant_score(subjects.task, subjects.labels),
        "rows": len(subjects.labels),
        "rounds": args.rounds,
        "timed_rows": min(BATCH, len(subjects.labels)),
        "timed_on": where(subjects, facts),
        "timed_precision": subjects.accelerator.mixed_precision,
        "timed_commit": facts["commit"][:12],
    }
    own = pd.DataFrame(rows).assign(**told)
    # further columns are those published of any run: settings, versions, machine
    runs = publishable(runs).drop(columns=own.columns.difference(["name", "seed"]), errors="ignore")
    return own.merge(runs, "left", on=["name", "seed"])


def time_all(subjects, rounds):
    """A dict, "teacher" or a student's name -> [ms a row one by one, ms a row in a mini-batch]."""
    models = {"teacher": subjects.teacher}
    models |= {student.name: student.model for student in subjects.students}
    rows, found = min(BATCH, len(subjects.labels)), []
    for size, desc in ((1, "timing rows alone"), (BATCH, "timing mini-batches")):
        batches = subjects.timed_batches(rows, size)
        found.append(time_rounds(models, batches, subjects.accelerator, rounds, desc))
    return {name: [milliseconds(times[name], rows) for times in found] for name in models}


def teacher_row(subjects, z_t, seed, times):
    """The teacher's row for a seed, a dict. z_t: its logits (N, K). times: its two numbers in what
    time_all returns.
    """
    predictions = predictions_from_logits(subjects.task, z_t)
    metrics = compute_metrics(subjects.task, predictions, subjects.labels)
    own = {"name": "teacher", "method": "teacher", "copied": "all layers", "seed": seed}
    folder = subjects.args.model_name_or_path
    return own | numbers(subjects.teacher, folder, subjects.task, metrics, 1.0, times)


def student_row(run, student, subjects, z_t, times):
    """A run's row, a dict. z_t: the teacher's logits (N, K); times: what time_all returns."""
    z_s = read_logits(student.folder, subjects, z_t.shape[1])
    check_scores(run, subjects.task, z_s, subjects.labels)
    alike, _ = restoration(z_s, z_t, subjects.labels, subjects.task)
    agreement = alike["accuracy" if subjects.task.labels else "pearson"]
    own = {name: run[name] for name in ("name", "method", "copied", "seed")}
    metrics = {name: run[name] for name in subjects.task.metrics}
    facts = student.model, student.folder, subjects.task, metrics, agreement
    return own | numbers(*facts, times[student.name])


def numbers(model, folder, task, metrics, agreement, times):
    """The numbers in a model's row, a dict; score, metrics and agreement are not in %.

    metrics: name -> value on the dev set, for MNLI on the first one. times: [ms_alone, ms_batch].
    """
    return {
        "task": task.name,
        "layers": model.config.num_hidden_layers,
        "score": sum(metrics[name] for name in task.metrics) / len(task.metrics),
        **{name: metrics[name] for name in task.metrics},
        "agreement": agreement,
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": megabytes(folder),
        "ms_alone": times[0],
        "ms_batch": times[1],
    }


def warn_of_teacher(z_t, subjects):
    """Print a warning if the teacher is not clearly better than the best constant answer."""
    if classes.no_better_than_constant(subjects.task, z_t, subjects.labels):
        constant = classes.constant_answer(subjects.task, subjects.labels)
        say(
            f"warning: the teacher is not clearly better than {constant} on dev, so the ladder "
            "tells little of how small a student can be"
        )


def where(subjects, facts):
    """The device of the times in words: the GPU and machine, or the machine and its threads.

    facts: what records.provenance returns.
    """
    if subjects.accelerator.device.type == "cuda":
        return f"{torch.cuda.get_device_name()}; {facts['machine']}"
    threads = torch.get_num_threads()
    return f"{facts['machine']}, {threads} thread{'s' if threads > 1 else ''}"
