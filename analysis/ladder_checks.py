"""Runs of which no ladder is made: students of one name that are not of one kind, another teacher
than theirs, scores and predictions that are of different rows.
"""

import math
from pathlib import Path

from common import UserError
from tasks.metrics import compute_metrics, predictions_from_logits
from tasks.own import own_files
from training import records

TOLERANCE = 1e-6  # of a metric that is computed a second time


def check_one_kind(runs):
    """Refuse students of one name that have two sizes or tokenizers: they did not start from one
    model, and their mean is of nothing.

    runs: a table with the columns name, parameters and --output_dir.
    """
    for name, group in runs.groupby("name", sort=False):
        tokenizers = [tokenizer_of(folder) for folder in group["--output_dir"]]
        for what, values in (("parameters", group.parameters), ("tokenizers", tokenizers)):
            found = {str(value) for value in values if value is not None}
            if len(found) > 1:
                told = " and ".join(sorted(word[:12] for word in found))
                raise UserError(
                    f"the students named {name} have different {what} ({told}), so they did not "
                    "start from one model: give those of one"
                )


def tokenizer_of(folder):
    """The fingerprint of the tokenizer with which a run's student reads; None of an older run."""
    settings = records.read_run(folder).get("settings") or {}
    return settings.get("student's tokenizer") or settings.get("tokenizer")


def find_leading_run(runs, args):
    """The run.json that says which teacher is meant and how its rows are read: of the first run
    that had a teacher, as that of a student alone names what it was trained from.
    """
    found = [records.read_run(Path(folder)) for folder in runs["--output_dir"]]
    taught = [record for record in found if record.get("teacher")]
    if not (taught or args.teacher):
        raise UserError(
            f"no run in {args.source} had a teacher to be measured beside: name one with --teacher"
        )
    return (taught or found)[0]


def check_subjects(subjects):
    """Refuse students of another teacher, or that were scored on other rows, than those at hand.

    subjects: report_subjects.Subjects.
    """
    args, now = subjects.args, subjects.features.source
    for student in subjects.students:
        if student.record.get("teacher") not in (None, subjects.fingerprint):
            raise UserError(
                f"{student.folder} was distilled from another teacher than "
                f"{args.model_name_or_path}: name that one with --teacher"
            )
        then = student.record.get("data", {}).get("dev", {})  # not of an older run
        if then.get("sha256", now["sha256"]) != now["sha256"]:
            raise UserError(
                f"{student.folder} was scored on a {then.get('file')} whose content is not that of "
                f"the {now['file']} at hand: name the rows of then with --{place_of_rows(args)}, "
                "or evaluate the runs on these again, with --do_eval alone"
            )


def place_of_rows(args):
    """The flag that names the dev rows. args: of analysis/report.py."""
    return "validation_file" if own_files(args) else "data_dir"


def check_scores(run, task, z_s, labels):
    """Refuse a run whose predictions have other metrics than its run.json: it was evaluated again.

    run: a row of a table. z_s: logits (N, K) of its dev_predictions.tsv, labels: (N,).
    """
    found = compute_metrics(task, predictions_from_logits(task, z_s), labels)
    for name, value in found.items():
        if not math.isclose(value, run[name], rel_tol=0, abs_tol=TOLERANCE):
            raise UserError(
                f"{run['--output_dir']} has {name} {run[name]:.4f} in its run.json and "
                f"{value:.4f} by its dev_predictions.tsv, which are of two evaluations: evaluate "
                "it again, with --do_eval alone"
            )
