"""What a report measured -> its topics: each with tables, figures, and the paper's number where
there is one.

The published numbers are those of Jung, Kim, Na and Kim, Expert Systems with Applications 234
(2023) 120980, arXiv 2204.08922: BERT-base to 6 layers, means over its tasks. Its FSD is FSD_ILG
here.
"""

from collections import Counter

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import cka
import utils_glue
from analysis import captions, figures, tables
from analysis.compare import MAP, RELATIONS, cka_of, restoration
from training import logs, results_csv

PAPER_DIAGONAL = {"none": 0.927, "VKD": 0.934, "PKD": 0.937, "FSD_ILG": 0.958}  # Table 6
PAPER_RANK = {"VKD": 2.89, "PKD": 2.64, "RKD": 2.44, "FSD_ILG": 2.03}  # Table 7
MISSING = tables.MISSING
WORDS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "agreement",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "loyalty_wrong": "where the teacher is wrong",
}
FIRST = " Of several runs of a model the first is drawn."


class Topic:
    """A chapter of the report.

    figures: name -> (Figure, alternative text, caption). data: name -> table for a CSV file. shown:
    name -> (table to read, caption). notes: what is missing, and why.
    """

    def __init__(self, name):
        self.title, text = captions.TOPICS[name]
        self.text, self.figures, self.data, self.shown, self.notes = (
            captions.filled(text),
            {},
            {},
            {},
            [],
        )

    def show(self, name, table, **facts):
        self.shown[name] = table, captions.filled(captions.TABLES[name], **facts)

    def draw(self, name, figure, kind=None, **facts):
        self.figures[name] = (
            figure,
            *(captions.filled(text, **facts) for text in captions.FIGURES[kind or name]),
        )


def method_of(record):
    """A finished run's method with its variants in the name, as the tables call it."""
    return tables.name_variants(pd.DataFrame([results_csv.result_row(record)])).method[0]


# ---- numbers as text -----------------------------------------------------------------------------


def spread(values, digits=2, scale=1.0):
    """Mean ± standard deviation of the values that are there."""
    values = scale * values.dropna()
    if not len(values):
        return MISSING
    deviation = (
        f" ± {values.std(ddof=1):.{digits}f}"
        if len(values) > 1 and (digits or np.ptp(values))
        else ""
    )
    return f"{values.mean():.{digits}f}{deviation}"


def by_model(frame, columns):
    """A table to read: a row a model, in the frame's order. columns: heading -> (column, digits,
    scale).
    """
    groups = frame.groupby("name", sort=False)
    shown = pd.DataFrame(
        {
            heading: groups[column].agg(lambda values, d=digits, s=scale: spread(values, d, s))
            for heading, (column, digits, scale) in columns.items()
        }
    )
    return shown.reset_index(names="model")


def looked_up(values, names, digits):
    """A column of numbers by model, as text."""
    return [f"{values[name]:.{digits}f}" if name in values else MISSING for name in names]


def runs_of(students):
    """How many runs a model has, in words."""
    counts = Counter(student.name for student in students).values()
    if max(counts) == 1:
        return "one run each"
    return f"mean ± standard deviation over {' to '.join(map(str, sorted({min(counts), max(counts)})))} runs"


def first_of(students):
    """A sentence for pictures of single runs, where models have several."""
    return FIRST if any(student.run for student in students) else ""


# ---- topics --------------------------------------------------------------------------------------


def table_of(subjects, numbers):
    """One row a student's folder: what it is, and its numbers (dicts, in the students' order)."""
    whose = [
        {"name": s.name, "run": s.run, "folder": s.folder.name, "seed": s.record.get("seed")}
        for s in subjects.students
    ]
    return pd.DataFrame([who | row for who, row in zip(whose, numbers, strict=True)])


def restored(subjects):
    """How far the students' predictions are the teacher's."""
    topic, task, runs = Topic("restoration"), subjects.task, runs_of(subjects.students)
    z_t, rows, classes = subjects.itself.outputs(), [], []
    for student, comparison in zip(subjects.students, subjects.comparisons, strict=True):
        z_s = comparison.outputs()
        numbers, by_class = restoration(z_s, z_t, subjects.labels, task)
        own = utils_glue.compute_metrics(
            task, utils_glue.predictions_from_logits(task, z_s), subjects.labels
        )
        rows.append(numbers | {f"score_{metric}": value for metric, value in own.items()})
        if by_class is not None:
            classes.append(
                pd.DataFrame({"name": student.name, "run": student.run} | dict(by_class))
            )
    frame = topic.data["restoration"] = table_of(subjects, rows)
    columns = {WORDS[c]: (c, 2, 100) for c in WORDS if c in frame}
    columns |= {
        f"own {tables.WORDS[metric]}": (f"score_{metric}", 2, 100) for metric in task.metrics
    }
    topic.show(
        "restoration",
        by_model(frame, columns),
        runs=runs,
        rows=len(subjects.labels),
        how=captions.HOW[task.labels is None].format(wrong=rows[0]["wrong"]),
    )
    if classes:
        topic.data["classes"] = pd.concat(classes)
        topic.show("classes", class_table(topic.data["classes"]), runs=runs)
    topic.draw("restoration", figures.restoration(frame))
    return topic


def class_table(classes):
    """A row a model and class."""
    groups = classes.groupby(["name", "class"], sort=False)
    counts = {
        c: groups[c].agg(lambda values: spread(values, 0)) for c in ("teacher", "student", "both")
    }
    rates = {
        WORDS[c]: groups[c].agg(lambda values: spread(values, 2, 100))
        for c in ("precision", "recall", "f1")
    }
    shown = pd.DataFrame(counts | rates).reset_index(names=["model", "class"])
    return shown.rename(columns={"both": "the same rows"})


def everybody(subjects):
    """(name, Student or None, Comparison) of the teacher itself and of all students."""
    return [
        ("teacher", None, subjects.itself),
        *((s.name, s, c) for s, c in zip(subjects.students, subjects.comparisons, strict=True)),
    ]


def heat_maps(subjects):
    """CKA between the mini-batches of teacher and student."""
    topic, rows, pixels = Topic("heat_maps"), [], []
    maps = {estimator: {} for estimator in cka.ESTIMATORS}
    for name, student, comparison in everybody(subjects):
        row = {"name": name, "run": student.run if student else 0}
        for estimator in cka.ESTIMATORS:
            found = comparison.heat_map(estimator, subjects.itself)
            off = found[~np.eye(len(found), dtype=bool)]
            row |= {
                f"diagonal_{estimator}": comparison.diagonal(estimator),
                f"elsewhere_{estimator}": off.mean() if len(off) else np.nan,
            }
            if name not in maps[estimator]:
                maps[estimator][name] = found
                pixels.append(
                    cells(found, "teacher_batch", "model_batch", name=name, estimator=estimator)
                )
        rows.append(row)
    topic.data |= {"heat_maps": pd.DataFrame(rows), "heat_map_pixels": pd.concat(pixels)}
    shown = by_model(
        topic.data["heat_maps"],
        {
            "diagonal": ("diagonal_biased", 3, 1),
            "elsewhere": ("elsewhere_biased", 3, 1),
            "diagonal, debiased": ("diagonal_debiased", 3, 1),
            "elsewhere, debiased": ("elsewhere_debiased", 3, 1),
        },
    )
    shown["paper, diagonal"] = looked_up({"teacher": 1.0} | PAPER_DIAGONAL, shown.model, 3)
    size, number = subjects.batch_size, len(subjects.itself.diagonals["biased"])
    topic.show(
        "6",
        shown,
        runs=runs_of(subjects.students),
        batches=number,
        size=size,
        drawn=f" (of the first {MAP})" if number > MAP else "",
    )
    drawn = f" The first {MAP} of {number} mini-batches are drawn." if number > MAP else ""
    for estimator in cka.ESTIMATORS:
        diagonals = topic.data["heat_maps"].groupby("name")[f"diagonal_{estimator}"].first()
        topic.draw(
            f"heat_maps_{estimator}",
            figures.heat_maps(maps[estimator], estimator, diagonals),
            "heat_maps",
            estimator=estimator,
            size=size,
            drawn=drawn,
            first=first_of(subjects.students),
        )
    if number == 1:
        topic.notes.append("There is one mini-batch only: nothing lies outside the diagonal.")
    return topic


def cells(values, row, column, **facts):
    """A matrix of CKA as a table of its cells, each with the facts."""
    i, j = np.indices(values.shape)
    return pd.DataFrame(facts | {row: i.ravel(), column: j.ravel(), "cka": values.ravel()})


def layers(subjects):
    """CKA of every layer of the teacher with every layer of the students."""
    topic, every, rows, maps = Topic("layers"), [], [], {"tokens": {}, "samples": {}}
    for student, comparison in zip(subjects.students, subjects.comparisons, strict=True):
        row = {}
        for between, estimator in comparison.layer_means:
            found = comparison.layer_map(between, estimator)
            every.append(
                cells(
                    found,
                    "teacher_layer",
                    "layer",
                    name=student.name,
                    run=student.run,
                    between=between,
                    estimator=estimator,
                )
            )
            to_penultimate = found[:, -2]  # of the student
            row[f"{between}_{estimator}"] = to_penultimate[-2]
            if estimator == "debiased":
                row[f"{between}_nearest"] = to_penultimate.argmax()
            if student.run == 0:
                maps[between].setdefault(student.name, {})[estimator] = found
        rows.append(row)
    frame, topic.data["layers"] = table_of(subjects, rows), pd.concat(every)
    shown = by_model(
        frame,
        {
            f"{between}, {estimator}": (f"{between}_{estimator}", 3, 1)
            for between in maps
            for estimator in cka.ESTIMATORS
        },
    )
    for between in maps:
        nearest = frame.groupby("name", sort=False)[f"{between}_nearest"]
        shown[f"nearest layer, {between}"] = [
            ", ".join(map(str, sorted(set(found)))) for _, found in nearest
        ]
        topic.draw(
            f"layers_{between}",
            figures.layer_maps(maps[between], between),
            first=first_of(subjects.students),
        )
    depth = subjects.teacher.config.num_hidden_layers
    topic.show("layers", shown, runs=runs_of(subjects.students), penultimate=depth - 1, depth=depth)
    return topic


def relation_differences(subjects):
    """Eq. 12-13 at the end and along training, with the ranks of Table 7."""
    topic = Topic("relation_differences")
    frame = table_of(
        subjects, [comparison.relation_differences() for comparison in subjects.comparisons]
    )
    topic.data["relation_differences"] = frame
    shown = by_model(
        frame,
        {
            "inter, Euclidean": (RELATIONS[0], 2, 1),
            "inter, cosine": (RELATIONS[1], 4, 1),
            "intra, Euclidean": (RELATIONS[2], 2, 1),
            "intra, cosine": (RELATIONS[3], 4, 1),
        },
    )
    means = frame.groupby("name", sort=False)[RELATIONS].mean()
    shown["mean rank"] = looked_up(means.rank().mean(axis=1), shown.model, 2)
    if set(PAPER_RANK) <= set(means.index):
        shown["among the paper's four"] = looked_up(
            means.loc[list(PAPER_RANK)].rank().mean(axis=1), shown.model, 2
        )
    shown["paper"] = looked_up(PAPER_RANK, shown.model, 2)
    topic.show("7", shown, runs=runs_of(subjects.students))
    topic.draw("relation_differences", figures.relation_differences(frame))
    curves = subjects.curves
    if len(curves):
        topic.data["relation_training"] = curves
        topic.draw("relation_training", figures.relation_training(curves))
    without = dict.fromkeys(
        name for name in frame.name if curves.empty or name not in set(curves.name)
    )
    if without:
        topic.notes.append(
            f"No relation differences were logged along the training of {', '.join(without)}."
        )
    return topic


def training_curves(students, note=None):
    """The logged relation differences of all students, a row a log step; note: of read_log."""
    parts = []
    for student in students:
        path = student.folder / "train_log.jsonl"
        if not path.is_file():
            continue
        columns = ["step", "epoch", *RELATIONS]
        log = pd.DataFrame([entry for _, entry in logs.read_log(path, columns, note)])
        if set(columns) <= set(log):
            kept = log.dropna(subset=RELATIONS)[columns]
            parts.append(kept.assign(name=student.name, run=student.run))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# ---- the global structure ------------------------------------------------------------------------


def global_structure(subjects):
    """The teacher's memory beside the students'."""
    topic = Topic("global")
    if subjects.memory is None:
        topic.notes.append("No --teacher_memory_path was given.")
        return topic
    rows, sizes, panels, number = [], {}, {}, len(subjects.memory.rows)
    for name, student, comparison in everybody(subjects):
        rows.append(
            {"name": name, "run": student.run if student else 0}
            | placed(subjects, student, comparison)
        )
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
    frame = pd.DataFrame(rows).reindex(
        columns=["name", "run", *(column for column, *_ in columns.values())]
    )
    topic.data |= {
        "global": frame,
        "occupancy": pd.DataFrame(sizes).rename_axis("centroid").reset_index(),
    }
    shown = by_model(frame, columns)
    topic.show(
        "global",
        shown[[c for c in shown if (shown[c] != MISSING).any()]],
        centroids=number,
        runs=runs_of(subjects.students),
    )
    first = first_of(subjects.students)
    topic.draw("occupancy", figures.occupancy(sizes, len(subjects.labels)), first=first)
    topic.draw(
        "projection",
        figures.projection(
            panels,
            subjects.labels,
            subjects.task.labels,
            subjects.memory.points(subjects.memory.rows).numpy(),
            subjects.memory.plane[2],
            subjects.task.name,
        ),
        first=first,
    )
    other = dict.fromkeys(
        name for name, _, comparison in everybody(subjects) if not comparison.nearest
    )
    if other:
        topic.notes.append(
            f"{', '.join(other)}: not of the teacher's width, so not placed among its centroids."
        )
    return topic


def placed(subjects, student, comparison):
    """The clusterings of a student's samples, by the teacher's centroids and by its own, and the
    memories' CKA.
    """
    theirs, own, numbers = subjects.itself.clusters(), student and student.memory, {}
    if own:
        numbers |= {
            f"memory_{estimator}": cka_of(
                own.grams[estimator], subjects.memory.grams[estimator]
            ).item()
            for estimator in cka.ESTIMATORS
        }
        numbers |= among(comparison.clusters(own=True), theirs, "own_")
    return numbers | (among(comparison.clusters(), theirs) if comparison.nearest else {})


def among(found, theirs, prefix=""):
    """A clustering beside the teacher's: occupied centroids, share at the same one, adjusted Rand
    index.
    """
    return {
        f"{prefix}occupied": len(np.unique(found)),
        f"{prefix}same": (found == theirs).mean(),
        f"{prefix}rand": adjusted_rand_score(theirs, found),
    }
