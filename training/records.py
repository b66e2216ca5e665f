"""What a run leaves on disk beside its checkpoints: whole files or none, logs, run.json, results.csv."""
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import termination

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "scikit-learn", "scipy", "numpy",
            "pandas")
UMASK = os.umask(0)
os.umask(UMASK)


class UserError(Exception):
    """A mistake the user can mend: one sentence with what was expected, what was found, where, and what to do."""


def cli(main, argv=None, interrupted="interrupted; the same command goes on from what was saved last"):
    """Run a script's main; a user's mistake, a full disk or a signal becomes one line on stderr. Returns the exit code.
    """
    try:
        with termination.listening():
            return run_main(main, argv, interrupted)
    except termination.Terminated as error:
        message = str(error) or interrupted.replace("interrupted", "terminated", 1)
    except RuntimeError:  # of a collective, of which another process that was told has left the group first
        if not termination.ear.told or "RANK" not in os.environ:
            raise
        message = interrupted.replace("interrupted", "terminated", 1)
    say(message)  # once the exception has let go of bars, which end their line then
    return termination.CODE


def run_main(main, argv, interrupted):
    """The exit code of a script's main; its errors become one line on stderr."""
    try:
        code = main(argv) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        message, code = f"error: {error}", 1
    except BrokenPipeError:  # the reader of a table has enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, SafetensorError) as error:
        full = isinstance(error, SafetensorError) and "os error 28" in str(error)
        if not full and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        reason = "No space left on device" if full else error.strerror
        message, code = f"error: {getattr(error, 'filename', None) or 'a file'} cannot be written ({reason}); what " \
                        "was there before is untouched: mend that or name another folder, and run again", 1
    except KeyboardInterrupt:
        message, code = interrupted, 130
    if is_main_process():
        print(message, file=sys.stderr)
    return code


def is_main_process():
    """True in the first process of a run, by the variables that torchrun and accelerate launch set."""
    return os.environ.get("RANK", "0") == "0"


def say(message):
    """One line to the user, from the main process only."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def progress(*args, **kwargs):
    """A tqdm bar in the main process; in a log file it draws a line twice a minute instead of ten a second."""
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(*args, **kwargs, mininterval=interval, maxinterval=interval, disable=not is_main_process())


def make_folders(args, **folders):
    """Make the folder that each flag needs, where it has a value; UserError where that cannot be."""
    for name, folder in folders.items():
        try:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--{name} {getattr(args, name)} cannot be used, as {error.filename} cannot be made a "
                            f"folder ({error.strerror}): name another") from None


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`, to be written as a file or a folder; on success it takes path's name.

    A process killed at any moment leaves the old content, the new or (of a folder) none, never a part of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                file.chmod(0o666 & ~UMASK)  # safetensors writes files that only their owner can read
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir() and not temporary.is_dir():
            raise UserError(f"{path} is a folder, but a file is to be written there: name a file")
        if path.is_dir():
            remove_folder(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_folder(path):
    """Delete a folder under another name first, so that a half-deleted one is never taken for a whole one."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp-old")
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_json(path, content):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(path):
    """The content of a JSON file, {} where there is none."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete the folder it is in, or name another one") from None


def sha256_of_file(path):
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint_of_model(model):
    """The sha256 of a model's weights by name, as hex: equal for equal weights, whatever file or hub they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def provenance():
    """Versions, commit, machine and command of this run."""
    here = Path(__file__).resolve().parent.parent

    def git(*words):
        with contextlib.suppress(OSError):
            return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout.strip()
        return ""

    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no", "--", "*.py")),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "machine": f"{processor()}, {os.cpu_count()} cores",
    }


def processor():
    """The processor's name, as in "AMD EPYC"."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def claimed(output_dir):
    """Hold the output folder for this run; a second run in the same folder is refused."""
    if not is_main_process():
        yield
        return
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(Path(output_dir) / ".lock", timeout=0):
            for leftover in Path(output_dir).glob(".*.tmp*"):  # of a killed run: never whole, never read
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield
    except filelock.Timeout:
        raise UserError(f"the output folder {output_dir} is in use by another run that is still going: wait for it "
                        "or name another --output_dir") from None


# ---- logs and tables ----------------------------------------------------------------------------------------------

class JsonLines:
    """A log of one JSON object a line; opening it at a step drops what a killed run had written after that step."""

    def __init__(self, path, step):
        self.path = Path(path)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() and step else []
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line of a killed run may be cut
                kept += [line] if json.loads(line)["step"] <= step else []
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, entry):
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")


def read_results(path, **options):
    """A results.csv as a table, known by its columns method and seed."""
    try:
        table = pd.read_csv(path, **options)
        table[["method", "seed"]]  # KeyError where they are missing
    except (ValueError, KeyError) as error:  # ValueErrors: pandas' parser, empty-file and encoding errors
        raise UserError(f"{path} is not a table of results ({error}): move it away or name another file") from None
    return table


def append_result(path, row):
    """Put one run's row into a shared results.csv, under a lock and atomically; new columns widen the table.

    A run is known by its folder and start: one that is killed right after this and repeated is not in it twice, one
    that is overwritten by another stays.
    """
    path = Path(path)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        table = pd.DataFrame([{key: str(value) for key, value in row.items()}])
        if path.is_file():
            before = read_results(path, dtype=str)
            keys = [key for key in ("started", "--output_dir") if key in before and key in table]
            same = (before[keys] == table[keys].iloc[0]).all(axis=1) & bool(keys)
            table = pd.concat([before[~same], table], ignore_index=True)
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)


class Log:
    """train_log.jsonl and TensorBoard side by side; silent outside the main process."""

    def __init__(self, output_dir, run_file, step):
        self.folder = run_file or os.path.join(output_dir, "tensorboard")
        self.writer = self.lines = None
        if is_main_process():
            self.lines = JsonLines(Path(output_dir) / "train_log.jsonl", step)
            self.writer = SummaryWriter(self.folder, purge_step=step + 1)

    def __call__(self, step, **groups):
        """Write the scalars of a step, group=name -> value; TensorBoard shows a group's curves together."""
        if self.writer:
            self.lines.write({"step": step} | {k: v for scalars in groups.values() for k, v in scalars.items()})
            for group, scalars in groups.items():
                for name, value in scalars.items():
                    self.writer.add_scalar(f"{group}/{name}", value, step)
            self.writer.flush()

    def histogram(self, step, name, values):
        if self.writer:
            self.writer.add_histogram(name, np.asarray(values), step)

    def figure(self, step, name, figure):
        if self.writer:
            self.writer.add_figure(name, figure, step)

    def close(self, step, settings, metrics):
        """The final dev metrics, the HPARAMS tab (settings with these metrics), and the end of the file."""
        if self.writer:
            for name, value in metrics.items():
                self.writer.add_scalar(f"dev/{name}", value, step)
            plain = {k: v if isinstance(v, (int, float, bool, str)) else str(v) for k, v in settings.items()}
            if plain:
                self.writer.add_hparams(plain, {f"final/{k}": v for k, v in metrics.items()}, run_name=".")
            self.writer.close()


def result_row(run):
    """The row of results.csv for a run, from the content of its run.json."""
    arguments = {k: v for k, v in run["arguments"].items()
                 if k not in ("do_train", "do_eval", "do_predict") and v is not None and v is not False and v != ""}
    return {
        "method": run["method"], "task": arguments.pop("task_name"), "seed": arguments.pop("seed"),
        **run["results"], "minutes": round(run["train_seconds"] / 60, 2),
        "examples_per_second": round(run["examples_per_second"], 1),
        **{k: run[k] for k in ("peak_memory_mib",) if k in run},  # runs of earlier versions do not say
        "parameters": run["parameters"],
        "device": run["device"], "machine": run["machine"], "precision": run["precision"],
        "processes": run["processes"], "steps": run["steps"],
        "started": run["started"], "commit": run["commit"][:12], "teacher": (run["teacher"] or "")[:12],
        "data": run.get("data", {}).get("train", {}).get("sha256", "")[:12],
        "memory": run.get("teacher_memory", {}).get("sha256", "")[:12],
        "memory_init": run.get("teacher_memory", {}).get("memory_init", ""),
        "torch": run["versions"]["torch"], "transformers": run["versions"]["transformers"],
        **{f"--{k}": v for k, v in arguments.items()},
    }
