"""A program that tests of sweeps start in place of a training. It leaves a run's files and ends at
once, unless a flag says otherwise.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

FILES = """model.safetensors student_memory.safetensors tokenizer.json vocab.txt config.json
eval_results.json train_log.jsonl dev_predictions.tsv tensorboard/events
checkpoint-5/model.safetensors"""
SEEN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("output_dir", "results_csv", "seed", "alpha", "student_layers"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--internal", action="store_true")
    parser.add_argument("--fail", help="The seed of the run that fails.")
    parser.add_argument("--die", help="The seed of the run that is killed.")
    parser.add_argument("--in_use", help="Fails with these words before anything is made.")
    parser.add_argument("--hold", help="Waits as long as this file is there.")
    parser.add_argument("--wait_for", type=int, default=0, help="Waits until so many runs began.")
    return parser.parse_args()


def wait(args, folder):
    """Wait until --hold and --wait_for let the run go on; give up after 60 s."""
    deadline = time.monotonic() + 60
    while (args.hold and Path(args.hold).exists()) or (
        len(list(folder.parent.glob("*/pid"))) < args.wait_for
    ):
        if time.monotonic() > deadline:
            sys.exit("error: waited too long")
        time.sleep(0.01)


def main():
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # as the training scripts do
    args = read_arguments()
    if args.in_use:
        sys.exit(f"error: {args.in_use}")
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    seen = {name: os.environ.get(name) for name in SEEN}
    (folder / "seen.json").write_text(json.dumps(seen | {"words": sys.argv[1:]}))
    (folder / "pid").write_text(str(os.getpid()))
    wait(args, folder)
    if args.die and args.die == args.seed:
        os.kill(os.getpid(), signal.SIGKILL)
    if args.fail and args.fail == args.seed:
        print("working", flush=True)
        sys.exit(f"error: seed {args.seed} does not work")
    for name in FILES.split():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    with open(args.results_csv, "a") as file:
        file.write(f"{folder.name}\n")
    (folder / "run.json").write_text(json.dumps({"finished": True}, indent=2))
    print(f"VKD on RTE: acc 0.5; everything is in {folder}")


if __name__ == "__main__":
    main()
