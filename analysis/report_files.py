"""The files of a report: page, tables, figures, record; and tables in TensorBoard and documents."""

import io
import json
from collections import Counter

from analysis.markdown import (
    end_marker,
    find_markers,
    insert,
    read_document,
    start_marker,
    to_markdown,
)
from analysis.report_page import Section, page
from analysis.report_text import TABLES
from common import UserError, say

FILE = "report.json"


# ---- what was compared ---------------------------------------------------------------------------


def describe(subjects, facts):
    """The facts at the top of a report, [(term, text)]: task, teacher, students, machine, versions.

    facts: what records.provenance returned.
    """
    import torch  # here, as the flags are read without it

    args, source, teacher = subjects.args, subjects.features.source, subjects.teacher.config
    device = torch.cuda.get_device_name() if subjects.accelerator.device.type == "cuda" else "cpu"
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "transformers"))
    commit = facts["commit"][:12] + (", changed" if facts["uncommitted_changes"] else "")
    counts = Counter(student.name for student in subjects.students)
    padding = "left out" if "mask" in subjects.features.tensors else "counted"
    aligned = all(student.reading.aligned for student in subjects.students)
    tokens = f"{args.max_seq_length} tokens each{'' if aligned else ', as the teacher reads them'}"
    return [
        (
            "task",
            f"{subjects.task.name}, {len(subjects.labels)} rows of {source['file']} (sha256 "
            f"{source['sha256'][:12]})",
        ),
        (
            "teacher",
            f"{teacher.num_hidden_layers} layers, {teacher.hidden_size} wide, weights "
            f"{subjects.fingerprint[:12]}",
        ),
        ("students", ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())),
        (
            "mini-batches",
            f"of {subjects.batch_size} samples, {tokens}, padding {padding}",
        ),
        (
            "machine",
            f"{facts['machine']}, {device}, precision {subjects.accelerator.mixed_precision}",
        ),
        ("versions", f"{versions}, commit {commit}"),
        ("written", facts["started"]),
    ]


def record_of(subjects, facts):
    """The content of report.json."""
    from training import models  # here, as it imports for seconds

    return facts | {
        "arguments": vars(subjects.args),
        "teacher": subjects.fingerprint,
        "teacher_memory": subjects.memory_sha,
        "data": subjects.features.source,
        "notes": subjects.notes,
        "students": [
            {
                "name": s.name,
                "run": s.run,
                "folder": str(s.folder),
                "seed": s.record.get("seed"),
                "tokenizer": s.reading.tokenizer,
                "max_seq_length": s.reading.length,
                "weights": models.fingerprint_of_model(s.model),
            }
            for s in subjects.students
        ],
    }


# ---- writing -------------------------------------------------------------------------------------


def write_report(folder, subjects, topics, about, facts):
    """Write all files of a report into a new folder.

    topics: name -> Topic. about: what `describe` returned. facts: for report.json: what
    records.provenance returned, and the report's minutes and peak memory.
    """
    folder.mkdir()
    sections = [write_topic(folder, topic) for topic in topics.values()]
    if subjects.notes:
        sections.append(Section("Notes", "", [], [], subjects.notes))
    html = page(f"What was transferred: {subjects.task.name}", about, sections)
    record = json.dumps(record_of(subjects, facts), indent=2, default=str)
    (folder / "report.html").write_text(html, encoding="utf-8")
    text = as_markdown(topics, about, subjects.notes)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    (folder / FILE).write_text(f"{record}\n", encoding="utf-8")


def write_topic(folder, topic):
    """Write a topic's tables (CSV) and figures (PNG, SVG). Returns its Section of the page."""
    for name, data in topic.data.items():
        data.to_csv(folder / f"{name}.csv", index=False)
    pictures = []
    for name, (figure, alternative, caption) in topic.figures.items():
        png, svg = render(figure)
        (folder / f"{name}.png").write_bytes(png)
        (folder / f"{name}.svg").write_bytes(svg)
        pictures.append((alternative, svg, caption))
    return Section(topic.title, topic.text, pictures, list(topic.shown.values()), topic.notes)


def render(figure):
    """A figure as bytes, (PNG, SVG); equal figures give equal bytes."""
    import matplotlib

    png, svg = io.BytesIO(), io.BytesIO()
    # a fixed salt and no dates, or two files of one figure would differ
    with matplotlib.rc_context({"svg.hashsalt": "fsd"}):
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=150, metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def as_markdown(topics, about, notes):
    """The report as Markdown: its facts, a chapter of tables per topic, and the last notes."""
    parts = ["\n".join(f"- {term}: {text}" for term, text in about)]
    for topic in topics.values():
        parts += [f"## {topic.title}", topic.text]
        parts += [with_caption(*shown) for shown in topic.shown.values()]
        parts += topic.notes
    if notes:
        parts += ["## Notes", *notes]
    return "\n\n".join(parts) + "\n"


def with_caption(table, caption, padded=True):
    """A table to read and its caption, as Markdown."""
    return f"{to_markdown(table, padded=padded)}\n\n{caption}"


# ---- elsewhere -----------------------------------------------------------------------------------


def log_to_tensorboard(path, topics):
    """Write all figures and tables to a TensorBoard folder."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(path) as writer:
        for name, topic in topics.items():
            for figure, (drawing, *_) in topic.figures.items():
                writer.add_figure(f"{name}/{figure}", drawing)
            for shown, (table, caption) in topic.shown.items():
                writer.add_text(f"{name}/{shown}", with_caption(table, caption, padded=False))


def find_all_markers(path):
    """The names of the report's tables for which a file has marker lines: <!-- table NAME --> and
    <!-- end NAME -->.

    Refuses a file with markers for no table, with one twice, or with an end before its start.
    """
    content = read_document(path)
    names = [
        name for name in TABLES if start_marker(name) in content and end_marker(name) in content
    ]
    for name in names:
        find_markers(path, content, name)
    if not names:
        raise UserError(
            f"{path} has no lines {start_marker('NAME')} and {end_marker('NAME')}, between which a "
            f"table goes: add them, NAME being one of {', '.join(TABLES)}"
        )
    return names


def insert_tables(path, topics, about):
    """Put tables into a file: each for which the file has marker lines goes between these, with its
    caption and a line on where its numbers come from.
    """
    told = ("task", "teacher", "machine", "versions")
    where = "; ".join(f"{term} {text}" for term, text in about if term in told)
    shown = {name: pair for topic in topics.values() for name, pair in topic.shown.items()}
    marked = find_all_markers(path)
    names = [name for name in marked if name in shown]
    if kept := [name for name in marked if name not in shown]:
        say(
            f"note: this report has no table {' or '.join(kept)}: what {path} has between those "
            "markers is of an earlier one"
        )
    insert(path, {name: f"{with_caption(*shown[name])}\n{where}." for name in names})
