"""One task of GLUE end to end with one setting: no search, one seed.

Downloads the data if it is missing, fine-tunes the teacher, makes its memory, trains a student with
VKD and with each FSD method, prints a table, and reports what was transferred
(RUNS/report/report.html).

The student has half of the teacher's layers. The setting lies in the ranges that the paper
searched: α 0.5, τ 5, learning rate 5e-5, 3 epochs; β 4 for I and L; β 0.5 and γ_m 1e-6 for G;
γ_i 1, γ_l 1, γ_g 0.1 for I, L and G together. The same command, given again, goes on where it
stopped. scripts/reproduce searches for the best setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError
from scripts import jobs
from scripts.command_line import Parser
from scripts.commands import words_for
from scripts.processes import call, cli
from tasks.glue import get_task
from tasks.task import has_file

STUDENTS = {
    "vkd": "glue_with_cka_i.py --beta 0",
    "fsd_i": "glue_with_cka_i.py --beta 4 --internal",
    "fsd_l": "glue_with_cka_i.py --beta 4",
    "fsd_g": "glue_with_cka_g.py --beta 0.5",
    "fsd_ilg": "glue_with_cka_ilg.py --beta 1 --gamma_i 1 --gamma_l 1 --gamma_g 0.1",
}
WITH_MEMORY = ("fsd_g", "fsd_ilg")


def parse(argv=None):
    parser = Parser(__doc__, "scripts/one_task", "TASK [flags]")
    add = parser.add_argument
    add("task", help="A task of GLUE.")
    add("--data_dir", default="glue", help="The folder of the data. Default: glue.")
    add("--model", default="bert-base-uncased", help="Default: bert-base-uncased.")
    add("--runs", help="The folder of the runs. Default: runs/TASK-one.")
    return parser.read(argv)


def lines(args, task):
    """Yield (name of the run, script, flags) of the teacher, its memory and each student."""
    runs = args.runs
    rows = ["--data_dir", args.data_dir, "--task_name", args.task, "--do_lower_case", "--do_train"]
    rows += "--max_seq_length 128 --per_gpu_train_batch_size 32 --seed 1".split()
    train = [*rows, *"--do_eval --per_gpu_eval_batch_size 64 --num_train_epochs 3".split()]
    rate = "5e-5" if task.name in ("STS-B", "WNLI") else "2e-5"
    model = ["--model_name_or_path", args.model]
    yield "teacher", "train_teacher.py", [*model, *train, "--learning_rate", rate]

    teacher = ["--model_name_or_path", f"{runs}/teacher"]
    cache = ["--teacher_cache", f"{runs}/cache"]
    passes = ["--memory_num_train_epochs", "3"]
    yield "memory", "train_memory.py", [*teacher, *cache, *rows, *passes]

    distil = [*teacher, "--model_name_or_path_for_copy", args.model, "--copy_teacher"]
    distil += [*cache, *train]
    distil += "--learning_rate 5e-5 --alpha 0.5 --temperature 5".split()
    for name, command in STUDENTS.items():
        script, *own = command.split()
        if name in WITH_MEMORY:
            own += ["--teacher_memory_path", f"{runs}/memory", "--gamma_m", "1e-6"]
        yield name, script, [*distil, *own]


def run(words):
    call([jobs.interpreter(), jobs.ours(words[0]), *words[1:]])


def main(argv=None):
    args = parse(argv)
    jobs.check_interpreter(jobs.interpreter())
    task = get_task(args.task)
    if "train" not in task.files:
        raise UserError(f"{task.name} has no training set: name another task")
    args.runs = args.runs or f"runs/{task.name.lower().replace('-', '')}-one"
    where = ["--data_dir", args.data_dir]
    if not has_file(task, args.data_dir, "train"):
        run(["utils_glue.py", "download", *where, "--tasks", args.task])
    for name, script, flags in lines(args, task):
        sweep = jobs.Sweep(args.runs, shard="0/1")
        sweep.add([name, "--", jobs.ours(script), *flags, *words_for(script, args.extra)])
        if not sweep.run():
            return 1
    run(["analysis/table.py", args.runs])
    report = ["analysis/report.py", "--model_name_or_path", f"{args.runs}/teacher"]
    report += ["--task_name", args.task, *where]
    report += ["--students", *(f"{args.runs}/{name}" for name in STUDENTS)]
    report += ["--teacher_memory_path", f"{args.runs}/memory"]
    report += ["--output_dir", f"{args.runs}/report", "--overwrite_output_dir"]
    report += words_for("analysis/report.py", args.extra)
    run(report)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))
