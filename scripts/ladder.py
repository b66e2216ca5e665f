"""How small can a student be? Students of several sizes under one setting, one table, one figure.

  scripts/ladder TEACHER --data_dir glue --task_name MRPC --plan     # commands, hours; starts none
  scripts/ladder TEACHER --data_dir glue --task_name MRPC --layers 1 2 3 4 6 --jobs 2 -- \\
    --bf16 --learning_rate 1e-4 --num_train_epochs 4
  scripts/ladder TEACHER --train_file t.csv --validation_file d.csv --task_name mood --layers 1 2 3

TEACHER is a fine-tuned model: a folder of train_teacher.py's or of transformers', or a hub name.
Each student starts from the first layers of --model, as many as --layers says, or from the layers
that --student_layers names. All students share the other settings: batch 32, the teacher's
sequence length, the middle of the weights that scripts/study would try for the method, and the
flags after --, which override these. All sizes run with one seed before the next seed begins, so
that a ladder that is cut off is complete with fewer seeds.

At the end analysis/ladder.py measures all students: score, agreement with the teacher, parameters,
megabytes, milliseconds a row. Results: RUNS/ladder.md, ladder.csv and ladder.svg. The same command,
given again, goes on where it stopped; further sizes, methods and seeds are added if they have the
setting of the finished runs.
"""

import re
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, expand_path, read_json, say
from scripts import jobs
from scripts.command_line import Parser
from scripts.commands import words_for
from scripts.ladder_earlier import check_earlier
from scripts.processes import call, cli
from scripts.study import WITH_MEMORY, middle
from scripts.study_flags import check_choices, check_numbers
from scripts.study_protocol import ENOUGH, METHODS, constant_score
from scripts.sweep import print_plan
from tasks.glue import get_task
from tasks.own import check_files, own_files
from tasks.task import find_file
from training.loss_flags import list_layers
from training.own_flags import OWN_FILES

LAYERS = ("1", "2", "3", "4", "6")  # the default of --layers; sizes above the model's are left out
OWN = (  # flags of a run that the ladder decides
    "student_num_hidden_layers",
    "student_layers",
    "seed",
    "method",
    "task_name",
    "data_dir",
    *(flag.name for flag in OWN_FILES),
    "model_name_or_path",
    "model_name_or_path_for_copy",
    "teacher_memory_path",
    "output_dir",
)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Rung(NamedTuple):
    """A size of student.

    name: the part of a run's name that tells the size. layers: the numbers of the layers that the
    student copies. flags: the words of the flag that asks for them.
    """

    name: str
    layers: tuple
    flags: tuple


def rung_of_depth(depth):
    flags = "--student_num_hidden_layers", depth
    return Rung(f"depth{depth}", tuple(range(int(depth))), flags)


def rung_of_layers(picked):
    flags = "--student_layers", picked
    return Rung(f"layers{picked.replace(',', '+')}", tuple(map(int, picked.split(","))), flags)


# ---- command line --------------------------------------------------------------------------------


def parse(argv=None):
    parser = Parser(__doc__, "scripts/ladder", "TEACHER [flags]", own_files=True)
    add, names = parser.add_argument, " ".join(METHODS)
    add(
        "teacher",
        type=expand_path,
        metavar="TEACHER",
        help="A fine-tuned model, folder or hub name.",
    )
    add("--data_dir", type=expand_path, help="The folder with the .tsv files of a task of GLUE.")
    add("--task_name", required=True, help="A task of GLUE, or a name for files of your own.")
    for flag in OWN_FILES:
        flag.add_to(parser)
    add("--model", help="Whose layers the students copy. Default: TEACHER.")
    add(
        "--layers",
        nargs="+",
        help=f"How many layers. Default, without --student_layers: {' '.join(LAYERS)}.",
    )
    add(
        "--student_layers",
        nargs="+",
        default=[],
        help="Which layers instead of the first ones, counted from 0, as 0,2,4 0,5.",
    )
    add(
        "--method",
        nargs="+",
        default=["fsd_i"],
        help=f"One or more of {names}. Default: fsd_i.",
    )
    add("--teacher_memory_path", help="A memory of the teacher, for fsd_g and fsd_ilg.")
    add("--seeds", nargs="+", default=["1", "2", "3"], help="Default: 1 2 3.")
    add("--runs", help="The folder of the runs. Default: runs/TASK-ladder.")
    add("--jobs", default="", help="Runs at a time, as of scripts/sweep.")
    add("--shard", default="", help="I/N of the runs, as of scripts/sweep; then without a table.")
    add("--plan", action="store_true", help="Print the commands and what they take; start none.")
    return parser.read(argv)


def check_rows(args):
    """Refuse rows that no ladder can be trained and measured on; put the words of the flags that
    name them into args.rows, and GLUE's spelling of its task into args.task_name.
    """
    check_files(args)
    if own_files(args):
        if not (args.train_file and args.validation_file):
            raise UserError(
                "a ladder trains students and scores them: pass both --train_file and "
                "--validation_file"
            )
        args.rows = words_of_flags(args, OWN_FILES)
        return
    task = get_task(args.task_name)
    if not args.data_dir:
        raise UserError(
            f"the rows of {task.name} are not told: pass --data_dir with GLUE's folder, or "
            "--train_file and --validation_file with files of your own and a --task_name of its own"
        )
    if "train" not in task.files:
        raise UserError(f"{task.name} has no training set: name another task")
    find_file(task, args.data_dir, "train")
    args.task_name, args.rows = task.name, ["--data_dir", args.data_dir]


def words_of_flags(args, flags):
    """The words of those flags that args has a value of."""
    given = {f"--{flag.name}": getattr(args, flag.name) for flag in flags}
    words = []
    for name, value in given.items():
        words += [name] if value is True else [name, str(value)] if value else []
    return words


def check(args):
    """Refuse flags that make no sense; put the words of the rows into args.rows, the Rungs into
    args.rungs.
    """
    check_rows(args)
    args.model = args.model or args.teacher
    for flag, name in (("TEACHER", args.teacher), ("--model", args.model)):
        check_model(flag, name)
    check_task_of(args.teacher, args.task_name)
    check_choices("method", tuple(METHODS), args.method)
    check_numbers("seeds", args.seeds, int, 0, 2**32 - 1, "whole numbers from 0 on")
    for method in args.method:
        if method in WITH_MEMORY and not args.teacher_memory_path:
            raise UserError(
                f"--method {method} needs a memory of the teacher: make one with train_memory.py "
                "and name it with --teacher_memory_path"
            )
    check_extra(args.extra)
    args.rungs = find_rungs(args)
    args.runs = (args.runs or f"runs/{args.task_name.lower().replace('-', '')}-ladder").rstrip("/")
    args.jobs = jobs.read_jobs(args.jobs)
    jobs.check_interpreter(jobs.interpreter())


def check_model(flag, name):
    """Refuse a name that is neither a folder with a model nor a hub name."""
    folder = Path(name)
    if not folder.is_dir():
        is_path = name.startswith(".") or ("/" in name and folder.parent.is_dir())
        if is_path or not HUB_NAME.fullmatch(name):
            raise UserError(
                f"there is no folder {name}: give a model's folder, or its name on the hub, as "
                f"{flag}"
            )
        return
    if not (folder / "config.json").is_file():
        found = [path.parent.name for path in sorted(folder.glob("checkpoint-*/config.json"))]
        only = f", only {', '.join(found)} of a training that has not ended" if found else ""
        raise UserError(
            f"the folder {name} of {flag} has no model, as it has no config.json{only}: name "
            "another folder, or let the training finish"
        )


def check_task_of(teacher, task):
    """Refuse a teacher that is known to be of another task."""
    found = read_json(Path(teacher, "run.json")).get("arguments", {}).get("task_name", task)
    if found != task:
        raise UserError(
            f"TEACHER {teacher} was trained on {found}, not on {task}: name a teacher of this task"
        )


def check_extra(words):
    """Refuse flags after -- that the ladder sets itself."""
    for word in words:
        name = word.partition("=")[0]
        if name.removeprefix("--") in OWN and name.startswith("--"):
            raise UserError(
                f"{name} after -- would override what scripts/ladder sets for each run: leave it "
                "out after -- (see scripts/ladder --help)"
            )


def find_rungs(args):
    """The Rungs that --layers and --student_layers ask for.

    Refuses a size given twice, and a layer that --model does not have. How many layers a model on
    the hub has is not known here; its runs refuse what is too large.
    """
    config = read_json(Path(args.model, "config.json"))
    depth = config.get("num_hidden_layers") or config.get("n_layers")
    given = args.layers
    if given is None:
        fitting = [layers for layers in LAYERS if not depth or int(layers) <= depth]
        given = [] if args.student_layers else fitting
    most = f" to {depth}, as {args.model} has" if depth else ""
    check_numbers("layers", given, int, 1, depth or 10**4, f"numbers of layers, from 1{most}")
    rungs = [rung_of_depth(str(int(layers))) for layers in given]
    for word in args.student_layers:
        try:
            rungs.append(rung_of_layers(list_layers(word)))
        except ArgumentTypeError as error:
            raise UserError(f"--student_layers: {error}") from None
    seen = {}
    for rung in rungs:
        flag = " ".join(rung.flags).replace("--student_num_hidden_layers", "--layers")
        if depth and rung.layers[-1] >= depth:
            raise UserError(
                f"{flag} asks for layer {rung.layers[-1]}, but {args.model} has {depth} layers, 0 "
                f"to {depth - 1}: name some of these, or another --model"
            )
        if rung.layers in seen:
            raise UserError(
                f"{flag} and {seen[rung.layers]} copy the same layers, so they are one student: "
                "give one of them"
            )
        seen[rung.layers] = flag
    return rungs


def check_teaches(args):
    """Refuse a teacher whose dev score, if known, is not above that of the best constant answer."""
    from analysis.runs import metric_names, task_score  # here, as its imports are slow

    results = read_json(Path(args.teacher, "eval_results.json"))
    if not args.data_dir or not set(metric_names(args.task_name)) <= set(results):
        return  # of own files, or not from train_teacher.py: the runs say what the teacher scores
    score = 100 * task_score(results, args.task_name)
    constant = constant_score(args.task_name, args.data_dir)
    told = f"has {score:.1f} on dev, where the best constant answer has {constant:.1f}"
    if score <= constant:
        raise UserError(
            f"TEACHER {args.teacher} {told}, so it teaches nothing: fine-tune another one"
        )
    if score < constant + ENOUGH:
        say(f"warning: the teacher {told}, so it has little to teach")


# ---- runs ----------------------------------------------------------------------------------------


def length_of(teacher):
    """--max_seq_length of the teacher's training, as text; 128 if its run.json does not say."""
    arguments = read_json(Path(teacher, "run.json")).get("arguments", {})
    return str(arguments.get("max_seq_length") or 128)


def line_of(args, method, rung, seed):
    """One run, as the words of a line of a sweep."""
    script, *own = METHODS[method].command.split()
    words = [f"{method}-{rung.name}", f"seed={seed}", "--", jobs.ours(script), *own]
    words += [*middle(method), "--model_name_or_path", args.teacher, "--copy_teacher"]
    words += ["--model_name_or_path_for_copy", args.model, *rung.flags]
    words += [*args.rows, "--task_name", args.task_name]
    words += ["--do_train", "--do_eval", "--max_seq_length", length_of(args.teacher)]
    words += ["--per_gpu_train_batch_size", "32", "--per_gpu_eval_batch_size", "64"]
    words += ["--teacher_cache", f"{args.runs}/cache"]
    if method in WITH_MEMORY:
        words += ["--teacher_memory_path", args.teacher_memory_path]
    return words + words_for(script, args.extra)


def make_sweep(args):
    """The Sweep of all students: all sizes with one seed, then all with the next."""
    sweep = jobs.Sweep(args.runs, args.jobs, args.shard)
    for seed in args.seeds:
        for method in args.method:
            for rung in args.rungs:
                sweep.add(line_of(args, method, rung, str(int(seed))))
    return sweep


def measure(args):
    """Write the table and the figure of all runs in the folder."""
    words = ["--teacher", args.teacher]
    words += args.rows if args.data_dir else ["--validation_file", args.validation_file]
    for flag, ending in (("csv", "csv"), ("markdown", "md"), ("figure", "svg")):
        words += [f"--{flag}", f"{args.runs}/ladder.{ending}"]
    call([jobs.interpreter(), jobs.ours("analysis/ladder.py"), args.runs, *words])


def main(argv=None):
    args = parse(argv)
    check(args)
    sweep = make_sweep(args)
    check_earlier(sweep)
    if args.plan:
        print_plan(sweep)
        return 0
    check_teaches(args)
    if not sweep.run():
        return 1
    if not all(run.finished for run in sweep.runs.values()):
        say("the table waits for the other shards: give the same command then, without --shard")
        return 0
    measure(args)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))
