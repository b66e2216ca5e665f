"""Checks of the runs that analysis/ladder.py is given. They raise a UserError if students of one
name differ in kind, if the students had another teacher than the one given, if they were scored on
other dev rows than those at hand, or if a run's scores do not follow from its predictions.
"""

import math
from pathlib import Path

from common import UserError
from tasks.metrics import compute_metrics, predictions_from_logits
from tasks.own import own_files
from training import records

TOLERANCE = 1e-6  # how far a metric that is computed again may be from the recorded one


def check_one_kind(runs):
    """Refuse students of one name with different sizes or tokenizers: they did not start from one
    model, and their mean would say nothing.

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
                    "start from one model: give students that did"
                )


def tokenizer_of(folder):
    """The fingerprint of the tokenizer that a run's student uses; None if the run recorded none."""
    settings = records.read_run(folder).get("settings") or {}
    return settings.get("student's tokenizer") or settings.get("tokenizer")


def find_leading_run(runs, args):
    """The run.json, as a dict, that says which teacher is meant and how its rows are read.

    It is that of the first run with a teacher: a student trained alone records only the model that
    it started from, so it is taken only if there is no other and --teacher is given. args: of
    analysis/ladder.py.
    """
    found = [records.read_run(Path(folder)) for folder in runs["--output_dir"]]
    taught = [record for record in found if record.get("teacher")]
    if not (taught or args.teacher):
        raise UserError(
            f"no student in {args.source} was distilled from a teacher, so it is not known which "
            "teacher to measure beside them: name it with --teacher"
        )
    return (taught or found)[0]


def check_subjects(subjects):
    """Refuse students that had another teacher than the one loaded, or were scored on other rows.

    subjects: report_subjects.Subjects, the loaded models and rows.
    """
    args, now = subjects.args, subjects.features.source
    for student in subjects.students:
        if student.record.get("teacher") not in (None, subjects.fingerprint):
            raise UserError(
                f"{student.folder} was distilled from another teacher than "
                f"{args.model_name_or_path}: name the teacher of the students with --teacher"
            )
        then = student.record.get("data", {}).get("dev", {})  # {} if an older run recorded none
        if then.get("sha256", now["sha256"]) != now["sha256"]:
            raise UserError(
                f"{student.folder} was scored on a {then.get('file')} whose content is not that of "
                f"the {now['file']} at hand: give the rows that it was scored on, with "
                f"--{place_of_rows(args)}, or evaluate the runs again on those at hand, with "
                "--do_eval alone"
            )


def place_of_rows(args):
    """The name of the flag that names the dev rows, without dashes. args: of analysis/report.py."""
    return "validation_file" if own_files(args) else "data_dir"


def check_scores(run, task, z_s, labels):
    """Refuse a run whose predictions give other metrics than its run.json has: the two files are
    from different evaluations.

    run: a row of a table of runs. z_s: logits (N, K) of its dev_predictions.tsv. labels: (N,).
    """
    found = compute_metrics(task, predictions_from_logits(task, z_s), labels)
    for name, value in found.items():
        if not math.isclose(value, run[name], rel_tol=0, abs_tol=TOLERANCE):
            raise UserError(
                f"{run['--output_dir']} has {name} {run[name]:.4f} in its run.json, but "
                f"{value:.4f} by its dev_predictions.tsv, so the files are from two evaluations: "
                "evaluate the run again, with --do_eval alone"
            )
