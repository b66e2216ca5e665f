"""The study: all methods compared with equally many search trials, on real weights and whole tasks.

    scripts/study MODEL GLUE_DIR RUNS_DIR --tasks MRPC RTE --jobs 2
    scripts/study MODEL GLUE_DIR RUNS_DIR --tasks MRPC RTE --plan    # commands, hours; starts none

MODEL is a pretrained encoder; the student is the first half of its layers. docs/study.md is the
protocol, scripts/study_protocol.py has its methods, trials, variants and rules. The stages,
each for all tasks before the next one:

memory     15 % of the training rows are held out; a teacher and a memory for the search are made
           without those rows, others for the final runs with all training rows
schedule   one learning rate for all methods is chosen by the scores of the student alone, VKD and
           FSD_I on the held-out rows
trials     three settings of each method's own weights are scored on the held-out rows; the student
           alone has no weight, and so no trial
final      each method's best setting is trained on all training rows, with seeds that the search
           did not use, and scored on the dev set
variants   forms of the methods that the paper leaves open, at the chosen weights
claims     --more_seeds for the methods that a claim needs: VKD, the best rival, FSD_I, FSD_ILG (and
           our form of it, if it is named) and FSD_I without padding

The same command, given again, goes on where it stopped: finished runs are skipped, further methods
and seeds are added. The tables: python analysis/tables.py RUNS_DIR/final/MRPC --csv FILE.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, cli, read_json, say
from scripts import jobs, study_flags, study_search
from scripts.processes import at_once, call, hear_hangups
from scripts.study_flags import STAGES, check
from scripts.study_protocol import (
    CLAIMED,
    ENOUGH,
    KNOWN,
    LENGTHS,
    MEMORIES,
    OURS,
    RATE_METHODS,
    VARIANTS,
    choose_rate,
    constant_score,
)
from tasks.glue import get_task
from tasks.task import has_file

WITH_MEMORY = ("fsd_g", "fsd_ilg", *OURS)


class Study:
    """A study's folders, commands and choices. args: its checked arguments.

    Each run belongs to a part: runs of "search" train without the held-out rows, runs of "final" on
    all training rows.
    """

    def __init__(self, args):
        self.args = args
        self.python = sys.executable
        self.rates = {}  # task -> learning rate, once it is chosen
        self.best = {}  # (task, method) -> the flags of its best trial
        self.planned, self.finished = [], 0  # lines of a plan; number of finished runs, not in it

    # ---- commands --------------------------------------------------------------------------------

    def folder(self, part, task):
        return f"{self.args.runs_dir}/{part}/{task}"

    def rows(self, part, task):
        """The flags that every training and every clustering of a part has."""
        args = self.args
        data = args.data_dir if part == "final" else f"{args.runs_dir}/held_out"
        length = str(LENGTHS.get(task, 64))
        words = ["--data_dir", data, "--task_name", task, "--do_train", "--max_seq_length", length]
        words += [] if args.float32 else ["--bf16"]
        words += ["--per_gpu_train_batch_size", "32"]
        return words + (["--max_train_samples", "64"] if args.rehearse else [])

    def fit(self, part, task):
        """The flags that every training of a part has."""
        args = self.args
        words = [*self.rows(part, task), "--do_eval", "--per_gpu_eval_batch_size", "64"]
        words += ["--logging_steps", "100", "--save_steps", "500"]
        words += ["--num_train_epochs", args.epochs]
        if args.warmup_ratio:
            words += ["--warmup_ratio", args.warmup_ratio]
        return words + (["--max_steps", "1", "--max_eval_samples", "64"] if args.rehearse else [])

    def distil(self, part, task, method, flags, memory="memory"):
        """The words of the command that distils the part's teacher into a student by a method.

        flags: words that override the method's own. memory: the name of the memory's folder.
        """
        args, folder = self.args, self.folder(part, task)
        words = KNOWN[method].command.split()
        if method == "minilm" and args.relation_heads:
            words += ["--relation_heads", args.relation_heads]
        words += [*self.fit(part, task), "--model_name_or_path", f"{folder}/teacher"]
        words += ["--copy_teacher", "--model_name_or_path_for_copy", args.model]
        words += ["--teacher_cache", f"{args.runs_dir}/cache"]
        if method in WITH_MEMORY:
            words += ["--teacher_memory_path", f"{folder}/{memory}"]
        return words + flags

    def cluster(self, part, task, name, flags=""):
        """The line of a sweep that makes a memory of the part's teacher. name: the run's."""
        centroids, passes = ("4", "1") if self.args.rehearse else ("100", "3")
        words = [name, "--", "train_memory.py", *self.rows(part, task)]
        words += ["--model_name_or_path", f"{self.folder(part, task)}/teacher"]
        words += ["--num_centroid", centroids, "--memory_num_train_epochs", passes, "--seed", "1"]
        return words + flags.split()

    def teach(self, part, task):
        """The line of a sweep that trains the part's teacher."""
        words = ["teacher", "--", "train_teacher.py", *self.fit(part, task)]
        words += ["--model_name_or_path", self.args.model]
        return [*words, "--learning_rate", self.args.teacher_rate, "--seed", "1"]

    def sweep(self, part, task, lines):
        """Run the lines as a sweep, and wait; --plan prints them only. SystemExit if a run failed.

        lines: each is NAME flag=v1,v2 -- SCRIPT FLAGS, as words.
        """
        if not lines:
            return
        # no shard of a Slurm array: a stage needs all runs of the stage before
        sweep = jobs.Sweep(self.folder(part, task), self.args.jobs, "0/1", python=self.python)
        for line in lines:
            at = line.index("--") + 1
            sweep.add([*line[:at], jobs.ours(line[at]), *line[at + 1 :]])
        if self.args.plan:
            todo = [run.command for run in sweep.mine if not run.finished]
            print("".join(f"{command}\n" for command in todo), end="")
            self.planned += todo
            self.finished += len(sweep.mine) - len(todo)
        elif not sweep.run():
            raise SystemExit(1)  # the sweep has said why

    def tell_plan(self):
        """Say, on stderr, what each stage of the plan takes."""
        from scripts import estimate

        runs = sum(not line.startswith("## ") for line in self.planned)
        say(
            f"{runs} runs to do, {self.finished} finished; not counted, as they are not known "
            "before: rates beyond the grid, and the best rival's --more_seeds"
        )
        for line in estimate.tell(self.planned, self.args.runs_dir, self.args.jobs):
            say(line)

    # ---- what the search found -------------------------------------------------------------------

    def search_of(self, task):
        """(the folder, or results.csv, with the scores of the search; the task it is of)."""
        if self.args.searched:
            return self.args.searched, self.args.searched_task or task
        return self.folder("search", task), task

    def scores(self, task):
        """{method: {learning rate: [score of each seed, in %]}} of the search, for choose_rate."""
        return study_search.read_scores(*self.search_of(task))

    def is_open(self):
        """Whether this is a plan of a search yet to come, so that its choices are not known."""
        return self.args.plan and not self.args.searched

    def rate(self, task):
        """--learning_rate with the rate for all methods, as words; in a plan a placeholder."""
        if self.args.learning_rate:
            return ["--learning_rate", self.args.learning_rate]
        if self.is_open():
            return ["--learning_rate", "BEST_LEARNING_RATE"]
        if task not in self.rates:
            self.rates[task] = self.find_rate(task)
        return ["--learning_rate", f"{self.rates[task]:g}"]

    def find_rate(self, task):
        """The learning rate that choose_rate chooses; runs the further rates that it asks for."""
        args, scores = self.args, self.scores(task)
        constant = -math.inf if args.rehearse else self.constant_score(task)  # one step tells none
        rate, beyond = choose_rate(scores, constant)
        if rate is None and args.searched:
            raise UserError(
                f"the search of the learning rate in {args.searched} is not finished, as a best "
                f"rate is the least or greatest tried: continue it there, {beyond:g} is next"
            )
        if rate is None and args.rehearse:
            rate = float(args.rates[0])
            say(f"note: one step tells no rate from another; {rate:g} is taken")
        while rate is None:
            say(f"{task}: a best rate is at the edge of the grid, so {beyond:g} is tried too")
            self.try_rates(task, [f"{beyond:g}"])
            scores = self.scores(task)
            rate, beyond = choose_rate(scores, constant)
        say(f"{task}: learning rate {rate:g} ({study_search.tell_scores(scores)})")
        return rate

    def constant_score(self, task):
        """The score in % of the best constant answer on the rows that the search held out."""
        if self.args.searched:
            return study_search.constant_elsewhere(*self.search_of(task), self.args)
        return constant_score(task, f"{self.args.runs_dir}/held_out")

    def try_rates(self, task, rates):
        axes = [f"learning_rate={','.join(rates)}", f"seed={'0' if self.args.rehearse else '0,1'}"]
        self.sweep(
            "search",
            task,
            [
                [f"rate_{name}", *axes, "--", *self.distil("search", task, name, middle(name))]
                for name in RATE_METHODS
            ],
        )

    def chosen(self, task, method):
        """The flags of a method's best trial, as words; in a plan placeholders."""
        trials = KNOWN[method].trials
        if not trials:
            return []
        if self.is_open():
            names = study_search.names_of(trials[0])
            return [word for name in names for word in (name, f"BEST_{name[2:].upper()}")]
        if (task, method) not in self.best:
            rate = float(self.rate(task)[1])
            found = study_search.best_trial(*self.search_of(task), method, rate)
            self.best[task, method] = found
        return self.best[task, method]

    def best_rival(self, task):
        """The rival with the best mean score in the final runs; None in a plan or without one."""
        if self.args.plan:
            return None
        folder = self.folder("final", task)
        return study_search.best_rival(folder, task, self.args.methods, self.args.seeds)

    # ---- the stages ------------------------------------------------------------------------------

    def memory(self):
        args = self.args
        if not (args.plan or args.searched):
            self.hold_out()
        parts = ["final"] if args.searched else ["search", "final"]
        self.prepare_all(parts)
        if args.plan or args.rehearse:
            return
        args.tasks = [task for task in args.tasks if self.teaches(task)]
        if not args.tasks:
            raise UserError(
                f"no teacher is {ENOUGH} points better on dev than the best constant answer, so "
                "none can teach: train teachers with another --teacher_rate, --epochs or "
                "--warmup_ratio, in a new RUNS_DIR"
            )

    def hold_out(self):
        """Write the held-out rows of each task that has none yet."""
        args, place = self.args, f"{self.args.runs_dir}/held_out"
        for task in args.tasks:
            splits = [split for split in get_task(task).files if not split.startswith("test")]
            if not all(has_file(get_task(task), place, split) for split in splits):
                words = ["--data_dir", args.data_dir, "--tasks", task, "--output_dir", place]
                call([self.python, jobs.ours("scripts/hold_out.py"), *words])

    def prepare(self, part):
        """Make the teacher of each task for a part, then its memory."""
        for task in self.args.tasks:
            self.sweep(part, task, [self.teach(part, task)])
            self.sweep(part, task, [self.cluster(part, task, "memory")])

    def prepare_all(self, parts):
        """Prepare the parts, at the same time if --jobs is above 1; they are independent."""
        if self.args.jobs > 1 and not self.args.plan:
            at_once([lambda part=part: self.prepare(part) for part in parts])
            return
        for part in parts:
            self.prepare(part)

    def teaches(self, task):
        """Whether the final runs' teacher is good enough."""
        return study_search.can_teach(self.folder("final", task), task, self.args.data_dir)

    def schedule(self):
        if self.args.searched or self.args.learning_rate:
            return
        for task in self.args.tasks:
            self.try_rates(task, self.rates_begun(task))
            self.rate(task)

    def rates_begun(self, task):
        """--rates, and the further rates that an earlier call began to try, as text."""
        rates = list(self.args.rates)
        for path in sorted(Path(self.folder("search", task)).glob("rate_*,learning_rate=*,seed=*")):
            word = path.name.split(",")[1].removeprefix("learning_rate=")
            if path.is_dir() and float(word) not in map(float, rates):
                rates.append(word)
        return rates

    def trials(self):
        for task in [] if self.args.searched else self.args.tasks:
            lines = []
            for method in self.args.methods:
                for number, setting in enumerate(KNOWN[method].trials, start=1):
                    flags = [*setting.split(), *self.rate(task)]
                    command = self.distil("search", task, method, flags)
                    lines.append([f"trial_{method}-{number}", "seed=1", "--", *command])
            self.sweep("search", task, lines)

    def run_of(self, task, name, method, flags="", memory="memory", seeds=None):
        """The line of a sweep for a method's final runs. memory: the memory's folder name."""
        flags = [*self.chosen(task, method), *self.rate(task), *flags.split()]
        seeds = f"seed={','.join(seeds or self.args.seeds)}"
        return [name, seeds, "--", *self.distil("final", task, method, flags, memory)]

    def final(self):
        for task in self.args.tasks:
            lines = [self.run_of(task, method, method) for method in self.args.methods]
            self.sweep("final", task, lines)

    def other_layers(self):
        """--student_layers with every other layer of the model."""
        depth = read_json(Path(self.args.model, "config.json")).get("num_hidden_layers")
        if not depth and self.args.plan:
            depth = 12  # assumed, as a plan does not look up a model on the hub
        elif not depth:
            import transformers

            depth = transformers.AutoConfig.from_pretrained(self.args.model).num_hidden_layers
        return f"--student_layers {','.join(map(str, range(0, depth, 2)))}"

    def variants(self):
        wanted = {
            name: variant
            for name, variant in VARIANTS.items()
            if name in self.args.variants and variant.method in self.args.methods
        }
        for task in self.args.tasks:
            memories = sorted({variant.memory for variant in wanted.values()} - {"memory"})
            lines = [self.cluster("final", task, name, MEMORIES[name]) for name in memories]
            self.sweep("final", task, lines)
            lines = []
            for name, (method, flags, memory) in wanted.items():
                if "OTHER_LAYERS" in flags:
                    flags = flags.replace("OTHER_LAYERS", self.other_layers())
                lines.append(self.run_of(task, name, method, flags, memory))
            self.sweep("final", task, lines)

    def claims(self):
        args = self.args
        for task in args.tasks if args.more_seeds else ():
            claimed = {*CLAIMED, self.best_rival(task)}
            lines = [
                self.run_of(task, method, method, seeds=args.more_seeds)
                for method in args.methods
                if method in claimed
            ]
            if "fsd_i" in args.methods:
                seeds = [*([] if "fsd_i_masked" in args.variants else args.seeds), *args.more_seeds]
                masked = VARIANTS["fsd_i_masked"]
                line = self.run_of(task, "fsd_i_masked", masked.method, masked.flags, seeds=seeds)
                lines.append(line)
            self.sweep("final", task, lines)

    def check_search(self):
        """Refuse a --searched that lacks a rate or a trial, before anything runs."""
        for task in self.args.tasks:
            self.rate(task)
            for method in self.args.methods:
                self.chosen(task, method)

    def run(self):
        if self.args.searched:
            self.check_search()
        for stage in STAGES[: STAGES.index(self.args.until) + 1]:
            self.planned.append(f"## {stage}:")
            getattr(self, stage)()
        if self.args.plan:
            self.tell_plan()


def middle(method):
    """The flags of a method's middle trial, as words; [] without trials."""
    trials = KNOWN[method].trials
    return trials[len(trials) // 2].split() if trials else []


def parse(argv):
    return study_flags.parse(__doc__, argv)


def main(argv=None):
    args = parse(argv)
    check(args)
    hear_hangups()
    Study(args).run()


if __name__ == "__main__":
    sys.exit(cli(main))
