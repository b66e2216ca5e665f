"""What methods cost: the report's Table 8, of the runs' own records or of a benchmark, beside the
paper's.

The published numbers are those of Jung, Kim, Na and Kim, Expert Systems with Applications 234
(2023) 120980, arXiv 2204.08922; its FSD is FSD_ILG here.
"""

import statistics

import pandas as pd

from analysis import figures
from analysis.findings import Topic, by_model, looked_up
from common import UserError
from training.records import as_of_today
from training.results_csv import read_table

PAPER_SPEED = {
    "VKD": (1.0, 1.0),
    "PKD": (0.96, 1.0),
    "RKD": (0.77, 1.0),
    "FSD_ILG": (0.92, 0.88),
}  # Table 8
CONDITIONS = ("machine", "device", "precision", "processes")
SETTINGS = (
    "per_gpu_train_batch_size",
    "gradient_accumulation_steps",
    "max_seq_length",
    "mask_padding",
    "group_by_length",
    "compile",
)


def costs(subjects):
    """Parameters, throughput relative to a reference, and peak memory."""
    topic, measured, rows = Topic("cost"), subjects.cost, []
    reference = reference_of(subjects)
    for name, seconds in subjects.times.items():
        runs = [s for s in subjects.students if s.name == name]
        ratios = [r / t for r, t in zip(subjects.times.get(reference, []), seconds, strict=False)]
        rows.append(
            {
                "name": name,
                "parameters": sum(p.numel() for p in runs[0].model.parameters()),
                "inference": statistics.median(ratios) if ratios else None,
                "examples_per_second": subjects.batch_size / statistics.median(seconds),
                **(
                    recorded(runs, subjects.students, reference)
                    if measured is None
                    else relative(measured, name, reference)
                ),
            }
        )
    numbers = ["parameters", "training", "inference", "examples_per_second", "peak_memory_mib"]
    frame = (
        pd.DataFrame(rows).reindex(columns=["name", *numbers]).astype(dict.fromkeys(numbers, float))
    )
    topic.data["cost"] = frame
    shown = by_model(
        frame,
        {
            "parameters, M": ("parameters", 1, 1e-6),
            "training": ("training", 2, 1),
            "inference": ("inference", 2, 1),
            "peak memory, MiB": ("peak_memory_mib", 0, 1),
        },
    )
    for k, what in enumerate(("training", "inference")):
        shown[f"paper, {what}"] = looked_up(
            {name: pair[k] for name, pair in PAPER_SPEED.items()}, shown.model, 2
        )
    topic.show(
        "8",
        shown,
        reference=reference,
        size=subjects.batch_size,
        rounds=len(seconds),
        source=recorded_how(subjects.students) if measured is None else measured_how(measured),
    )
    if frame[["training", "inference"]].notna().any(axis=None):
        topic.draw("cost", figures.cost(frame, reference), reference=reference)
    if reference not in subjects.times:
        topic.notes.append(
            f"No student is named {reference}: nothing to be relative to (--reference)."
        )
    elif frame.training.isna().any():
        why = (
            f"no run recorded under the conditions of {reference}'s"
            if measured is None
            else "no row of that name"
        )
        topic.notes.append(
            f"No training throughput of {', '.join(frame.name[frame.training.isna()])}: {why}."
        )
    return topic


def reference_of(subjects):
    """The name that throughput is relative to: --reference, or the one variant of it that there is."""
    wanted = subjects.args.reference
    variants = [name for name in subjects.times if name.partition(",")[0] == wanted]
    return variants[0] if len(variants) == 1 else wanted


def conditions(student):
    """What two runs must share for their throughput and memory to be compared."""
    arguments = as_of_today(student.record.get("arguments", {}))
    return [
        *(student.record.get(c) for c in CONDITIONS),
        *(arguments.get(s) for s in SETTINGS),
        bool(arguments.get("teacher_cache")),
    ]


def recorded(runs, students, reference):
    """Training throughput relative to the reference's runs, and peak memory, by run.json under its
    conditions.
    """
    others = [s for s in students if s.name == reference and "examples_per_second" in s.record]
    alike = [
        s
        for s in runs
        if others and "examples_per_second" in s.record and conditions(s) == conditions(others[0])
    ]
    if not alike:
        return {}
    own, theirs = (
        statistics.mean(s.record["examples_per_second"] for s in some)
        for some in (alike, [s for s in others if conditions(s) == conditions(others[0])])
    )
    peaks = [s.record["peak_memory_mib"] for s in alike if "peak_memory_mib" in s.record]
    return {"training": own / theirs, "peak_memory_mib": max(peaks, default=None)}


def recorded_how(students):
    """Where `recorded` has its numbers from, in words."""
    cached = any(s.record.get("arguments", {}).get("teacher_cache") for s in students)
    return (
        "training throughput and peak memory as the runs recorded them, whatever else the machine "
        "did then"
        + (", with --teacher_cache" if cached else "")
        + "; peak memory is the whole process's on a CPU, what was "
        "allocated on a GPU"
    )


def read_cost(path, reference):
    """A table that benchmarks/step.py wrote, by form; refused where it is of several models or
    lacks the reference.
    """
    numbers = ["B", "W", "x VKD", "peak MiB"]
    columns = ["form", "model", "precision", *numbers, "device", "machine"]
    found, _ = read_table(path, columns, ["form"], numbers, "no table of benchmarks/step.py")
    found = found[columns]
    twice = found.form[found.form.duplicated()]
    if len(twice):
        raise UserError(
            f"{path} has {twice.iloc[0]} twice: give a table of one model and precision"
        )
    found = found.set_index("form")
    if reference not in found.index:
        raise UserError(
            f"{path} has no row {reference}, which throughput is to be relative to: name one of "
            f"{', '.join(found.index)} with --reference, and a student of that name"
        )
    return found


def relative(measured, name, reference):
    """A form's throughput relative to another's and its peak memory, of what read_cost returned."""
    base = reference if reference in measured.index else reference.partition(",")[0]
    if name not in measured.index:
        return {}
    return {
        "training": measured["x VKD"][name] / measured["x VKD"][base],
        "peak_memory_mib": measured["peak MiB"][name],
    }


def measured_how(measured):
    """What was measured for a table of read_cost, in words."""
    row = measured.iloc[0]
    where = row.machine if row.device == "cpu" else row.device
    return (
        f"training throughput and peak memory by benchmarks/step.py ({row.model}, precision "
        f"{row.precision}, {row.B} samples of {row.W} tokens, no teacher cache, {where})"
    )
