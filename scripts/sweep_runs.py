"""The runs of a sweep: turns a line with lists of flags into commands, one run for each.

A run knows its folder, its log and whether another process holds these. scripts/jobs.py starts it.
"""

import contextlib
import fcntl
import itertools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from common import UserError

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
AXIS = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z0-9_.:/+-]+(?:,[A-Za-z0-9_.:/+-]+)*)")
FORM = "NAME [flag=v1,v2,...]... -- SCRIPT FLAGS..."
LONGEST = 255 - len(".log")  # letters in a run's name, as a file's name has at most 255


def find_script(script):
    """The path of a script in the working folder, else in the repository; else UserError."""
    for place in (script, str(ROOT / script)):
        if place.endswith(".py") and Path(place).is_file():
            return place
    raise UserError(f"{script} is no Python script here or in {ROOT}: name another SCRIPT")


def essence(words):
    """A list to compare commands by: it is the same for two commands that do the same.

    words: of a command. The interpreter, the folders of the script and of the runs, and the order
    of different flags make no difference.
    """
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    groups = [[]]  # each a flag with its values; the first has the words before any flag
    for word in words[at + 1 :]:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    folder = [group[1] for group in groups if group[:1] == ["--output_dir"]][-1]
    above = folder[: folder.rindex("/") + 1]
    short = [
        [
            f"RUNS_DIR:{word.removeprefix(above)}" if word.startswith(above) else word
            for word in group
        ]
        for group in groups
    ]
    # of a flag given twice the last one counts, so equal flags stay in order
    return [Path(words[at]).name, *sorted(short, key=lambda group: group[:1])]


class Run(NamedTuple):
    """One run of a sweep: its name, its command as words, and its folder."""

    name: str
    words: list
    folder: str

    @property
    def log(self):
        return Path(f"{self.folder}.log")

    @property
    def command(self):
        """The command as a line for a shell."""
        return shlex.join(self.words)

    @property
    def finished(self):
        # looks for the text, as a damaged run.json must not end a whole sweep
        with contextlib.suppress(OSError):
            return '"finished": true' in Path(self.folder, "run.json").read_text(errors="replace")
        return False

    @property
    def is_going_on(self):
        """Whether a training has locked the run's folder; its log must then not be written."""
        import filelock  # here, as it is seldom needed

        with contextlib.suppress(OSError):  # no folder, so no run
            try:
                with filelock.FileLock(Path(self.folder, ".lock"), timeout=0):
                    return False
            except filelock.Timeout:
                return True
        return False

    @contextlib.contextmanager
    def hold(self):
        """Open the log for writing, and lock it; yields None if another sweep holds the lock.

        The run's processes inherit the open file, and the lock with it: even if their sweep is
        killed, only one run at a time writes a log. OSError if the log cannot be written.
        """
        with open(self.log, "ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError:  # a file system without locks
                pass
            try:
                yield log
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(log, fcntl.LOCK_UN)

    @property
    def last_line(self):
        """The last line of the log that is not empty; "" if there is none."""
        said = self.log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        return ([""] + [line for line in said.split("\n") if line.strip()])[-1]

    @property
    def has_same_command(self):
        """True if the log begins with this command, is empty, or does not exist."""
        try:
            with open(self.log, encoding="utf-8", errors="surrogateescape") as file:
                first = file.readline()
        except OSError:
            return True
        try:
            return not first or essence(shlex.split(first)[1:]) == essence(self.words)
        except (ValueError, StopIteration, IndexError):  # the first line is no command
            return False


def expand(words, folder, python):
    """The Runs of a line NAME [flag=v1,v2,...]... -- SCRIPT FLAGS..., a list.

    There is one for every combination of the values; on is a bare flag, off is no flag. words: of
    the line. folder: the sweep's. python: the interpreter.
    """
    name, *words = words
    if not NAME.fullmatch(name):
        raise UserError(f"a run's NAME has letters, digits and _ . + - only, found '{name}'")
    at = words.index("--") if "--" in words else len(words)
    axes = read_axes(words[:at], name)
    if not words[at + 1 :]:
        raise UserError(f"expected {FORM}, found no SCRIPT after -- in {name}")
    script, flags = find_script(words[at + 1]), words[at + 2 :]
    return [
        make_run(name, script, flags, setting, folder, python)
        for setting in itertools.product(*axes)
    ]


def read_axes(words, name):
    """A list [(flag, v1), (flag, v2), ...] for each word flag=v1,v2,...

    name: the NAME of the runs, for errors.
    """
    axes = {}
    for word in words:
        found = AXIS.fullmatch(word)
        if not found:
            raise UserError(
                "expected flag=v1,v2,... with letters, digits and _ . : / + - in its values, "
                f"found '{word}' in {name}"
            )
        if found[1] in axes:
            raise UserError(
                f"{found[1]} has two lists of values in {name}, found '{word}' as the second: give "
                "all its values in one"
            )
        axes[found[1]] = [(found[1], value) for value in found[2].split(",")]
    return list(axes.values())


def without(words, flags):
    """The words of a command without these flags and their values. flags: a set, as {"--beta"}."""
    kept, keep = [], True
    for word in words:
        if word.startswith("--"):
            keep = word.partition("=")[0] not in flags
        kept += [word] * keep
    return kept


def make_run(name, script, flags, setting, folder, python):
    """The Run of one combination of values. setting: [(flag, value)]."""
    name = ",".join([name, *(f"{flag}={value.replace('/', '_')}" for flag, value in setting)])
    off = {f"--{flag}" for flag, value in setting if value == "off"}
    words = [python, script, *without(flags, off)]
    for flag, value in setting:
        words += {"on": [f"--{flag}"], "off": []}.get(value, [f"--{flag}", value])
    words += ["--output_dir", f"{folder}/{name}"]
    if Path(script).name != "train_memory.py":  # which writes no row of results
        words += ["--results_csv", f"{folder}/results.csv"]
    return check_run(Run(name, words, f"{folder}/{name}"))


def check_run(run):
    """Return the run; refuse a name too long for a file, and a command with a line break."""
    if len(run.name) > LONGEST:
        raise UserError(
            f"a run's name has at most {LONGEST} letters, as it names files, found {len(run.name)} "
            f"in {run.name[:40]}...: give the sweep a shorter NAME, or shorter values"
        )
    broken = [word for word in run.words if "\n" in word or "\r" in word]
    if broken:
        raise UserError(
            f"a command is one line in its log, found a line break in {broken[0]!r} of {run.name}: "
            "leave it out"
        )
    return run
