"""The flags of scripts/study, and the checks on their values."""

import os
from pathlib import Path

from common import UserError, expand_path, expand_path_or_none
from scripts.study_protocol import KNOWN, METHODS, OURS, VARIANTS
from tasks.glue import TASKS
from training import flags

STAGES = ("memory", "schedule", "trials", "final", "variants", "claims")
TRAINED = tuple(task.name for task in TASKS.values() if "train" in task.files)
LISTS = ("tasks", "methods", "seeds", "more_seeds", "variants", "rates")


def words(text):
    return text.split()


def parse(doc, argv):
    """The parsed arguments; those named in LISTS are lists of words. doc: the text of --help."""
    parser = flags.Parser(doc)
    parser.prog, parser.usage = "scripts/study", "%(prog)s MODEL GLUE_DIR RUNS_DIR [flags]"
    add = parser.add_argument
    add("model", type=expand_path, help="A pretrained encoder, folder or hub name.")
    add("data_dir", type=expand_path, help="The folder with the tasks' .tsv files.")
    add("runs_dir", type=expand_path, help="The folder for all runs.")
    add_lists(parser)
    add("--learning_rate", help="The rate of all students; none is searched.")
    add("--teacher_rate", default="1e-4", help="Default: 1e-4.")
    add("--epochs", default="3", help="Of teachers and students. Default: 3.")
    add("--warmup_ratio", default="0.1", help="Share of the steps that warm up. Default: 0.1.")
    add(
        "--relation_heads",
        help="Of MiniLM: its second version, with so many; a model with a position bias (MPNet) "
        "needs it.",
    )
    add(
        "--searched",
        type=expand_path_or_none,
        help="RUNS_DIR/search/TASK, or its results.csv, of another machine, for one task: what "
        "was chosen there is taken.",
    )
    add(
        "--searched_task",
        help="The task of --searched, if it is another: the rate and the weights chosen on it are "
        "carried over to all --tasks.",
    )
    add(
        "--float32",
        action="store_true",
        help="Train in float32, not bfloat16, for CPUs without instructions for it; in a RUNS_DIR "
        "of its own.",
    )
    add("--jobs", default="1", help="Runs at a time. Default: 1.")
    add("--until", default=STAGES[-1], help=f"The last stage: {', '.join(STAGES)}.")
    add("--plan", action="store_true", help="Print commands and hours, start nothing.")
    add("--rehearse", action="store_true", help="All of it with one seed, 64 rows, one step a run.")
    args = parser.parse_args(argv)
    for name in LISTS:
        setattr(args, name, [word for some in getattr(args, name) for word in some])
    return args


def add_lists(parser):
    """Add the flags that take several words, each its own argument or in quotes: a b or "a b"."""
    for name, default, help in (
        ("tasks", "MRPC STS-B", "Default: {}."),
        ("methods", " ".join(METHODS), f"Default: {{}}. Also, ours: {' '.join(OURS)}."),
        ("seeds", "2 3 4", "Default: {}."),
        ("more_seeds", "5 6 7", "Of the stage claims. Default: {}."),
        ("variants", " ".join(VARIANTS), "Default: all, {}; with none named, none."),
        ("rates", "5e-5 1e-4 2e-4", "Learning rates to try first. Default: {}."),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="*" if name == "variants" else "+",
            type=words,
            default=[default.split()],
            help=help.format(default),
        )


def check(args):
    """Refuse flags that make no sense, before anything starts; complete args in place."""
    known_tasks = {name.lower(): name for name in TRAINED}
    args.tasks = [known_tasks.get(word.lower(), word) for word in args.tasks]
    check_choices("until", STAGES, [args.until])
    check_choices("tasks", TRAINED, args.tasks)
    if args.searched_task:
        args.searched_task = known_tasks.get(args.searched_task.lower(), args.searched_task)
        check_choices("searched_task", TRAINED, [args.searched_task])
        if not args.searched:
            raise UserError(
                f"--searched_task {args.searched_task} names the task of a search, but no search "
                "is given: give its folder or results.csv as --searched"
            )
    check_choices("methods", tuple(KNOWN), args.methods)
    check_choices("variants", tuple(VARIANTS), args.variants)
    check_all_numbers(args)
    args.jobs = int(args.jobs)
    if args.searched and len(args.tasks) > 1 and not args.searched_task:
        raise UserError(
            f"--searched has the search of one task, found --tasks {' '.join(args.tasks)}: name "
            "that task alone with --tasks, or with --searched_task to carry its choices over"
        )
    if args.searched and not Path(args.searched).exists():
        raise UserError(
            f"there is no {args.searched}: give RUNS_DIR/search/TASK of a study, or the "
            "results.csv in it, as --searched"
        )
    if args.rehearse:
        args.seeds, args.more_seeds = args.seeds[:1], []
    for name in ("data_dir", "runs_dir", "searched"):
        path = getattr(args, name)
        setattr(args, name, path and os.path.abspath(path))  # absolute, as run.json names them
    if Path(args.model).is_dir():
        args.model = str(Path(args.model).resolve())  # a name that is no folder is one on the hub
    elif args.model.startswith((".", "/")) and not args.plan:
        raise UserError(
            f"there is no folder {args.model}: give the folder of a pretrained encoder, or its "
            "name on the hub"
        )


def check_choices(flag, known, given):
    for word in given:
        if word not in known:
            raise UserError(f"--{flag} takes {' '.join(known)}; found {word}")
        if given.count(word) > 1:
            raise UserError(f"--{flag} has {word} twice: name it once")


def check_all_numbers(args):
    for flag in ("seeds", "more_seeds"):
        check_numbers(flag, getattr(args, flag), int, 0, 2**32 - 1, "whole numbers from 0 on")
    check_numbers("rates", args.rates or ["none"], float, 1e-9, 1, "learning rates, as 1e-4")
    for flag, form, least, most, what in (
        ("teacher_rate", float, 1e-9, 1, "a learning rate, as 1e-4"),
        ("learning_rate", float, 1e-9, 1, "a learning rate, as 1e-4"),
        ("epochs", float, 1e-3, 1e4, "a number above 0"),
        ("warmup_ratio", float, 0, 0.999, "a share, from 0 to below 1"),
        ("jobs", int, 1, 10**4, "a number from 1 on"),
        ("relation_heads", int, 1, 10**4, "a number from 1 on"),
    ):
        given = getattr(args, flag)
        optional = flag in ("teacher_rate", "learning_rate", "relation_heads")
        check_numbers(flag, [given] if given or not optional else [], form, least, most, what)


def check_numbers(flag, given, form, least, most, what):
    """Refuse a word that is no number from least to most, and a number given twice.

    given: a list of words. form: int or float. what: the wanted numbers in words, for the error.
    """
    found = []
    for word in given:
        try:
            number = form(word)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise UserError(f"--{flag} is {what}; found {word}")
        if number in found:
            raise UserError(f"--{flag} has {word} twice: name it once")
        found.append(number)
