"""What was transferred: a teacher and its students -> a folder with tables, figures and one HTML
report.

    python analysis/report.py --model_name_or_path runs/rte/teacher --data_dir glue --task_name RTE \\
      --students runs/rte/none runs/rte/vkd FSD=runs/rte/fsd_ilg --teacher_memory_path runs/rte/memory \\
      --output_dir runs/rte/report

A student is a folder with a trained model, of this project or of plain transformers; NAME=FOLDER
names it, else its run.json does. Folders of one name are runs of one method: tables have their mean
± standard deviation, pictures of single runs the first. Measured are

    restoration           of the teacher's predictions (the paper's Fig. 3)
    heat maps             CKA between mini-batches of teacher and student (Fig. 4, Table 6), biased and debiased
    layers                CKA of every layer with every other, between tokens and between samples
    relation differences  Eq. 12-13, at the end and, from the runs' logs, along training (Fig. 6, Table 7)
    global structure      teacher memory beside student memory, clusters, a projection
    cost                  parameters, throughput in training and inference, peak memory (Table 8)

Everything is measured on the rows of --split in their order, a mini-batch at a time; nothing is
trained, and no features are kept, so a training set of any size will do. The models are in memory
all at once.
"""

import io
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import table
from analysis.captions import TABLES
from analysis.page import Section, page
from common import UserError, expand_path, say
from glue_data.tasks import TASKS, get_task
from training import flags, records

FILE = "report.json"


# ---- what was measured, in words and pictures ----------------------------------------------------


def topics_of(subjects):
    """Name -> findings.Topic."""
    from analysis import cost, findings  # here, so that the flags are read without matplotlib

    return {
        "restoration": findings.restored(subjects),
        "heat_maps": findings.heat_maps(subjects),
        "layers": findings.layers(subjects),
        "relation_differences": findings.relation_differences(subjects),
        "global": findings.global_structure(subjects),
        "cost": cost.costs(subjects),
    }


def described(subjects, facts):
    """What was compared on what, [(term, text)] for the reader."""
    import torch

    args, source, teacher = subjects.args, subjects.features.source, subjects.teacher.config
    device = torch.cuda.get_device_name() if subjects.accelerator.device.type == "cuda" else "cpu"
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "transformers"))
    commit = facts["commit"][:12] + (", changed" if facts["uncommitted_changes"] else "")
    counts = Counter(student.name for student in subjects.students)
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
            f"of {subjects.batch_size} samples, {args.max_seq_length} tokens each, padding "
            + ("left out" if args.mask_padding else "counted"),
        ),
        (
            "machine",
            f"{facts['machine']}, {device}, precision {subjects.accelerator.mixed_precision}",
        ),
        ("versions", f"{versions}, commit {commit}"),
        ("written", facts["started"]),
    ]


def drawn(figure):
    """A figure as bytes, (PNG, SVG); the same for the same figure."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fsd"}):
        files = io.BytesIO(), io.BytesIO()
        figure.savefig(files[0], format="png", dpi=150, metadata={"Software": None})
        figure.savefig(files[1], format="svg", dpi=150, metadata={"Date": None})
    return tuple(file.getvalue() for file in files)


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
                "weights": models.fingerprint_of_model(s.model),
            }
            for s in subjects.students
        ],
    }


# ---- writing -------------------------------------------------------------------------------------


def write(folder, subjects, topics, about, facts):
    """All files of a report."""
    folder.mkdir()
    sections = []
    for topic in topics.values():
        for name, data in topic.data.items():
            data.to_csv(folder / f"{name}.csv", index=False)
        pictures = []
        for name, (figure, alternative, caption) in topic.figures.items():
            png, svg = drawn(figure)
            (folder / f"{name}.png").write_bytes(png)
            (folder / f"{name}.svg").write_bytes(svg)
            pictures.append((alternative, svg, caption))
        sections.append(
            Section(topic.title, topic.text, pictures, list(topic.shown.values()), topic.notes)
        )
    if subjects.notes:
        sections.append(Section("Notes", "", [], [], subjects.notes))
    (folder / "report.html").write_text(
        page(f"What was transferred: {subjects.task.name}", about, sections), encoding="utf-8"
    )
    (folder / "tables.md").write_text(as_markdown(topics, about), encoding="utf-8")
    (folder / FILE).write_text(
        json.dumps(record_of(subjects, facts), indent=2, default=str) + "\n", encoding="utf-8"
    )


def as_markdown(topics, about):
    """All tables, a chapter each."""
    parts = ["\n".join(f"- {term}: {text}" for term, text in about)]
    for topic in topics.values():
        parts += [
            f"## {topic.title}",
            topic.text,
            *(
                f"{table.markdown(found, padded=True)}\n\n{caption}"
                for found, caption in topic.shown.values()
            ),
            *topic.notes,
        ]
    return "\n\n".join(parts) + "\n"


def log(path, topics):
    """Figures and tables to TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(path) as writer:
        for name, topic in topics.items():
            for figure, (drawing, *_) in topic.figures.items():
                writer.add_figure(f"{name}/{figure}", drawing)
            for shown, (found, caption) in topic.shown.items():
                writer.add_text(f"{name}/{shown}", f"{table.markdown(found)}\n\n{caption}")


def places(path):
    """The names of the tables that a file has lines <!-- table NAME --> and <!-- end NAME --> for."""
    content = table.read_marked(path)
    names = [
        name
        for name in TABLES
        if f"<!-- table {name} -->" in content and f"<!-- end {name} -->" in content
    ]
    for name in names:
        table.marked(path, content, name)
    if not names:
        raise UserError(
            f"{path} has no lines <!-- table NAME --> and <!-- end NAME --> to put a table "
            f"between, NAME being one of {', '.join(TABLES)}"
        )
    return names


def insert(path, topics, about):
    """Put the tables that a file has lines for between these, each with where it comes from."""
    where = "; ".join(
        f"{term} {text}"
        for term, text in about
        if term in ("task", "teacher", "machine", "versions")
    )
    shown = {name: pair for topic in topics.values() for name, pair in topic.shown.items()}
    texts = {
        name: f"{table.markdown(found, padded=True)}\n\n{caption}\n{where}."
        for name, (found, caption) in shown.items()
    }
    table.insert(path, {name: texts[name] for name in places(path) if name in texts})


# ---- command line --------------------------------------------------------------------------------


def expand_student(word):
    """The type of [NAME=]FOLDER, with ~ in the folder."""
    name, equals, folder = word.partition("=")
    named = equals and folder.startswith("~") and not word.startswith("~")
    return f"{name}={expand_path(folder)}" if named else expand_path(word)


def make_parser():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        metavar="TEACHER",
        help="Folder or hub name of the fine-tuned teacher.",
    )
    add(
        "--students",
        nargs="+",
        type=expand_student,
        required=True,
        metavar="[NAME=]FOLDER",
        help="Folders with trained models; those of one name are runs of one model.",
    )
    add("--task_name", required=True, help="GLUE task, in any case: " + ", ".join(TASKS) + ".")
    add(
        "--data_dir",
        type=expand_path,
        required=True,
        help="Folder with the task's official .tsv files, or the folder above it.",
    )
    add("--output_dir", type=expand_path, required=True, help="Folder for the report; made anew.")
    add(
        "--overwrite_output_dir",
        action="store_true",
        help="Replace an earlier report in --output_dir.",
    )
    add(
        "--teacher_memory_path",
        help="The memory: the folder or file that train_memory.py wrote for this teacher, "
        "task and length. Default: no global structure in the report.",
    )
    add("--split", default="dev", help="Which rows: dev, train or, of MNLI, dev_mm. Default dev.")
    add(
        "--max_seq_length",
        type=int,
        help="W, tokens a sample is padded or cut to. Default: that of the students' runs, or 128.",
    )
    add(
        "--per_gpu_eval_batch_size",
        "--per_device_eval_batch_size",
        type=int,
        default=32,
        help="B, the samples of a mini-batch, between which the structure is. Default 32.",
    )
    add("--max_eval_samples", type=int, help="Use only the first N rows.")
    add("--mask_padding", action="store_true", help="Leave padded positions out of all structures.")
    add(
        "--reference",
        default="VKD",
        metavar="NAME",
        help="The student that throughput is relative to. Default VKD.",
    )
    add(
        "--cost",
        type=expand_path,
        metavar="CSV",
        help="Take training throughput and peak memory from this table of "
        "benchmarks/step.py, whose forms are named as the students, instead of the runs' records.",
    )
    add("--run_file", help="Also log figures and tables to this TensorBoard folder.")
    add(
        "--insert",
        metavar="FILE",
        help="Also put tables into this Markdown file, between its lines <!-- table NAME "
        f"--> and <!-- end NAME -->, NAME being one of {', '.join(TABLES)}.",
    )
    add(
        "--bf16",
        action="store_true",
        help="Models in mixed precision; the measures are float64 all the same.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add(
        "--do_lower_case",
        action="store_true",
        help="Lower-case the text, whatever the tokenizer's own setting.",
    )
    add("--model_type", help="Family of the teacher; checked.")
    add(
        "--config_name",
        default="",
        help="Folder or hub name of another configuration for the teacher.",
    )
    add(
        "--tokenizer_name",
        default="",
        help="Folder or hub name of the tokenizer; default: the teacher's own.",
    )
    add("--cache_dir", default="", help="Folder for downloaded models and tokenised features.")
    return parser


def check_arguments(args):
    """Refuse what cannot be meant, before any work is done."""
    task, output = get_task(args.task_name), Path(args.output_dir)
    splits = [split for split in task.files if split not in task.submissions]
    if args.split not in splits:
        raise UserError(
            f"--split is {args.split}, but {task.name} has labels for "
            f"{' and '.join(splits) or 'no split'}: name one of these"
        )
    for name, least in (
        ("max_seq_length", 4),
        ("per_gpu_eval_batch_size", 4),
        ("max_eval_samples", 4),
    ):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "a report is made by one process: run it without torchrun or accelerate launch"
        )
    if args.insert:
        places(args.insert)
    common.make_folders(
        args, output_dir=output.parent, run_file=args.run_file, cache_dir=args.cache_dir
    )
    if (
        output.exists()
        and not (output / FILE).is_file()
        and (not output.is_dir() or any(output.iterdir()))
    ):
        raise UserError(f"--output_dir {output} is no report: name a new folder")
    if (output / FILE).is_file() and not args.overwrite_output_dir:
        raise UserError(
            f"--output_dir {output} holds a report: pass --overwrite_output_dir to replace it, or "
            "name another"
        )


def main(argv=None):
    args = make_parser().parse_args(argv)
    check_arguments(args)
    import huggingface_hub  # after the flags, as these import for seconds
    import transformers

    from analysis.subjects import Subjects
    from training.session import peak_memory

    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    began, facts, subjects = time.perf_counter(), records.provenance(), Subjects(args)
    subjects.measure()
    subjects.time_inference()
    topics, about = topics_of(subjects), described(subjects, facts)
    facts |= {
        "minutes": (time.perf_counter() - began) / 60,
        "peak_memory_mib": peak_memory(subjects.accelerator.device),
    }
    with common.atomic_path(args.output_dir) as folder:
        write(folder, subjects, topics, about, facts)
    if args.run_file:
        log(args.run_file, topics)
    if args.insert:
        insert(args.insert, topics, about)
    say(
        f"the report is {Path(args.output_dir) / 'report.html'}, its tables and figures are beside "
        f"it; it took {facts['minutes']:.1f} minutes and at most {facts['peak_memory_mib']} MiB"
    )


if __name__ == "__main__":
    sys.exit(
        common.cli(
            main, interrupted="interrupted; nothing was written, as a report is made in one go"
        )
    )
