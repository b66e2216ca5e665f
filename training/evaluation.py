"""Scores and predictions of a model on a split, and the teacher's scores."""

import accelerate
import numpy as np
import pandas as pd
import torch

import common
from common import UserError, say
from kd import task_loss
from tasks.features import logits_cache, read_tensors, select, write_tensors
from tasks.metrics import compute_metrics, predictions_from_logits
from tasks.submission import write_submission
from tasks.task import has_file
from training import classes, models
from training.batches import MiniBatch, Rows

SOME = 1000  # training rows on which a teacher is scored if there is no dev set


def describe(results):
    """Metrics, {name: value}, on one line: "acc 0.8123, f1 0.8604"."""
    return ", ".join(f"{name} {value:.4f}" for name, value in results.items())


def predict(session, model, features):
    """A model's logits (N, K) for the N rows of a split, a float64 array; each process computes a
    share.

    The longest rows are taken first, so that those of a mini-batch are of like length; the logits
    are in the order of the rows.
    """
    model.eval()
    accelerator = session.accelerator
    world = accelerator.num_processes
    cut = session.can_cut(model, features)
    rows = Rows(features.tensors, cut, accelerator.process_index, world)
    lengths = features.tensors["attention_mask"].sum(1)
    order = lengths.argsort(descending=True, stable=True)
    batches = order.split(session.args.per_gpu_eval_batch_size * world)
    bar = common.progress(batches, desc="evaluating", leave=False, unit="batch")
    with torch.no_grad():
        logits = [
            MiniBatch(rows[indices], accelerator.device, world).forward(model).logits
            for indices in bar
        ]
    back = order.argsort().to(logits[0].device)
    return torch.cat(logits)[back].double().cpu().numpy()


# ---- a trained model -----------------------------------------------------------------------------


def evaluate(session, model, tokenizer):
    """Dev metrics by GLUE's names, with _mm for MNLI's second dev set, and tables of predictions.

    Returns ({metric: value}, {split: DataFrame}).
    """
    task, results, tables = session.task, {}, {}
    for split in session.dev_splits():
        features = session.read_as_student(split, tokenizer, session.args.max_eval_samples)
        logits, labels = predict(session, model, features), features.tensors["labels"]
        predictions = predictions_from_logits(task, logits)
        metrics = compute_metrics(task, predictions, labels.numpy())
        targets = labels if task.labels else labels.double()
        metrics["eval_loss"] = task_loss(torch.from_numpy(logits), targets).item()
        results |= {name + split.removeprefix("dev"): value for name, value in metrics.items()}
        columns = {"index": features.indices, "label": labels.numpy(), "prediction": predictions}
        columns |= {f"logit_{k}": column for k, column in enumerate(logits.T)}
        tables[split] = pd.DataFrame(columns)
    return results, tables


def evaluate_folder(session, folder):
    """Evaluate a saved model, loaded with transformers' Auto classes, in full precision.

    Results and predictions go into its folder. Returns {metric: value}.
    """
    model, tokenizer = models.load_trained(session.args, session.task, folder)
    results, tables = evaluate(session, model.to(session.device), tokenizer)
    if common.is_main_process():
        common.write_json(folder / "eval_results.json", {"task": session.task.name, **results})
        lines = [f"{key} = {value}\n" for key, value in results.items()]
        with common.atomic_path(folder / "eval_results.txt") as path:
            path.write_text("".join(lines), encoding="utf-8")
        for split, table in tables.items():
            with common.atomic_path(folder / f"{split}_predictions.tsv") as path:
                table.to_csv(path, sep="\t", index=False)
            warn_of_one_answer(session.task, split, table)
    return results


def warn_of_one_answer(task, split, table):
    """Warn if a classifier gives one class to all rows, which may still have a fair score.

    table: a DataFrame of `evaluate`.
    """
    if task.labels and table.prediction.nunique() == 1 < table.label.nunique():
        say(
            f"warning: the model answers {task.labels[table.prediction[0]]} to all {len(table)} "
            f"rows of {split}, so it has learned nothing of the task: train it longer, or at "
            "another learning rate, or with smaller weights of the terms beside the cross-entropy"
        )


def write_predictions(session):
    """Write the leaderboard files of the task's test sets into submission/ of the output folder."""
    args = session.args
    model, tokenizer = models.load_trained(args, session.task, session.output)
    model.to(session.device)
    for task, split, data_dir in session.test_sets():
        features = session.read_as_student(
            split, tokenizer, args.max_predict_samples, task, data_dir
        )
        logits = predict(session, model, features)
        predictions = predictions_from_logits(task, logits)
        if common.is_main_process():
            file = session.output / "submission" / task.submissions[split]
            write_submission(file, task, split, features.indices, predictions)
            say(f"wrote {file}")


# ---- the teacher ---------------------------------------------------------------------------------


def score_teacher(session, identity, teacher, tokenizer, training):
    """Score the teacher on dev, or, without a dev file, on the first training rows with a label.

    UserError if its classes are in another order than the task's, by these rows and by training
    rows too: WNLI's dev set contradicts its training set, so dev alone would refuse a teacher which
    learnt the training set by heart. training: the Features of the training rows. Returns {metric:
    value} with the file and the number of rows; None if no row has a label.
    """
    args, task = session.args, session.task
    labelled = training.tensors.get("labelled", torch.ones(len(training.indices), dtype=torch.bool))
    some = select(training, labelled.nonzero().flatten()[:SOME])
    rows = some
    if has_file(task, args.data_dir, "dev"):
        rows = session.features("dev", tokenizer, args.max_eval_samples)
    if not rows.indices:
        say("note: there are no labels to score the teacher by")
        return None
    where = f"{len(rows.indices)} rows of {rows.source['file']}"
    logits = teacher_logits(session, identity, teacher, rows)
    labels = rows.tensors["labels"].numpy()
    was = getattr(teacher, "was_in_order", None)
    problem = classes.other_meaning(task, args.model_name_or_path, logits, labels, where, was)
    if problem and rows is not some and some.indices and np.isfinite(logits).all():
        there = teacher_logits(session, identity, teacher, some), some.tensors["labels"].numpy()
        problem = problem if classes.other_meaning(task, "", *there, "") else None
    if problem:
        raise UserError(problem)
    predictions = predictions_from_logits(task, logits)
    metrics = compute_metrics(task, predictions, labels)
    say(f"the teacher on {where}: {describe(metrics)}")
    if classes.no_better_than_constant(task, logits, labels):
        say(
            f"warning: that is not clearly better than {classes.constant_answer(task, labels)}, "
            "so the teacher has little to teach"
        )
    return {"file": rows.source["file"], "rows": len(rows.indices)} | metrics


def teacher_logits(session, identity, teacher, rows):
    """The teacher's logits (N, K) of these rows, kept for the next run in the cache of tokenised
    rows.
    """
    path, fingerprint = logits_cache(
        session.task,
        rows,
        identity.teacher,
        identity.configuration,
        identity.tokenizer,
        identity.max_seq_length,
        session.device_name(),
        session.args.cache_dir or None,
    )
    found = read_tensors(path, fingerprint) if common.is_main_process() else None
    found = accelerate.utils.broadcast_object_list([found and found[0]["logits"].clone()])[0]
    if found is None:
        found = torch.from_numpy(predict(session, teacher, rows))
        if common.is_main_process():
            write_tensors(path, fingerprint, {"logits": found}, {})
    return found.numpy()
