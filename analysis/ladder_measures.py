"""What a ladder's students are, measured beside their teacher: a row a run, and the teacher's own.

The students of one seed are in memory at once, with the teacher, and take turns, so that their
times compare; a seed comes after the other.
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
KEPT = ("do_lower_case", *(flag.name for flag in PADDING))  # flags of runs: what is read, and how
NAMED = ("tokenizer_name", "max_eval_samples", "cache_dir", "max_seq_length")


# ---- what is compared ----------------------------------------------------------------------------


def subjects_of(runs, theirs, args):
    """The Subjects of a seed's runs, by name. theirs: flags of a run with a teacher, from its
    run.json; args: of analysis/ladder.py.

    Rows are read as the runs read them, and a student's tokenizer is in its folder.
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
    """The flags that name the dev rows: GLUE's folder, or the file that the runs were scored on.

    theirs: the flags of a run; args: of analysis/ladder.py, which may say that they moved.
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
    """A model's logits (N, K) of all rows, in full precision as a run's own predictions are."""
    rows, found = Rows(subjects.features.tensors), []
    with torch.no_grad():
        for indices in torch.arange(len(subjects.labels)).split(subjects.batch_size):
            batch = MiniBatch(rows[indices], subjects.accelerator.device)
            found.append(batch.forward(model).logits)
    return torch.cat(found).double().cpu().numpy()


def read_logits(folder, subjects, count):
    """A run's own dev predictions, logits (N, K); refused where they are of other rows."""
    path = Path(folder) / "dev_predictions.tsv"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: evaluate that run again with --do_eval, or move it away"
        )
    names = [f"logit_{k}" for k in range(count)]
    keys = ["index", "label", *names]
    table, _ = results_csv.read_table(path, keys, keys[1:], keys[1:], "no file of predictions")
    same = list(table["index"].fillna("")) == list(subjects.features.indices)
    if not same or not np.allclose(table["label"].astype(float), subjects.labels):
        raise UserError(
            f"{path} is of other rows than {subjects.features.source['file']}: name the rows of "
            f"the runs with --{place_of_rows(subjects.args)}"
        )
    return table[names].to_numpy()


# ---- what is measured ----------------------------------------------------------------------------


def measure(runs, args):
    """A row a run with all that a ladder tells of it, and a row of the teacher for each seed.

    runs: of analysis.runs, with the columns name, layers and copied.
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
    # beside it what is published of any run: settings, versions, machine
    runs = publishable(runs).drop(columns=own.columns.difference(["name", "seed"]), errors="ignore")
    return own.merge(runs, "left", on=["name", "seed"])


def time_all(subjects, rounds):
    """name -> (ms a row alone, ms a row in a mini-batch), of the teacher and all students."""
    models = {"teacher": subjects.teacher}
    models |= {student.name: student.model for student in subjects.students}
    rows, found = min(BATCH, len(subjects.labels)), []
    for size, desc in ((1, "timing rows alone"), (BATCH, "timing mini-batches")):
        batches = subjects.timed_batches(rows, size)
        found.append(time_rounds(models, batches, subjects.accelerator, rounds, desc))
    return {name: [milliseconds(times[name], rows) for times in found] for name in models}


def teacher_row(subjects, z_t, seed, times):
    """The teacher, as a row; its times are those beside the students of this seed."""
    predictions = predictions_from_logits(subjects.task, z_t)
    metrics = compute_metrics(subjects.task, predictions, subjects.labels)
    own = {"name": "teacher", "method": "teacher", "copied": "all layers", "seed": seed}
    folder = subjects.args.model_name_or_path
    return own | numbers(subjects.teacher, folder, subjects.task, metrics, 1.0, times)


def student_row(run, student, subjects, z_t, times):
    """A run, as a row. z_t: the teacher's logits (N, K)."""
    z_s = read_logits(student.folder, subjects, z_t.shape[1])
    check_scores(run, subjects.task, z_s, subjects.labels)
    alike, _ = restoration(z_s, z_t, subjects.labels, subjects.task)
    agreement = alike["accuracy" if subjects.task.labels else "pearson"]
    own = {name: run[name] for name in ("name", "method", "copied", "seed")}
    metrics = {name: run[name] for name in subjects.task.metrics}
    facts = student.model, student.folder, subjects.task, metrics, agreement
    return own | numbers(*facts, times[student.name])


def numbers(model, folder, task, metrics, agreement, times):
    """What is told of every model. metrics: those of the dev set, of MNLI the first one."""
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
    """Say so where the teacher has little to teach."""
    if classes.no_better_than_constant(subjects.task, z_t, subjects.labels):
        constant = classes.constant_answer(subjects.task, subjects.labels)
        say(
            f"warning: the teacher is not clearly better than {constant} on dev, so the ladder "
            "tells little of how small a student can be"
        )


def where(subjects, facts):
    """The device of the times, and how many threads it had, in words."""
    if subjects.accelerator.device.type == "cuda":
        return f"{torch.cuda.get_device_name()}; {facts['machine']}"
    threads = torch.get_num_threads()
    return f"{facts['machine']}, {threads} thread{'s' if threads > 1 else ''}"
