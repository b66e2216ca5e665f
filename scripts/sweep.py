"""A sweep: one run for every combination of lists of flags, several at a time, on one machine or on
many.

usage:
  scripts/sweep RUNS_DIR [OPTIONS] NAME [flag=v1,v2,...]... -- SCRIPT FLAGS...
  scripts/sweep RUNS_DIR [OPTIONS] < FILE     # NAME [flag=...]... -- SCRIPT FLAGS..., one a line,
                                              # in shell quoting; blank lines and lines that start
                                              # with # are skipped
  scripts/sweep runs/rte vkd alpha=0.2,0.5,0.7 seed=1,2,3 -- \\
    glue_with_cka_i.py --beta 0 --task_name RTE ...

The first run of the last example is named vkd,alpha=0.2,seed=1. Its command is `python
glue_with_cka_i.py --beta 0 ...` with --alpha 0.2 --seed 1, --output_dir
RUNS_DIR/vkd,alpha=0.2,seed=1 and --results_csv RUNS_DIR/results.csv (without the last for
train_memory.py); its output goes to RUNS_DIR/vkd,alpha=0.2,seed=1.log. The variable PYTHON names
another interpreter. SCRIPT is looked for in the working folder, then in the repository. The values
on and off stand for a bare flag and for no flag, as in internal=on,off. A value cannot have a comma
in it; a list flag=v1,v2 overrides the same flag in FLAGS. Runs do not wait for each other: students
that need a teacher are a second sweep, after the teacher's.

Give the same command again after an interruption: finished runs are skipped, those cut off go on. A
run that fails does not stop the others, and is listed at the end. The exit code is then 1; it is 2
for a mistake in the command, and 130 after an interruption. Ctrl-C ends the runs; SIGTERM, which
clusters send before they kill, lets them save first.

  --jobs N      Runs at a time. Default: one for each GPU (of CUDA_VISIBLE_DEVICES if set), one
                without GPUs. Each run has one GPU; without GPUs, its share of the cores
                (OMP_NUM_THREADS, if not set).
  --shard I/N   Only every N-th run, starting with run I, from 0 to N-1. Default: all runs; in a
                Slurm array, the shard of this array task. Machines may share RUNS_DIR.
  --keep WHAT   What stays of a finished run. all: everything. model, the default: all except
                checkpoints. results: all except checkpoints, model, tokenizer and memories.
  --plan        Start nothing: print the commands, and what they will take where
                scripts/estimate.py can tell.
  --help        Print this.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, say
from scripts import jobs
from scripts.processes import cli
from scripts.sweep_runs import FORM

OPTIONS = {"--jobs": "", "--shard": "", "--keep": "model", "--plan": ""}


def read_words(words):
    """({option: its text, "RUNS_DIR": the folder}, the words after the options).

    words: those of the command line.
    """
    given, words = dict(OPTIONS), list(words)
    while words:
        word = words.pop(0)
        if word in ("--help", "-h"):
            print(__doc__.strip())
            raise SystemExit
        if word == "--plan":
            given[word] = "yes"
        elif word in OPTIONS:
            if not words:
                raise UserError(f"{word} needs a value (see --help)")
            given[word] = words.pop(0)
        elif word.startswith("-"):
            raise UserError(f"unknown option {word} before the NAME of the runs (see --help)")
        elif "RUNS_DIR" in given:
            return given, [word, *words]
        else:
            given["RUNS_DIR"] = word.removesuffix("/")
    return given, []


def check(given):
    """Refuse options that make no sense; turn --jobs into a number in place."""
    if not given.get("RUNS_DIR"):
        raise UserError("expected RUNS_DIR, the folder of the runs (see --help)")
    given["--jobs"] = jobs.read_jobs(given["--jobs"])
    if given["--keep"] not in jobs.KEEP:
        raise UserError(f"--keep is all, model or results, found {given['--keep']}")
    jobs.check_interpreter(jobs.interpreter())


def read_lines(file):
    """The words of each line of a file; a line is one command with the values to try."""
    if file is None or file.isatty():  # None: a program without input, as under cron
        raise UserError(f"no runs: give {FORM}, or a file of such lines as input")
    file.reconfigure(errors="surrogateescape")  # bytes that are no UTF-8 are kept, as in sys.argv
    found = []
    for number, line in enumerate(file, 1):
        line = line.removeprefix("\ufeff")  # a byte order mark: files may have been joined
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(shlex.split(line))
            except ValueError as error:
                raise UserError(
                    f"line {number} of the runs is not in shell quoting ({error}): {line.strip()}"
                ) from None
    if not found:
        raise UserError(f"the input has no runs: give lines of the form {FORM}")
    return found


def make_sweep(argv):
    """(the Sweep, "yes" with --plan and "" without) of a command line."""
    given, words = read_words(argv)
    check(given)
    sweep = jobs.Sweep(
        given["RUNS_DIR"],
        given["--jobs"],
        given["--shard"],
        given["--keep"],
    )
    for line in [words] if words else read_lines(sys.stdin):
        sweep.add(line)
    return sweep, given["--plan"]


def print_plan(sweep):
    """Print all commands; say, on stderr, how many runs are finished and what the others take."""
    from scripts import estimate

    finished = sum(run.finished for run in sweep.mine)
    say(f"{len(sweep.mine)} runs, {finished} of them finished")
    if sweep.mine:
        print("\n".join(run.command for run in sweep.mine), flush=True)
    if todo := [run.command for run in sweep.mine if not run.finished]:
        for line in estimate.tell(todo, sweep.folder, sweep.jobs, sweep.keep):
            say(line)


def main(argv=None):
    try:
        sweep, plan = make_sweep(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        say(f"error: {error}")
        return 2
    if plan:
        print_plan(sweep)
        return 0
    return 0 if sweep.run() else 1


if __name__ == "__main__":
    sys.exit(cli(main))
