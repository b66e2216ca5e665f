"""The study: every method with as many search trials, on real weights and whole tasks.

    scripts/study MODEL GLUE_DIR RUNS_DIR --tasks MRPC RTE --jobs 2
    scripts/study MODEL GLUE_DIR RUNS_DIR --tasks MRPC RTE --plan    # commands, hours; starts none

MODEL is a pretrained encoder, whose first half of layers is the student. docs/study.md is the
protocol, scripts/study_protocol.py its methods, trials, variants and rules. For each task, stage
by stage:

memory     15 % of the training rows are held out; a teacher and a memory for the search, which
           never saw those rows, and others for the final runs, of all training rows
schedule   one learning rate for all methods, on the held-out rows, by the student alone, VKD and
           FSD_I together
trials     three settings of each method's own weights on the held-out rows; the student alone has
           no weight, and so no trial
final      each method's best setting on all training rows, with seeds that the search did not use,
           scored on the dev set
variants   forms that the paper leaves open, at the chosen weights
claims     --more_seeds for the rows that a claim needs: VKD, the best rival, FSD_I, FSD_ILG and
           FSD_I without padding

Given again, it goes on where it was: finished runs are skipped, other methods and seeds are added.
The tables: python analysis/tables.py RUNS_DIR/final/MRPC --csv FILE.
"""

import concurrent.futures
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, cli, expand_path, expand_path_or_none, say
from glue_data.tasks import TASKS, get_task, has_file
from scripts.study_protocol import (
    CLAIMED,
    ENOUGH,
    LENGTHS,
    MEMORIES,
    METHODS,
    RATE_METHODS,
    RIVALS,
    VARIANTS,
    choose_rate,
    constant_score,
)
from training import flags

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("memory", "schedule", "trials", "final", "variants", "claims")
TRAINED = tuple(task.name for task in TASKS.values() if "train" in task.files)


class Study:
    """A study's folders, commands and choices. args: the command's."""

    def __init__(self, args):
        self.args, self.part = args, "search"
        self.python = sys.executable
        self.processes = []
        self.rates = {}  # task -> learning rate, once it is chosen
        self.best = {}  # (task, method) -> the flags of its best trial
        self.planned, self.finished = [], 0  # commands, and runs that need none

    # ---- commands --------------------------------------------------------------------------------

    def rows(self, task):
        """What training, and what clustering, has for all runs."""
        args = self.args
        data = args.data_dir if self.part == "final" else f"{args.runs_dir}/held_out"
        words = [
            "--data_dir",
            data,
            "--task_name",
            task,
            "--do_train",
            "--max_seq_length",
            LENGTHS.get(task, 64),
            "--bf16",
            "--per_gpu_train_batch_size",
            32,
        ]
        return words + (["--max_train_samples", 64] if args.rehearse else [])

    def fit(self, task):
        """What all training has."""
        args = self.args
        words = [
            *self.rows(task),
            "--do_eval",
            "--per_gpu_eval_batch_size",
            64,
            "--logging_steps",
            100,
            "--save_steps",
            500,
            "--num_train_epochs",
            args.epochs,
        ]
        if args.warmup_ratio:
            words += ["--warmup_ratio", args.warmup_ratio]
        return words + (["--max_steps", 1, "--max_eval_samples", 64] if args.rehearse else [])

    def distil(self, task, method, flags, memory="memory"):
        """A student of the part's teacher; `flags` win over what all of a method's runs have."""
        args, folder = self.args, f"{self.args.runs_dir}/{self.part}/{task}"
        words = METHODS[method].command.split()
        if method == "minilm" and args.relation_heads:
            words += ["--relation_heads", args.relation_heads]
        words += [
            *self.fit(task),
            "--model_name_or_path",
            f"{folder}/teacher",
            "--copy_teacher",
            "--model_name_or_path_for_copy",
            args.model,
            "--teacher_cache",
            f"{args.runs_dir}/cache",
        ]
        if method in ("fsd_g", "fsd_ilg"):
            words += ["--teacher_memory_path", f"{folder}/{memory}"]
        return words + flags

    def cluster(self, task, name, flags=""):
        """A memory of the part's teacher."""
        args = self.args
        centroids, passes = (4, 1) if args.rehearse else (100, 3)
        return [
            f"{name} --",
            "train_memory.py",
            *self.rows(task),
            "--model_name_or_path",
            f"{args.runs_dir}/{self.part}/{task}/teacher",
            "--num_centroid",
            centroids,
            "--memory_num_train_epochs",
            passes,
            "--seed",
            1,
            *flags.split(),
        ]

    def teach(self, task):
        return [
            "teacher --",
            "train_teacher.py",
            *self.fit(task),
            "--model_name_or_path",
            self.args.model,
            "--learning_rate",
            self.args.teacher_rate,
            "--seed",
            1,
        ]

    def sweep(self, task, runs):
        """Start runs, each ["NAME flag=v1,v2 --", words...], and wait for them.

        SystemExit where one failed.
        """
        if not runs:
            return
        args = self.args
        lines = [f"{head} {shlex.join(map(str, words))}\n" for head, *words in runs]
        command = [
            "bash",
            "scripts/sweep",
            f"{args.runs_dir}/{self.part}/{task}",
            "--jobs",
            str(args.jobs),
            "--shard",
            "0/1",
        ]
        if args.plan:
            self.plan_sweep([*command, "--plan"], "".join(lines))
            return
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHON": self.python},
        )
        self.processes.append(process)
        try:
            process.communicate("".join(lines))
        except BaseException:  # told to end
            self.end()
            raise
        if process.returncode:
            raise SystemExit(process.returncode)  # the sweep has said why

    def plan_sweep(self, command, lines):
        """Print a sweep's commands that are not finished."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=lines,
            text=True,
            capture_output=True,
            env=os.environ | {"PYTHON": self.python, "ESTIMATE": "off"},
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise SystemExit(done.returncode)
        sys.stdout.write(done.stdout)
        self.planned.append(done.stdout)
        self.finished += int(re.search(r"(\d+) of them finished", done.stderr)[1])

    def tell_plan(self):
        """What the plan takes, by stage, on stderr."""
        runs = sum(not line.startswith("## ") for line in "".join(self.planned).splitlines())
        say(
            f"{runs} runs to do, {self.finished} finished; not counted, as they are not known "
            "before: rates beyond the grid, and the best rival's --more_seeds"
        )
        subprocess.run(
            [
                self.python,
                "scripts/estimate.py",
                "--runs",
                self.args.runs_dir,
                "--jobs",
                str(self.args.jobs),
            ],
            cwd=ROOT,
            input="".join(self.planned),
            text=True,
            stdout=sys.stderr,
        )

    # ---- what the search found -------------------------------------------------------------------

    def search_of(self, task):
        """Where the search's rows are."""
        return self.args.searched or f"{self.args.runs_dir}/search/{task}"

    def scores(self, task):
        """choose_rate's scores: method -> rate -> [score, in %]."""
        from analysis import best
        from analysis.runs import glue_score

        found = {}
        for method in RATE_METHODS:
            runs = best.read_search(self.search_of(task), None, f"rate_{method},", None, task)
            best.check_search(runs, ["--learning_rate"])
            runs = runs.assign(score=100 * glue_score(runs, task))
            found[method] = {
                float(rate): sorted(group.score) for rate, group in runs.groupby("--learning_rate")
            }
        tried = [{rate: len(scores) for rate, scores in rates.items()} for rates in found.values()]
        if any(one != tried[0] for one in tried) or len(set(tried[0].values())) > 1:
            raise UserError(
                f"{self.search_of(task)} has other rates, or seeds of a rate, of one of "
                f"{', '.join(RATE_METHODS)} than of another: finish the search of the learning "
                "rate there"
            )
        return found

    def searches(self):
        """False where nothing is searched: planned, or taken from elsewhere."""
        return not (self.args.plan or self.args.searched)

    def rate(self, task):
        """The flags of the schedule that is chosen for all methods."""
        args = self.args
        if args.learning_rate:
            return ["--learning_rate", args.learning_rate]
        if args.plan and not args.searched:
            return ["--learning_rate", "BEST_LEARNING_RATE"]
        if task not in self.rates:
            scores = self.scores(task)
            rate, beyond = choose_rate(scores)
            if rate is None and args.searched:
                raise UserError(
                    f"the search of the learning rate in {args.searched} is not "
                    f"finished: its rule asks for {beyond:g} next, so finish it there"
                )
            if rate is None and args.rehearse:
                rate = float(args.rates[0])
                say(f"note: one step tells no rate from another; {rate:g} is taken")
            while rate is None:
                say(f"{task}: a best rate is at the edge of the grid, so {beyond:g} is tried too")
                self.try_rates(task, [f"{beyond:g}"])
                scores = self.scores(task)
                rate, beyond = choose_rate(scores)
            told = "; ".join(
                f"{method} "
                + ", ".join(
                    f"{rate:g}: {' '.join(f'{score:.1f}' for score in found)}"
                    for rate, found in rates.items()
                )
                for method, rates in scores.items()
            )
            say(f"{task}: learning rate {rate:g} ({told})")
            self.rates[task] = rate
        return ["--learning_rate", f"{self.rates[task]:g}"]

    def try_rates(self, task, rates):
        seeds = "0" if self.args.rehearse else "0,1"
        self.sweep(
            task,
            [
                [
                    f"rate_{method} learning_rate={','.join(rates)} seed={seeds} --",
                    *self.distil(task, method, self.middle(method)),
                ]
                for method in RATE_METHODS
            ],
        )

    @staticmethod
    def middle(method):
        """The flags of a method's middle trial."""
        trials = METHODS[method].trials
        return trials[len(trials) // 2].split() if trials else []

    def chosen(self, task, method):
        """The flags of a method's best trial."""
        trials = METHODS[method].trials
        if not trials:
            return []
        names = [word for word in trials[0].split() if word.startswith("--")]
        if self.args.plan and not self.args.searched:
            return [word for name in names for word in (name, f"BEST_{name[2:].upper()}")]
        if (task, method) not in self.best:
            from analysis import best

            runs = best.read_search(
                self.search_of(task), None, f"trial_{method}-", len(trials), task
            )
            best.check_search(runs, names)
            rate, tried = float(self.rate(task)[1]), runs["--learning_rate"].iloc[0]
            if rate != tried:
                raise UserError(
                    f"the trials of {method} in {self.search_of(task)} are of the learning rate "
                    f"{tried:g}, not {rate:g}: weights chosen at one rate are not another's, so "
                    "search again in another RUNS_DIR"
                )
            settings = best.ranking(runs, names)
            say(best.describe_best(runs, settings, names))
            self.best[task, method] = best.as_flags(names, settings.iloc[0]).split()
        return self.best[task, method]

    def best_rival(self, task):
        """Of the methods that are not ours, the one with the best mean score of the final runs."""
        if self.args.plan:
            return None
        from analysis import best
        from analysis.runs import glue_score

        means = {}
        for method in [m for m in self.args.methods if m in RIVALS]:
            runs = best.read_search(
                f"{self.args.runs_dir}/final/{task}", None, f"{method},", None, task
            )
            runs = runs[runs.seed.isin([int(seed) for seed in self.args.seeds])]
            means[method] = glue_score(runs, task).mean()
        return max(means, key=means.get) if means else None

    # ---- the stages ------------------------------------------------------------------------------

    def prepare(self, part):
        """The teachers of a part, then their memories."""
        one = Study(self.args)
        one.part, one.processes, one.planned = part, self.processes, self.planned
        for task in self.args.tasks:
            one.sweep(task, [one.teach(task)])
            one.sweep(task, [one.cluster(task, "memory")])
        self.finished += one.finished

    def memory(self):
        args = self.args
        for task in args.tasks if self.searches() else ():
            held_out = f"{args.runs_dir}/held_out"
            splits = [split for split in get_task(task).files if not split.startswith("test")]
            if not all(has_file(get_task(task), held_out, split) for split in splits):
                words = [
                    "scripts/hold_out.py",
                    "--data_dir",
                    args.data_dir,
                    "--tasks",
                    task,
                    "--output_dir",
                    f"{args.runs_dir}/held_out",
                ]
                if code := subprocess.run([self.python, *words], cwd=ROOT).returncode:
                    raise SystemExit(code)
        parts = ["final"] if args.searched else ["search", "final"]
        if args.plan:
            for part in parts:
                self.prepare(part)
            return
        self.prepare_all(parts)
        if not args.rehearse:
            args.tasks = [task for task in args.tasks if self.teaches(task)]
            if not args.tasks:
                raise UserError(
                    "no task has a teacher that can teach: find another recipe, with "
                    "--teacher_rate, --epochs or --warmup_ratio, in another RUNS_DIR"
                )

    def teaches(self, task):
        """Whether the final runs' teacher is ENOUGH points above the constant answer on dev."""
        from analysis import best
        from analysis.runs import glue_score

        runs = best.read_search(f"{self.args.runs_dir}/final/{task}", "teacher", None, 1, task)
        score, constant = (
            100 * glue_score(runs, task).iloc[0],
            constant_score(task, self.args.data_dir),
        )
        good = score >= constant + ENOUGH
        say(
            f"{task}: the teacher has {score:.1f} on dev, the best constant answer {constant:.1f}"
            + (
                ""
                if good
                else f": less than {ENOUGH} points above, so it teaches nothing and the "
                "task is left out"
            )
        )
        return good

    def prepare_all(self, parts):
        """Several parts at a time, with several jobs, as they do not need each other."""
        if self.args.jobs == 1:
            for part in parts:
                self.prepare(part)
            return
        with concurrent.futures.ThreadPoolExecutor() as pool:
            try:
                for done in [pool.submit(self.prepare, part) for part in parts]:
                    done.result()
            except BaseException:
                self.end()
                raise

    def schedule(self):
        args = self.args
        if args.searched or args.learning_rate:
            return
        for task in args.tasks:
            self.try_rates(task, self.rates_begun(task))
            self.rate(task)

    def rates_begun(self, task):
        """--rates, and those beyond them that an earlier call began to look at, as written."""
        rates = list(self.args.rates)
        folder = Path(self.args.runs_dir, "search", task)
        for path in sorted(folder.glob("rate_*,learning_rate=*,seed=*")):
            word = path.name.split(",")[1].removeprefix("learning_rate=")
            if path.is_dir() and float(word) not in map(float, rates):
                rates.append(word)
        return rates

    def trials(self):
        args = self.args
        for task in [] if args.searched else args.tasks:
            self.sweep(
                task,
                [
                    [
                        f"trial_{method}-{number} seed=1 --",
                        *self.distil(task, method, [*setting.split(), *self.rate(task)]),
                    ]
                    for method in args.methods
                    for number, setting in enumerate(METHODS[method].trials, start=1)
                ],
            )

    def run_of(self, task, name, method, flags="", memory="memory", seeds=None):
        """A method's final runs, as a line of a sweep."""
        flags = [*self.chosen(task, method), *self.rate(task), *flags.split()]
        return [
            f"{name} seed={','.join(seeds or self.args.seeds)} --",
            *self.distil(task, method, flags, memory),
        ]

    def final(self):
        self.part = "final"
        for task in self.args.tasks:
            self.sweep(task, [self.run_of(task, method, method) for method in self.args.methods])

    def other_layers(self):
        """--student_layers with every other layer of the model."""
        depth = 12  # as far as a plan knows of a hub's model
        if Path(self.args.model).is_dir() or not self.args.plan:
            import transformers

            depth = transformers.AutoConfig.from_pretrained(self.args.model).num_hidden_layers
        return f"--student_layers {','.join(map(str, range(0, depth, 2)))}"

    def variants(self):
        self.part = "final"
        wanted = {
            name: variant
            for name, variant in VARIANTS.items()
            if name in self.args.variants and variant.method in self.args.methods
        }
        for task in self.args.tasks:
            memories = {variant.memory for variant in wanted.values()} - {"memory"}
            self.sweep(
                task, [self.cluster(task, name, MEMORIES[name]) for name in sorted(memories)]
            )
            self.sweep(
                task,
                [
                    self.run_of(
                        task,
                        name,
                        variant.method,
                        variant.flags.replace("OTHER_LAYERS", self.other_layers()),
                        variant.memory,
                    )
                    for name, variant in wanted.items()
                ],
            )

    def claims(self):
        self.part = "final"
        args = self.args
        for task in args.tasks if args.more_seeds else ():
            methods = {*CLAIMED, self.best_rival(task)} & {*args.methods}
            runs = [
                self.run_of(task, method, method, seeds=args.more_seeds)
                for method in args.methods
                if method in methods
            ]
            if "fsd_i" in args.methods:
                first = [] if "fsd_i_masked" in args.variants else args.seeds
                runs.append(
                    self.run_of(
                        task,
                        "fsd_i_masked",
                        "fsd_i",
                        "--mask_padding",
                        seeds=[*first, *args.more_seeds],
                    )
                )
            self.sweep(task, runs)

    def check_search(self):
        """What a search from elsewhere lacks is said before anything runs."""
        for task in self.args.tasks:
            self.rate(task)
            for method in self.args.methods:
                self.chosen(task, method)

    def run(self):
        if self.args.searched:
            self.check_search()
        for stage in STAGES[: STAGES.index(self.args.until) + 1]:
            self.planned.append(f"## {stage}:\n")
            getattr(self, stage)()
        if self.args.plan:
            self.tell_plan()

    def end(self):
        """Tell the sweeps to end, which lets their runs save, and wait for them."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait()


# ---- the command ---------------------------------------------------------------------------------


def words(text):
    return text.split()


def parse(argv):
    parser = flags.Parser(__doc__)
    parser.prog, parser.usage = "scripts/study", "%(prog)s MODEL GLUE_DIR RUNS_DIR [flags]"
    add = parser.add_argument
    add("model", type=expand_path, help="A pretrained encoder, folder or hub name.")
    add("data_dir", type=expand_path, help="The folder with the tasks' .tsv files.")
    add("runs_dir", type=expand_path, help="The folder for all runs.")
    add("--tasks", nargs="+", type=words, default=[["MRPC", "STS-B"]], help="Default: MRPC STS-B.")
    add(
        "--methods",
        nargs="+",
        type=words,
        default=[list(METHODS)],
        help=f"Default: {' '.join(METHODS)}.",
    )
    add("--seeds", nargs="+", type=words, default=[["2", "3", "4"]], help="Default: 2 3 4.")
    add(
        "--more_seeds",
        nargs="+",
        type=words,
        default=[["5", "6", "7"]],
        help="Of the stage claims. Default: 5 6 7.",
    )
    add(
        "--variants",
        nargs="*",
        type=words,
        default=[list(VARIANTS)],
        help=f"Default: all, {' '.join(VARIANTS)}; with none named, none.",
    )
    add(
        "--rates",
        nargs="+",
        type=words,
        default=[["5e-5", "1e-4", "2e-4"]],
        help="Learning rates to try first. Default: 5e-5 1e-4 2e-4.",
    )
    add("--learning_rate", help="The rate of all students; none is searched.")
    add("--teacher_rate", default="1e-4", help="Default: 1e-4.")
    add("--epochs", default="3", help="Of teachers and students. Default: 3.")
    add("--warmup_ratio", default="0.1", help="Share of the steps that warm up. Default: 0.1.")
    add(
        "--relation_heads",
        help="Of MiniLM: its second version, with so many; a model with a "
        "position bias (MPNet) needs it.",
    )
    add(
        "--searched",
        type=expand_path_or_none,
        help="RUNS_DIR/search/TASK, or its results.csv, "
        "of another machine, for one task: what was chosen there is taken.",
    )
    add("--jobs", default="1", help="Runs at a time. Default: 1.")
    add("--until", default=STAGES[-1], help=f"The last stage: {', '.join(STAGES)}.")
    add("--plan", action="store_true", help="Print commands and hours, start nothing.")
    add("--rehearse", action="store_true", help="All of it with one seed, 64 rows, one step a run.")
    args = parser.parse_args(argv)
    for name in ("tasks", "methods", "seeds", "more_seeds", "variants", "rates"):
        setattr(args, name, [word for some in getattr(args, name) for word in some])
    return args


def check(args):
    """Refuse flags that nothing can be made of, before anything is started."""
    known_tasks = {name.lower(): name for name in TRAINED}
    args.tasks = [known_tasks.get(word.lower(), word) for word in args.tasks]
    for flag, known in (
        ("until", STAGES),
        ("tasks", TRAINED),
        ("methods", tuple(METHODS)),
        ("variants", tuple(VARIANTS)),
    ):
        given = getattr(args, flag)
        check_choices(flag, known, [given] if isinstance(given, str) else given)
    for flag in ("seeds", "more_seeds"):
        check_numbers(flag, getattr(args, flag), int, 0, 2**32 - 1, "whole numbers from 0 on")
    check_numbers("rates", args.rates or ["none"], float, 1e-9, 1, "learning rates, as 1e-4")
    for flag in ("teacher_rate", "learning_rate"):
        given = getattr(args, flag)
        check_numbers(flag, [given] if given else [], float, 1e-9, 1, "a learning rate, as 1e-4")
    check_numbers("epochs", [args.epochs], float, 1e-3, 1e4, "a number above 0")
    check_numbers(
        "warmup_ratio", [args.warmup_ratio], float, 0, 0.999, "a share, from 0 to below 1"
    )
    for flag in ("jobs", "relation_heads"):
        given = getattr(args, flag)
        check_numbers(flag, [given] if given else [], int, 1, 10**4, "a number from 1 on")
    args.jobs = int(args.jobs)
    if args.searched and len(args.tasks) > 1:
        raise UserError("--searched is of one task: name it with --tasks")
    if args.searched and not Path(args.searched).exists():
        raise UserError(f"there is no {args.searched}: give a search's results.csv as --searched")
    if args.rehearse:
        args.seeds, args.more_seeds = args.seeds[:1], []
    for name in ("data_dir", "runs_dir", "searched"):
        path = getattr(args, name)
        setattr(args, name, path and os.path.abspath(path))  # the runs start elsewhere
    if Path(args.model).is_dir():
        args.model = str(Path(args.model).resolve())  # else it is a hub's name
    elif args.model.startswith((".", "/")) and not args.plan:
        raise UserError(f"there is no folder {args.model}: name a pretrained encoder's, or a hub's")


def check_choices(flag, known, given):
    for word in given:
        if word not in known:
            raise UserError(f"--{flag} is of {' '.join(known)}; found {word}")
        if given.count(word) > 1:
            raise UserError(f"--{flag} has {word} twice: name it once")


def check_numbers(flag, given, form, least, most, what):
    """Refuse words that are no numbers in a range, and a number that is there twice."""
    found = []
    for word in given:
        try:
            number = form(word)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise UserError(f"--{flag} is {what}; found {word}")
        if number in found:
            raise UserError(f"--{flag} has {word} twice: name it once")
        found.append(number)


def main(argv=None):
    args = parse(argv)
    check(args)
    Study(args).run()


if __name__ == "__main__":
    sys.exit(cli(main))
