"""One epoch from the shell, start-up included: whole commands, and where the start-up's time goes.

    python benchmarks/end_to_end.py --teacher TEACHER --model_name_or_path PRETRAINED \\
      --data_dir glue --csv FILE \\
      --max_seq_length 128 --per_gpu_train_batch_size 32

Flags that this benchmark does not know go to the script of --method, which may be any that distils.
A round runs its command twice, first without cached features, then with them. The parts are

interpreter and imports  a process that only imports the script
loading the models       tokenizer, teacher and student onto the device, in another process
tokenising               the first command's time less the second's, without the training in either
training                 train_seconds in the second command's run.json
the rest                 what remains of the second command: reading cached features, fingerprints,
                         evaluation, saving

Each number is the median over the rounds, after one round of a single step to warm up. Except for
noise, the parts add up to the whole, the first command. Compare within one run only.

Beside them stands a whole command of benchmarks/plain_loop.py, the loop that everybody writes, with
the same teacher, student, rows, length, batch size and precision: vanilla KD, which --method
"glue_with_cka_i.py --beta 0" does here.
"""

import argparse
import importlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import report  # puts the repository on the path

from common import cli, expand_path, expand_path_or_none, read_json
from training import flags

ROOT = Path(__file__).resolve().parent.parent


def load():
    """Print how many seconds it takes to load a script's tokenizer, teacher and student.

    For a process of its own, whose arguments are the script and its flags.
    """
    from training import models, students  # here, as the benchmark itself only runs commands
    from training.session import open_session
    from training.tokenizer import load_tokenizer

    script, *given = sys.argv[1:]
    importlib.import_module(Path(script).stem)  # imports are measured elsewhere
    parser = flags.make_parser(None, flags.STUDENT, flags.LOSS)
    args, _ = parser.parse_known_args(given)
    with open_session(args) as session:
        started = time.perf_counter()
        device = session.device
        tokenizer = load_tokenizer(args)
        teacher = models.load_teacher(args, session.task, tokenizer)
        for model in (students.load_student(args, session.task, tokenizer, teacher, None), teacher):
            model.to(device)
        print(time.perf_counter() - started)


def run(words, **environment):
    """Run Python with these arguments and environment variables. Returns (wall seconds, stdout)."""
    command, started = [sys.executable, *map(str, words)], time.perf_counter()
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {shlex.join(command)} ended with {done.returncode}")
    return time.perf_counter() - started, done.stdout


def plain_command(record):
    """The words of the plain loop's command that does what a run did. record: its run.json."""
    used = record["arguments"]
    words = [
        ROOT / "benchmarks" / "plain_loop.py",
        "--teacher",
        used["model_name_or_path"],
        "--model_name_or_path",
        used["model_name_or_path_for_copy"],
    ]
    for name in ("data_dir", "task_name", "max_seq_length", "per_gpu_train_batch_size"):
        words += [f"--{name}", used[name]]
    return words + (["--bf16"] if record["precision"] == "bf16" else [])


def one_round(script, given, more=()):
    """Run one round. Returns the command's run.json and {part: seconds}.

    more: further flags of the command; with any, the plain loop, which lacks them, is not timed.
    """
    with tempfile.TemporaryDirectory() as place:
        walls, trainings = [], []
        for name in ("cold", "warm"):
            output = Path(place) / name
            wall, _ = run(
                [ROOT / script, *given, *more, "--output_dir", output],
                XDG_CACHE_HOME=f"{place}/cache",
            )
            record = read_json(output / "run.json")
            walls.append(wall)
            trainings.append(record["train_seconds"])
        # a script imports distill, its loop, only in its main
        imports, _ = run(["-c", f"import {Path(script).stem}, distill"])
        loader = ["-c", "import end_to_end; end_to_end.load()", script]
        _, printed = run([*loader, *given, "--output_dir", f"{place}/loaded"])
    (cold, warm), loading, training = walls, float(printed), trainings[1]
    plain = {} if more else {"the plain loop, whole command": run(plain_command(record))[0]}
    return record, {
        "whole command, no features cached": cold,
        "whole command, features cached": warm,
        "interpreter and imports": imports,
        "loading the models": loading,
        "tokenising": (cold - trainings[0]) - (warm - training),
        "training": training,
        "the rest": warm - imports - loading - training,
    } | plain


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--teacher", type=expand_path, required=True, help="Folder of a fine-tuned teacher.")
    add(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        help="Folder of the pretrained model that the student is copied from.",
    )
    add("--data_dir", type=expand_path, required=True, help="Folder with the task's .tsv files.")
    add("--task_name", default="MRPC", help="Default MRPC.")
    add(
        "--method",
        default="glue_with_cka_i.py --internal",
        help="Script and its flags, in quotes. Default FSD_I, 'glue_with_cka_i.py --internal'.",
    )
    add("--rounds", type=int, default=3, help="Rounds; the median counts. Default 3.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    args, more = parser.parse_known_args(argv)
    script, *method = shlex.split(args.method)
    given = [
        "--model_name_or_path",
        args.teacher,
        "--model_name_or_path_for_copy",
        args.model_name_or_path,
        "--copy_teacher",
        "--data_dir",
        args.data_dir,
        "--task_name",
        args.task_name,
        "--do_train",
        "--do_eval",
        "--num_train_epochs",
        "1",
        *method,
        *(word for word in more if word != "--"),
    ]
    one_round(script, given, ["--max_steps", "1"])
    records, found = zip(*(one_round(script, given) for _ in range(args.rounds)), strict=True)
    medians = {part: statistics.median(seconds[part] for seconds in found) for part in found[0]}
    whole, record = next(iter(medians.values())), records[0]
    used = record["arguments"]
    facts = {
        "task": used["task_name"],
        "method": record["method"],
        "B": used["per_gpu_train_batch_size"],
        "W": used["max_seq_length"],
        "steps": record["steps"],
    }
    report(
        [
            facts
            | {
                "part": part,
                "seconds": round(seconds, 2),
                "% of the whole": round(100 * seconds / whole, 1),
            }
            for part, seconds in medians.items()
        ],
        args.csv,
        record["device"],
    )


if __name__ == "__main__":
    sys.exit(cli(main))
