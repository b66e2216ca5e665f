"""Peak memory of train_memory.py at 1, 2 and 4 times the samples of a task, from whole runs of the
command.

    python benchmarks/peak_memory.py --model_name_or_path TEACHER --data_dir glue \\
      --task_name SST-2 --csv FILE \\
      --max_seq_length 64 --per_gpu_train_batch_size 64

Flags that this benchmark does not know go to train_memory.py. The training file is repeated in a
temporary folder. Each size runs twice: first without cached tokens, so that it tokenises, then with
them. "anonymous" is what the process allocated (RssAnon, sampled every 10 ms); "resident" (VmHWM)
also counts the memory-mapped pages of the tokens, which the system may drop at any time. Linux
only.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import report  # puts the repository on the path

from common import cli, expand_path, expand_path_or_none
from tasks.glue import get_task
from tasks.task import find_file

ROOT = Path(__file__).resolve().parent.parent


def peaks(command, environment):
    """Run a command. Returns the peaks (anonymous, resident) of its process in MiB."""
    process = subprocess.Popen(command, env=environment)
    anonymous = resident = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status")
            lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            break
        status = dict(line.split(":", 1) for line in lines)
        anonymous = max(anonymous, int(status.get("RssAnon", "0 kB").split()[0]))
        resident = max(resident, int(status.get("VmHWM", "0 kB").split()[0]))
        time.sleep(0.01)
    if process.wait():
        sys.exit(f"error: {' '.join(map(str, command))} ended with {process.returncode}")
    return anonymous / 1024, resident / 1024


def repeated(task, data_dir, folder, times):
    """Write a data folder whose training file has the rows `times` times. Returns their number."""
    lines = find_file(task, data_dir, "train").read_text(encoding="utf-8").splitlines(keepends=True)
    head = task.header_lines("train")
    target = folder / task.folder / task.files["train"]
    target.parent.mkdir(parents=True)
    target.write_text("".join(lines[:head] + lines[head:] * times), encoding="utf-8")
    return (len(lines) - head) * times


def measure(args, more, task, times):
    """A row of the table. more: flags for train_memory.py. times: how often rows are repeated."""
    with tempfile.TemporaryDirectory() as place:
        place, found = Path(place), {}
        rows = repeated(task, args.data_dir, place / "data", times)
        for name in ("tokenising", "cached"):
            output = place / name
            command = [
                sys.executable,
                ROOT / "train_memory.py",
                "--do_train",
                "--model_name_or_path",
                args.model_name_or_path,
                "--data_dir",
                place / "data",
                "--task_name",
                args.task_name,
                "--memory_num_train_epochs",
                "1",
                "--output_dir",
                output,
                *more,
            ]
            anonymous, resident = peaks(
                list(map(str, command)), os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
            )
            found |= {
                f"{name}: anonymous MiB": round(anonymous),
                f"{name}: resident MiB": round(resident),
            }
        from training.memory_file import FILE, load_memory  # here, as it imports torch

        centroids, _ = load_memory(output / FILE)
        features = 4 * rows * centroids.shape[1] / 2**20
        return {
            "samples": rows,
            "features would be MiB": round(features),
            "C*W*D floats MiB": round(4 * math.prod(centroids.shape) / 2**20),
            **found,
        }


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        help="Folder of a fine-tuned teacher.",
    )
    parser.add_argument(
        "--data_dir", type=expand_path, required=True, help="Folder with the task's .tsv files."
    )
    parser.add_argument("--task_name", default="SST-2", help="Default SST-2.")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4], help="Default 1 2 4.")
    parser.add_argument("--csv", type=expand_path_or_none, help="Write the table to this file.")
    args, more = parser.parse_known_args(argv)
    task = get_task(args.task_name)
    report([measure(args, more, task, times) for times in args.times], args.csv)


if __name__ == "__main__":
    sys.exit(cli(main))
