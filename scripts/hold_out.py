"""Hold out a part of a task's training rows as a dev set to choose settings on: the official dev
set stays unseen.

    python scripts/hold_out.py --data_dir glue --tasks mrpc sts-b --output_dir held_out

writes held_out/MRPC/train.tsv and dev.tsv. Each row of glue/MRPC/train.tsv goes to one of the two,
byte for byte and in the same order. Then give --data_dir held_out to the scripts. MNLI's two dev
files get the same rows, as its training set has no mismatched genres.
"""

import argparse
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, atomic_path, cli, expand_path, say
from tasks.glue import get_task
from tasks.reading import read_examples
from tasks.task import find_file

FRACTION, SEED = 0.15, 0  # of --fraction and --seed


def hold_out(task, data_dir, output_dir, fraction=FRACTION, seed=SEED):
    """Write a task's train and dev files; returns their numbers of rows, (train, dev).

    fraction: the share of the rows that are held out, as dev rows; their number is rounded up.
    seed: decides which.
    """
    source = find_file(task, data_dir, "train")
    folder, first = Path(output_dir) / task.folder, task.header_lines("train")
    if source.parent.resolve() == folder.resolve():
        raise UserError(
            f"{source}, which has all the rows, would be overwritten: name another --output_dir"
        )
    read_examples(task, data_dir, "train")  # an error names the line of a faulty row
    lines = source.read_bytes().split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    header, rows = lines[:first], lines[first:]
    held = set(random.Random(seed).sample(range(len(rows)), math.ceil(fraction * len(rows))))
    if len(held) == len(rows):
        raise UserError(
            f"{source} has {len(rows)} rows, so holding out {fraction:g} of them, rounded up, "
            "leaves none to train on: pass a smaller --fraction, or name a file with more rows"
        )
    parts = {
        "train": [row for i, row in enumerate(rows) if i not in held],
        "dev": [rows[i] for i in sorted(held)],
    }
    for split, name in task.files.items():
        if split not in task.submissions:
            with atomic_path(folder / name) as path:
                path.write_bytes(
                    b"".join(line + b"\n" for line in header + parts[split.removesuffix("_mm")])
                )
    return len(parts["train"]), len(parts["dev"])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir",
        type=expand_path,
        required=True,
        help="The folder with the tasks' official .tsv files.",
    )
    parser.add_argument("--tasks", nargs="+", required=True, help="Names of tasks of GLUE.")
    parser.add_argument(
        "--output_dir", type=expand_path, required=True, help="The folder for the parts."
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=FRACTION,
        help=f"Share of the rows to hold out. Default {FRACTION}.",
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"Which rows. Default {SEED}.")
    args = parser.parse_args(argv)
    if not 0 < args.fraction < 1:
        raise UserError(f"--fraction must be between 0 and 1, got {args.fraction:g}")
    for task in map(get_task, args.tasks):
        train, dev = hold_out(task, args.data_dir, args.output_dir, args.fraction, args.seed)
        say(
            f"{task.name}: {train} rows to train on, {dev} held out, in "
            f"{Path(args.output_dir) / task.folder}"
        )


if __name__ == "__main__":
    sys.exit(cli(main))
