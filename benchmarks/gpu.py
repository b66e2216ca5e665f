"""Everything that a GPU has to show, in one command that ends by itself: most valuable first, each result at once.

    python benchmarks/gpu.py --minutes 9 --output_dir OUT --stage tests step
    python benchmarks/gpu.py --minutes 5 --output_dir OUT --stage study --model MPNET --data_dir GLUE
    python benchmarks/gpu.py --minutes 60 --output_dir OUT --rehearse     # all of it on a CPU, in small

For a machine with one NVIDIA GPU, Python 3.11 or later and the packages of requirements.txt, also in earlier versions
(torch from 2.11, transformers from 5.17); no network is needed. docs/gpu.md says how to bring weights, data and the
results. The stages, in this order:

tests       tests/test_gpu.py: every loss and k-means against the CPU, each precision, cache, resume, no waiting
step        a whole training step, BERT-base 12 -> 6: every method, cached or not, 32 and 128 samples, and its MFU
losses      the losses alone
clustering  a pass of k-means alone, beside flash-kmeans, and a pass with the teacher's forward
profile     where the time of FSD_ILG's step goes, and whether the queue runs dry
variants    the step with padding left out; compiled; with the library's own attention mask
study       scripts/study on real weights (--model, --data_dir), several runs at a time, the best known rivals first
processes   two processes on the one GPU train as one

What it leaves in --output_dir: gpu.log, gpu_tests.txt, gpu_*.csv and gpu_trace.json.gz; runs and parts are in --work_dir.
A job that fails or finds no time is named at the end, the others are done; the exit code is 1 then.
"""
import argparse
import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import report  # puts the repository on the path

from training.records import UserError, atomic_path, cli, expand_path, expand_path_or_none, provenance

ROOT = Path(__file__).resolve().parent.parent
GRACE = 40      # seconds that a job has to end after it is told to; a sweep lets its runs save
LEAST = 15      # seconds left below which no job is started
PATIENCE = 5    # seconds between two looks at a study's results
FIRST = "none vkd fsd_i fsd_ilg minilm rkd"
ALL = f"{FIRST} fsd_l fsd_il pkd fsd_g procrustes gram"


class Job(NamedTuple):
    """A command of this repository. part: the table it writes, joined with others into gpu_<first word of part>.csv.

    most: minutes. watched: {file that it keeps writing: its name in the output folder}.
    """
    name: str
    words: list
    most: float
    part: str = ""
    watched: dict = {}  # noqa: RUF012 - never changed


# ---- the stages: each (args, work folder) -> jobs -------------------------------------------------------------------

def tests(args, work, which="not two_processes", name="tests"):
    if args.tests and name == "tests":
        which = f"{which} and ({args.tests})"
    at_once = min(12, os.cpu_count())
    words = ["-m", "pytest", "tests/test_gpu.py", "-n", at_once, "-p", "no:cacheprovider", "-k", which, "-ra"]
    return [Job(name, words + (["--rehearse"] if args.rehearse else []), 4)]


def processes(args, work):
    return tests(args, work, "two_processes", "processes")


def size(args, batch):
    """Model, precision, B and W of what is measured."""
    if args.rehearse:
        return ["--models", "tiny", "--precisions", "bf16", "--per_gpu_train_batch_size", 4, "--max_seq_length", 16,
                "--no_cuda"]
    return ["--models", "bert-base", "--precisions", "bf16", "--per_gpu_train_batch_size", batch]


def step_job(args, work, name, batch, *words):
    part = f"step {name} {batch}"
    small = ["--rounds", 1, "--no_peak"] if args.rehearse else []
    return Job(f"step of {name}, {batch} samples",
               ["benchmarks/step.py", *size(args, batch), *words, *small, "--csv", work / f"{part}.csv"], 2.5, part)


def step(args, work):
    main = ["published", "FSD_ILG", "FSD_ILG, cached", "FSD_ILG, masked", "FSD_ILG, masked, cached", "VKD",
            "VKD, cached", "floor", "teacher, forward", "teacher, trained"]
    kinds = {"the main forms": main, "all methods": ["methods"], "all methods, cached": ["methods, cached"]}
    return [step_job(args, work, name, batch, "--forms", *kinds[name]) for name, batch in (
        ("the main forms", 32), ("the main forms", 128), ("all methods", 32), ("all methods, cached", 32),
        ("all methods, cached", 128), ("all methods", 128))]


def variants(args, work):
    few = ["--forms", "floor", "VKD", "FSD_ILG"]
    return [step_job(args, work, "all methods, masked", 32, "--forms", "methods, masked"),
            step_job(args, work, "what the library's mask costs", 32, *few, "--library_mask"),
            step_job(args, work, "compiled forms", 32, *few, "--compile")]


def losses(args, work):
    small = ["--batch_sizes", 4, "--max_seq_length", 16, "--widths", 32, "--centroids", 10, "--rounds", 1, "--no_cuda"]
    words = small if args.rehearse else ["--batch_sizes", 32, 128, "--widths", 768]
    return [Job("losses", ["benchmarks/losses.py", *words, "--csv", work / "losses.csv"], 2, "losses")]


def clustering(args, work):
    """k-means alone; then, with a teacher of random weights, a pass as train_memory.py makes it."""
    small = ["--widths", 64, "--rows", 60, "--num_centroid", 5, "--rounds", 1, "--no_cuda"]
    alone = Job("k-means alone", ["benchmarks/kmeans.py", *(small if args.rehearse else []),
                                  "--csv", work / "kmeans.csv"], 2, "kmeans")
    passes = []
    for precision in ([], ["--bf16"]):
        part = " ".join(["clustering", *precision]).replace("-", "")
        words = ["benchmarks/clustering.py", "--model_name_or_path", work / "stand_in/teacher", "--data_dir",
                 work / "stand_in", "--task_name", "RTE", *precision, "--csv", work / f"{part}.csv"]
        words += ["--max_seq_length", 32, "--rows", 32, "--published_rows", 4, "--num_centroid", 4, "--rounds", 1,
                  "--no_cuda"] if args.rehearse else []
        passes.append(Job(f"{part}, with the teacher", words, 2, part))
    return [alone, stand_in(args, work), *passes]


def stand_in(args, work):
    shape, rows = ("tiny", 200) if args.rehearse else ("bert-base", 1000)
    return Job("a teacher of random weights", ["benchmarks/stand_ins.py", work / "stand_in", "--shape", shape,
                                               "--rows", rows], 1)


def profile(args, work):
    found = []
    for batch, form in ((32, "FSD_ILG"), (128, "FSD_ILG, cached")):
        part = f"profile {batch}"
        trace = [] if found else ["--trace", Path(args.output_dir) / "gpu_trace.json.gz"]
        found.append(Job(f"profile of {form}, {batch} samples",
                         ["benchmarks/profile_step.py", *size(args, batch), "--form", form, "--profiled", 5, *trace,
                          "--csv", work / f"{part}.csv"], 2, part))
    return found


def study(args, work):
    """The first methods up to their final runs, then all, then the variants: finished runs are not repeated."""
    runs, task = work / "study", args.task_name
    if args.rehearse:
        made, where, task = [stand_in(args, work)], [work / "stand_in/pretrained", work / "stand_in"], "RTE"
    elif args.model and args.data_dir:
        made, where = [], [args.model, args.data_dir]
    else:
        raise UserError("the study needs --model and --data_dir, real weights and the GLUE files: name them, or the "
                        "other stages with --stage")
    watched = {runs / part / task / "results.csv": f"gpu_study{more}.csv"
               for part, more in (("search", "_search"), ("final", ""))}
    words = [*where, runs, "--tasks", task, "--jobs", args.jobs, "--rates", args.rates,
             "--teacher_rate", args.teacher_rate]
    words += ["--relation_heads", args.relation_heads] if args.relation_heads else []
    words += ["--searched", args.searched] if args.searched else []
    words += ["--rehearse"] if args.rehearse else []
    return made + [
        Job(f"study of {methods}, up to {until}", ["scripts/study", *words, "--methods", methods, "--until", until],
            math.inf, watched=watched)
        for methods, until in dict.fromkeys(((args.methods or FIRST, "final"), (args.methods or ALL, "final"),
                                             (args.methods or ALL, "variants")))]


STAGES = {stage.__name__: stage for stage in (tests, step, losses, clustering, profile, variants, study, processes)}


# ---- running --------------------------------------------------------------------------------------------------------

class Session:
    """One call: its deadline, its log, and what became of its jobs."""

    def __init__(self, args):
        self.args, self.output, self.work = args, Path(args.output_dir), Path(args.work_dir)
        self.began = time.monotonic()
        self.deadline, self.missed = self.began + 60 * args.minutes, []
        for folder in (self.output, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.log = open(self.output / "gpu.log", "a", encoding="utf-8")  # noqa: SIM115 - as long as the session
        self.environment = os.environ | {
            "PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(
                filter(None, [*self.unpacked(), os.environ.get("PYTHONPATH")]))}
        if args.commit:
            self.environment["FSD_COMMIT"] = args.commit
        os.environ["FSD_COMMIT"] = args.commit or os.environ.get("FSD_COMMIT", "unknown")

    def unpacked(self):
        """The folder of the wheels of --wheels, which need no installation; [] without."""
        wheels = sorted(Path(self.args.wheels).glob("*.whl")) if self.args.wheels else []
        if self.args.wheels and not wheels:
            raise UserError(f"there is no wheel in --wheels {self.args.wheels}: name the folder of those to use")
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.work / "wheels")
        return [str(self.work.resolve() / "wheels")] if wheels else []

    def say(self, text):
        minutes = (time.monotonic() - self.began) / 60
        line = f"[{minutes:4.1f} of {self.args.minutes:g} min] {text}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def run(self, stage, job):
        """One job, within its time and the session's; tables are joined and results copied as soon as they are there."""
        left = min(self.deadline - time.monotonic(), 60 * job.most)
        if left < LEAST:
            self.miss(f"{job.name}: no time was left")
            return
        words = list(map(str, job.words))
        command = words if words[0] == "scripts/study" else [sys.executable, *words]
        environment = dict(self.environment)
        if job.watched:  # several runs at a time share the cores
            environment["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // self.args.jobs))
        self.say(f"{job.name}: started")
        if job.part:
            (self.work / f"{job.part}.csv").unlink(missing_ok=True)  # of a call before
        said, started = self.work / f"{stage}.out", time.monotonic()
        with open(said, "w", encoding="utf-8") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, start_new_session=True)
            code = self.wait(process, started + left, job)
        self.take(job)
        text = said.read_text(encoding="utf-8", errors="replace")
        self.log.write(f"$ {' '.join(command)}\n{text}\n")
        self.log.flush()
        if "pytest" in words:
            with open(self.output / "gpu_tests.txt", "a", encoding="utf-8") as file:
                file.write(text)
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
        took = f"{(time.monotonic() - started) / 60:.1f} min"
        if code == 0:
            self.say(f"{job.name}: done in {took}; {lines[-1] if lines else ''}"[:200])
            for line in lines:
                if line.startswith("error: "):  # a form that was left out of a table
                    self.miss(f"{job.name}: {line}")
        else:
            why = "its time was over" if code is None else f"ended with {code}"
            self.miss(f"{job.name}: {why} after {took}")
            print("\n".join(lines[-15:]), flush=True)

    def miss(self, text):
        self.say(text)
        self.missed.append(text)

    def wait(self, process, until, job):
        """The exit code of a process, None where it had to be ended."""
        try:
            while process.poll() is None:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, PATIENCE))
                self.copy(job)
            return process.returncode
        finally:
            end(process)  # also where this program itself is ended

    def copy(self, job):
        """The results of a job that is going on."""
        for source, name in job.watched.items():
            if source.is_file():
                with atomic_path(self.output / name) as path:
                    shutil.copyfile(source, path)

    def take(self, job):
        """What a job has left, in the output folder: its table joined with those of its kind."""
        self.copy(job)
        kind = job.part.split(" ")[0]
        parts = sorted(self.work.glob(f"{kind}*.csv"), key=lambda path: path.stat().st_mtime) if kind else []
        if parts:
            tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in parts]
            with atomic_path(self.output / f"gpu_{kind}.csv") as path:
                pd.concat(tables).fillna("").to_csv(path, index=False)


def end(process):
    """SIGTERM to a process and all it started, if it is still there, and SIGKILL to what is left of them."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def card():
    """The GPU's name; UserError without one."""
    import torch
    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here: --rehearse runs everything on the CPU, in small")
    return torch.cuda.get_device_name()


def check(args):
    """Refuse what could only go wrong later; paths become absolute, as jobs run in the repository."""
    if args.minutes <= 0 or args.jobs < 1:
        raise UserError(f"--minutes must be above 0 and --jobs at least 1, got {args.minutes:g} and {args.jobs}")
    for name in ("output_dir", "work_dir", "model", "data_dir", "searched", "wheels"):
        if getattr(args, name):
            setattr(args, name, str(Path(getattr(args, name)).resolve()))
    for name, needed in (("model", "config.json"), ("data_dir", "."), ("searched", ""), ("wheels", ".")):
        given = getattr(args, name)
        if given and not (Path(given) / needed).exists():
            raise UserError(f"--{name} {given}: there is no {'such file' if not needed else needed} there; name "
                            "another")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--minutes", type=float, default=14, help="When it ends at the latest, but for the seconds in which runs save. "
        "Default 14.")
    add("--stage", nargs="+", choices=STAGES, default=list(STAGES), help="Default: all, in this order.")
    add("--output_dir", type=expand_path, required=True, help="Where the results go.")
    add("--work_dir", type=expand_path_or_none, help="Runs and parts of tables. Default runs/gpu, of a rehearsal "
        "runs/gpu_rehearsal.")
    add("--model", type=expand_path_or_none, help="Folder of a pretrained encoder, for the study.")
    add("--data_dir", type=expand_path_or_none, help="Folder of the GLUE files, for the study.")
    add("--task_name", default="MRPC", help="The study's task. Default MRPC.")
    add("--methods", help=f'The study\'s methods, in quotes. Default: "{FIRST}", then the others.')
    add("--rates", default="2e-5 5e-5 1e-4", help='Learning rates that the study tries. Default "2e-5 5e-5 1e-4".')
    add("--teacher_rate", default="3e-5", help="The teacher's learning rate. Default 3e-5.")
    add("--relation_heads", type=int, help="MiniLM's second version, for a model with a position bias: 12 for MPNet.")
    add("--searched", type=expand_path_or_none, help="gpu_study_search.csv of a call on another machine: its choices "
        "are taken, and nothing is searched.")
    add("--jobs", type=int, default=8, help="Runs of the study at a time. Default 8.")
    add("--wheels", type=expand_path_or_none, help="Folder of pure wheels to use without installing: flash-kmeans.")
    add("--commit", default="", help="The commit that this copy is of, where it came without its .git.")
    add("--tests", default="", help="Only those tests of the first stage, as pytest's -k.")
    add("--rehearse", action="store_true", help="On the CPU, with tiny models and one step a run.")
    args = parser.parse_args(argv)
    args.work_dir = args.work_dir or ("runs/gpu_rehearsal" if args.rehearse else "runs/gpu")
    check(args)
    where = "a rehearsal on the CPU" if args.rehearse else card()
    jobs = [(name, job) for name in STAGES if name in args.stage for job in STAGES[name](args, Path(args.work_dir))]
    session = Session(args)
    facts = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    session.say(f"{where}; {facts['machine']}; commit {facts['commit'][:12]}; {versions}")
    for name, job in jobs:
        session.run(name, job)
    session.say(f"{len(jobs) - len(session.missed)} of {len(jobs)} jobs are done; results are in {session.output}")
    for text in session.missed:
        print(f"  {text}", flush=True)
    return int(bool(session.missed))


if __name__ == "__main__":
    assert report
    sys.exit(cli(main))
