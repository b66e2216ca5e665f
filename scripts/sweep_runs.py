"""The runs of a sweep: lines of flags become commands, and a run knows its folder, its log and who
holds it.

scripts/jobs.py starts them.
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
AXIS = re.compile(r"([A-Za-z_]+)=([A-Za-z0-9_.:/+-]+(?:,[A-Za-z0-9_.:/+-]+)*)")
FORM = "NAME [flag=v1,v2,...]... -- SCRIPT FLAGS..."
LONGEST = 255 - len(".log")  # letters of a run's name, as file systems take 255 for a file's


def find_script(script):
    """A script as a command has to name it: one here, or one of this repository."""
    for place in (script, str(ROOT / script)):
        if place.endswith(".py") and Path(place).is_file():
            return place
    raise UserError(f"{script} is no Python script here or in {ROOT}")


def essence(words):
    """A command but for its interpreter, the folders of script and runs, and its flags' order."""
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    groups = [[]]  # a flag with its values; first the words before any flag
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
    # of equal flags the last wins, so their order stays
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
        # the text alone: a damaged file is no reason to end a whole sweep
        with contextlib.suppress(OSError):
            return '"finished": true' in Path(self.folder, "run.json").read_text(errors="replace")
        return False

    @property
    def is_going_on(self):
        """True where a training holds the run's folder: its log is not ours to touch."""
        import filelock  # here, as most runs need not ask

        with contextlib.suppress(OSError):  # no folder, so no run
            try:
                with filelock.FileLock(Path(self.folder, ".lock"), timeout=0):
                    return False
            except filelock.Timeout:
                return True
        return False

    @contextlib.contextmanager
    def hold(self):
        """Open the log for writing, held by this sweep alone; yields None where another one has it.

        What the run's processes inherit of the file holds it as well: also where their sweep was
        killed, a log is of one run at a time. An OSError where it cannot be written.
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
        """What the log ends with."""
        said = self.log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        return ([""] + [line for line in said.split("\n") if line.strip()])[-1]

    @property
    def has_same_command(self):
        """True where the log begins with this command, or is not there."""
        try:
            with open(self.log, encoding="utf-8", errors="surrogateescape") as file:
                first = file.readline()
        except OSError:
            return True
        try:
            return not first or essence(shlex.split(first)[1:]) == essence(self.words)
        except (ValueError, StopIteration, IndexError):  # no command
            return False


def expand(words, folder, python):
    """The runs of a line NAME [flag=v1,v2,...]... -- SCRIPT FLAGS..., given as words.

    One for every combination of the lists; on and off are a bare flag and none.
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
    """The lists flag=v1,v2,... of a line, [[(flag, value) of each value]]."""
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


def make_run(name, script, flags, setting, folder, python):
    """The Run of one combination, [(flag, value)]."""
    name = ",".join([name, *(f"{flag}={value.replace('/', '_')}" for flag, value in setting)])
    words = [python, script, *flags]
    for flag, value in setting:
        words += {"on": [f"--{flag}"], "off": []}.get(value, [f"--{flag}", value])
    words += ["--output_dir", f"{folder}/{name}"]
    if Path(script).name != "train_memory.py":  # which has no row
        words += ["--results_csv", f"{folder}/results.csv"]
    return check_run(Run(name, words, f"{folder}/{name}"))


def check_run(run):
    """The run, refused where its name is none of a file or its command is not one line."""
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
