"""All that a GPU has to show, in one command that ends by itself, the most valuable things first.

    python benchmarks/gpu.py --minutes 9 --output_dir OUT --stage tests step
    python benchmarks/gpu.py --minutes 9 --output_dir OUT --stage study --model M --data_dir GLUE
    python benchmarks/gpu.py --minutes 60 --output_dir OUT --rehearse

The last command runs everything on a CPU, with tiny models and one step per run. The others are for
a machine with one NVIDIA GPU, Python 3.11 or later and the packages of requirements.txt, also in
earlier versions (torch from 2.11, transformers from 5.17); no network is needed. docs/gpu.md says
how to bring weights and data, and what to do with the results. The stages, in this order:

tests       tests/test_gpu.py: losses and k-means against the CPU, precisions, cache, resume, and
            that no step waits for the GPU
step        a training step of BERT-base, 12 -> 6 layers: every method, with and without a teacher
            cache, 32 and 128 samples, with memory and MFU
losses      the losses alone
clustering  a pass of k-means alone, beside flash-kmeans, and with the teacher's forward
profile     where the time of a step of FSD_ILG goes, and whether the GPU's queue runs dry
variants    the step with padding left out, and with the library's own attention mask
study       scripts/study on real weights, several runs at a time on the one GPU
processes   two processes on the one GPU train as one

In --output_dir it leaves gpu.log, gpu_tests.txt, gpu_*.csv and gpu_trace.json.gz, each as soon as
there is something in it; runs and parts of tables are in --work_dir. If a job fails, or no time is
left for it, it is named at the end, and the exit code is 1.
"""

import argparse
import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import psutil
from gpu_stages import ALL, FIRST, STAGES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, atomic_path, cli, expand_path, expand_path_or_none, make_folders
from training.records import provenance

ROOT = Path(__file__).resolve().parent.parent
GRACE = 50  # seconds that a job has to end after SIGTERM, as a sweep lets its runs save
LEAST = 30  # no job is started if fewer seconds are left
LATER = 90  # seconds that a study leaves to the jobs after it
PATIENCE = 5  # seconds between two looks at the files that a job goes on writing
# a test's line in the output of pytest with several processes
OUTCOME = re.compile(r"\[gw\d+\] \[ *\d+%\] ([A-Z]+) (tests/\S+)")


# ---- running ------------------------------------------------------------------------------------


class Session:
    """One call of this command: its deadline, its log, and the jobs that failed or never began."""

    def __init__(self, args):
        self.args = args
        self.output, self.work = Path(args.output_dir), Path(args.work_dir)
        make_folders(args, output_dir=self.output, work_dir=self.work)
        self.began = time.monotonic()
        self.deadline = self.began + 60 * args.minutes
        self.done, self.missed = 0, []
        paths = [unpack(args.wheels, self.work / "wheels"), os.environ.get("PYTHONPATH")]
        self.environment = os.environ | {
            "PYTHON": sys.executable,
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
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

    def run(self, job, kept=0):
        """Run one job, at most for job.most minutes, and leave `kept` seconds for later jobs."""
        most = 60 * job.most * (10 if self.args.rehearse else 1)  # as a CPU has only a few cores
        left = min(self.deadline - time.monotonic() - kept, most)
        if left < LEAST:
            self.miss(f"{job.name}: no time was left")
            return
        self.say(f"{job.name}: started")
        if job.part:
            (self.work / f"{job.part}.csv").unlink(missing_ok=True)  # from an earlier call
        said, started, ended = self.work / "job.out", time.monotonic(), "it was told to end"
        try:
            with open(said, "w", encoding="utf-8") as file:
                ended = self.wait(self.start(job, file), started + left, job)
        finally:  # also if this program itself is told to end
            self.copy(job)
            self.join(job)
            self.tell(
                job,
                ended,
                said.read_text(encoding="utf-8", errors="replace"),
                f"{(time.monotonic() - started) / 60:.1f} min",
            )

    def start(self, job, file):
        """Start a job as the leader of a session, so that all processes it starts can be ended."""
        environment = dict(self.environment)
        if job.watched:  # a study, whose runs share the cores
            environment["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // self.args.jobs))
        interpreter = [] if job.words[0].startswith("scripts/") else [sys.executable]
        return subprocess.Popen(
            interpreter + job.words,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, process, until, job):
        """Wait for a process and end it at `until`. Returns how it ended, "" if well.

        until: as time.monotonic() tells the time.
        """
        try:
            while process.poll() is None:
                left = until - time.monotonic()
                if left <= 0:
                    return "its time was over"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, PATIENCE))
                self.copy(job)
            return f"ended with {process.returncode}" if process.returncode else ""
        finally:
            end(process)

    def copy(self, job):
        """Copy the files that a job goes on writing into the output folder, as they are now."""
        for source, name in job.watched:
            if source.is_file():
                with atomic_path(self.output / name) as path:
                    shutil.copyfile(source, path)

    def join(self, job):
        """Join all tables of a job's kind (the first word of job.part) into gpu_KIND.csv."""
        kind = job.part.split(" ")[0]
        parts = sorted(self.work.glob(f"{kind}*.csv"), key=lambda path: path.stat().st_mtime)
        if not (kind and parts):
            return
        tables = []
        for path in parts:
            try:
                tables.append(pd.read_csv(path, dtype=str, keep_default_na=False))
            except (OSError, ValueError) as error:
                self.miss(f"{path} is no table ({error}) and is left out of gpu_{kind}.csv")
        if tables:
            with atomic_path(self.output / f"gpu_{kind}.csv") as path:
                pd.concat(tables).fillna("").to_csv(path, index=False)

    def tell(self, job, ended, text, took):
        """Log and print how a job ended (by `wait`); of a failed one also its last lines."""
        self.write(f"$ {' '.join(job.words)}\n{text}")
        if "pytest" in job.words:
            self.write("\n".join([f"==== {job.name}", *outcomes(text)]), "gpu_tests.txt")
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
        if ended:
            said = [line for line in lines if line.startswith("error: ")]
            self.miss("; ".join([f"{job.name}: {ended} after {took}", *said]))
            print("\n".join(lines[-15:]), flush=True)
            return
        self.done += 1
        last = lines[-1] if lines else ""
        self.say(f"{job.name}: done in {took}; {last}"[:200])

    def sum_up(self, number):
        """Print the last lines: how many of `number` jobs are done, and what was missed."""
        self.say(f"{self.done} of {number} jobs are done; results are in {self.output}")
        for text in self.missed:
            print(f"  {text}", flush=True)


def outcomes(text):
    """A line for each test in pytest's output, "PASSED tests/...", sorted; then its last line."""
    lines = text.splitlines()
    found = [f"{said[2]} {said[1]}" for said in map(OUTCOME.match, lines) if said]
    return [*sorted(found), *lines[-1:]]


def members(session):
    """The processes of an operating system's session that have not ended, in any process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            same = os.getsid(process.pid) == session
            if same and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(process):
    """End all processes in a process's session, after GRACE seconds by SIGKILL.

    Ctrl-C while it waits kills them at once.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = members(process.pid)
        for member in left:
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)
        until = time.monotonic() + GRACE
        with contextlib.suppress(KeyboardInterrupt):
            while left and time.monotonic() < until:
                time.sleep(0.1)
                process.poll()  # else it stays a zombie
                left = members(process.pid)
    process.poll()


def unpack(wheels, folder):
    """Unpack pure-Python wheels, to use them uninstalled. Returns the folder, "" without wheels."""
    if not wheels:
        return ""
    for wheel in Path(wheels).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return str(folder.resolve())


# ---- the command --------------------------------------------------------------------------------


def check(args):
    """Refuse flags that would fail later. Makes paths absolute, as jobs run in the folder ROOT."""
    if not 0 < args.minutes < math.inf or args.jobs < 1:
        raise UserError(
            "--minutes must be a number above 0 and --jobs at least 1, got "
            f"{args.minutes:g} and {args.jobs}"
        )
    if "study" in args.stage and not args.rehearse and not (args.model and args.data_dir):
        raise UserError(
            "the study needs --model and --data_dir, real weights and the GLUE files: give both, "
            "or leave the study out by naming the other stages with --stage"
        )
    for name, wanted in (
        ("output_dir", ""),
        ("work_dir", ""),
        ("model", "config.json"),
        ("data_dir", "*"),
        ("searched", ""),
        ("wheels", "*.whl"),
    ):
        given = getattr(args, name)
        if not given:
            continue
        path = Path(given).resolve()
        if wanted and not any(path.glob(wanted)):
            what = "file" if wanted == "*" else wanted
            raise UserError(f"--{name} {given}: there is no {what} in it; name another folder")
        setattr(args, name, str(path))
    for wheel in Path(args.wheels).glob("*.whl") if args.wheels else ():
        if not zipfile.is_zipfile(wheel):
            raise UserError(f"{wheel} is no wheel, or a damaged one: bring it again")
    if "study" in args.stage:
        check_study(args)


def check_study(args):
    """Refuse what scripts/study would refuse, before other jobs have used any time."""
    for job in STAGES["study"](args, Path(args.work_dir)):
        if job.watched:
            done = subprocess.run(
                [*job.words, "--plan"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHON": sys.executable, "ESTIMATE": "off"},
            )
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                raise UserError(f"scripts/study: {lines[-1].removeprefix('error: ')}")


def card():
    """The GPU's name; UserError without one."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here: --rehearse runs everything on the CPU, in small")
    return torch.cuda.get_device_name()


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--minutes",
        type=float,
        default=14,
        help="When it ends at the latest, but for the seconds in which runs save. Default 14.",
    )
    add("--stage", nargs="+", choices=STAGES, default=list(STAGES), help="Default: all.")
    add("--output_dir", type=expand_path, required=True, help="Where the results go.")
    add(
        "--work_dir",
        type=expand_path_or_none,
        help="Runs and parts of tables. Default runs/gpu, of a rehearsal runs/gpu_rehearsal.",
    )
    add(
        "--commit",
        default="",
        help="The commit that this copy is of, if it came without .git, or with another's.",
    )
    add(
        "--wheels",
        type=expand_path_or_none,
        help="Folder of pure wheels to use without installing them: flash-kmeans.",
    )
    add("--tests", default="", help="Of the first stage only these tests, as pytest's -k.")
    add("--rehearse", action="store_true", help="On the CPU, in small.")
    group = parser.add_argument_group("the study")
    add = group.add_argument
    add("--model", type=expand_path_or_none, help="Folder of a pretrained encoder.")
    add("--data_dir", type=expand_path_or_none, help="Folder of the GLUE files.")
    add("--task_name", default="MRPC", help="Default MRPC.")
    add("--methods", help=f'In quotes. Default: "{FIRST}", then "{ALL}".')
    add(
        "--rates",
        default="2e-5 5e-5 1e-4",
        help='The learning rates that it tries, in quotes. Default "2e-5 5e-5 1e-4".',
    )
    add("--teacher_rate", default="3e-5", help="The teacher's learning rate. Default 3e-5.")
    add(
        "--relation_heads",
        type=int,
        help="MiniLM's second version, for a model with a position bias: 12 for MPNet.",
    )
    add(
        "--searched",
        type=expand_path_or_none,
        help="gpu_study_search.csv of a call on another "
        "machine: its choices are taken, and nothing is searched.",
    )
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
    jobs = [
        job
        for name, stage in STAGES.items()
        if name in args.stage
        for job in stage(args, Path(args.work_dir))
    ]
    try:
        for number, job in enumerate(jobs, start=1):
            later = any(not other.watched for other in jobs[number:])
            session.run(job, LATER if job.watched and later else 0)
    finally:
        session.sum_up(len(jobs))
    return int(bool(session.missed))


if __name__ == "__main__":
    sys.exit(cli(main))
