"""Kill runs at random moments and start them again, until they end: their files must have the same
bits as those of a run that was never killed.

    python tests/kill_loop.py --rounds 100 --seed 1

A round is one command on tiny random models, without a network: a distillation (FSD_ILG with
teacher cache and memory) or a clustering; every tenth round is a distillation by two processes. The
command is started and killed, by SIGKILL or SIGTERM at a moment drawn from its whole duration,
again and again, until it ends by itself. Each start is a life. A quarter of the lives of one
process have a new interpreter; the others are forked from this program, which has loaded all
modules, so that more kills hit the run itself. After each kill no half-written file may pass for a
whole one; the answer to SIGTERM must be one line and exit code 143; and the next life must go on
from the step that this line says is saved. At the first fault the folder is kept and the exit code
is 1. A table of all kills is printed last.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
from conftest import ROOT, flags, log_without_speed, memory_flags, save_models, torchrun, write_task

import glue_with_cka_ilg
import train_memory
from common import cli

MOST_KILLS = 5  # in a round, whose next life is not killed
PHASES = {  # what a run prints -> the name of the phase that begins there
    "sample for the start:": "first centroids",
    "pass 1 of": "clustering",
    "pass 2 of": "clustering",
    "pass 3 of": "clustering",
    "making the teacher cache": "teacher cache",
    "training:": "training",
    "evaluating:": "evaluation",
    "everything is in": "ending",
    "a memory of": "ending",
}


class Fault(Exception):
    """A mistake of a run, in words."""


class Kind(NamedTuple):
    """A command, as the module of its script and arguments, and the names of the files that must be
    equal to those of a run that was never killed. {} in an argument stands for the round's folder.
    """

    module: object
    arguments: list
    files: list
    processes: int = 1


def kinds(models):
    """{name: Kind} of the commands, on the tiny models in the folder `models`."""
    words = """--cache_dir {}/cache --results_csv {}/results.csv --teacher_cache {}/teacher_cache
        --do_predict --save_steps 15 --gradient_accumulation_steps 2 --num_train_epochs 2
        --per_gpu_train_batch_size 4 --per_gpu_eval_batch_size 2 --teacher_memory_path""".split()
    student = flags(models, "{}/out", *words, models / "memory")
    left = """model.safetensors student_memory.safetensors dev_predictions.tsv submission/RTE.tsv
        eval_results.json""".split()
    words = """--cache_dir {}/cache --save_steps 50 --logging_steps 1 --per_gpu_train_batch_size 4
        --memory_learning_rate 0.5 --memory_num_train_epochs 3"""
    clustering = memory_flags(models, "{}/out", *words.split())
    return {
        "distillation": Kind(glue_with_cka_ilg, student, left),
        "clustering": Kind(train_memory, clustering, ["memory.safetensors", "clusters.tsv"]),
        "two processes": Kind(glue_with_cka_ilg, student, left, 2),
    }


def make_models(folder):
    save_models(folder)
    write_task(folder, rows=(600, 200, 200))
    subprocess.run(
        [sys.executable, ROOT / "train_memory.py", *memory_flags(folder, folder / "memory")],
        check=True,
        capture_output=True,
    )


# ---- a life --------------------------------------------------------------------------------------


def live(kind, folder, cold):
    """In a process just forked: become the command of a Kind. cold: with a new interpreter."""
    os.chdir(folder)
    with open("stderr", "wb") as err:
        os.dup2(err.fileno(), 1)
        os.dup2(err.fileno(), 2)
    words = [str(word).replace("{}", str(folder)) for word in kind.arguments]
    script = str(Path(kind.module.__file__))
    if kind.processes == 2:
        os.execv(sys.executable, torchrun(script, words))
    if cold:
        os.execv(sys.executable, [sys.executable, script, *words])
    sys.argv = [script, *words]
    sys.exit(cli(kind.module.main, words))


def start(kind, folder, cold=False):
    """Start the command of a Kind; returns the process. Its output goes to folder/stderr."""
    (folder / "stderr").write_text("")
    process = multiprocessing.get_context("fork").Process(target=live, args=(kind, folder, cold))
    process.start()
    return process


def wait(process, seconds):
    """Wait until a process ends, at most `seconds`.

    Process.join would also return when the process becomes another interpreter.
    """
    deadline = time.monotonic() + seconds
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.005)


def kill(process, number):
    """Send SIGTERM to the command alone, SIGKILL to all its processes; wait for all to end."""
    doomed = []
    with contextlib.suppress(psutil.NoSuchProcess):
        doomed = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    for one in doomed if number == signal.SIGKILL else doomed[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)
    wait(process, 90)
    if psutil.wait_procs(doomed[1:], timeout=10)[1] or process.exitcode is None:
        raise Fault("processes were left behind")


def phase_of(said):
    """The phase in which a life ended, by the last phrase of PHASES in its output `said`."""
    return (
        PHASES[max(PHASES, key=said.rfind)]
        if any(said.rfind(mark) >= 0 for mark in PHASES)
        else "starting"
    )


def finished(folder):
    """True if run.json says that the run is finished. A half-written one raises, as no JSON."""
    record = folder / "out/run.json"
    return record.exists() and json.loads(record.read_text()).get("finished", False)


def check_kill(kind, folder, number, code, said):
    """Raise a Fault if a kill left anything wrong. said: the output of the life."""
    ours = said
    # torchrun reports SIGTERM by a traceback; those of the workers begin with [rank
    if kind.processes > 1:
        ours = re.sub(r"^Traceback.*?SignalException[^\n]*", "", said, flags=re.M | re.S)
    for word in ("Traceback", "Exception ignored", "Error", "threads at exit"):
        if word in ours:
            raise Fault(f"{word} after {number.name}, exit code {code}")
    answered = len(re.findall(r"^terminated; ", re.sub("\r", "\n", said), re.M))
    if number == signal.SIGTERM and kind.processes == 1 and not finished(folder):
        silent = phase_of(said) == "starting" and not said.strip()  # it had not begun to listen
        if (code, answered) != (143, 1) and not (silent and code == -signal.SIGTERM):
            raise Fault(f"SIGTERM was answered by exit code {code} and {answered} lines")
    if (
        not finished(folder)
        and (folder / "results.csv").exists()
        and phase_of(said) not in ("evaluation", "ending")
    ):
        raise Fault("a row in results.csv of a run that was not done")


def logged(folder):
    """The step of the last whole line of the log; 0 without one."""
    log = folder / "out/train_log.jsonl"
    steps = re.findall(r'^\{"step": (\d+).*\}$', log.read_text(), re.M) if log.exists() else []
    return int(steps[-1]) if steps else 0


def goes_on_from(said):
    """The step from which a life goes on; None if it was killed before it said so."""
    found = re.search(r": (\d+) of \d+ steps are done|going on after (\d+) mini-batches", said)
    if found:
        return int(found[1] or found[2])
    return 0 if re.search("training:|sample for the start:", said) else None


def saved_step(said):
    """The step that a training said it had saved after SIGTERM; None if it said nothing."""
    found = re.search(r"terminated; step (\d+) of", said)
    return found and int(found[1])


# ---- a round -------------------------------------------------------------------------------------


def play(kind, folder, seconds, draw, count):
    """Start a command, and kill it, until it ends by itself.

    seconds: [warm, cold], what it takes if never killed, forked or with a new interpreter. draw:
    random.Random. count: the Counter of this Kind for the table. Raises a Fault.
    """
    folder.mkdir(parents=True)
    reached = promised = None
    for life in range(MOST_KILLS + 1):
        number, cold = (
            draw.choice((signal.SIGKILL, signal.SIGTERM)),
            draw.random() < 0.25 or kind.processes > 1,
        )
        process, began = start(kind, folder, cold), time.monotonic()
        wait(process, draw.uniform(0, seconds[cold]) if life < MOST_KILLS else 300)
        if process.exitcode is None:
            kill(process, number)
        else:
            number = None
        code = process.exitcode
        said = (folder / "stderr").read_text(errors="replace")
        begun = goes_on_from(said)
        if begun is not None and reached is not None:
            count["steps lost"] += max(0, reached - begun)
            if promised is not None and begun != promised:
                raise Fault(
                    f"step {promised} was said to be saved, and the next life goes on from {begun}"
                )
            reached = promised = None
        if number is None:
            if code:
                raise Fault(f"a life that nothing killed ended with {code}")
            if life == 0:  # the machine is less busy than when the time was taken
                seconds[cold] = min(seconds[cold], time.monotonic() - began)
            return
        count[number.name] += 1
        count[f"in {phase_of(said)}"] += 1
        check_kill(kind, folder, number, code, said)
        if finished(folder):
            return
        if begun is not None:
            reached, promised = logged(folder), saved_step(said)


def compare(kind, one, two):
    """Raise a Fault if the files of `two` differ from those of `one`, which was never killed."""
    for name in kind.files:
        if (one / "out" / name).read_bytes() != (two / "out" / name).read_bytes():
            raise Fault(f"{name} differs from that of a run that nothing killed")
    if log_without_speed(one / "out") != log_without_speed(two / "out"):
        raise Fault("train_log.jsonl differs from that of a run that nothing killed")
    if (two / "results.csv").exists() and len(pd.read_csv(two / "results.csv")) != 1:
        raise Fault("results.csv has not one row")
    left = [
        path for path in two.rglob("*") if ".tmp" in path.name or path.name.endswith(".partial")
    ]
    if left:
        raise Fault(f"left behind: {', '.join(map(str, left))}")


def take_time(kind, folder, cold):
    """The seconds that a command takes if it is never killed."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    process = start(kind, folder, cold)
    wait(process, 300)
    if process.exitcode != 0:
        sys.exit(f"error: what nothing kills ends with {process.exitcode}, see {folder / 'stderr'}")
    return time.monotonic() - began


def table(counts):
    """A text table of the counts: a row for each count, a column for each Kind."""
    columns = list(dict.fromkeys(key for count in counts.values() for key in count))
    columns.sort(key=lambda key: (key.startswith("in "), key))
    rows = [
        ["", *counts],
        *([key, *(str(count[key]) for count in counts.values())] for key in columns),
    ]
    return "\n".join(
        "".join(cell.ljust(22 if i == 0 else 16) for i, cell in enumerate(row)).rstrip()
        for row in rows
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="Rounds, the kinds in turn. Default 10."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="Of the moments and signals. Default 1."
    )
    parser.add_argument(
        "--kinds", nargs="+", help="Some of: distillation, clustering, two processes. Default: all."
    )
    parser.add_argument("--folder", help="Where to work. Default: a temporary folder.")
    args = parser.parse_args(argv)
    work, draw = (
        Path(args.folder or tempfile.mkdtemp(prefix="kill_loop-")).resolve(),
        random.Random(args.seed),
    )
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    make_models(work / "models")
    chosen = {
        name: kind
        for name, kind in kinds(work / "models").items()
        if name in (args.kinds or [name])
    }
    seconds, counts = {}, {name: collections.Counter() for name in chosen}
    fault = None
    for name, kind in chosen.items():
        seconds[name] = [
            take_time(kind, work / place / name, cold)
            for cold, place in enumerate(("warm", "straight"))
        ]
    usual = [name for name in chosen if chosen[name].processes == 1] or list(chosen)
    for i in range(args.rounds):
        name = list(chosen)[-1] if i % 10 == 9 else usual[i % len(usual)]
        folder = work / f"round-{i + 1}"
        try:
            counts[name]["rounds"] += 1
            play(chosen[name], folder, seconds[name], draw, counts[name])
            compare(chosen[name], work / "straight" / name, folder)
            counts[name]["equal ends"] += 1
        except Fault as error:
            fault = f"round {i + 1}, a {name}: {error}; its folder is {folder}"
            break
        shutil.rmtree(folder)
        print(f"round {i + 1}: {dict(counts[name])}", file=sys.stderr, flush=True)
    print(
        ", ".join(
            f"{name} takes {warm:.1f} s, {cold:.1f} s with a new interpreter"
            for name, (warm, cold) in seconds.items()
        )
    )
    print(table(counts))
    if fault:
        print(fault, file=sys.stderr)
        return 1
    if not args.folder:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
