"""Commands -> how many, how many hours, how much disk; nothing is started.

    scripts/sweep runs/rte --plan vkd alpha=0.2,0.5 -- glue_with_cka_i.py ... | python scripts/estimate.py
    python scripts/estimate.py --examples_per_second 900 --jobs 4 < commands.txt

A command a line, in shell quoting. A line `## NAME: ...` begins a stage, a row of its own in the
table; `--keep WHAT` in a line of ## is scripts/sweep's for what follows; other lines with # in
front are skipped. Hours are training rows, times epochs or passes, over a rate:
--examples_per_second; or the median of the finished runs under --runs of the same script and
precision; or that of results/step.csv, measured with BERT-base. With the variable ESTIMATE=off it
does nothing, which spares a script that plans many sweeps their estimates one by one.
"""

import argparse
import collections
import contextlib
import os
import re
import shlex
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__" and os.environ.get("ESTIMATE") == "off":
    sys.stdin.read()  # the writer would fail
    sys.exit()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
from common import UserError
from glue_data.tasks import count_rows, find_file, get_task
from training import records, results_csv

STEP = Path(__file__).resolve().parent.parent / "results" / "step.csv"
BERT_BASE = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
}
TRAINS = (
    "train_teacher.py",
    "train_memory.py",
    "glue_with_cka_i.py",
    "glue_with_cka_g.py",
    "glue_with_cka_ilg.py",
    "glue_with_baseline.py",
)
CHOSEN = "BEST_"  # begins the placeholder of a value that an earlier stage decides


# ---- commands ------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A line of the plan: the script's name and its flags, "" for bare ones, without the dashes."""

    script: str
    flags: dict

    def number(self, name, default):
        """A flag's value; the default also where a value is yet to be chosen."""
        text = str(self.flags.get(name, default))
        try:
            return float(default if text.startswith(CHOSEN) else text)
        except ValueError:
            raise UserError(
                f"--{name} of {self.script} is {text}, but must be a number: mend that command"
            ) from None

    @property
    def precision(self):
        return "bf16" if "bf16" in self.flags else "fp16" if "fp16" in self.flags else "no"

    @property
    def form(self):
        """What results/step.csv calls it; all structures and baselines are its FSD_ILG, the student
        alone its floor.
        """
        if self.script == "train_memory.py":
            return "teacher, forward"
        if self.script == "train_teacher.py":
            alone = {"student_num_hidden_layers", "student_layers"} & self.flags.keys()
            return "floor" if alone else "teacher, trained"
        cached = ", cached" if "teacher_cache" in self.flags else ""
        masked = (
            ", masked" if "mask_padding" in self.flags else ""
        )  # the table's, on rows grouped by length
        alone = ", not grouped" if masked and "group_by_length" not in self.flags else ""
        return ("VKD" if self.number("beta", 1) == 0 else "FSD_ILG") + cached + masked + alone

    @property
    def structures(self):
        """The letters of FSD's structures whose weight is not 0."""
        if self.number("beta", 1) == 0:
            return ""
        if self.script == "glue_with_cka_ilg.py":
            return "".join(letter for letter in "ilg" if self.number(f"gamma_{letter}", 1))
        return (
            "g" if self.script == "glue_with_cka_g.py" else "i" if "internal" in self.flags else "l"
        )

    @property
    def kind(self):
        """Runs of one kind have one rate."""
        return self.script, self.form, self.precision


def read_flags(words):
    """["--a", "1", "--b"] -> {"a": "1", "b": ""}; the last of two wins, new spellings become the
    old ones.
    """
    flags, name = {}, None
    for word in words:
        if word.startswith("--"):
            name, _, value = (
                word.removeprefix("--").replace("per_device_", "per_gpu_").partition("=")
            )
            flags[name] = value
        elif name:
            flags[name], name = word, None
    return {name: os.path.expanduser(value) for name, value in flags.items()}


def read_command(line, number):
    """The Command of a line, of which `number` is told in an error."""
    with contextlib.suppress(ValueError):  # no shell quoting
        words = shlex.split(line)
        for i, word in enumerate(words):
            if word.endswith(".py"):
                return Command(Path(word).name, read_flags(words[i + 1 :]))
    raise UserError(
        f"line {number} is no command with a Python script, in shell quoting: {line.strip()}"
    )


def read_stages(lines, keep):
    """[(stage, what it keeps, [Command])] of a plan's lines."""
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


# ---- sizes ---------------------------------------------------------------------------------------


def shape_of(command):
    """The numbers of a model's config.json that decide its size: of a local folder, else
    BERT-base's.
    """
    for name in ("model_name_or_path_for_copy", "model_name_or_path"):
        if name in command.flags and (
            config := common.read_json(Path(command.flags[name], "config.json"))
        ):
            return {key: config.get(key, value) for key, value in BERT_BASE.items()}
    return BERT_BASE


def parameters(shape, layers, classes):
    """The number of weights of a BERT with a classifier."""
    d, inner = shape["hidden_size"], shape["intermediate_size"]
    embeddings = (
        shape["vocab_size"] + shape["max_position_embeddings"] + shape["type_vocab_size"] + 2
    ) * d
    layer = (
        4 * (d * d + d) + 2 * d * inner + inner + d + 4 * d
    )  # attention, feed-forward, two norms
    return embeddings + layers * layer + d * d + d + classes * (d + 1)


def batch_size(command):
    """Samples of an optimizer step."""
    return command.number("per_gpu_train_batch_size", 8) * command.number(
        "gradient_accumulation_steps", 1
    )


def student_layers(command, shape):
    """Of the model that a command trains."""
    whole = shape["num_hidden_layers"]
    if picked := command.flags.get("student_layers"):
        return len(picked.split(","))
    return int(
        command.number(
            "student_num_hidden_layers",
            whole if command.script == "train_teacher.py" else max(1, whole // 2),
        )
    )


def cache_entries(command, shape, classes, centroids):
    """{file: bytes a sample} that a command needs in its teacher cache, as
    training/teacher_cache.py writes it.
    """
    if "teacher_cache" not in command.flags:
        return {}
    width = int(command.number("max_seq_length", 128))
    features, relations, logits = (
        2 * width * shape["hidden_size"],
        8 * centroids,
        {"logits": 4 * classes},
    )
    penultimate = {f"features-{shape['num_hidden_layers'] - 1}": features}
    step = shape["num_hidden_layers"] // student_layers(command, shape) or 1
    if command.script == "glue_with_baseline.py":
        patient = range(step, shape["num_hidden_layers"], step)
        return logits | {
            "pkd": {f"features-{k}": features for k in patient},
            "minilm": {"attention": 3 * features},
            "none": {},
            "vkd": {},
        }.get(command.flags.get("method"), penultimate)
    structures = command.structures
    layers = (
        penultimate if "l" in structures else {"tokens": 2 * width**2} if "i" in structures else {}
    )
    memory = command.flags.get("teacher_memory_path")
    return logits | layers | ({f"relations-{memory}": relations} if "g" in structures else {})


# ---- rates ---------------------------------------------------------------------------------------


def measured_rates(folder):
    """{kind: ([examples a second], [seconds of start and evaluation], machine)} of the finished
    runs below a folder.
    """
    found = collections.defaultdict(lambda: ([], [], set()))
    for path in sorted(Path(folder).rglob("run.json")) if folder else []:
        run = records.read_run(path.parent)
        seconds = run.get("train_seconds", 0)
        cut = [run.get("arguments", {}).get(flag) for flag in ("max_steps", "max_train_samples")]
        if (
            not run.get("finished") or not seconds or cut not in ([-1, None], [None, None])
        ):  # a rehearsal tells no rate
            continue
        with records.complete_run(path.parent):
            arguments = records.as_of_today(run["arguments"])
            flags = {
                key: value
                for key, value in arguments.items()
                if str(value) not in ("None", "False", "")
            }
            command = Command(run["command"].split()[0], flags)
            rate = run.get("examples_per_second")
            if "memory" in run:
                rate = run["memory"]["samples"] * run["memory"]["passes"] / seconds
            rates, pauses, machines = found[command.kind]
            rates.append(rate)
            pauses.append(run.get("wall_seconds", seconds) - seconds)
            machines.add(run["machine"] if run["device"] == "cpu" else run["device"])
    return found


def step_rates():
    """({(form, precision): examples a second}, machine) of BERT-base in results/step.csv."""
    columns = ["form", "model", "precision", "device", "machine", "examples / s"]
    table, _ = results_csv.read_table(STEP, columns)
    table = table[table.model == "bert-base"].drop_duplicates(["form", "precision"])
    rates = {(row.form, row.precision): row["examples / s"] for _, row in table.iterrows()}
    return rates, table.machine.iloc[0] if table.device.iloc[0] == "cpu" else table.device.iloc[0]


class Rates:
    """Looks up the rates of commands; `notes` has those used, {source: {what: rate}}."""

    def __init__(self, given, folder):
        self.given, self.measured, self.notes = (
            given,
            measured_rates(folder),
            collections.defaultdict(dict),
        )
        self.folder = folder
        self.step, self.machine = step_rates()

    def __call__(self, kind):
        """(examples a second, seconds of start and evaluation) of a kind of command."""
        script, form, precision = kind
        if self.given:
            return self.given, 0.0
        if kind in self.measured:
            rates, pauses, machines = self.measured[kind]
            rate = statistics.median(rates)
            source = f"finished runs below {self.folder} ({', '.join(sorted(machines))})"
            self.notes[source][f"{script}, {form}"] = rate
            return rate, statistics.median(pauses)
        if precision == "fp16":
            precision = "bf16"  # as the table's machine has no float16; the note says so
        if (form, precision) not in self.step:
            form = form.partition(", masked")[0]  # computes more
        if (form, precision) not in self.step:
            raise UserError(
                f"no rate of {script} in {precision} is known: pass --examples_per_second, or let "
                f"one such run finish{f' below {self.folder}' if self.folder else ''}"
            )
        rate = self.step[form, precision]
        source = f"{STEP.parent.name}/{STEP.name} ({self.machine}; BERT-base, 128 tokens, precision {precision})"
        self.notes[source][form] = rate
        return rate, 0.0


# ---- the estimate --------------------------------------------------------------------------------


class Estimate:
    """Adds up commands in their order: a cache is paid for by the first one that needs it."""

    def __init__(self, rates, most_epochs):
        self.rates, self.most_epochs = rates, most_epochs
        self.files, self.cached, self.centroids, self.shapes = {}, set(), {}, {}
        self.chosen_epochs = False

    def rows(self, command):
        """Training rows: of the file in --data_dir if it is there, else the official number."""
        task, folder = (
            get_task(command.flags.get("task_name", "")),
            command.flags.get("data_dir", ""),
        )
        if "train" not in task.rows:
            raise UserError(f"{task.name} has no training rows: name another task")
        if (task.name, folder) not in self.files:
            try:
                rows = count_rows(task, "train", find_file(task, folder, "train"))
                self.files[task.name, folder] = (
                    rows,
                    f"{task.name} has {rows:,} training rows in {folder}",
                )
            except UserError:
                rows = task.rows["train"]
                self.files[task.name, folder] = (
                    rows,
                    (
                        f"{task.name} has {rows:,} training rows, officially, as there "
                        f"is no file in {folder} yet"
                    ),
                )
        rows = self.files[task.name, folder][0]
        return task, min(rows, int(command.number("max_train_samples", rows)))

    def examples(self, command, rows):
        """Training samples that a command computes."""
        if command.script == "train_memory.py":
            return rows * command.number(
                "memory_num_train_epochs", command.number("num_train_epochs", 3)
            )
        if (steps := command.number("max_steps", -1)) > 0:
            return steps * batch_size(command)
        if command.flags.get("num_train_epochs", "").startswith(CHOSEN):
            self.chosen_epochs = True
            return rows * self.most_epochs
        return rows * command.number("num_train_epochs", 3)

    def add(self, command, keep):
        """(seconds, bytes kept, bytes while it runs) of one command."""
        if command.script not in TRAINS:
            return 0.0, 0, 0
        task, rows = self.rows(command)
        shape, examples = shape_of(command), self.examples(command, rows)
        rate, pause = self.rates(command.kind)
        seconds, classes = examples / rate + pause, len(task.labels or "1")
        values = int(command.number("max_seq_length", 128)) * shape["hidden_size"]
        usual = 300 if task.name in ("MNLI", "QQP") else 100
        if command.script == "train_memory.py":
            centroids = int(command.number("num_centroid", usual))
            self.centroids[command.flags.get("output_dir")] = centroids
            return (
                seconds,
                4 * centroids * values,
                12 * centroids * values,
            )  # while it runs float64 sums, too
        centroids = self.centroids.get(command.flags.get("teacher_memory_path"), usual)
        layers = student_layers(command, shape)
        weights = parameters(shape, layers, classes)
        self.shapes[layers] = weights, shape is BERT_BASE
        if "teacher_memory_path" in command.flags and "g" in command.structures:
            weights += centroids * values  # the student's memory, trained with it
        cached = self.new_files(command, cache_entries(command, shape, classes, centroids))
        if cached:
            seconds += (
                rows / self.rates(("train_memory.py", "teacher, forward", command.precision))[0]
            )
        checkpoint = (
            12 * weights * (examples / batch_size(command) > command.number("save_steps", 500))
        )  # Adam's, too
        kept = {"results": 0, "model": 4 * weights, "all": 4 * weights + checkpoint}[keep]
        return seconds, kept + rows * cached, 4 * weights + checkpoint

    def new_files(self, command, entries):
        """Bytes a sample of those cache entries that no command before needed."""
        where = (
            command.precision,
            *map(command.flags.get, ("teacher_cache", "model_name_or_path", "data_dir")),
        )
        new = {file: size for file, size in entries.items() if (where, file) not in self.cached}
        self.cached |= {(where, file) for file in new}
        return sum(new.values())


def caption(estimate, jobs):
    """What the numbers rest on, a line each."""
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
    """The rows (name, commands, hours, GB) as aligned text, with their total."""
    rows = [*rows, ("total", *(sum(row[i] for row in rows) for i in (1, 2, 3)))]
    wide = max(len("stage"), *(len(row[0]) for row in rows))
    lines = [f"{'stage':<{wide}}  commands      hours  disk, GB"]
    for name, commands, hours, kept in rows:
        lines.append(f"{name:<{wide}}  {commands:>8,}  {hours:>9,.2f}  {kept / 1e9:>8,.2f}")
    return lines


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
    stages = read_stages(sys.stdin.readlines(), args.keep)
    estimate, rows, most = (
        Estimate(Rates(args.examples_per_second, args.runs), args.most_epochs),
        [],
        0,
    )
    for stage, keep, commands in stages:
        costs = [estimate.add(command, keep) for command in commands]
        rows.append(
            (
                stage,
                len(commands),
                sum(cost[0] for cost in costs) / 3600 / args.jobs,
                sum(c[1] for c in costs),
            )
        )
        most = max([most, *(cost[2] for cost in costs)])
    if not rows:
        raise UserError("there is no command to estimate: expected one a line on standard input")
    lines = [*table(rows), "", *caption(estimate, args.jobs)]
    lines.append(
        f"While {'one run is' if args.jobs == 1 else f'{args.jobs} runs are'} going on, up to "
        f"{args.jobs * most / 1e9:.2f} GB more are needed, for checkpoints."
    )
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(common.cli(main))
