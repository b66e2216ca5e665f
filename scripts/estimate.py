"""Estimate the hours and the disk space of training commands; nothing is started.

    scripts/sweep runs/rte --plan vkd alpha=0.2,0.5 -- glue_with_cka_i.py ... |
      python scripts/estimate.py
    python scripts/estimate.py --examples_per_second 900 --jobs 4 < commands.txt

The input has one command a line, in shell quoting. A line `## NAME: ...` begins a stage, which is a
row of the table; `--keep WHAT` in a line with ## is the --keep of scripts/sweep for the commands
that follow; other lines that begin with # are skipped. Hours are training rows, times epochs or
passes, divided by a rate in examples a second: that of --examples_per_second; or the median of the
finished runs below --runs of the same kind (commands.Command.kind); or that of results/step.csv,
measured with BERT-base. With ESTIMATE=off in the environment nothing is printed, here and by
scripts/sweep and scripts/study.
"""

import argparse
import collections
import functools
import os
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from common import UserError
from scripts.commands import (
    BERT_BASE,
    CHOSEN,
    Command,
    cache_entries,
    parameters,
    read_command,
    shape_of,
    student_layers,
)
from tasks.glue import get_task, usual_centroids
from tasks.reading import count_rows, read_table
from tasks.task import Task, find_file
from training import cells, records, results_csv
from training.flags import as_of_today

STEP = Path(__file__).resolve().parent.parent / "results" / "step.csv"
TRAINS = (
    "train_teacher.py",
    "train_memory.py",
    "glue_with_cka_i.py",
    "glue_with_cka_g.py",
    "glue_with_cka_ilg.py",
    "glue_with_baseline.py",
)
WHOLE = ([-1, None], [None, None])  # max_steps and max_train_samples of a run that is not cut short


def read_stages(lines, keep):
    """[(stage, its --keep, [Command])] of a plan's lines. keep: for lines that name no --keep."""
    stages = []
    for number, line in enumerate(lines, 1):
        if line.startswith("## "):
            if found := re.match(r"## (\S+):", line):
                stages.append([found[1], keep, []])
            if stages and (found := re.search(r"--keep (all|model|results)\b", line)):
                stages[-1][1] = found[1]
        elif line.strip() and not line.startswith("#"):
            if not stages:
                stages.append(["all", keep, []])
            stages[-1][2].append(read_command(line, number))
    return stages


# ---- rates ---------------------------------------------------------------------------------------


def measured_rates(folder):
    """{Command.kind: (rates, pauses, machines)} of the finished runs below a folder: lists of
    examples per second and of seconds outside training, one number per run, and a set of names.
    """
    found = collections.defaultdict(lambda: ([], [], set()))
    for path in sorted(Path(folder).rglob("run.json")) if folder else []:
        run = records.read_run(path.parent)
        seconds = run.get("train_seconds", 0)
        cut = [run.get("arguments", {}).get(flag) for flag in ("max_steps", "max_train_samples")]
        read = "memory" in run and run.get("arguments", {}).get("teacher_cache")
        if not run.get("finished") or not seconds or cut not in WHOLE or read:
            continue  # neither a rehearsal nor passes over a cache tell the model's rate
        with records.complete_run(path.parent):
            kind, rate, pause, machine = measured(run, seconds)
            rates, pauses, machines = found[kind]
            rates.append(rate)
            pauses.append(pause)
            machines.add(machine)
    return found


def measured(run, seconds):
    """(kind, examples a second, seconds outside training, machine) of one run.json."""
    arguments = as_of_today(run["arguments"])
    flags = {
        key: value for key, value in arguments.items() if str(value) not in ("None", "False", "")
    }
    command = Command(run["command"].split()[0], flags)
    rate = run.get("examples_per_second")
    if "memory" in run:
        rate = run["memory"]["samples"] * run["memory"]["passes"] / seconds
    machine = run["machine"] if run["device"] == "cpu" else run["device"]
    wall = run.get("wall_seconds", seconds)  # of a resumed run those of its last part
    return command.kind, rate, max(0.0, wall - seconds), machine


def step_rates():
    """({(form, precision): examples a second}, machine) of BERT-base, from results/step.csv."""
    columns = ["form", "model", "precision", "device", "machine", "examples / s"]
    _, rows = results_csv.read_cells(STEP, columns, "no table of ours")
    rows = [(line, *(row[name, 0] for name in columns)) for line, row in rows]
    rates, machines = {}, []
    for line, form, model, precision, device, machine, rate in rows:
        if model != "bert-base":
            continue
        if not cells.is_number(rate):
            raise results_csv.wrong_line(
                STEP, line, f"{rate!r} in the column examples / s, which is of numbers"
            )
        rates.setdefault((form, precision), float(rate))
        machines.append(machine if device == "cpu" else device)
    return rates, machines[0]


class Rates:
    """Looks up how many examples per second a command trains on.

    given: the rate of all commands; None to look it up. folder: finished runs whose rates are taken
    first, or None. notes: the rates used so far, {where it is from: {kind in words: rate}}.
    """

    def __init__(self, given, folder):
        self.given, self.folder = given, folder
        self.notes = collections.defaultdict(dict)

    @functools.cached_property
    def measured(self):
        return measured_rates(self.folder)

    @functools.cached_property
    def published(self):
        return step_rates()

    def __call__(self, kind):
        """(examples a second, seconds of start and evaluation) of a Command.kind."""
        script, form, precision = kind
        if self.given:
            return self.given, 0.0
        if kind in self.measured:
            rates, pauses, machines = self.measured[kind]
            rate = statistics.median(rates)
            source = f"finished runs below {self.folder} ({', '.join(sorted(machines))})"
            self.notes[source][f"{script}, {form}"] = rate
            return rate, statistics.median(pauses)
        step, machine = self.published
        if precision == "fp16":
            precision = "bf16"  # as step.csv has no fp16; the note names the precision
        if (form, precision) not in step:
            form = form.partition(", masked")[0]  # unmasked, which computes more
        if (form, precision) not in step:
            raise UserError(
                f"no rate of {script} in precision {precision} is known: pass --examples_per_second"
                f" or let such a run finish{f' below {self.folder}' if self.folder else ''} first"
            )
        rate = step[form, precision]
        source = (
            f"{STEP.parent.name}/{STEP.name} ({machine}; BERT-base, 128 tokens, "
            f"precision {precision})"
        )
        self.notes[source][form] = rate
        return rate, 0.0


# ---- the estimate --------------------------------------------------------------------------------


class Estimate:
    """Costs of commands in their order: the first that needs a teacher cache pays for making it.

    most_epochs: the epochs of a command whose number is not chosen yet.
    """

    def __init__(self, rates, most_epochs):
        self.rates, self.most_epochs = rates, most_epochs
        self.files, self.cached, self.centroids, self.shapes = {}, set(), {}, {}
        self.chosen_epochs = False

    def rows(self, command):
        """(Task, number of training rows) of a command.

        The rows of the file in --data_dir are counted; without a file it is the official number.
        """
        if own := command.flags.get("train_file"):
            return self.own_rows(command, Path(own))
        task = get_task(command.flags.get("task_name", ""))
        folder = command.flags.get("data_dir", "")
        if "train" not in task.rows:
            raise UserError(f"{task.name} has no training rows: name another task")
        if (task.name, folder) not in self.files:
            try:
                rows = count_rows(task, "train", find_file(task, folder, "train"))
                note = f"{task.name} has {rows:,} training rows in {folder}"
            except UserError:
                rows = task.rows["train"]
                note = (
                    f"{task.name} has {rows:,} training rows, officially, as there is no file in "
                    f"{folder} yet"
                )
            self.files[task.name, folder] = rows, note
        rows, _ = self.files[task.name, folder]
        return task, min(rows, int(command.number("max_train_samples", rows)))

    def own_rows(self, command, path):
        """(Task, number of training rows) of a --train_file; two classes are assumed."""
        name = command.flags.get("task_name", path.stem)
        if (name, path) not in self.files:
            rows = len(read_table(path).rows) if path.is_file() else 0
            self.files[name, path] = rows, f"{name} has {rows:,} training rows in {path}"
        rows, _ = self.files[name, path]
        labels = None if "do_regression" in command.flags else ("0", "1")
        task = Task(name, {"train": path}, (), None, labels, ())
        return task, min(rows, int(command.number("max_train_samples", rows)))

    def examples(self, command, rows):
        """The number of samples computed: rows times epochs, or steps times batch size."""
        if command.script == "train_memory.py":
            if "teacher_cache" in command.flags:
                return 0  # next to the pass that fills the cache, reading it costs nothing
            passes = command.number("num_train_epochs", 3)
            return rows * command.number("memory_num_train_epochs", passes)
        if (steps := command.number("max_steps", -1)) > 0:
            return steps * command.batch_size
        if command.flags.get("num_train_epochs", "").startswith(CHOSEN):
            self.chosen_epochs = True
            return rows * self.most_epochs
        return rows * command.number("num_train_epochs", 3)

    def add(self, command, keep):
        """(seconds, bytes kept, bytes while it runs) of one command. keep: as --keep of a sweep."""
        if command.script not in TRAINS:
            return 0.0, 0, 0
        task, rows = self.rows(command)
        shape, examples = shape_of(command), self.examples(command, rows)
        rate, pause = self.rates(command.kind)
        seconds, classes = examples / rate + pause, len(task.labels or "1")
        values = int(command.number("max_seq_length", 128)) * shape["hidden_size"]
        memory, usual = command.flags.get("teacher_memory_path"), usual_centroids(task.name)
        centroids = self.centroids.get(memory, usual)
        cached = self.new_files(command, cache_entries(command, shape, classes, centroids))
        if cached:  # one pass of the teacher over all rows makes it
            kind = "train_memory.py", "teacher, forward", command.precision
            seconds += rows / self.rates(kind)[0]
        if command.script == "train_memory.py":
            centroids = int(command.number("num_centroid", usual))
            self.centroids[command.flags.get("output_dir")] = centroids
            numbers = centroids * values  # while it runs, also the sums, in float64
            return seconds, 4 * numbers + rows * cached, 12 * numbers
        layers = student_layers(command, shape)
        weights = parameters(shape, layers, classes)
        self.shapes[layers] = weights, shape is BERT_BASE
        if memory and "g" in command.structures:
            weights += centroids * values  # the student's memory, which is trained with the student
        saves = examples / command.batch_size > command.number("save_steps", 500)
        checkpoint = 12 * weights * saves  # weights and Adam's two moments
        kept = {"results": 0, "model": 4 * weights, "all": 4 * weights + checkpoint}[keep]
        return seconds, kept + rows * cached, 4 * weights + checkpoint

    def new_files(self, command, entries):
        """Bytes a sample of the cache entries that no earlier command has made."""
        where = (
            command.precision,
            *map(command.flags.get, ("teacher_cache", "model_name_or_path", "data_dir")),
        )
        new = {entry: size for entry, size in entries.items() if (where, entry) not in self.cached}
        self.cached |= {(where, entry) for entry in new}
        return sum(new.values())


def caption(estimate, jobs):
    """Lines that say what the numbers rest on."""
    lines = [
        f"Hours: training rows x epochs (of the memory: passes) / rate, {jobs} "
        f"{'run' if jobs == 1 else 'runs, each at the full rate,'} at a time."
    ]
    rates = estimate.rates
    if rates.given:
        lines.append(
            f"Rate: {rates.given:g} examples/s for all, as given; without start and evaluation."
        )
    for source, found in rates.notes.items():
        lines.append(
            f"Examples/s from {source}: "
            f"{'; '.join(f'{name} {rate:.4g}' for name, rate in found.items())}."
        )
        if source.startswith(STEP.parent.name):
            lines += [
                "  FSD_ILG's stands for all structures and baselines, floor's for the student "
                "alone; start and evaluation are left out.",
                "  Another machine, above all a GPU, differs by far: pass "
                "--examples_per_second, or let a run of each kind finish first.",
            ]
    lines += [f"{note}." for _, note in estimate.files.values()]
    if estimate.chosen_epochs:
        lines.append(
            f"Epochs yet to be chosen count as {estimate.most_epochs:g}, the most searched: an "
            "upper bound."
        )
    for layers, (weights, assumed) in sorted(estimate.shapes.items()):
        lines.append(
            f"Disk: {weights / 1e6:.1f} M weights in {layers} layers"
            f"{', shaped as BERT-base, as no config.json is at hand' if assumed else ''}."
        )
    return lines


def table(rows):
    """Aligned lines of text for the rows (name, commands, hours, bytes) and their total."""
    rows = [*rows, ("total", *(sum(row[i] for row in rows) for i in (1, 2, 3)))]
    wide = max(len("stage"), *(len(row[0]) for row in rows))
    lines = [f"{'stage':<{wide}}  commands      hours  disk, GB"]
    for name, commands, hours, kept in rows:
        lines.append(f"{name:<{wide}}  {commands:>8,}  {hours:>9,.2f}  {kept / 1e9:>8,.2f}")
    return lines


def tell(lines, runs=None, jobs=1, keep="model", rate=None, most_epochs=10):
    """An estimate of a plan's commands, as lines of text; [] with ESTIMATE=off.

    lines: the plan. runs: a folder whose finished runs tell the rates. jobs: runs at a time. keep:
    of scripts/sweep. rate: examples a second of all runs. most_epochs: the epochs of a command
    whose number is not chosen yet.
    """
    if is_off():
        return []
    estimate, rows, most = Estimate(Rates(rate, runs), most_epochs), [], 0
    for stage, keeps, commands in read_stages(lines, keep):
        costs = [estimate.add(command, keeps) for command in commands]
        hours = sum(seconds for seconds, _, _ in costs) / 3600 / jobs
        rows.append((stage, len(commands), hours, sum(kept for _, kept, _ in costs)))
        most = max([most, *(while_running for _, _, while_running in costs)])
    if not rows:
        raise UserError("there is no command to estimate: write one per line to standard input")
    return [
        *table(rows),
        "",
        *caption(estimate, jobs),
        f"While {'one run is' if jobs == 1 else f'{jobs} runs are'} going on, up to "
        f"{jobs * most / 1e9:.2f} GB more are needed, for checkpoints.",
    ]


def is_off():
    return os.environ.get("ESTIMATE") == "off"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--runs",
        type=common.expand_path_or_none,
        help="Folder of runs; the rates of the finished ones in it are used.",
    )
    add("--jobs", type=int, default=1, help="Runs at a time. Default 1.")
    add(
        "--keep",
        choices=("all", "model", "results"),
        default="model",
        help="What scripts/sweep leaves of a finished run. Default model.",
    )
    add("--examples_per_second", type=float, help="Rate of all runs; default: measured ones.")
    add(
        "--most_epochs",
        type=float,
        default=10,
        help=f"Epochs of a command that has them yet to be chosen ({CHOSEN}...). Default 10.",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1 or (args.examples_per_second is not None and args.examples_per_second <= 0):
        raise UserError("--jobs and --examples_per_second must be above 0")
    # read even with ESTIMATE=off, else the program that writes them fails; stdin may be None
    lines = [line.removeprefix("\ufeff") for line in sys.stdin or ()]
    for line in tell(
        lines, args.runs, args.jobs, args.keep, args.examples_per_second, args.most_epochs
    ):
        print(line)


if __name__ == "__main__":
    sys.exit(common.cli(main))
