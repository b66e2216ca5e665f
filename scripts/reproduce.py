"""The paper's protocol on one task of GLUE, from the teacher to the tables, in stages.

  scripts/reproduce TASK --plan      print the commands to come, their hours and disk; start nothing
  scripts/reproduce TASK --rehearse  the whole protocol in small, in RUNS/rehearsal: one value of
                                     each list, two seeds, 64 rows, one step a run
  scripts/reproduce TASK --jobs 4 -- --bf16    the real runs

A stage is one sweep (scripts/sweep) or several. Without --stage all stages run in order; the same
command, given again, goes on where it stopped. Machines can share one stage, each with a --shard of
its own; a stage refuses to start while a search that it needs is unfinished. Search and stability
runs keep only their results, final runs their models too. All students share one teacher cache,
RUNS/cache, which can be deleted at the end. Results: RUNS/final/results.csv, RUNS/tables.md.

scripts/paper_protocol.py has what the paper searches, and in which ranges, as published. These
choices are not published, and are made here:
  - 15 % of the training rows are held out (scripts/hold_out.py); a search has one seed, --seeds are
    those of the final runs
  - epochs, of which the paper keeps the best: 3, 5 and 10, searched with VKD
  - the learning rate is 5e-5, which is in both of the paper's lists, while the weights of G, and
    then of I, L and G together, are searched; the four rates are then tried at the best weights:
    one grid of weights and rates would take four times as many runs
  - beta of G: the paper's list without 0, which is VKD; the best is chosen over the coarse and the
    fine grid
  - the baselines: PKD's beta has the grid of its own paper, RKD's and MiniLM's is 1; their learning
    rates are those of FSD
  - the student alone (none) has VKD's learning rate and epochs
  - STS-B: one temperature, as the KD of a single logit has none
--do_lower_case is given to every run, as the paper's model is uncased.
"""

import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, say
from scripts import jobs
from scripts.command_line import Parser
from scripts.commands import words_for
from scripts.paper_protocol import (
    BATCHES,
    KD,
    METHODS,
    NEEDS,
    RIVALS,
    SETTINGS,
    STRUCTURES,
    UNSTABLE,
    make_grid,
    titles,
)
from scripts.processes import call, cli
from tasks.glue import get_task

WHOLE = {"teacher", "memory", "final"}  # stages whose models are kept
ON_DEV = (
    "Search on the dev set that is reported, as published protocols often do; else a part of the "
    "training set is held out for it."
)
FIXED = ["--learning_rate", "5e-5"]  # while the weights of G, or of I, L and G, are searched


class Reproduction:
    """The protocol on one task. args: the command's arguments, after check()."""

    def __init__(self, args):
        self.args, self.task, self.settings = args, args.task, SETTINGS[args.task]
        self.runs, self.seeds, self.centroids = args.runs, args.seeds, self.settings.centroids
        self.train_flags, self.memory_flags = [], ["--memory_num_train_epochs", "3"]
        if args.rehearse:
            self.runs, self.seeds, self.centroids = f"{args.runs}/rehearsal", args.seeds[:2], 4
            rows = ["--max_train_samples", "64"]
            self.train_flags = ["--max_steps", "1", *rows, "--max_eval_samples", "64"]
            self.memory_flags = [*rows, "--memory_num_train_epochs", "1"]
        self.parts = ["final"] if args.select_on_dev else ["final", "search"]
        self.held_out = args.data_dir if args.select_on_dev else f"{self.runs}/held_out"
        self.found = {}  # search -> {flag: its best value}
        self.planned, self.finished = [], 0  # a stage's commands to run; number of finished runs
        self.titles = titles(self.task, self.centroids)

    # ---- what is searched, and found -------------------------------------------------------------

    def shorten(self, values):
        """A list of values to try; in a rehearsal only its first value."""
        return values[:1] if self.args.rehearse else values

    def grid(self, search):
        """{flag: values to try} of a search. fsd_ilg needs the best β of I and L in self.found."""
        betas = ()
        if search == "fsd_ilg":
            betas = [self.found[of].get("beta", "") for of in ("fsd_i", "fsd_l")]
        grid = make_grid(search, self.settings, *betas)
        return {flag: self.shorten(values) for flag, values in grid.items()}

    def count(self, search):
        """The number of different runs of a search; the search of G has two grids."""
        grids = [search, *(["fsd_g_fine"] if search == "fsd_g" else [])]
        return len({run for name in grids for run in itertools.product(*self.grid(name).values())})

    def look_up(self, searches):
        """Put each search's best flags into self.found; in a plan, placeholders in capitals."""
        for search in searches:
            if search in self.found:
                continue
            flags = list(self.grid(search))
            if self.args.plan:
                of = search.removeprefix("fsd_").removesuffix("_lr")
                suffix = "" if of == "vkd" else f"_{of}"
                self.found[search] = {flag: f"BEST_{flag}{suffix}".upper() for flag in flags}
                continue
            command = [jobs.interpreter(), jobs.ours("analysis/best.py")]
            command += [f"{self.runs}/search/{search}", "--flags", *flags]
            command += ["--expect", str(self.count(search))]
            words = shlex.split(call(command, stdout=subprocess.PIPE, text=True))
            pairs = zip(words[::2], words[1::2], strict=True)
            self.found[search] = {flag.removeprefix("--"): value for flag, value in pairs}

    def best(self, search, *flags):
        """These flags with the values that look_up found, as words of a command."""
        found = self.found[search]
        return [word for flag in flags if flag in found for word in (f"--{flag}", found[flag])]

    def settled(self, method):
        """A method's best flags, as words; α, τ and epochs are those found for VKD."""
        best = self.best
        kd = best("vkd", *KD)
        if method == "none":
            return best("vkd", "num_train_epochs", "learning_rate")
        if method == "fsd_g":
            own = best("fsd_g", "gamma_m", "beta") + best("fsd_g_lr", "learning_rate")
        elif method == "fsd_ilg":
            own = best("fsd_ilg", "gamma_g", "gamma_i", "gamma_l") + best("fsd_g", "gamma_m")
            own += best("fsd_ilg_lr", "learning_rate")
        elif method == "rkd":
            own = best("rkd", "gamma_d", "gamma_a", "learning_rate")
        elif method in ("vkd", "minilm"):
            own = best(method, "learning_rate")
        else:
            own = best(method, "beta", "learning_rate")
        return kd + own

    # ---- lines of a sweep ------------------------------------------------------------------------

    def rows(self, part):
        """The flags of the data, which all runs of a part share. part: search or final."""
        data = self.held_out if part == "search" else self.args.data_dir
        return [
            *("--data_dir", data, "--task_name", self.task, "--do_lower_case", "--do_train"),
            *("--max_seq_length", "128", "--per_gpu_train_batch_size", "32"),
        ]

    def teacher(self, part):
        return [
            *("teacher", "--", jobs.ours("train_teacher.py")),
            *("--model_name_or_path", self.args.model, *self.rows(part)),
            *("--do_eval", "--per_gpu_eval_batch_size", "64", "--num_train_epochs", "3"),
            *("--learning_rate", self.settings.teacher_rate, "--seed", self.seeds[0]),
            *(*self.train_flags, *words_for("train_teacher.py", self.args.extra)),
        ]

    def memory(self, part):
        return [
            *("memory", "--", jobs.ours("train_memory.py")),
            *("--model_name_or_path", f"{self.runs}/{part}/teacher", *self.rows(part)),
            *("--num_centroid", str(self.centroids), *self.memory_flags),
            *("--seed", self.seeds[0], *words_for("train_memory.py", self.args.extra)),
        ]

    def script(self, method, home):
        """(script, flags of all runs of a method). home: the folder of teacher and memory."""
        memory = ["--teacher_memory_path", f"{home}/memory"]
        rival = "baselines/glue_with_baseline.py"
        return {
            "none": ("train_teacher.py", []),
            "vkd": ("glue_with_cka_i.py", ["--beta", "0"]),
            "fsd_i": ("glue_with_cka_i.py", ["--internal"]),
            "fsd_l": ("glue_with_cka_i.py", []),
            "fsd_g": ("glue_with_cka_g.py", memory),
            "fsd_il": ("glue_with_cka_ilg.py", "--gamma_i 1 --gamma_l 1 --gamma_g 0".split()),
            "fsd_ilg": ("glue_with_cka_ilg.py", [*memory, "--beta", "1"]),
            "pkd": (rival, ["--method", "pkd"]),
            "rkd": (rival, ["--method", "rkd", "--beta", "1"]),
            "minilm": (rival, ["--method", "minilm", "--beta", "1"]),
        }[method]

    def student(self, method, part, name, axes, flags):
        """A line of a sweep. axes: {flag: values} to combine. flags: words for all its runs."""
        searched = "final" if self.args.select_on_dev else "search"
        home = f"{self.runs}/{searched if part == 'search' else 'final'}"
        script, own = self.script(method, home)
        models = ["--model_name_or_path", self.args.model]
        if method != "none":
            models = [
                *("--model_name_or_path", f"{home}/teacher", "--model_name_or_path_for_copy"),
                *(self.args.model, "--copy_teacher", "--teacher_cache", f"{self.runs}/cache"),
            ]
        return [
            *(name, *(f"{flag}={','.join(values)}" for flag, values in axes.items()), "--"),
            *(jobs.ours(script), *models, "--student_num_hidden_layers", self.args.layers),
            *(*self.rows(part), "--do_eval", "--per_gpu_eval_batch_size", "64"),
            *(*own, *flags, *self.train_flags, *words_for(script, self.args.extra)),
        ]

    def students(self, axes, methods):
        """A line of a sweep for each method, with its best flags and all seeds."""
        axes = {**axes, "seed": self.seeds}
        return [self.student(m, "final", m, axes, self.settled(m)) for m in methods]

    def sweep(self, folder, keep, lines):
        """Run the lines as a sweep in RUNS/folder; a plan notes those that are not finished."""
        place = f"{self.runs}/{folder}"
        sweep = jobs.Sweep(place, self.args.jobs, self.args.shard, keep)
        for line in lines:
            sweep.add(line)
        if self.args.plan:
            self.planned += [run.command for run in sweep.mine if not run.finished]
            self.finished += sum(run.finished for run in sweep.mine)
        elif not sweep.run():
            raise UserError(
                f"runs in {place} failed, as listed above: mend the cause and give the same "
                "command again, which goes on from there"
            )

    def search(self, name, method, grid, flags):
        """Run every combination of a grid with one seed. name: the folder below RUNS/search."""
        axes = {**self.grid(grid), "seed": self.seeds[:1]}
        line = self.student(method, "search", name, axes, flags)
        self.sweep(f"search/{name}", "results", [line])

    def once(self, script, *flags):
        """Run a command that is no training, or note it in a plan."""
        words = [jobs.interpreter(), jobs.ours(script), *flags]
        if self.args.plan:
            self.planned.append(shlex.join(words))
        else:
            call(words)

    # ---- the stages ------------------------------------------------------------------------------

    def wanted(self, method):
        """Whether a method is in --methods, or must be searched as fsd_ilg builds on it."""
        methods = self.args.methods
        return method in methods or ("fsd_ilg" in methods and method in ("fsd_i", "fsd_l", "fsd_g"))

    def chosen(self, *methods):
        """Those of the given methods that are in --methods."""
        return [method for method in methods if method in self.args.methods]

    def stages(self):
        """The names of the stages that --methods and --select_on_dev do not leave out, in order."""
        left_out = {
            "split": self.args.select_on_dev,
            **{name: not self.wanted(name) for name in ("fsd_i", "fsd_l", "fsd_il")},
            **dict.fromkeys(
                ("memory", "fsd_g", "fsd_g_fine", "fsd_g_lr"), not self.wanted("fsd_g")
            ),
            **dict.fromkeys(("fsd_ilg", "fsd_ilg_lr"), not self.wanted("fsd_ilg")),
            "baselines": not self.chosen(*RIVALS),
            "stability": not self.chosen(*UNSTABLE),
        }
        return [name for name in self.titles if not left_out.get(name)]

    def needs(self, stage):
        """The searches that must be finished before a stage, in order."""
        if stage not in ("final", "stability"):
            return NEEDS.get(stage, ())
        structures = [name for name in STRUCTURES if self.wanted(name.removesuffix("_lr"))]
        return ["vkd", *structures, *self.chosen(*RIVALS)]

    def stage(self, name):
        """Run a stage, or plan it."""
        self.look_up(self.needs(name))
        if name == "split":
            data = ["--data_dir", self.args.data_dir, "--tasks", self.task]
            self.once("scripts/hold_out.py", *data, "--output_dir", self.held_out)
        elif name in ("teacher", "memory"):
            for part in self.parts:
                self.sweep(part, "model", [getattr(self, name)(part)])
        elif name == "final":
            self.sweep("final", "model", self.students({}, self.args.methods))
        elif name == "stability":
            axes = {"per_gpu_train_batch_size": self.shorten(BATCHES)}
            self.sweep("stability", "results", self.students(axes, self.chosen(*UNSTABLE)))
        elif name == "tables":
            self.tables()
        else:
            self.searches(name)

    def searches(self, name):
        """Run, or plan, a stage that searches."""
        kd = self.best("vkd", *KD) if name != "vkd" else []
        if name in ("fsd_g", "fsd_g_fine"):
            self.search("fsd_g", "fsd_g", name, kd + FIXED)
        elif name == "fsd_g_lr":
            self.search(name, "fsd_g", name, kd + self.best("fsd_g", "gamma_m", "beta"))
        elif name == "fsd_ilg":
            self.search(name, name, name, kd + self.best("fsd_g", "gamma_m") + FIXED)
        elif name == "fsd_ilg_lr":
            weights = self.best("fsd_ilg", "gamma_g", "gamma_i", "gamma_l")
            self.search(name, "fsd_ilg", name, kd + weights + self.best("fsd_g", "gamma_m"))
        else:
            for method in self.chosen(*RIVALS) if name == "baselines" else [name]:
                self.search(method, method, method, kd)

    def tables(self):
        folders = [f"{self.runs}/final"]
        folders += [f"{self.runs}/stability"] if "stability" in self.stages() else []
        files = ["--markdown", f"{self.runs}/tables.md", "--csv", f"{self.runs}/tables.csv"]
        self.once("analysis/tables.py", *folders, "--tuned", "learning_rate", *files)

    def run(self, stages):
        for name in stages:
            say(f"== {name}: {self.titles[name]}")
            self.stage(name)

    def plan(self, stages):
        """Print all commands, and an estimate of their hours and disk space."""
        from scripts import estimate

        lines = []
        for name in stages:
            self.planned, self.finished = [], 0
            self.stage(name)
            count, keep = len(self.planned), "model" if name in WHOLE else "results"
            done = f" ({self.finished} more are finished)" * bool(self.finished)
            told = f"## {count} command{'s' * (count != 1)}{done}, --keep {keep}"
            head = [f"## {name}: {self.titles[name]}", told]
            lines += ["", *head, *self.planned]
        print(
            f"# The plan for {self.task}; nothing is started. Values in capitals are chosen by "
            "analysis/best.py after earlier stages",
            *lines,
            "",
            sep="\n",
            flush=True,
        )
        jobs_, rate = self.args.jobs or 1, self.args.examples_per_second
        for line in estimate.tell(lines, self.runs, jobs_, "model", rate):
            print(line)


def parse(argv=None):
    parser = Parser(__doc__, "scripts/reproduce", "TASK [flags]")
    add, names = parser.add_argument, " ".join(METHODS)
    add("task", help="A task of GLUE.")
    add("--plan", action="store_true", help="Print the commands and what they take; start none.")
    add("--rehearse", action="store_true", help="All of it in small, in RUNS/rehearsal.")
    add("--data_dir", default="glue", help="The folder of the data. Default: glue.")
    add("--model", default="bert-base-uncased", help="Default: bert-base-uncased.")
    add("--runs", help="The folder of all runs. Default: runs/TASK.")
    add("--jobs", default="", help="Runs at a time on this machine, as of scripts/sweep.")
    add("--stage", help="One stage alone.")
    add("--shard", default="", help="I/N of a stage, as of scripts/sweep.")
    add("--select_on_dev", action="store_true", help=ON_DEV)
    add("--methods", default=names, help=f"Leaves out what only others need. Default: {names}.")
    add("--seeds", default="1 2 3 4 5 6", help="Of the final runs. Default: 1 2 3 4 5 6.")
    add("--student_num_hidden_layers", dest="layers", default="6", help="Default: 6.")
    add("--examples_per_second", type=float, help="The rate of all runs, for --plan.")
    return parser.read(argv)


def check(args):
    """Refuse flags that make no sense; complete args in place."""
    if (args.shard or os.environ.get("SLURM_ARRAY_TASK_COUNT")) and not args.stage:
        raise UserError(
            "--shard or a Slurm array splits one stage among machines: name the stage with --stage"
        )
    args.methods, args.seeds = args.methods.split(), args.seeds.split()
    for method in args.methods:
        if method not in METHODS:
            raise UserError(f"--methods knows {' '.join(METHODS)}, got {method}")
    names = {name.lower().replace("-", ""): name for name in SETTINGS}
    key = args.task.lower().replace("-", "")
    if key == "ax":
        raise UserError("AX has no training set: name MNLI; its models predict AX by --do_predict")
    if key not in names:
        raise UserError(f"TASK is one of {' '.join(SETTINGS)}, found {args.task}")
    args.task = get_task(args.task).name
    args.runs = args.runs or f"runs/{args.task.lower()}"
    args.jobs = jobs.read_jobs(args.jobs)
    jobs.check_interpreter(jobs.interpreter())


def main(argv=None):
    args = parse(argv)
    check(args)
    one = Reproduction(args)
    stages = one.stages()
    if args.stage:
        if args.stage not in stages:
            raise UserError(f"--stage is here one of {' '.join(stages)}, found {args.stage}")
        stages = [args.stage]
    (one.plan if args.plan else one.run)(stages)


if __name__ == "__main__":
    sys.exit(cli(main))
