"""The topics of a report, made of what it measured: tables, figures, the paper's numbers.

In all functions, subjects is a report_subjects.Subjects whose models were measured and timed.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import cka
from analysis import figures_memory, figures_report
from analysis.markdown import MISSING
from analysis.means import published_averages
from analysis.report_cost import cost_topic
from analysis.report_measures import MAP, RELATIONS, cka_of, restoration
from analysis.report_parts import (
    Topic,
    by_model,
    column_of,
    describe_first,
    describe_runs,
    rows_by_student,
    spread,
    teacher_and_students,
)
from analysis.report_text import HOW, fill_in
from analysis.tables_text import METRIC_WORDS
from tasks.metrics import compute_metrics, predictions_from_logits
from training import logs

WORDS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f1_macro": "macro-F1",
    "accuracy": "agreement",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "loyalty_wrong": "where the teacher is wrong",
}
# what is told of a student's penultimate layer: its CKA with the teacher's, by estimator, and the
# number of the teacher's layer with which its CKA is highest
LAYER_NUMBERS = (*cka.ESTIMATORS, "nearest")
BETWEEN_SAMPLES = [name for name in RELATIONS if "inter" in name]


def make_topics(subjects):
    """Name -> Topic, in the order of the report."""
    return {
        "restoration": restoration_topic(subjects),
        "heat_maps": heat_map_topic(subjects),
        "layers": layer_topic(subjects),
        "relation_differences": relation_topic(subjects),
        "global": memory_topic(subjects),
        "cost": cost_topic(subjects),
    }


# ---- predictions ---------------------------------------------------------------------------------


def restoration_topic(subjects):
    """The Topic on how well the students predict what the teacher predicts."""
    topic, task, runs = Topic("restoration"), subjects.task, describe_runs(subjects.students)
    z_t, rows, classes = subjects.itself.outputs(), [], []
    for student, comparison in zip(subjects.students, subjects.comparisons, strict=True):
        z_s = comparison.outputs()
        numbers, by_class = restoration(z_s, z_t, subjects.labels, task)
        predictions = predictions_from_logits(task, z_s)
        own = compute_metrics(task, predictions, subjects.labels)
        rows.append(numbers | {f"score_{metric}": value for metric, value in own.items()})
        if by_class is not None:
            who = {"name": student.name, "run": student.run}
            classes.append(pd.DataFrame(who | dict(by_class)))
    frame = topic.data["restoration"] = rows_by_student(subjects, rows)
    columns = {heading: (column, 2, 100) for column, heading in WORDS.items() if column in frame}
    for metric in task.metrics:
        columns[f"own {METRIC_WORDS[metric]}"] = f"score_{metric}", 2, 100
    how = fill_in(HOW[task.labels is None], wrong=rows[0]["wrong"])
    shown = by_model(frame, columns)
    topic.add_table("restoration", shown, runs=runs, rows=len(subjects.labels), how=how)
    if classes:
        topic.data["classes"] = pd.concat(classes)
        topic.add_table("classes", class_table(topic.data["classes"]), runs=runs)
    topic.add_figure("restoration", figures_report.draw_restoration(frame))
    return topic


def class_table(classes):
    """The table to read with a row per model and class."""
    groups = classes.groupby(["name", "class"], sort=False)
    counts = {
        column: groups[column].agg(lambda values: spread(values, 0))
        for column in ("teacher", "student", "both")
    }
    rates = {
        WORDS[column]: groups[column].agg(lambda values: spread(values, 2, 100))
        for column in ("precision", "recall", "f1")
    }
    shown = pd.DataFrame(counts | rates).reset_index(names=["model", "class"])
    return shown.rename(columns={"both": "the same rows"})


# ---- CKA -----------------------------------------------------------------------------------------


def heat_map_topic(subjects):
    """The Topic on CKA between the mini-batches of teacher and student."""
    topic, rows, pixels = Topic("heat_maps"), [], []
    maps = {estimator: {} for estimator in cka.ESTIMATORS}
    for name, student, comparison in teacher_and_students(subjects):
        row = {"name": name, "run": student.run if student else 0}
        for estimator in cka.ESTIMATORS:
            found = comparison.heat_map(estimator, subjects.itself)
            elsewhere = found[~np.eye(len(found), dtype=bool)]
            row[f"diagonal_{estimator}"] = comparison.diagonal(estimator)
            row[f"elsewhere_{estimator}"] = elsewhere.mean() if len(elsewhere) else np.nan
            if name not in maps[estimator]:
                maps[estimator][name] = found
                facts = {"name": name, "estimator": estimator}
                pixels.append(cells(found, "teacher_batch", "model_batch", **facts))
        rows.append(row)
    frame = pd.DataFrame(rows)
    topic.data |= {"heat_maps": frame, "heat_map_pixels": pd.concat(pixels)}
    shown = by_model(
        frame,
        {
            "diagonal": ("diagonal_biased", 3, 1),
            "elsewhere": ("elsewhere_biased", 3, 1),
            "diagonal, debiased": ("diagonal_debiased", 3, 1),
            "elsewhere, debiased": ("elsewhere_debiased", 3, 1),
        },
    )
    papers = {"teacher": 1.0} | published_averages(6, "diagonal")
    shown["paper, diagonal"] = column_of(papers, shown.model, 3)
    size, number = subjects.batch_size, len(subjects.itself.diagonals["biased"])
    of_first, drawn = "", ""
    if number > MAP:
        of_first = f" (of the first {MAP})"
        drawn = f" The first {MAP} of {number} mini-batches are drawn."
    runs, first = describe_runs(subjects.students), describe_first(subjects.students)
    topic.add_table("6", shown, runs=runs, batches=number, size=size, drawn=of_first)
    for estimator in cka.ESTIMATORS:
        diagonals = frame.groupby("name")[f"diagonal_{estimator}"].first()
        figure = figures_report.draw_heat_maps(maps[estimator], estimator, diagonals)
        facts = {"estimator": estimator, "size": size, "drawn": drawn, "first": first}
        topic.add_figure(f"heat_maps_{estimator}", figure, "heat_maps", **facts)
    if number == 1:
        topic.notes.append("There is one mini-batch only: nothing lies outside the diagonal.")
    return topic


def cells(values, row, column, **facts):
    """A matrix of CKA as a table with a row per cell: the facts, the cell's two indices, its CKA.

    row, column: the names of the columns with these indices.
    """
    i, j = np.indices(values.shape)
    return pd.DataFrame(facts | {row: i.ravel(), column: j.ravel(), "cka": values.ravel()})


def layer_topic(subjects):
    """The Topic on CKA of every layer of the teacher with every layer of the students."""
    topic, every, rows, maps = Topic("layers"), [], [], {"tokens": {}, "samples": {}}
    for student, comparison in zip(subjects.students, subjects.comparisons, strict=True):
        who = {"name": student.name, "run": student.run}
        row = {f"{between}_{what}": np.nan for between in maps for what in LAYER_NUMBERS}
        for between, estimator in comparison.layer_means:
            found = comparison.layer_map(between, estimator)
            if not np.ndim(found):
                continue  # not measured
            facts = who | {"between": between, "estimator": estimator}
            every.append(cells(found, "teacher_layer", "layer", **facts))
            to_penultimate = found[:, -2]  # the student's penultimate layer
            row[f"{between}_{estimator}"] = to_penultimate[-2]
            if estimator == "debiased":
                row[f"{between}_nearest"] = to_penultimate.argmax()
            if student.run == 0:
                maps[between].setdefault(student.name, {})[estimator] = found
        rows.append(row)
    frame, topic.data["layers"] = rows_by_student(subjects, rows), pd.concat(every)
    columns = {
        f"{between}, {estimator}": (f"{between}_{estimator}", 3, 1)
        for between in maps
        for estimator in cka.ESTIMATORS
    }
    shown, first = by_model(frame, columns), describe_first(subjects.students)
    for between in maps:
        nearest = frame.groupby("name", sort=False)[f"{between}_nearest"]
        shown[f"nearest layer, {between}"] = [list_layers(found) for _, found in nearest]
        if maps[between]:
            figure = figures_report.draw_layer_maps(maps[between], between)
            topic.add_figure(f"layers_{between}", figure, first=first)
    depth, runs = subjects.teacher.config.num_hidden_layers, describe_runs(subjects.students)
    topic.add_table("layers", shown, runs=runs, penultimate=depth - 1, depth=depth)
    return topic


def list_layers(found):
    """The numbers of the nearest layers in several runs as text, each once."""
    return ", ".join(map(str, sorted(set(found.dropna().astype(int))))) or MISSING


# ---- relations -----------------------------------------------------------------------------------


def relation_topic(subjects):
    """The Topic on relation differences, Eq. 12-13: at the end, along training, Table 7's ranks."""
    topic = Topic("relation_differences")
    numbers = [comparison.relation_differences() for comparison in subjects.comparisons]
    frame = topic.data["relation_differences"] = rows_by_student(subjects, numbers)
    shown = by_model(
        frame,
        {
            "inter, Euclidean": (RELATIONS[0], 2, 1),
            "inter, cosine": (RELATIONS[1], 4, 1),
            "intra, Euclidean": (RELATIONS[2], 2, 1),
            "intra, cosine": (RELATIONS[3], 4, 1),
        },
    )
    means, papers = (
        frame.groupby("name", sort=False)[RELATIONS].mean(),
        published_averages(7, "rank"),
    )
    ranked = means.dropna()  # a model with fewer than four columns has no mean rank
    shown["mean rank"] = column_of(ranked.rank().mean(axis=1), shown.model, 2)
    if set(papers) <= set(ranked.index):
        among = ranked.loc[list(papers)].rank().mean(axis=1)
        shown["among the paper's four"] = column_of(among, shown.model, 2)
    shown["paper"] = column_of(papers, shown.model, 2)
    those = "" if len(ranked) == len(means) else " that have all four"
    topic.add_table("7", shown, runs=describe_runs(subjects.students), those=those)
    figure = figures_report.draw_relation_differences(frame)
    topic.add_figure("relation_differences", figure)
    curves = subjects.curves
    if len(curves):
        topic.data["relation_training"] = curves
        topic.add_figure("relation_training", figures_report.draw_relation_training(curves))
    logged = set() if curves.empty else set(curves.name)
    without = dict.fromkeys(name for name in frame.name if name not in logged)
    if without:
        topic.notes.append(
            f"No relation differences were logged along the training of {', '.join(without)}."
        )
    return topic


def training_curves(students, note=None):
    """A table of the relation differences that the students' runs logged, a row per log step.

    Those between tokens are NaN for a student that reads other tokens than the teacher. note: for
    read_log, a function that takes a sentence.
    """
    parts = []
    for student in students:
        path = student.folder / "train_log.jsonl"
        if not path.is_file():
            continue
        columns = ["step", "epoch", *RELATIONS]
        log = pd.DataFrame([entry for _, entry in logs.read_log(path, columns, note)])
        logged = [name for name in RELATIONS if name in log]
        if {"step", "epoch", *BETWEEN_SAMPLES} <= set(log):
            kept = log.dropna(subset=logged).reindex(columns=columns)
            parts.append(kept.assign(name=student.name, run=student.run))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# ---- the global structure ------------------------------------------------------------------------


def memory_topic(subjects):
    """The Topic on the teacher's memory beside the students'."""
    topic = Topic("global")
    if subjects.memory is None:
        topic.notes.append("No --teacher_memory_path was given.")
        return topic
    rows, sizes, panels, number = [], {}, {}, len(subjects.memory.rows)
    for name, student, comparison in teacher_and_students(subjects):
        who = {"name": name, "run": student.run if student else 0}
        rows.append(who | memory_numbers(subjects, student, comparison))
        if comparison.nearest and name not in sizes:
            own = student and student.memory
            sizes[name] = np.bincount(comparison.clusters(), minlength=number)
            panels[name] = {
                "points": comparison.plane(),
                "centroids": subjects.memory.points(own.rows).numpy() if own else None,
            }
    columns = {
        "occupied": ("occupied", 0, 1),
        "same centroid, %": ("same", 1, 100),
        "Rand": ("rand", 3, 1),
        "own: occupied": ("own_occupied", 0, 1),
        "own: same, %": ("own_same", 1, 100),
        "own: Rand": ("own_rand", 3, 1),
        "CKA of the memories": ("memory_biased", 3, 1),
        "debiased": ("memory_debiased", 3, 1),
    }
    names = ["name", "run", *(column for column, *_ in columns.values())]
    frame = topic.data["global"] = pd.DataFrame(rows).reindex(columns=names)
    topic.data["occupancy"] = pd.DataFrame(sizes).rename_axis("centroid").reset_index()
    shown = by_model(frame, columns)
    shown = shown[[column for column in shown if (shown[column] != MISSING).any()]]
    runs, first = describe_runs(subjects.students), describe_first(subjects.students)
    topic.add_table("global", shown, centroids=number, runs=runs)
    figure = figures_memory.draw_occupancy(sizes, len(subjects.labels))
    topic.add_figure("occupancy", figure, first=first)
    topic.add_figure("projection", projection_figure(subjects, panels), first=first)
    everybody = teacher_and_students(subjects)
    other = dict.fromkeys(name for name, _, c in everybody if c.aligned and not c.nearest)
    if other:
        topic.notes.append(
            f"{', '.join(other)}: not of the teacher's width, so not placed among its centroids."
        )
    return topic


def projection_figure(subjects, panels):
    """The Figure of all models' samples in the plane of the teacher's centroids."""
    _, _, explained = subjects.memory.plane
    return figures_memory.draw_projection(
        panels,
        subjects.labels,
        subjects.task.labels,
        subjects.memory.points(subjects.memory.rows).numpy(),
        explained,
        subjects.task.name,
    )


def memory_numbers(subjects, student, comparison):
    """A dict of numbers on the global structure of a student, {} if nothing can be compared.

    These are what compare_clusterings returns: for the samples by the nearest of the teacher's
    centroids, and (with the prefix own_) by the nearest of the student's own; and memory_biased and
    memory_debiased, the CKA of the two memories. student: None for the teacher itself.
    """
    theirs, own, numbers = subjects.itself.clusters(), student and student.memory, {}
    if own:
        for estimator in cka.ESTIMATORS:
            both = cka_of(own.grams[estimator], subjects.memory.grams[estimator])
            numbers[f"memory_{estimator}"] = both.item()
        numbers |= compare_clusterings(comparison.clusters(own=True), theirs, "own_")
    if comparison.nearest:
        numbers |= compare_clusterings(comparison.clusters(), theirs)
    return numbers


def compare_clusterings(found, theirs, prefix=""):
    """A clustering of the samples beside the teacher's, as a dict with the keys (after the prefix)

    occupied    the number of centroids that are nearest to any sample
    same        the share of samples that have the same nearest centroid as in the teacher
    rand        the adjusted Rand index of the two clusterings

    found, theirs: the index of each sample's nearest centroid, (N,), theirs by the teacher.
    """
    return {
        f"{prefix}occupied": len(np.unique(found)),
        f"{prefix}same": (found == theirs).mean(),
        f"{prefix}rand": adjusted_rand_score(theirs, found),
    }
