"""The declaration of a flag, from which its argparse entry, its limits, its role and its column in
a results.csv follow; and the parser of the declared flags.
"""

import argparse
import dataclasses
import math
import os
from pathlib import Path

from common import UserError, expand_path, expand_path_or_none

ROLES = {  # role -> whether a resumed run must have the same value of such a flag
    "weight": True,
    "variant": True,
    "method": True,
    "budget": True,
    "data": True,
    "start": True,
    "model": True,
    "seed": True,
    "action": False,
    "place": False,
    "free": False,
}
COLUMNS = {"task_name": "task", "seed": "seed", "memory_init": "memory_init"}
TYPES = {"int": int, "float": float, "bool": bool, "str": str, "path": Path}
ABSENT = object()  # as `before`: for runs without the flag nothing is filled in


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a script, as training/flags.py and the files of baselines/ declare them.

    role: see training/flags.py.
    type: int, float, bool, str or Path.
    least, most: the least and greatest number allowed; above: numbers must be greater than it.
    shared: whether a resumed run must have the same value; None for what the role says.
    caption: what a table's caption calls it; for the role "start", what the error that refuses a
    table calls it. usual: the value that a caption leaves out.
    of: for a "variant", a regular expression that matches the names of the methods that have it.
    paces: whether the speed of a run depends on it, whatever the method.
    kmeans: False if train_memory.py has no use for it.
    before: the value that runs had before the flag existed, or a function of their other flags.
    beside: only runs that have one of these flags are given `before`, all runs if it is (); by
    default those of the same Section.
    options: further keyword arguments of add_argument, such as nargs.
    """

    name: str
    role: str
    type: type
    default: object = None
    help: str = ""
    aliases: tuple = ()
    choices: tuple | None = None
    required: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    shared: bool | None = None
    caption: str = ""
    usual: object = None
    of: str = ""
    paces: bool = False
    kmeans: bool = True
    before: object = ABSENT
    beside: tuple | None = None
    options: dict = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"--{self.name} has the role {self.role}, none of {', '.join(ROLES)}")
        if self.shared is None:
            object.__setattr__(self, "shared", ROLES[self.role])

    @property
    def column(self):
        """The flag's column in a results.csv."""
        return COLUMNS.get(self.name, f"--{self.name}")

    @property
    def is_number(self):
        return self.type in (int, float)

    @property
    def is_place(self):
        """Whether the flag names a file, a folder or a model."""
        return self.type is Path

    def add_to(self, group):
        """Add the flag to a group of an argparse parser."""
        names = [f"--{name}" for name in (self.name, *self.aliases)]
        words = {"help": self.help, "required": self.required}
        if self.type is bool:
            group.add_argument(*names, action="store_true", **words)
            return
        if self.is_number:
            words["type"] = self.type
        elif self.is_place and (self.required or "nargs" in self.options):
            words["type"] = expand_path  # which refuses an empty path
        words |= {"default": self.default, "choices": self.choices, **self.options}
        group.add_argument(*names, **words)

    def check(self, value):
        """UserError if a number is beyond the flag's limits; None and other types pass."""
        if value is None or not self.is_number:
            return
        wanted = None
        if self.above is not None and not (math.isfinite(value) and value > self.above):
            wanted = f"above {format_number(self.above)}"
        elif self.least is not None and not (math.isfinite(value) and value >= self.least):
            wanted = f"at least {format_number(self.least)}"
        elif self.most is not None and value > self.most:
            lowest = self.above if self.least is None else self.least
            wanted = f"between {format_number(lowest)} and {format_number(self.most)}"
        if wanted:
            raise UserError(f"--{self.name} must be {wanted}, got {format_number(value)}")


def format_number(number):
    """A number as a user would write it."""
    return str(number) if isinstance(number, int) else f"{number:g}"


class Section(tuple):
    """Flags that a script takes together, under one title of its --help."""

    def __new__(cls, title, *flags):
        section = super().__new__(cls, flags)
        section.title = title
        return section

    def flag(self, name):
        return next(flag for flag in self if flag.name == name)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and no abbreviated flags; a ~ at the start of a text becomes
    the home folder, as in all paths.
    """

    def __init__(self, doc, *sections):
        super().__init__(
            description=doc,
            usage="%(prog)s [flags]",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # for each flag without a type, so that no path is forgotten
        self.register("type", None, expand_path_or_none)
        groups = {}
        for section in sections:
            if section.title not in groups:
                groups[section.title] = self.add_argument_group(section.title)
            for flag in section:
                flag.add_to(groups[section.title])

    def takes(self, name):
        """Whether the parser has a flag --name."""
        return f"--{name}" in self._option_string_actions

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        take_old_spellings(found)
        return found, rest


# ---- old spellings -------------------------------------------------------------------------------

OLD = ("local_rank", "fp16_opt_level", "server_ip", "server_port", "compile")


def add_old_spellings(parser):
    """Add flags that no run records: of HuggingFace's 2020 GLUE script, and the removed
    --compile.
    """
    group = parser.add_argument_group("old spellings")

    def add(*names, **options):
        group.add_argument(*names, default=argparse.SUPPRESS, **options)

    add(
        "--local_rank",
        "--local-rank",
        type=int,
        help="What torch.distributed.launch passes, or -1; LOCAL_RANK says it.",
    )
    add(
        "--fp16_opt_level",
        choices=("O0", "O1", "O2", "O3"),
        help="What --fp16 does is O1; with O0 it does nothing.",
    )
    add("--server_ip", help="Must be empty.")
    add("--server_port", help="Must be empty.")
    add("--compile", action="store_true", help="Is gone: no run of it was ever faster.")


def take_old_spellings(args):
    """Do what the old flags say, or refuse it, and remove them from args: they are no settings of a
    run, and --local_rank differs between its processes.
    """
    given = {name: vars(args).pop(name) for name in OLD if name in args}
    check_launcher(given.get("local_rank", -1), os.environ.get("LOCAL_RANK"))
    level = given.get("fp16_opt_level")
    if level and args.fp16:
        if level in ("O2", "O3"):
            raise UserError(
                f"--fp16_opt_level {level} keeps the weights themselves in half precision, and "
                "here they stay in float32: pass O1, which --fp16 does by itself, or O0 for no "
                "half precision"
            )
        args.fp16 = level == "O1"
    if given.get("compile"):
        raise UserError(
            "--compile is gone, as no run with torch.compile got as far as a result: leave it out"
        )
    for name in ("server_ip", "server_port"):
        if given.get(name):
            raise UserError(
                f"--{name} {given[name]} is for a remote debugger, which this project does not "
                "have: leave it out"
            )


def check_launcher(rank, launched):
    """Refuse a --local_rank (-1 if not given) that is not the launcher's. launched: the
    environment's LOCAL_RANK, None without a launcher.
    """
    if rank < -1:
        raise UserError(f"--local_rank must be at least -1, got {rank}: leave it out")
    if rank >= 0 and launched is None:
        raise UserError(
            f"--local_rank {rank} is a flag that a launcher passes, but the environment lacks "
            "LOCAL_RANK, which a launcher sets: leave the flag out, or start several processes "
            "with torchrun --nproc_per_node N"
        )
    if rank >= 0 and str(rank) != launched:
        raise UserError(
            f"--local_rank is {rank}, but the launcher's LOCAL_RANK is {launched}: leave the flag "
            "out"
        )
