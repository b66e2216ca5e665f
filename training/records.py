"""The record of a run, run.json: where the run came from, what it read and what came of it."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import common
from common import UserError, is_main_process, read_json, write_json
from training import card_file

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "scipy",
    "numpy",
    "pandas",
)


def provenance():
    """Versions, commit, machine and command of this run, {name: value}."""
    here = Path(__file__).resolve().parent.parent

    def git(*words):
        with contextlib.suppress(OSError):
            return subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True
            ).stdout.strip()
        return ""

    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        # for a copy of the code without .git, or with that of another commit
        "commit": os.environ.get("FSD_COMMIT") or git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(
            git("--no-optional-locks", "status", "--porcelain", "--", "*.py")
        ),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in PACKAGES},
        },
        "machine": f"{processor()}, {os.cpu_count()} cores",
    }


def processor():
    """The processor's name, as in "AMD EPYC"."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        return next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
            platform.machine(),
        )
    return platform.processor() or platform.machine()


# the fields on where a part of a run came from: other code or another machine may resume a run
ORIGIN = ("commit", "uncommitted_changes", "versions", "machine", "device")


@dataclasses.dataclass
class Record:
    """What run.json says of a run. A field that is None is not in run.json, except `teacher`.

    It is written when the training starts and again at the end, then with `finished` True. For a
    resumed run, `started` is the start of its first part, by which tables know the run; the fields
    of ORIGIN are those of its last part, and `earlier` has those of the parts before that differ.
    """

    # where it came from
    command: str = None
    started: str = None  # UTC
    commit: str = None
    uncommitted_changes: bool = None
    versions: dict = None  # package -> version
    machine: str = None
    # [{ORIGIN: ...}] of a resumed run's earlier parts that came from elsewhere
    earlier: list = None
    # what the run is
    method: str = None  # as in tables
    seed: int = None
    device: str = None  # a GPU's name, or "cpu"
    processes: int = None
    precision: str = None  # "no", "bf16" or "fp16"
    arguments: dict = None  # every flag, name -> value
    settings: dict = None  # what decides what is trained: training/identity.py
    # what it read
    # {split: Features.source}: "train", with "unlabelled" rows, and the dev sets that were scored
    data: dict = None
    initial_weights: str = None  # the sha256 of those that the encoder began with, unless random
    teacher: str = None  # the sha256 of its weights
    teacher_scores: dict = None
    teacher_memory: dict = None  # the facts in its file, and the file's sha256
    teacher_cache: list = None  # its folders
    # what came of it
    trained: bool = None
    steps: int = None
    train_seconds: float = None
    examples_per_second: float = None
    peak_memory_mib: int = None
    parameters: int = None  # of the student
    memory: dict = None  # of train_memory.py: the facts in the file that it wrote
    results: dict = None  # dev metrics
    wall_seconds: float = None
    finished: bool = False

    @classmethod
    def begin(cls, session, method):
        """The Record of a run that starts now. session: a training.session.Session."""
        return cls(
            **provenance(),
            method=method,
            seed=session.args.seed,
            device=session.device_name(),
            processes=session.accelerator.num_processes,
            precision=session.accelerator.mixed_precision,
            arguments=dict(vars(session.args)),
        )

    @classmethod
    def go_on(cls, before, args, folder):
        """The Record of a run that was cut off after its training.

        before: the content of its run.json; UserError if it lacks a field that the run's end needs.
        """
        with complete_run(folder):
            check_fields(before, [name for name in NEEDED if name not in ("arguments", "results")])
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in before.items() if name in names}
        return cls(**known | {"arguments": dict(vars(args))})

    def follow(self, before):
        """Note in `earlier` the ORIGIN of the earlier part of the run that this part continues.

        before: the run.json of the earlier part, {} if there is none.
        """
        now, found = {name: getattr(self, name) for name in ORIGIN}, before.get("earlier", [])
        part = {name: before[name] for name in ORIGIN if name in before}
        if part.keys() == now.keys():
            found = [*[one for one in found if one != part], part]
        self.earlier = [one for one in found if one != now] or None

    def write(self, folder):
        """Write run.json, in the main process."""
        if is_main_process():
            write_json(Path(folder) / "run.json", self.as_json())

    def as_json(self):
        """The content of run.json, a dict."""
        return {k: v for k, v in vars(self).items() if v is not None or k == "teacher"}


def read_run(folder):
    """The content of a folder's run.json, {} without one; UserError if it is damaged."""
    path = Path(folder) / "run.json"
    found = read_json(path)
    for part in ("arguments", "results", "versions", "data", "teacher_memory"):
        if not isinstance(found.get(part, {}), dict):
            raise UserError(
                f"{path} is damaged ({part} is no JSON object): name another folder, or delete "
                f"{path.parent} with all that is in it"
            )
    return found


NEEDED = (  # the fields of a finished run that its row in a results.csv needs
    "method",
    "arguments",
    "results",
    "train_seconds",
    "examples_per_second",
    "parameters",
    "device",
    "machine",
    "precision",
    "processes",
    "steps",
    "started",
    "commit",
    "versions",
)


def join_origins(run, find):
    """What the parts of a run came from, in their order, as one text: "2.11.0 then 2.12.0".

    run: the content of a run.json. find: part -> text; a part is `run` or one of its "earlier".
    """
    return " then ".join(dict.fromkeys(find(part) for part in [*run.get("earlier", []), run]))


def check_fields(run, names=NEEDED):
    """KeyError if a run.json lacks one of the fields `names`, TypeError if one has another type;
    complete_run makes a UserError of either.
    """
    types = {field.name: field.type for field in dataclasses.fields(Record)}
    for name in names:
        found, wanted = run[name], types[name]
        if wanted in (int, float):
            wanted = (int, float)
        if not isinstance(found, wanted):
            raise TypeError(f"its {name} is {found!r}")


@contextlib.contextmanager
def complete_run(folder):
    """A context for code that reads a folder's run.json: a wrong field there is a UserError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{Path(folder) / 'run.json'} is not the record of a finished run "
            f"({missing}): repeat the run, or move its folder away"
        ) from None


def clear(output):
    """Remove an earlier run's files, except its checkpoints, from the output folder; of links, only
    the links themselves.
    """
    for pattern in (
        "run.json",
        "config.json",
        "model.safetensors",
        "train_log.jsonl",
        "eval_results.*",
        "dev*_predictions.tsv",
        "memory.safetensors",
        "student_memory.safetensors",
        "clusters.tsv",
        "clusters.png",
        "clustering.safetensors",
        "probe.jsonl",
        "probe_start.safetensors",
    ):
        for file in output.glob(pattern):
            if file.is_symlink() or file.is_file():
                file.unlink()
    card_file.remove_card(output)
    common.discard(output / "submission")
