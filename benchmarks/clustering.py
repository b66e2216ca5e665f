"""Time of one clustering pass: ours, the published loop, scikit-learn's MiniBatchKMeans, and the
floor.

    python benchmarks/clustering.py --model_name_or_path TEACHER --data_dir glue \\
      --task_name MRPC --csv FILE

Ours is a pass of train_memory.py, an epoch: the features of each mini-batch, and KMeans.add.
MiniBatchKMeans takes the same features, on the CPU. The published form is a yardstick of our own: a
pass to assign and a pass to update, each with the whole teacher and all its hidden states for one
sample at a time, in float32, without dropout and gradients. The floor is the teacher's forward
alone. All take the first rows of the training set in turn, in one process, the published form fewer
of them; ratios are of medians over the rounds, within this run only. KMeans.update, which ends each
of our passes, is timed by itself, with buffers for the whole data set; "update % of a pass" is its
share of a pass over all of it.
"""

import argparse
import statistics
import sys
import tempfile

import torch
from report import report, seconds  # puts the repository on the path
from sklearn.cluster import MiniBatchKMeans

import train_memory
from common import cli, expand_path, expand_path_or_none
from training import models
from training.batches import MiniBatch
from training.clustering import Clustering
from training.records import Record
from training.session import open_session
from training.tokenizer import load_tokenizer

# ---- the forms: each a function of mini-batches, which are tensors of indices --------------------


def our_pass(clustering, kmeans):
    def run(batches):
        for item, indices in zip(clustering.load(batches), batches, strict=True):
            kmeans.add(clustering.rows_of(item), indices)

    return run


def minibatch_pass(clustering, start):
    """scikit-learn's pass. Its first call takes the start (C, p) itself, as it needs C rows."""
    found = MiniBatchKMeans(
        len(start), init=start.cpu().numpy(), n_init=1, compute_labels=False, random_state=0
    )
    found.partial_fit(start.cpu().numpy())

    def run(batches):
        for item in clustering.load(batches):
            found.partial_fit(clustering.rows_of(item).cpu().numpy())

    return run


def inputs(clustering, model, batches):
    """Yields the model's arguments for each mini-batch."""
    for item in clustering.load(batches):
        yield MiniBatch(item, clustering.accelerator.device).arguments(model)


def floor(clustering, model):
    def run(batches):
        for batch in inputs(clustering, model, batches):
            with clustering.accelerator.autocast():
                model(**batch)

    return run


def published_pass(clustering, teacher, start):
    """The published pass, a sample at a time: assign all samples to their nearest centroids, then
    move a centroid half-way to each of its samples in turn, so that the latest weigh most.
    """
    centroids, layer = start.clone(), clustering.facts["layer"]

    def rows(batches):
        for batch in inputs(clustering, teacher, batches):
            yield (
                teacher(**batch, output_hidden_states=True).hidden_states[layer].flatten(1)
            )  # (1, W, D) -> (1, W*D)

    def run(batches):
        nearest = [(centroids - x).square().sum(1).sqrt().argmin().item() for x in rows(batches)]
        for x, place in zip(rows(batches), nearest, strict=True):
            centroids[place] = (centroids[place] + x[0]) / 2

    return run


# ---- measuring -----------------------------------------------------------------------------------


@torch.no_grad()
def measure(args, clustering, teacher):
    """A row of the table for each form; the forms run in turn, after one round to warm up."""
    kmeans = clustering.make_kmeans()
    start, device = kmeans.centroids.clone(), clustering.accelerator.device
    batches = torch.arange(min(args.rows, clustering.rows)).split(args.per_gpu_train_batch_size)
    singles = torch.arange(min(args.published_rows, clustering.rows)).split(1)
    forms = {
        "ours": (our_pass(clustering, kmeans), batches),
        "published": (published_pass(clustering, teacher, start), singles),
        "MiniBatchKMeans": (minibatch_pass(clustering, start), batches),
        "teacher": (floor(clustering, clustering.teacher.model.base_model), batches),
    }
    times, updates = {form: [] for form in forms}, []
    for _ in range(args.rounds + 1):
        for form, (run, taken) in forms.items():
            times[form].append(seconds(run, device, taken))
        updates.append(seconds(kmeans.update, device))
    rates = {
        form: sum(map(len, taken)) / statistics.median(times[form][1:])
        for form, (_, taken) in forms.items()
    }
    update, whole_pass = statistics.median(updates[1:]), clustering.rows / rates["ours"]
    ended = {
        "update ms": round(1e3 * update, 1),
        "update % of a pass": round(100 * update / (update + whole_pass), 2),
    }
    facts = {"W": args.max_seq_length, "D": clustering.facts["hidden_size"], "C": args.num_centroid}
    precision = clustering.record.precision.replace("no", "fp32")
    return [
        {
            "form": form,
            "B": len(forms[form][1][0]),
            **facts,
            "precision": "fp32" if form == "published" else precision,
            "rows per second": round(rate, 1),
            "epoch / ours": round(rates["ours"] / rate, 2),
            **(ended if form == "ours" else dict.fromkeys(ended, "")),
        }
        for form, rate in rates.items()
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        help="Folder of a fine-tuned teacher.",
    )
    add("--data_dir", type=expand_path, required=True, help="Folder with the task's .tsv files.")
    add("--task_name", default="MRPC", help="Default MRPC.")
    add("--max_seq_length", type=int, default=128, help="W. Default 128.")
    add("--per_gpu_train_batch_size", type=int, default=32, help="B. Default 32.")
    add("--num_centroid", type=int, default=100, help="C. Default 100.")
    add("--rows", type=int, default=512, help="Training rows a round takes. Default 512.")
    add(
        "--published_rows",
        type=int,
        default=64,
        help="Rows of a round of the slow published form. Default 64.",
    )
    add("--rounds", type=int, default=3, help="Rounds; the median counts. Default 3.")
    add(
        "--bf16",
        action="store_true",
        help="Mixed precision with bfloat16, but for the published form.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    args = parser.parse_args(argv)
    shared = [
        f"--{name}={getattr(args, name)}"
        for name in (
            "model_name_or_path",
            "data_dir",
            "task_name",
            "max_seq_length",
            "per_gpu_train_batch_size",
            "num_centroid",
        )
    ]
    switches = [f"--{name}" for name in ("bf16", "no_cuda") if getattr(args, name)]
    with tempfile.TemporaryDirectory() as output:
        settings, _ = train_memory.parse(
            [*shared, *switches, "--do_train", f"--output_dir={output}"]
        )
        with open_session(settings) as session:
            clustering = Clustering(session, Record.begin(session, "memory"))
            tokenizer = load_tokenizer(settings)
            # not prepared for mixed precision
            teacher = models.load_teacher(settings, session.task, tokenizer)
            rows = measure(args, clustering, teacher.to(clustering.accelerator.device))
    report(rows, args.csv, clustering.record.device)


if __name__ == "__main__":
    sys.exit(cli(main))
