"""What methods cost: the report's Table 8, from its runs or a benchmark, beside the paper's.

Throughputs are relative to those of one student, the reference.
"""

import statistics

import pandas as pd

from analysis import figures_report
from analysis.means import published_averages
from analysis.report_parts import Topic, by_model, column_of
from analysis.timing import megabytes, milliseconds
from common import UserError
from training import flags
from training.results_csv import read_checked_csv

CONDITIONS = ("machine", "device", "precision", "processes")
NUMBERS = [
    "parameters",
    "megabytes",
    "training",
    "inference",
    "examples_per_second",
    "ms_alone",
    "ms_batch",
    "peak_memory_mib",
]


def cost_topic(subjects):
    """The Topic on parameters, throughput relative to the reference, and peak memory."""
    topic, measured, reference = Topic("cost"), subjects.cost, reference_of(subjects)
    rows = [cost_of(subjects, name, reference) for name in subjects.times]
    frame = pd.DataFrame(rows).reindex(columns=["name", *NUMBERS])
    frame = topic.data["cost"] = frame.astype(dict.fromkeys(NUMBERS, float))
    shown = by_model(
        frame,
        {
            "parameters, M": ("parameters", 1, 1e-6),
            "MB": ("megabytes", 1, 1),
            "training": ("training", 2, 1),
            "inference": ("inference", 2, 1),
            "ms a row, alone": ("ms_alone", 1, 1),
            "in a mini-batch": ("ms_batch", 1, 1),
            "peak memory, MiB": ("peak_memory_mib", 0, 1),
        },
    )
    for what in ("training", "inference"):
        shown[f"paper, {what}"] = column_of(published_averages(8, what), shown.model, 2)
    topic.add_table(
        "8",
        shown,
        reference=reference,
        size=subjects.batch_size,
        rounds=len(next(iter(subjects.times.values()))),
        source=describe_records(subjects.students) if measured is None else describe(measured),
    )
    if frame[["training", "inference"]].notna().any(axis=None):
        figure = figures_report.draw_cost(frame, reference)
        topic.add_figure("cost", figure, reference=reference)
    if reference not in subjects.times:
        topic.notes.append(
            f"No student is named {reference}: nothing to be relative to (--reference)."
        )
    elif frame.training.isna().any():
        why = "no row of that name"
        if measured is None:
            why = f"no run recorded under the conditions of {reference}'s"
        topic.notes.append(
            f"No training throughput of {', '.join(frame.name[frame.training.isna()])}: {why}."
        )
    return topic


def cost_of(subjects, name, reference):
    """The cost of one model: a dict with name and those of NUMBERS that are known."""
    runs = [student for student in subjects.students if student.name == name]
    seconds, theirs = subjects.times[name], subjects.times.get(reference, [])
    ratios = [other / own for other, own in zip(theirs, seconds, strict=False)]
    if subjects.cost is None:
        training = recorded_cost(runs, subjects.students, reference)
    else:
        wanted = subjects.args.reference
        training = measured_cost(subjects.cost, name, reference, wanted)
    return {
        "name": name,
        "parameters": sum(p.numel() for p in runs[0].model.parameters()),
        "megabytes": megabytes(runs[0].folder),
        "inference": statistics.median(ratios) if ratios else None,
        "examples_per_second": subjects.batch_size / statistics.median(seconds),
        "ms_alone": milliseconds(subjects.times_alone[name], subjects.batch_size),
        "ms_batch": milliseconds(seconds, subjects.batch_size),
        **training,
    }


def reference_of(subjects):
    """The name of the student that throughput is relative to: --reference, or that of a variant of
    it if all its students are of that one variant.
    """
    wanted = subjects.args.reference
    variants = dict.fromkeys(s.name for s in subjects.students if s.method == wanted)
    return next(iter(variants)) if len(variants) == 1 else wanted


def conditions_of(student):
    """A list of what two students' runs must have in common for their training throughput and peak
    memory to be compared.
    """
    arguments = flags.as_of_today(student.record.get("arguments", {}))
    return [
        *(student.record.get(c) for c in CONDITIONS),
        *(arguments.get(flag.name) for flag in flags.known().values() if flag.paces),
        bool(arguments.get("teacher_cache")),
    ]


def recorded_cost(runs, students, reference):
    """Training throughput relative to the reference's, and peak memory in MiB, from run.json files.

    runs: the students of one name. Of these and the reference's, those count that share the
    conditions of the reference's first run. Returns a dict with some of NUMBERS, {} if none counts.
    """
    rate, peak = "examples_per_second", "peak_memory_mib"
    others = [s for s in students if s.name == reference and rate in s.record]
    if not others:
        return {}
    wanted = conditions_of(others[0])
    alike = [s for s in runs if rate in s.record and conditions_of(s) == wanted]
    if not alike:
        return {}
    own = statistics.mean(s.record[rate] for s in alike)
    theirs = statistics.mean(s.record[rate] for s in others if conditions_of(s) == wanted)
    peaks = [s.record[peak] for s in alike if peak in s.record]
    return {"training": own / theirs, peak: max(peaks, default=None)}


def describe_records(students):
    """In words, where recorded_cost has its numbers from."""
    cached = any(s.record.get("arguments", {}).get("teacher_cache") for s in students)
    with_cache = ", with --teacher_cache" if cached else ""
    return (
        "training throughput and peak memory as the runs recorded them, whatever else the machine "
        f"did then{with_cache}; peak memory is the whole process's on a CPU, what was allocated "
        "on a GPU"
    )


def read_cost(path, reference):
    """Read a CSV of benchmarks/step.py: a table with a row per form (method), indexed by form.

    Refuses a table that lacks the reference, or has a form twice, as a table of several models has.
    """
    numbers = ["B", "W", "x VKD", "peak MiB"]
    columns = ["form", "model", "precision", *numbers, "device", "machine"]
    found, _ = read_checked_csv(path, columns, ["form"], numbers, "no table of benchmarks/step.py")
    found = found[columns]
    twice = found.form[found.form.duplicated()]
    if len(twice):
        raise UserError(
            f"{path} has several rows of the form {twice.iloc[0]}, as of several models "
            "or precisions: give a table of one model and precision"
        )
    found = found.set_index("form")
    if reference not in found.index:
        raise UserError(
            f"{path} has no row of the form {reference}, to which throughput is relative: name one "
            f"of {', '.join(found.index)} with --reference, and give a student of that name"
        )
    return found


def measured_cost(measured, name, reference, wanted):
    """A form's training throughput relative to the reference's, and its peak memory in MiB; {} if
    the table lacks the form.

    measured: what read_cost returned. name: of the student and the form. wanted: the form to take
    for a reference that is a variant without a row.
    """
    if name not in measured.index:
        return {}
    base = reference if reference in measured.index else wanted
    return {
        "training": measured["x VKD"][name] / measured["x VKD"][base],
        "peak_memory_mib": measured["peak MiB"][name],
    }


def describe(measured):
    """In words, how the numbers of a table of read_cost were measured."""
    row = measured.iloc[0]
    where = row.machine if row.device == "cpu" else row.device
    return (
        f"training throughput and peak memory by benchmarks/step.py ({row.model}, precision "
        f"{row.precision}, {row.B} samples of {row.W} tokens, no teacher cache, {where})"
    )
