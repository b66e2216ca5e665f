"""Start runs of the training scripts, several at a time, and report how they end.

scripts/sweep, reproduce, study, one_task and demo.sh are short programs on this module.

A sweep is a set of runs in one folder. A run is one training command; it has a folder of its own,
FOLDER/NAME. Its output goes to FOLDER/NAME.log, whose first line is the command, and its results to
FOLDER/results.csv. It is finished once its run.json says so. No other state of a sweep is kept: the
same sweep, given again, skips finished runs, goes on with those that were cut off, and repeats
those that failed. Two sweeps may share a folder, as every run locks its own folder, and only one
sweep at a time holds a log.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from common import UserError, discard, make_folder, say
from scripts.processes import at_once, processes
from scripts.sweep_runs import ROOT, expand

KEEP = ("all", "model", "results")
MODEL_FILES = (  # files that transformers loads a model from, and the memories
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
LOCKED = "is in use by another run that is still going"  # words in the error of lock_output_dir


# ---- what a sweep is told ------------------------------------------------------------------------


def interpreter():
    """The Python interpreter for the runs: the variable PYTHON, or python."""
    return os.environ.get("PYTHON") or "python"


def ours(script):
    """The path of a script of this repository; relative if the repository is the working folder."""
    return script if Path.cwd() == ROOT else str(ROOT / script)


def minutes(seconds):
    """Seconds as text, "1.5 min"."""
    seconds = int(seconds)
    return f"{seconds // 60}.{seconds % 60 // 6} min"


def read_shard(text):
    """(I, N) of a shard "I/N": every N-th run, beginning with run I.

    "" is (0, 1), all runs; in a Slurm array "" is the shard of this array task, N the number of
    array tasks.
    """
    if not text and (tasks := os.environ.get("SLURM_ARRAY_TASK_COUNT")):
        number, least, step = (
            int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", 0), ("MIN", 0), ("STEP", 1))
        )
        text = f"{(number - least) // step}/{tasks}"
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "0/1")
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard is I/N with I from 0 to N-1, found {text}")
    return int(found[1]), int(found[2])


def read_jobs(text):
    """The value of --jobs as an int; None for "", the default."""
    if not re.fullmatch(r"|[1-9]\d{0,3}", text):
        raise UserError(f"--jobs is a whole number from 1 to 9999, found {text}")
    return int(text) if text else None


def find_devices():
    """The GPUs that may be used, as text; an empty CUDA_VISIBLE_DEVICES hides all of them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [word for word in re.split("[, ]", visible) if word]
    return list_gpus()


@functools.cache  # it is slow, and a protocol has many sweeps
def list_gpus():
    """The numbers of this machine's GPUs, as text."""
    with contextlib.suppress(OSError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)
    return []


def count_cores():
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- a sweep -------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a run ended. kind: done, skipped, failed or still (running). told: what is printed."""

    kind: str
    told: str


STILL = Outcome("still", "still running elsewhere")


class Sweep:
    """Runs in one folder; `mine` are the runs of this shard.

    jobs: runs at a time, None for one on each GPU. shard: "I/N"; "" is all runs, or the share of
    this task of a Slurm array. keep: what stays of a finished run, a word of KEEP. python: the
    interpreter, None for interpreter().
    """

    def __init__(self, folder, jobs=None, shard="", keep="model", python=None):
        self.folder, self.shard, self.keep = str(folder), read_shard(shard), keep
        self.python = python or interpreter()
        self.devices = find_devices()
        self.jobs = jobs or len(self.devices) or 1
        self.runs, self.outcomes, self.lock = {}, {}, threading.Lock()
        self.elsewhere = set()  # the names of the runs whose log another sweep holds

    def add(self, words):
        """Add the runs of a line NAME [flag=v1,v2,...]... -- SCRIPT FLAGS..., given as words."""
        for run in expand(words, self.folder, self.python):
            if run.name in self.runs or run.name.endswith(".log") or run.name == "results.csv":
                raise UserError(
                    f"the run name {run.name} is taken by another run or by a file of the sweep: "
                    "give the runs another NAME, or each value once"
                )
            self.runs[run.name] = run

    @property
    def mine(self):
        """The runs of this shard."""
        first, count = self.shard
        return list(self.runs.values())[first::count]

    def run(self):
        """Run all runs of this shard that are not finished. False if some failed or still run."""
        began, mine = time.monotonic(), self.mine
        if not mine:
            say("0 runs in shard {}/{}".format(*self.shard))
            return True
        try:
            make_folder(self.folder)
        except OSError as error:
            raise UserError(
                f"the folder {self.folder} cannot be made ({error.strerror}): name another one"
            ) from None
        waiting = enumerate(mine)  # a queue that all slots share
        slots = range(min(self.jobs, len(mine)))
        at_once([lambda slot=slot: self.work(slot, waiting, len(mine)) for slot in slots])
        return self.sum_up(mine, time.monotonic() - began)

    def work(self, slot, waiting, count):
        """Do one waiting run after the other, until none is left. slot: decides the GPU."""
        device = self.devices[slot % len(self.devices)] if self.devices else ""
        while True:
            with self.lock:
                position, run = next(waiting, (None, None))
            if run is None:
                return
            self.outcomes[run.name] = self.visit(run, device, f"[{position + 1}/{count}]")

    def tell(self, label, run, device, text):
        with self.lock:
            say(f"{label} {run.name}{f' on GPU {device}' if device else ''}: {text}")

    def visit(self, run, device, label):
        """Execute a run, or skip it as finished. Returns the Outcome."""
        if not run.finished:
            self.tell(label, run, device, "started")
            found = self.execute(run, device)
        else:
            device = ""
            found = Outcome("skipped", "skipped as finished")
            if not run.has_same_command:
                found = Outcome(
                    "failed",
                    f"failed: finished with other flags; delete {run.folder} or name the sweep "
                    "otherwise",
                )
        if found.kind in ("done", "skipped"):
            self.tidy(run)
        self.tell(label, run, device, found.told)
        return found

    def environment(self, device):
        """The environment variables of a run, with its GPU or its share of the cores.

        None to inherit those of this program unchanged.
        """
        if device:
            return os.environ | {"CUDA_VISIBLE_DEVICES": device}
        if self.jobs > 1 and not os.environ.get("OMP_NUM_THREADS"):
            return os.environ | {"OMP_NUM_THREADS": str(max(1, count_cores() // self.jobs))}
        return None

    def execute(self, run, device):
        """Start or resume a run, and wait for it. Returns the Outcome."""
        with contextlib.ExitStack() as stack:
            try:
                log = stack.enter_context(run.hold())
            except OSError as error:
                return Outcome(
                    "failed",
                    f"failed: {run.log} cannot be written ({error.strerror}); move it away or name "
                    "the sweep otherwise",
                )
            same = run.has_same_command  # an unfinished run may have had other flags
            if not same and (log is None or run.is_going_on):
                told = "failed: running elsewhere with other flags; name the sweep otherwise"
                return Outcome("failed", told)
            if log is None:
                self.elsewhere.add(run.name)
                return STILL
            if not same:
                log.truncate(0)
            elif run.finished:  # by another sweep, just now
                return Outcome("skipped", "skipped as finished")
            return self.start(run, device, log)

    def start(self, run, device, log):
        """Start or resume a run whose log this sweep holds, and wait. Returns the Outcome."""
        began = time.monotonic()
        log.write(f"$ {run.command}\n".encode(errors="surrogateescape"))
        log.flush()
        offset = log.tell()
        code, _ = processes.run(
            run.words, stdout=log, stderr=subprocess.STDOUT, env=self.environment(device)
        )
        with open(run.log, "rb") as written:
            written.seek(offset)
            said = written.read().decode(errors="replace").replace("\r", "\n")
        lines = [line for line in said.split("\n") if line.strip()]
        return self.judge(run, code, lines, minutes(time.monotonic() - began))

    def judge(self, run, code, lines, took):
        """The Outcome of a run that has ended. lines: its output. took: its duration, as text."""
        if code and any(LOCKED in line for line in lines):
            return STILL
        last = lines[-1] if lines else ""
        if code > 128:
            with contextlib.suppress(ValueError):
                last = f"killed by {signal.Signals(code - 128).name}"
        if code:
            return Outcome("failed", f"failed with exit code {code}, {run.log}: {last}")
        if not run.finished:
            return Outcome(
                "failed",
                f"failed without an error, {run.log}: its run.json is not finished, has it no "
                "--do_train?",
            )
        last = last.rpartition("; everything is in ")[0] or last
        return Outcome("done", f"done in {took}{f'; {last}' if last else ''}")

    def tidy(self, run):
        """Remove those files of a finished run that --keep does not name."""
        doomed = () if self.keep == "all" else ("checkpoint-*",)
        doomed += MODEL_FILES if self.keep == "results" else ()
        for pattern in doomed:
            for path in Path(run.folder).glob(pattern):
                discard(path)

    def look_again(self, run):
        """The Outcome of a run at the end of the sweep.

        It is found again if another sweep held the run, which may have ended by now.
        """
        found = self.outcomes[run.name]
        if found is not STILL or run.name not in self.elsewhere:
            return found
        with contextlib.suppress(OSError), run.hold() as log:
            if log is None or run.is_going_on:
                return found
            if run.finished:
                return Outcome("skipped", "finished elsewhere")
            return Outcome("failed", f"failed elsewhere, {run.log}: {run.last_line}")
        return found

    def sum_up(self, mine, seconds):
        """Say how the runs ended. Returns False if some failed or still run elsewhere."""
        found = [(run.name, self.look_again(run)) for run in mine]
        kinds = [outcome.kind for _, outcome in found]
        elsewhere = kinds.count("still")
        say(
            f"{len(mine)} runs: {kinds.count('done')} done now, {kinds.count('skipped')} skipped "
            f"as finished, {kinds.count('failed')} failed"
            f"{f', {elsewhere} still running elsewhere' if elsewhere else ''}, "
            f"in {minutes(seconds)}"
        )
        listed = [(name, one.told) for name, one in found if one.kind in ("failed", "still")]
        for name, told in listed:
            say(f"  {name} {told}")
        return not listed


def check_interpreter(python):
    """Refuse an interpreter that cannot be found."""
    if not shutil.which(python):
        raise UserError(
            f"there is no program {python} here: activate the Python environment of the project, "
            "or name its interpreter in the variable PYTHON"
        )
