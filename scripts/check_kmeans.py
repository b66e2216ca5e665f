"""Check our k-means, which makes the memory, against scikit-learn's: both cluster the same real
features from the same first centroids, with the same number of passes.

    python scripts/check_kmeans.py --model_name_or_path TEACHER --data_dir glue \\
      --task_name MRPC --max_seq_length 80 --num_centroid 100 --memory_num_train_epochs 3 \\
      --seed 1 --output_dir FOLDER

Takes train_memory.py's flags. Holds all features in RAM (N * W * D floats: samples, tokens a
sample, hidden size), so it is for small tasks. Prints a Markdown table: the share of samples that
both assign to the same cluster, the largest relative distance between their centroids, and the
inertia of every pass. The exit code is 1 if less than 99.9 % of the samples agree, centroids differ
by more than 1e-4, or the inertia rises.
"""

import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common
import train_memory
from analysis.markdown import to_markdown
from training import checks


def compare(run):
    """One row of the table, as a dict: our k-means compared with scikit-learn's."""
    import torch
    from sklearn.cluster import KMeans

    import memory

    args = run.args
    if args.teacher_cache:
        run.open_cache()  # the memory is then of what the cache holds
    batches = torch.arange(run.rows).split(args.per_gpu_memory_train_batch_size)
    items = common.progress(run.load(batches), desc="features")
    x = torch.cat([run.rows_of(item).cpu() for item in items])  # (N, W*D)
    start = run.find_start()
    ours, inertia = memory.KMeans(start.clone(), run.rows), []
    for _ in range(args.memory_num_train_epochs):
        for indices in batches:
            ours.add(x[indices], indices)
        inertia.append(ours.update()["inertia"])
    theirs = KMeans(
        args.num_centroid,
        init=start.numpy(),
        n_init=1,
        max_iter=args.memory_num_train_epochs,
        tol=0,
        algorithm="lloyd",
    ).fit(x.numpy())
    wanted = torch.from_numpy(theirs.cluster_centers_)
    apart = (ours.centroids - wanted).norm(dim=1) / wanted.norm(dim=1)
    same = (torch.cdist(x, ours.centroids).argmin(1).numpy() == theirs.labels_).mean()
    return {
        "task": run.session.task.name,
        "samples": run.rows,
        "width": x.shape[1],
        "C": args.num_centroid,
        "init": args.memory_init,
        "same cluster": same,
        "centroids apart": apart.max().item(),
        "inertia per pass": inertia,
    }


def main(argv=None):
    args, _ = train_memory.parse(argv, __doc__)
    args.do_train = True
    checks.check_arguments(args)
    from training.clustering import Clustering  # here, as these imports take seconds
    from training.records import Record
    from training.session import open_session

    with open_session(args, bound=True) as session:
        row = compare(Clustering(session, Record.begin(session, "memory")))
    falls = all(
        later <= earlier * (1 + 1e-6) for earlier, later in pairwise(row["inertia per pass"])
    )
    text = ", ".join(f"{value:.6g}" for value in row["inertia per pass"])
    print(to_markdown(pd.DataFrame([row | {"inertia per pass": text}])))
    return 0 if row["same cluster"] >= 0.999 and row["centroids apart"] <= 1e-4 and falls else 1


if __name__ == "__main__":
    sys.exit(common.cli(main))
