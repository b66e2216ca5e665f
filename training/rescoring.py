"""For a finished run whose model is evaluated again, without training: its rows are read as in the
training, and its record, model card and row in a results.csv are brought up to date.
"""

import dataclasses

import common
from common import UserError, say
from tasks.own import own_files
from tasks.reading import read_table
from training import model_card, records, results_csv
from training.loading import for_student, has_teacher

ROWS = ("max_eval_samples", "validation_file")  # the flags that say which rows are scored


def check_results_csv(args):
    """Refuse --results_csv if --output_dir has no finished run whose row it could get."""
    if args.results_csv and not records.read_run(args.output_dir).get("finished"):
        raise UserError(
            f"--results_csv gets the row of a finished run, and {args.output_dir} has no run.json "
            "of one: train with --do_train, or leave --results_csv out"
        )


# ---- reading as it was trained -------------------------------------------------------------------


def read_at_trained_length(args):
    """If a student was trained with a length of its own, set --student_max_seq_length to that.

    Returns whether rows are read at the length of the training; if not, a note says so.
    """
    trained = records.read_run(args.output_dir).get("arguments", {})
    own = trained.get("student_max_seq_length")
    if has_teacher(args) and own and not args.student_max_seq_length:
        args.student_max_seq_length = own
    before, now = own or trained.get("max_seq_length"), for_student(args).max_seq_length
    if not before or now == before:
        return True
    say(
        f"note: the model in {args.output_dir} was trained on rows of {before} tokens, and "
        f"reads {now} now"
    )
    return False


def trained_columns(folder):
    """The columns of own files that the run in a folder was trained on: (tuple of text columns,
    label column); (), None if it read no own files.
    """
    train = records.read_run(folder).get("data", {}).get("train", {})
    return tuple(train.get("text_columns", ())), train.get("label_column")


def take_trained_columns(args, folder):
    """Set the flags for the columns of own files to those of the run in a folder, if the files have
    these columns and no flag names others.
    """
    texts, label = trained_columns(folder)
    files = own_files(args)
    if not texts or not files:
        return
    there = {split: set(read_table(path).columns) for split, path in files.items()}
    if not args.text_column_names and all(set(texts) <= found for found in there.values()):
        args.text_column_names = ",".join(texts)
    scored = [found for split, found in there.items() if split != "test"]
    if label and not args.label_column_name and all(label in found for found in scored):
        args.label_column_name = label


def tell_other_columns(task, folder):
    """A sentence if a Task's texts or labels are read from other columns than in the training of
    the run in a folder; None if not.

    UserError if the training read one text column and the Task has two, or the other way round.
    """
    before, label = trained_columns(folder)
    if not before:
        return None
    if before == task.text_columns:
        if label is None or label == task.label_column or "dev" not in task.files:
            return None
        return (
            f"the model in {folder} was trained on the labels in the column {label}, and is scored "
            f"on those in {task.label_column} now"
        )
    then, now = (" and ".join(names) for names in (before, task.text_columns))
    if len(before) != len(task.text_columns):
        raise UserError(
            f"the model in {folder} was trained on the columns {then}, and would read {now}: "
            f"name {len(before)} with --text_column_names"
        )
    return f"the model in {folder} was trained on the columns {then}, and reads {now} now"


# ---- what follows --------------------------------------------------------------------------------


def keep_scores(session, results):
    """Bring the record of the finished run in the output folder up to date, if there is one, and
    with it the model card and (with --results_csv) the row in a table.

    session: a Session without --do_train; if it is of another task than the training, or does not
    read rows as that did, nothing is changed. results: {metric: value} of its dev rows.
    """
    before = records.read_run(session.output)
    if not before.get("finished") or not common.is_main_process():
        return
    same_task = before.get("arguments", {}).get("task_name") == session.task.name
    if not (same_task and session.as_trained):
        say(f"note: {session.output / 'run.json'} keeps the scores of before")
        return
    names = {field.name for field in dataclasses.fields(records.Record)}
    record = records.Record(**{name: value for name, value in before.items() if name in names})
    with records.complete_run(session.output):
        rows = {name: getattr(session.args, name) for name in ROWS}
        record.arguments = {**record.arguments, **rows, "do_eval": True}
        scored = {split: session.sources[split] for split in session.dev_splits()}
        record.data = {**record.data, **scored}
        record.results = results
        if session.args.results_csv:
            row = results_csv.result_row(record.as_json())
            results_csv.append_result(session.args.results_csv, row)
        model_card.write_card(record, session.output)
    record.write(session.output)
