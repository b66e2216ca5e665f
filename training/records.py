"""The record of a run, run.json: where it came from, and how older ones read today."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from common import UserError, read_json
from training.flags import as_of_today  # noqa: F401 - for those who read records

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
    """Versions, commit, machine and command of this run."""
    here = Path(__file__).resolve().parent.parent

    def git(*words):
        with contextlib.suppress(OSError):
            return subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True
            ).stdout.strip()
        return ""

    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        # a copy may come without .git, or with that of another commit
        "commit": os.environ.get("FSD_COMMIT") or git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(
            git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
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


def read_run(folder):
    """The run.json of a run's folder, {} where there is none; its parts are objects."""
    path = Path(folder) / "run.json"
    found = read_json(path)
    for part in ("arguments", "results", "versions", "data", "teacher_memory"):
        if not isinstance(found.get(part, {}), dict):
            raise UserError(
                f"{path} is damaged ({part} is no JSON object): delete the folder it "
                "is in, or name another one"
            )
    return found


@contextlib.contextmanager
def complete_run(folder):
    """A UserError where what is done with the run.json of a folder misses something in it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{Path(folder) / 'run.json'} is not the record of a finished run "
            f"({missing}): repeat the run, or move its folder away"
        ) from None
