"""What students took over from their teacher: a folder with tables, figures and one HTML report.

    python analysis/report.py --model_name_or_path runs/rte/teacher --data_dir glue \\
      --task_name RTE --students runs/rte/none runs/rte/vkd FSD=runs/rte/fsd_ilg \\
      --teacher_memory_path runs/rte/memory --output_dir runs/rte/report

A student is a folder with a trained model, of this project or of plain transformers. NAME=FOLDER
names it; without NAME its run.json does. Folders with the same name are runs of one method: tables
have their mean ± standard deviation, and figures that show a single run show the first. A student
reads the rows with the tokenizer in its folder, at the length of its training. If its tokens or its
length are not the teacher's, nothing is measured between its tokens. The report measures

    restoration           how well the student predicts what the teacher predicts (the paper's
                          Fig. 3)
    heat maps             CKA between mini-batches of teacher and student (Fig. 4, Table 6), biased
                          and debiased
    layers                CKA of every layer of the teacher with every layer of the student, between
                          tokens and between samples
    relation differences  Eq. 12-13, at the end and, from the runs' logs, along training (Fig. 6,
                          Table 7)
    global structure      teacher memory beside student memory, clusters, a projection to a plane
    cost                  parameters, throughput in training and inference, peak memory (Table 8)

Everything is measured on the rows of --split in their order, a mini-batch at a time; nothing is
trained, and no features are kept, so a training set of any size will do. All models are in memory
at the same time.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from analysis import report_files
from analysis.report_files import FILE, find_all_markers
from analysis.report_text import TABLES
from common import UserError, expand_path, say
from tasks.glue import TASKS, get_task
from tasks.own import own_files
from training import flags, records
from training.checks import check_data
from training.own_flags import OWN_FILES

FEWEST = 4  # rows, samples a mini-batch and tokens a sample at least: debiased CKA needs 4


def expand_student(word):
    """The type of --students: [NAME=]FOLDER with a ~ at the folder's start expanded."""
    name, equals, folder = word.partition("=")
    named = equals and folder.startswith("~") and not word.startswith("~")
    return f"{name}={expand_path(folder)}" if named else expand_path(word)


def make_parser():
    parser = flags.Parser(__doc__)
    add_subjects(parser.add_argument_group("what is compared").add_argument)
    rows = parser.add_argument_group("on which rows")
    add_rows(rows.add_argument)
    for flag in OWN_FILES:
        flag.add_to(rows)
    add_output(parser.add_argument_group("how it is measured, and what becomes of it").add_argument)
    return parser


def add_subjects(add):
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
    add(
        "--teacher_memory_path",
        help="The memory: the folder or file that train_memory.py wrote for this teacher, "
        "task and length. Default: no global structure in the report.",
    )
    add(
        "--reference",
        default="VKD",
        metavar="NAME",
        help="The student that throughput is relative to. Default VKD.",
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
    add(
        "--do_lower_case",
        action="store_true",
        help="Lower-case the text, whatever the tokenizer's own setting.",
    )
    add("--cache_dir", default="", help="Folder for downloaded models and tokenised features.")


def add_rows(add):
    add(
        "--task_name",
        required=True,
        help="A task of GLUE, in any case: " + ", ".join(TASKS) + "; or that of your own files.",
    )
    add(
        "--data_dir",
        type=expand_path,
        help="Folder with the task's official .tsv files, or the folder above it.",
    )
    add("--split", default="dev", help="Which rows: dev, train or, of MNLI, dev_mm. Default dev.")
    add(
        "--max_seq_length",
        type=int,
        help="W, tokens a sample is padded or cut to, but for students with a length of their own. "
        "Default: that of the students' runs, or 128.",
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


def add_output(add):
    add("--output_dir", type=expand_path, required=True, help="Folder for the report; made anew.")
    add(
        "--overwrite_output_dir",
        action="store_true",
        help="Replace an earlier report in --output_dir.",
    )
    add("--run_file", help="Also log figures and tables to this TensorBoard folder.")
    add(
        "--insert",
        metavar="FILE",
        help="Also put tables into this Markdown file, between its lines <!-- table NAME "
        f"--> and <!-- end NAME -->, NAME being one of {', '.join(TABLES)}.",
    )
    add(
        "--cost",
        type=expand_path,
        metavar="CSV",
        help="Take training throughput and peak memory from this table of "
        "benchmarks/step.py, whose forms are named as the students, instead of the runs' records.",
    )
    add(
        "--bf16",
        action="store_true",
        help="Models in mixed precision; the measures are float64 all the same.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")


def labelled_splits(args):
    """The names of the splits whose rows have labels: those that --split may name."""
    if files := own_files(args):
        return [split for split in files if split != "test"]
    task = get_task(args.task_name)
    return [split for split in task.files if split not in task.submissions]


def check_arguments(args):
    """Refuse flags that cannot work before anything is computed; make the folders to write into."""
    check_data(args)
    if not own_files(args):
        args.task_name = get_task(args.task_name).name
    splits, output = labelled_splits(args), Path(args.output_dir)
    if args.split not in splits:
        raise UserError(
            f"--split is {args.split}, but {args.task_name} has labels for "
            f"{' and '.join(splits) or 'no split'}: name one of these"
        )
    for name in ("max_seq_length", "per_gpu_eval_batch_size", "max_eval_samples"):
        value = getattr(args, name)
        if value is not None and value < FEWEST:
            raise UserError(f"--{name} must be at least {FEWEST}, got {value}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "a report is made by one process: run it without torchrun or accelerate launch"
        )
    if args.insert:
        find_all_markers(args.insert)
    common.make_folders(
        args, output_dir=output.parent, run_file=args.run_file, cache_dir=args.cache_dir
    )
    is_report = (output / FILE).is_file()
    is_empty_folder = output.is_dir() and not any(output.iterdir())
    if output.exists() and not is_report and not is_empty_folder:
        raise UserError(f"--output_dir {output} exists and is no report: name a new folder")
    if is_report and not args.overwrite_output_dir:
        raise UserError(
            f"--output_dir {output} holds a report: pass --overwrite_output_dir to replace it, or "
            "name another"
        )


def main(argv=None):
    args = make_parser().parse_args(argv)
    check_arguments(args)
    import huggingface_hub  # after the flags, as these import for seconds
    import transformers

    from analysis.report_subjects import Subjects
    from analysis.report_topics import make_topics
    from training.session import peak_memory

    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    began, facts = time.perf_counter(), records.provenance()
    subjects = Subjects(args)
    subjects.measure()
    subjects.time_inference()
    topics, about = make_topics(subjects), report_files.describe(subjects, facts)
    facts |= {
        "minutes": (time.perf_counter() - began) / 60,
        "peak_memory_mib": peak_memory(subjects.accelerator.device),
    }
    with common.atomic_path(args.output_dir) as folder:
        report_files.write_report(folder, subjects, topics, about, facts)
    if args.run_file:
        report_files.log_to_tensorboard(args.run_file, topics)
    if args.insert:
        report_files.insert_tables(args.insert, topics, about)
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
