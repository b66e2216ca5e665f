"""Time of a pass of k-means alone, over features in memory: ours, flash-kmeans, and the floor.

    python benchmarks/kmeans.py --widths 98304 768 --csv FILE

ours          memory.KMeans as train_memory.py uses it, mini-batch by mini-batch; on a GPU also with
              TF32
flash-kmeans  the exact k-means for GPUs of that name (Yang et al. 2025, arXiv 2505.18875), if it is
              installed. It needs all features in memory at once, of MNLI 154 GB, and its kernels
              multiply float32 in TF32
floor         the two matrix products that no exact form can do without, for all rows at once:
              distances and sums

Features are random, drawn around as many centres as there are centroids. All forms start from the
same rows of them and take the same number of passes. "same clusters" is the share of rows that are
in the same cluster as in the table's first row, ours; "inertia" is relative to that row. Ratios
compare within this run only. Features of real data come from a teacher, whose time is in
benchmarks/clustering.py.
"""

import argparse
import statistics
import subprocess
import sys

import torch
from report import positive, report, seconds  # puts the repository on the path

import memory
from common import UserError, cli, expand_path_or_none, say
from training import flags


def draw(args, width, device):
    """Random features (N, p) around C centres, and C of their rows as first centroids (C, p)."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(args.num_centroid, width, generator=generator, device=device)
    rows = torch.randn(args.rows, width, generator=generator, device=device)
    rows += centres[torch.arange(args.rows, device=device) % args.num_centroid]
    return rows, rows[: args.num_centroid].clone()


# ---- the forms: each (features, start) -> (the last pass's assignment (N,), centroids) -----------


def ours(batch_size, passes, tf32=False):
    def run(x, start):
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        kmeans = memory.KMeans(start, len(x)).to(x.device)
        for _ in range(passes):
            for indices in torch.arange(len(x)).split(batch_size):
                kmeans.add(x[indices[0] : indices[-1] + 1], indices)
            found = kmeans.update()
        torch.set_float32_matmul_precision("highest")
        return found["assignment"].to(x.device), kmeans.centroids

    return run


def flash_kmeans(passes):
    from flash_kmeans import batch_kmeans_Euclid

    def run(x, start):
        if x.is_cuda and "triton" not in batch_kmeans_Euclid.__module__:
            raise UserError(
                "flash_kmeans has found no Triton, and so would run without its kernels for GPUs: "
                "install triton"
            )
        assignment, centroids, _ = batch_kmeans_Euclid(
            x.unsqueeze(0), len(start), max_iters=passes, init_centroids=start.unsqueeze(0)
        )
        return assignment[0].long(), centroids[0]

    return run


def floor(passes):
    def run(x, start):
        for _ in range(passes):
            nearest = (x @ start.mT).argmax(1)
            members = torch.nn.functional.one_hot(nearest, len(start)).to(x.dtype)
            members.mT @ x  # the sums, for their time alone
        return nearest, start

    return run


def forms(args, width, device):
    """{form: (rows at a time or "", its function)}; ours first."""
    found = {}
    for size in args.per_gpu_train_batch_size:
        found[f"ours, {size} rows at a time"] = size, ours(size, args.passes)
    if device.type == "cuda":
        size = args.per_gpu_train_batch_size[-1]
        found[f"ours, {size} rows at a time, TF32"] = size, ours(size, args.passes, tf32=True)
    if problem := try_flash_kmeans(args, width):
        say(f"flash-kmeans is left out at a width of {width}: {problem}")
    else:
        found["flash-kmeans"] = "", flash_kmeans(args.passes)
    return found | {"floor": ("", floor(args.passes))}


def try_flash_kmeans(args, width):
    """Try flash-kmeans in a process of its own. Returns what is wrong with it, "" if nothing is.

    In this process, a kernel that fails would leave the GPU unusable, and a kernel whose
    compilation never ends would stop the benchmark.
    """
    command = [
        sys.executable,
        __file__,
        "--try_flash_kmeans",
        "--widths",
        width,
        "--rows",
        args.rows,
        "--num_centroid",
        args.num_centroid,
    ]
    command += ["--no_cuda"] if args.no_cuda else []
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        return "it took longer than 90 seconds"
    lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    return lines[-1][:300] if done.returncode else ""


# ---- measuring -----------------------------------------------------------------------------------


def inertia(x, assignment, number):
    """The sum of the squared distances of rows x (N, p) to the means of their clusters, in float64.

    assignment: the cluster of each row (N,). number: of clusters.
    """
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for k in range(number):
        members = x[assignment == k]
        if len(members):
            total += (members - members.mean(0)).double().square().sum()
    return total.item()


def measure(args, width, device):
    """A row of the table for each form; the forms run in turn, after one round to warm up."""
    x, start = draw(args, width, device)
    tried, results, peaks = forms(args, width, device), {}, {}
    for form, (_, run) in tried.items():
        held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results[form] = run(x, start.clone())
        if device.type == "cuda":
            peaks[form] = (torch.cuda.max_memory_allocated() - held) // 2**20
    times = [
        {
            form: seconds(run, device, x, start.clone()) / args.passes
            for form, (_, run) in tried.items()
        }
        for _ in range(args.rounds)
    ]
    one = {form: statistics.median(found[form] for found in times) for form in tried}
    first = next(iter(tried))
    reference, base = results[first][0], inertia(x, results[first][0], len(start))

    def agreement(form):
        if form == "floor":
            return {"same clusters, %": "", "inertia / ours": ""}
        assignment = results[form][0]
        same = 100 * (assignment == reference).double().mean().item()
        return {
            "same clusters, %": round(same, 2),
            "inertia / ours": round(inertia(x, assignment, len(start)) / base, 6),
        }

    return [
        {
            "form": form,
            "N": len(x),
            "W*D": width,
            "C": len(start),
            "B": size,
            "passes": args.passes,
            "ms a pass": round(1e3 * one[form], 2),
            "ours / form": round(one[first] / one[form], 2),
            "form / floor": round(one[form] / one["floor"], 2),
            **agreement(form),
            **({"peak MiB": peaks[form]} if peaks else {}),
        }
        for form, (size, _) in tried.items()
    ]


def main(argv=None):
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add(
        "--widths",
        type=positive,
        nargs="+",
        default=[98304, 768],
        help="W*D, numbers a sample. Default 98304 768.",
    )
    add("--rows", type=positive, default=3668, help="N. Default 3668, MRPC's.")
    add("--num_centroid", type=positive, default=100, help="C. Default 100.")
    add(
        "--per_gpu_train_batch_size",
        type=positive,
        nargs="+",
        default=[32, 128],
        help="B, of ours. Default 32 128.",
    )
    add("--passes", type=positive, default=3, help="Default 3.")
    add(
        "--rounds",
        type=positive,
        default=3,
        help="Rounds after one to warm up; the median counts. Default 3.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    add("--try_flash_kmeans", action="store_true", help=argparse.SUPPRESS)  # one process's work
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    if args.rows < args.num_centroid:
        raise UserError(
            f"--rows is {args.rows}, but there are {args.num_centroid} centroids, and "
            "each starts from a row of its own: pass more rows"
        )
    if args.try_flash_kmeans:
        run = flash_kmeans(passes=1)
        run(*draw(args, args.widths[0], device))[1].sum().item()  # .item() waits for the GPU
        return
    rows, name = [], torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    for width in args.widths:
        rows += measure(args, width, device)
        report(rows, args.csv, name)


if __name__ == "__main__":
    sys.exit(cli(main))
