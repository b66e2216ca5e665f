"""All that a GPU has to show, in one command that ends by itself, the most valuable things first.

    python benchmarks/gpu.py --minutes 9 --output_dir OUT --stage tests step
    python benchmarks/gpu.py --minutes 9 --output_dir OUT --stage study --model M --data_dir GLUE
    python benchmarks/gpu.py --minutes 60 --output_dir OUT --rehearse

The last one runs all of it on a CPU, with tiny models and one step a run. The others are for a
machine with one NVIDIA GPU, Python 3.11 or later and the packages of requirements.txt, also in
earlier versions (torch from 2.11, transformers from 5.17); no network is needed. docs/gpu.md says
how to bring weights and data, and what to do with the results. The stages, in this order:

tests       tests/test_gpu.py: losses and k-means against the CPU, precisions, cache, resume, and
            that no step waits for the GPU
step        a training step of BERT-base, 12 -> 6 layers: every method, cached or not, 32 and 128
            samples, with memory and MFU
losses      the losses alone
clustering  a pass of k-means alone, beside flash-kmeans, and with the teacher's forward
profile     where the time of a step of FSD_ILG goes, and whether the GPU's queue runs dry
variants    the step with padding left out, compiled, and with the library's own attention mask
study       scripts/study on real weights, several runs at a time on the one GPU
processes   two processes on the one GPU train as one

In --output_dir it leaves gpu.log, gpu_tests.txt, gpu_*.csv and gpu_trace.json.gz, each as soon as
there is something in it; runs and parts of tables are in --work_dir. A job that fails, or for which
no time is left, is named at the end, and the exit code is 1 then.
"""
import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
from gpu_stages import ALL, FIRST, STAGES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from training.records import (
    UserError,
    atomic_path,
    cli,
    expand_path,
    expand_path_or_none,
    provenance,
)

ROOT = Path(__file__).resolve().parent.parent
GRACE = 40      # seconds that a job has to end once it is told to; a sweep lets its runs save
LEAST = 15      # seconds left below which no job is started
PATIENCE = 5    # seconds between two looks at the files that a job goes on writing


# ---- running ------------------------------------------------------------------------------------

class Session:
    """One call: its deadline, its log, and the jobs that came to nothing."""

    def __init__(self, args):
        self.args = args
        self.output, self.work = Path(args.output_dir), Path(args.work_dir)
        for folder in (self.output, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self.deadline = self.began + 60 * args.minutes
        self.missed = []
        paths = [unpack(args.wheels, self.work / "wheels"), os.environ.get("PYTHONPATH")]
        self.environment = os.environ | {
            "PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if args.commit:
            self.environment["FSD_COMMIT"] = args.commit

    def write(self, text, file="gpu.log"):
        with open(self.output / file, "a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def say(self, text):
        minutes = (time.monotonic() - self.began) / 60
        line = f"[{minutes:4.1f} of {self.args.minutes:g} min] {text}"
        print(line, flush=True)
        self.write(line)

    def miss(self, text):
        self.say(text)
        self.missed.append(text)

    def run(self, job):
        """One job, within its own time and the session's."""
        most = 60 * job.most * (10 if self.args.rehearse else 1)  # a CPU has a few cores
        left = min(self.deadline - time.monotonic(), most)
        if left < LEAST:
            self.miss(f"{job.name}: no time was left")
            return
        self.say(f"{job.name}: started")
        if job.part:
            (self.work / f"{job.part}.csv").unlink(missing_ok=True)  # of a call before
        said, started = self.work / "job.out", time.monotonic()
        with open(said, "w", encoding="utf-8") as file:
            process = self.start(job, file)
            code = self.wait(process, started + left, job)
        self.copy(job)
        self.join(job)
        self.tell(job, code, said.read_text(encoding="utf-8", errors="replace"),
                  f"{(time.monotonic() - started) / 60:.1f} min")

    def start(self, job, file):
        """A process of its own session, so that all it starts can be ended with it."""
        environment = dict(self.environment)
        if job.watched:  # a study, whose runs share the cores
            environment["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // self.args.jobs))
        interpreter = [] if job.words[0].startswith("scripts/") else [sys.executable]
        return subprocess.Popen(interpreter + job.words, cwd=ROOT, env=environment, stdout=file,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                start_new_session=True)

    def wait(self, process, until, job):
        """The exit code of a process; None where its time was over and it was ended."""
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
            end(process)  # also where this program itself is told to end

    def copy(self, job):
        """The files that a job goes on writing, as they are now."""
        for source, name in job.watched:
            if source.is_file():
                with atomic_path(self.output / name) as path:
                    shutil.copyfile(source, path)

    def join(self, job):
        """All tables of the kind that a job has left, as one."""
        kind = job.part.split(" ")[0]
        parts = sorted(self.work.glob(f"{kind}*.csv"), key=lambda path: path.stat().st_mtime)
        if not (kind and parts):
            return
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in parts]
        with atomic_path(self.output / f"gpu_{kind}.csv") as path:
            pd.concat(tables).fillna("").to_csv(path, index=False)

    def tell(self, job, code, text, took):
        """What became of a job, in the log and on stdout; of what failed, the end of what it
        said."""
        self.write(f"$ {' '.join(job.words)}\n{text}")
        if "pytest" in job.words:
            self.write(text, "gpu_tests.txt")
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
        if code == 0:
            last = lines[-1] if lines else ""
            self.say(f"{job.name}: done in {took}; {last}"[:200])
            for line in lines:
                if line.startswith("error: "):  # of a table, a form that it had to leave out
                    self.miss(f"{job.name}: {line}")
            return
        why = "its time was over" if code is None else f"ended with {code}"
        self.miss(f"{job.name}: {why} after {took}")
        print("\n".join(lines[-15:]), flush=True)


def end(process):
    """Tell a process that is still there, and all that it started, to end; kill what does not."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def unpack(wheels, folder):
    """Unpack pure wheels, which need no installation then. Returns the folder; "" without any."""
    if not wheels:
        return ""
    for wheel in Path(wheels).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return str(folder.resolve())


# ---- the command --------------------------------------------------------------------------------

def check(args):
    """Refuse what could only go wrong later; paths become absolute, as jobs run elsewhere."""
    if args.minutes <= 0 or args.jobs < 1:
        raise UserError("--minutes must be above 0 and --jobs at least 1, got "
                        f"{args.minutes:g} and {args.jobs}")
    if "study" in args.stage and not args.rehearse and not (args.model and args.data_dir):
        raise UserError("the study needs --model and --data_dir, real weights and the GLUE files: "
                        "name them, or the other stages with --stage")
    for name, wanted in (("output_dir", ""), ("work_dir", ""), ("model", "config.json"),
                         ("data_dir", "*"), ("searched", ""), ("wheels", "*.whl")):
        given = getattr(args, name)
        if not given:
            continue
        path = Path(given).resolve()
        if wanted and not any(path.glob(wanted)):
            raise UserError(f"--{name} {given}: there is no {wanted} in it; name another folder")
        if name == "searched" and not path.is_file():
            raise UserError(f"--searched {given}: there is no such file; name another")
        setattr(args, name, str(path))


def card():
    """The GPU's name; UserError without one."""
    import torch
    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here: --rehearse runs everything on the CPU, in small")
    return torch.cuda.get_device_name()


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    add = parser.add_argument
    add("--minutes", type=float, default=14, help="When it ends at the latest, but for the seconds "
        "in which runs save. Default 14.")
    add("--stage", nargs="+", choices=STAGES, default=list(STAGES), help="Default: all.")
    add("--output_dir", type=expand_path, required=True, help="Where the results go.")
    add("--work_dir", type=expand_path_or_none, help="Runs and parts of tables. Default runs/gpu, "
        "of a rehearsal runs/gpu_rehearsal.")
    add("--commit", default="", help="The commit that this copy is of, if it came without .git.")
    add("--wheels", type=expand_path_or_none, help="Folder of pure wheels to use without "
        "installing them: flash-kmeans.")
    add("--tests", default="", help="Of the first stage only these tests, as pytest's -k.")
    add("--rehearse", action="store_true", help="On the CPU, in small.")
    group = parser.add_argument_group("the study")
    add = group.add_argument
    add("--model", type=expand_path_or_none, help="Folder of a pretrained encoder.")
    add("--data_dir", type=expand_path_or_none, help="Folder of the GLUE files.")
    add("--task_name", default="MRPC", help="Default MRPC.")
    add("--methods", help=f'In quotes. Default: "{FIRST}", then "{ALL}".')
    add("--rates", default="2e-5 5e-5 1e-4", help="The learning rates that it tries, in quotes. "
        'Default "2e-5 5e-5 1e-4".')
    add("--teacher_rate", default="3e-5", help="The teacher's learning rate. Default 3e-5.")
    add("--relation_heads", type=int, help="MiniLM's second version, for a model with a position "
        "bias: 12 for MPNet.")
    add("--searched", type=expand_path_or_none, help="gpu_study_search.csv of a call on another "
        "machine: its choices are taken, and nothing is searched.")
    add("--jobs", type=int, default=8, help="Runs at a time. Default 8.")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    args.work_dir = args.work_dir or ("runs/gpu_rehearsal" if args.rehearse else "runs/gpu")
    check(args)
    where = "a rehearsal on the CPU" if args.rehearse else card()
    if args.commit:
        os.environ["FSD_COMMIT"] = args.commit
    session, facts = Session(args), provenance()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    session.say(f"{where}; {facts['machine']}; commit {facts['commit'][:12]}; {versions}")
    jobs = [job for name, stage in STAGES.items() if name in args.stage
            for job in stage(args, Path(args.work_dir))]
    for job in jobs:
        session.run(job)
    session.say(f"{len(jobs) - len(session.missed)} of {len(jobs)} jobs are done, "
                f"{len(session.missed)} not; results are in {session.output}")
    for text in session.missed:
        print(f"  {text}", flush=True)
    return int(bool(session.missed))


if __name__ == "__main__":
    sys.exit(cli(main))
