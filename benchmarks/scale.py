"""What a task costs at its full size: time, disk and memory of every stage, extrapolated from
measured rates.

    python benchmarks/scale.py --task_name MNLI --step results/step.csv --csv results/scale.csv

A time is the number of samples, times epochs or passes, over the examples per second that
benchmarks/step.py found with bert-base (12 -> 6 layers, 768 wide), for each device, precision and
batch size in its tables; a device that is in none of them was not measured. Disk and memory follow
from the shapes. Memory is what the stage holds beside models and activations, whose peak is in the
same tables. In a sweep the stages before the runs are paid for once, a run's own stage by each run.
"""

import argparse
import statistics
import sys
from pathlib import Path

from report import report  # puts the repository on the path

from common import UserError, cli, expand_path, expand_path_or_none
from tasks.glue import get_task, usual_centroids
from training.results_csv import read_checked_csv

LAYERS, WIDTH = 12, 768  # of BERT-base


def stages(samples, classes, length, centroids, epochs, passes):
    """[(stage, samples to process, form whose rate counts, bytes on disk, bytes of memory)].

    The form is one of benchmarks/forms.py. passes: of k-means over the samples.
    """
    features = samples * (length * (4 + 1 + 1) + 4)  # int32 ids, two masks of a byte, a label
    memory = 4 * centroids * length * WIDTH  # float32 centroids
    clustering = 4 * memory + 32 * samples  # centroids, far rows, float64 sums; N small numbers
    logits, relations = 4 * classes * samples, 4 * 2 * centroids * samples
    cache = {
        "logits (VKD)": logits,
        "logits, token structures (FSD_I)": logits + 2 * samples * length**2,
        "logits, relations (FSD_G)": logits + relations,
        "logits, features, relations (FSD_ILG)": logits + 2 * samples * length * WIDTH + relations,
    }
    optimizer = 4 * memory  # M_s, its gradient and Adam's two moments
    return [
        ("teacher, fine-tuned", epochs * samples, "teacher, trained", features, 0),
        ("teacher memory", passes * samples, "teacher, forward", memory, clustering),
        *(
            (f"teacher cache: {what}", samples, "teacher, forward", size, 0)
            for what, size in cache.items()
        ),
        ("a run of VKD", epochs * samples, "VKD", 0, 0),
        ("a run of VKD, cached", epochs * samples, "VKD, cached", 0, 0),
        ("a run of FSD_ILG", epochs * samples, "FSD_ILG", 0, optimizer),
        ("a run of FSD_ILG, cached", epochs * samples, "FSD_ILG, cached", 0, optimizer),
    ]


def read_rates(paths):
    """{"device, precision, batch": {form: examples per second}} of BERT-base, from tables of
    benchmarks/step.py; the median, where a form was measured several times.
    """
    rates = {}
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"there is no {path}: make it with benchmarks/step.py --csv {path}")
        columns = ["model", "form", "precision", "device", "machine", "B", "examples / s"]
        table, _ = read_checked_csv(
            path, columns, columns[:2], columns[-1:], "no table of benchmarks/step.py"
        )
        for row in table[(table.model == "bert-base") & (table.form != "published")].to_dict(
            "records"
        ):
            where = row["machine"] if row["device"] == "cpu" else row["device"]
            precision = "float32" if row["precision"] == "no" else row["precision"]
            found = rates.setdefault(f"{where}, {precision}, batch {row['B']}", {})
            found.setdefault(row["form"], []).append(row["examples / s"])
    return {
        where: {form: statistics.median(numbers) for form, numbers in found.items()}
        for where, found in rates.items()
    }


def duration(seconds):
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def size(number):
    return f"{number / 1e9:.2f} GB" if number else ""


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--task_name",
        default="MNLI",
        help="A task of GLUE; its official number of training samples. Default MNLI.",
    )
    add(
        "--step",
        nargs="+",
        type=expand_path,
        required=True,
        help="Tables that benchmarks/step.py wrote.",
    )
    add("--max_seq_length", type=int, default=128, help="W. Default 128.")
    add("--num_train_epochs", type=int, default=3, help="Default 3.")
    add("--memory_num_train_epochs", type=int, default=3, help="Passes of k-means. Default 3.")
    add("--num_centroid", type=int, help="C. Default: the paper's, 300 for MNLI and QQP, else 100.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    args = parser.parse_args(argv)
    task, rates = get_task(args.task_name), read_rates(args.step)
    centroids = args.num_centroid or usual_centroids(task.name)
    plan = stages(
        task.rows["train"],
        len(task.labels or "1"),
        args.max_seq_length,
        centroids,
        args.num_train_epochs,
        args.memory_num_train_epochs,
    )
    rows = [
        {
            "stage": stage,
            **{
                where: duration(work / found[form]) if form in found else "not measured"
                for where, found in rates.items()
            },
            "disk": size(disk),
            "memory": size(held),
        }
        for stage, work, form, disk, held in plan
    ]
    if all("CPU" in where or "EPYC" in where or "cores" in where for where in rates):
        print("No table of a GPU was given: its times were not measured.\n", file=sys.stderr)
    report([{"task": task.name, "samples": task.rows["train"], **row} for row in rows], args.csv)


if __name__ == "__main__":
    sys.exit(cli(main))
