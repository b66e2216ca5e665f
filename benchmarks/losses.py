"""Time of each structure loss, forward and backward: ours, the published form, and the floor.

    python benchmarks/losses.py --batch_sizes 8 32 128 --widths 384 768 \\
      --centroids 100 300 --csv results/losses.csv

The published form is a yardstick of our own, written straight from the formula: HSIC is tr(K C L C)
with an explicit C, one at a time, each with Gram matrices of its own. The floor is only the matrix
products that no form can avoid: one Gram matrix each for student and teacher, and in the backward
one product for the student's. All three run in turn, in one process, on a GPU ten calls at a time;
ratios are those of medians over the rounds, and compare within this run only.
"""

import argparse
import statistics
import sys

import torch
from report import calls_in_a_row, report, seconds_each  # puts the repository on the path

import cka
from common import cli, expand_path_or_none

# ---- the published form --------------------------------------------------------------------------


def hsic(x, y):
    """tr(K C L C) / (n-1)² with explicit matrices; x (..., n, p), y (..., n, q)."""
    n = x.shape[-2]
    c = torch.eye(n, dtype=x.dtype, device=x.device) - 1 / n
    product = (x @ x.mT) @ c @ (y @ y.mT) @ c
    return product.diagonal(dim1=-2, dim2=-1).sum(-1) / (n - 1) ** 2


def published_cka(x, y):
    return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()


def published_intra(h_s, h_t):
    return -published_cka(h_s, h_t).abs().log().mean()


def published_rows(x_s, x_t):
    return -published_cka(x_s, x_t).abs().log()


def published_feature_to_memory(h_s, m_s, h_t, m_t):
    """F_E + F_C, one distance and one cosine matrix at a time."""

    def cosine(h, m):
        return (
            torch.nn.functional.normalize(h, dim=-1) @ torch.nn.functional.normalize(m, dim=-1).mT
        )

    return (torch.cdist(h_t, m_t) - torch.cdist(h_s, m_s)).square().mean() + (
        cosine(h_t, m_t) - cosine(h_s, m_s)
    ).square().mean()


# ---- the floor -----------------------------------------------------------------------------------


def floor_of_grams(x_s, x_t):
    """A Gram matrix each for student and teacher and, for the backward, one product with the
    student's rows.
    """
    gram, _ = x_s @ x_s.mT, x_t @ x_t.mT
    return gram @ x_s


def floor_of_memory_grams(m_s):
    """The student's Gram matrix and its backward; the teacher's is known for the whole run."""
    return (m_s @ m_s.mT) @ m_s


def floor_of_relations(h_s, m_s, h_t, m_t):
    """H Mᵀ each for student and teacher and, for the backward, the student's two products."""
    products, _ = h_s @ m_s.mT, h_t @ m_t.mT
    return products @ m_s, products.mT @ h_s


# ---- measuring -----------------------------------------------------------------------------------


def backward(loss, *trained):
    """A function that computes loss() and its gradient with respect to `trained`."""
    return lambda: torch.autograd.grad(loss(), trained)


def cases(batch, length, width, centroids, device):
    """{loss: (ours, published, floor)}, each a function without arguments."""

    def draw(*shape):
        return torch.randn(*shape, device=device)

    h_s, h_t = draw(batch, length, width).requires_grad_(), draw(batch, length, width)
    m_s, m_t = draw(centroids, length * width).requires_grad_(), draw(centroids, length * width)
    frozen, x_s, x_t = (
        cka.FrozenMemory(m_t),
        h_s.flatten(1),
        h_t.flatten(1),
    )  # (B, W, D) -> (B, W*D)

    return {
        "I": (
            backward(lambda: cka.intra_feature_loss(h_s, h_t), h_s),
            backward(lambda: published_intra(h_s, h_t), h_s),
            lambda: floor_of_grams(h_s.detach(), h_t),
        ),
        "L": (
            backward(lambda: cka.local_inter_feature_loss(h_s, h_t), h_s),
            backward(lambda: published_rows(x_s, x_t), h_s),
            lambda: floor_of_grams(x_s.detach(), x_t),
        ),
        "F_MM": (
            backward(lambda: cka.memory_structure_loss(m_s, frozen), m_s),
            backward(lambda: published_rows(m_s, m_t), m_s),
            lambda: floor_of_memory_grams(m_s.detach()),
        ),
        "G": (
            backward(lambda: cka.global_inter_feature_loss(x_s, m_s, x_t, frozen, 0.5), h_s, m_s),
            backward(
                lambda: published_rows(m_s, m_t) + published_feature_to_memory(x_s, m_s, x_t, m_t),
                h_s,
                m_s,
            ),
            lambda: (
                floor_of_memory_grams(m_s.detach()),
                floor_of_relations(x_s.detach(), m_s.detach(), x_t, m_t),
            ),
        ),
    }


def measure(functions, rounds, device):
    """Median seconds of a call of each function, a list. They run in turn; the first round warms
    up.
    """
    calls = calls_in_a_row(device)
    times = [
        [seconds_each(function, calls, device) for function in functions] for _ in range(rounds + 1)
    ]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=[8, 32, 128], help="B. Default 8 32 128.")
    add("--max_seq_length", type=int, default=128, help="W. Default 128.")
    add("--widths", type=int, nargs="+", default=[384, 768], help="D. Default 384 768.")
    add("--centroids", type=int, nargs="+", default=[100, 300], help="C. Default 100 300.")
    add("--rounds", type=int, default=5, help="Rounds; the median counts. Default 5.")
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--csv", type=expand_path_or_none, help="Write the table to this file.")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    rows = []
    for width in args.widths:
        for batch in args.batch_sizes:
            for centroids in args.centroids:
                torch.manual_seed(0)
                for loss, functions in cases(
                    batch, args.max_seq_length, width, centroids, device
                ).items():
                    without_memory, without_samples = loss in ("I", "L"), loss == "F_MM"
                    if (without_memory and centroids != args.centroids[0]) or (
                        without_samples and batch != args.batch_sizes[0]
                    ):
                        continue  # measured before
                    ours, published, floor = measure(functions, args.rounds, device)
                    rows.append(
                        {
                            "loss": loss,
                            "B": "" if without_samples else batch,
                            "W": args.max_seq_length,
                            "D": width,
                            "C": "" if without_memory else centroids,
                            "ours ms": round(1e3 * ours, 2),
                            "published / ours": round(published / ours, 2),
                            "ours / floor": round(ours / floor, 2),
                        }
                    )
    report(rows, args.csv, torch.cuda.get_device_name() if device.type == "cuda" else "cpu")


if __name__ == "__main__":
    sys.exit(cli(main))
