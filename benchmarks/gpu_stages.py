"""The stages of benchmarks/gpu.py, each a list of commands, for a GPU or, smaller, for a CPU."""

import math
import os
import shlex
from pathlib import Path
from typing import NamedTuple

# The study's methods: first those that a claim about FSD needs, then the others.
FIRST = "none vkd fsd_i fsd_ilg minilm rkd"
ALL = f"{FIRST} fsd_l fsd_il pkd fsd_g procrustes gram"

MAIN_FORMS = (
    "published",
    "FSD_ILG",
    "FSD_ILG, cached",
    "FSD_ILG, masked",
    "FSD_ILG, masked, cached",
    "VKD",
    "VKD, cached",
    "VKD, padded",
    "VKD, padded, cached",
    "floor",
    "teacher, forward",
    "teacher, trained",
)


class Job(NamedTuple):
    """A command of this repository.

    words: the command without the interpreter; a shell script's name comes first. most: the minutes
    that it may take. part: the name of the table that it writes in the work folder; tables whose
    names begin with the same word are joined into one result. watched: (file that it goes on
    writing, the name of its copy in the output folder) of each such file.
    """

    name: str
    words: list
    most: float
    part: str = ""
    watched: tuple = ()


def command(text, *more):
    """The words of a command: `text`, split as a shell does, then each of `more` as one word."""
    return [*shlex.split(text), *map(str, more)]


# ---- the stages: each (args, work folder) -> jobs -----------------------------------------------


def tests(args, work):
    chosen = "not two_processes" + (f" and ({args.tests})" if args.tests else "")
    return [
        run_tests(
            args,
            "tests of the libraries and on the GPU",
            chosen,
            "tests/test_compatibility.py tests/test_gpu.py",
        )
    ]


def processes(args, work):
    return [run_tests(args, "two processes are one", "two_processes")]


def run_tests(args, name, chosen, files="tests/test_gpu.py"):
    at_once = min(12, os.cpu_count())
    rehearsed = "--rehearse" if args.rehearse else ""
    text = f"-m pytest {files} -n {at_once} -p no:cacheprovider -ra -vv {rehearsed} -k"
    return Job(name, command(text, chosen), most=4)


def step(args, work):
    return [
        step_job(args, work, "the main forms", 32, *MAIN_FORMS),
        step_job(args, work, "the main forms", 128, *MAIN_FORMS),
        step_job(args, work, "all methods", 32, "methods"),
        step_job(args, work, "all methods, cached", 32, "methods, cached"),
        step_job(args, work, "all methods, cached", 128, "methods, cached"),
        step_job(args, work, "all methods", 128, "methods"),
    ]


def variants(args, work):
    few = ("floor", "VKD", "FSD_ILG")
    peers = ("plain: VKD", "VKD", "VKD, grouped", "plain: teacher", "teacher, trained")
    return [
        step_job(args, work, "the loop that everybody writes", 32, *peers, switch="--batches 4"),
        step_job(args, work, "all methods, masked", 32, "methods, masked"),
        step_job(args, work, "what the library's mask costs", 32, *few, switch="--library_mask"),
        step_job(args, work, "two workers", 32, *few, switch="--dataloader_num_workers 2"),
        step_job(args, work, "memory that is not pinned", 32, *few, switch="--unpinned"),
    ]


def step_job(args, work, name, batch, *forms, switch="", most=3):
    part = f"step {name} {batch}"
    pace = f"--rounds 5 --steps {5 if batch == 32 else 3} --seconds 100"
    if args.rehearse:
        pace = "--rounds 1 --steps 1 --no_peak"
    text = f"benchmarks/step.py {shape(args, batch)} {pace} {switch} --forms"
    words = command(text, *forms, "--csv", work / f"{part}.csv")
    return Job(f"step of {name}, {batch} samples", words, most, part)


def shape(args, batch):
    """The flags of a measured step with its model, precision, B and W."""
    if args.rehearse:
        return (
            "--models tiny --precisions bf16 --per_gpu_train_batch_size 4 --max_seq_length 16 "
            "--no_cuda"
        )
    return f"--models bert-base --precisions bf16 --per_gpu_train_batch_size {batch}"


def losses(args, work):
    size = "--batch_sizes 32 128 --widths 768"
    if args.rehearse:
        size = "--batch_sizes 4 --max_seq_length 16 --widths 32 --centroids 10 --rounds 1 --no_cuda"
    words = command(f"benchmarks/losses.py {size} --csv", work / "losses.csv")
    return [Job("losses", words, 2, "losses")]


def clustering(args, work):
    """Jobs that time k-means alone and, with a teacher of random weights, passes of
    train_memory.py.
    """
    alone, passes = "", ""
    if args.rehearse:
        alone = "--widths 64 --rows 60 --num_centroid 5 --rounds 1 --no_cuda"
        passes = (
            "--max_seq_length 32 --rows 32 --published_rows 4 --num_centroid 4 --rounds 1 --no_cuda"
        )
    words = command(f"benchmarks/kmeans.py {alone} --csv", work / "kmeans.csv")
    found = [Job("k-means alone", words, 5, "kmeans"), stand_in(args, work)]
    for precision, switch in (("float32", ""), ("bf16", "--bf16")):
        part = f"clustering {precision}"
        words = command(
            f"benchmarks/clustering.py --task_name RTE {passes} {switch}",
            "--model_name_or_path",
            work / "stand_in" / "teacher",
            "--data_dir",
            work / "stand_in",
            "--csv",
            work / f"{part}.csv",
        )
        found.append(Job(f"a pass with the teacher, {precision}", words, 2, part))
    return found


def stand_in(args, work):
    size = "--shape tiny --rows 200" if args.rehearse else "--shape bert-base --rows 1000"
    words = command(f"benchmarks/stand_ins.py {size}", work / "stand_in")
    return Job("a teacher of random weights", words, 1)


def profile(args, work):
    found = []
    for form, batch, more in (
        ("FSD_ILG", 32, ["--trace", Path(args.output_dir) / "gpu_trace.json.gz"]),
        ("FSD_ILG, cached", 128, []),
    ):
        part = f"profile {batch}"
        text = f"benchmarks/profile_step.py {shape(args, batch)} --profiled 5 --form"
        words = command(text, form, "--csv", work / f"{part}.csv", *more)
        found.append(Job(f"profile of {form}, {batch} samples", words, 2, part))
    return found


def study(args, work):
    """Jobs of scripts/study: the first methods up to their final runs, then all, then variants.

    Each skips what an earlier one, or an earlier call, has finished.
    """
    runs, task, before = work / "study", args.task_name, []
    model, data = args.model, args.data_dir
    if args.rehearse:
        before = [stand_in(args, work)]
        model, data, task = work / "stand_in" / "pretrained", work / "stand_in", "RTE"
    watched = (
        (runs / "final" / task / "results.csv", "gpu_study.csv"),
        (runs / "search" / task / "results.csv", "gpu_study_search.csv"),
    )
    given = {
        "--tasks": task,
        "--jobs": args.jobs,
        "--rates": args.rates,
        "--teacher_rate": args.teacher_rate,
        "--relation_heads": args.relation_heads,
        "--searched": args.searched,
    }
    words = command("scripts/study", model, data, runs)
    words += [
        str(word) for flag, value in given.items() if value is not None for word in (flag, value)
    ]
    words += ["--rehearse"] if args.rehearse else []
    parts = {
        (args.methods or FIRST, "final"): None,
        (args.methods or ALL, "final"): None,
        (args.methods or ALL, "variants"): None,
    }
    return before + [
        Job(
            f"study of {methods}, up to {until}",
            [*words, "--methods", methods, "--until", until],
            math.inf,
            watched=watched,
        )
        for methods, until in parts
    ]


STAGES = {
    stage.__name__: stage
    for stage in (tests, step, losses, clustering, profile, variants, study, processes)
}
