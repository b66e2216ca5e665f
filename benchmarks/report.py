"""The output of every benchmark: a Markdown table on stdout and, if asked for, a CSV that also says
where it was measured.

    python benchmarks/report.py results/step.csv --insert docs/performance.md

puts the tables of such CSVs into a file, between its lines <!-- table step --> and <!-- end step
-->.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.markdown import insert, to_markdown
from common import atomic_path, cli, expand_path, expand_path_or_none
from training.records import provenance
from training.results_csv import read_cells

WHERE = ["device", "machine", "torch", "commit"]


def seconds(function, device, *arguments):
    """Wall-clock seconds of one call, including all work that it gives to a GPU."""
    import torch  # here, as a table of CSVs is made without it

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    function(*arguments)
    wait()
    return time.perf_counter() - started


def seconds_each(function, number, device):
    """Seconds per call, over `number` calls in a row without waiting for a GPU between them.

    As many calls before these are not timed, as code that ran before has left the caches and the
    memory in another state.
    """

    def several():
        for _ in range(number):
            function()

    several()
    return seconds(several, device) / number


def positive(text, least=1):
    """The type of a flag: `text` as an int, which must be at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, found {text}")
    return int(text)


def from_zero(text):
    """The type of a flag: a whole number from 0 on."""
    return positive(text, least=0)


def calls_in_a_row(device):
    """How many calls are timed together by default: on a GPU enough that its wait for the first of
    them counts little.
    """
    return 10 if device.type == "cuda" else 1


def report(rows, csv=None, device="cpu"):
    """Print rows (dicts) as a table.

    csv: a file to write them to, with device, machine, torch's version and commit.
    """
    table, run = pd.DataFrame(rows), provenance()
    print(to_markdown(table))
    if csv:
        with atomic_path(csv) as path:
            table.assign(
                device=device,
                machine=run["machine"],
                torch=run["versions"]["torch"],
                commit=run["commit"][:12],
            ).to_csv(path, index=False)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", type=expand_path, help="CSVs that benchmarks wrote.")
    parser.add_argument("--only", help="Only the rows with a cell that is this, as bert-base.")
    parser.add_argument(
        "--insert", type=expand_path_or_none, help="Put the tables into this Markdown file."
    )
    args = parser.parse_args(argv)
    texts = {}
    for path in map(Path, args.tables):
        columns, rows = read_cells(path, WHERE, "no table of a benchmark")
        table = pd.DataFrame(
            [[row.get(column, "") for column in columns] for _, row in rows],
            columns=[name for name, _ in columns],
        )
        if args.only:
            table = table[(table == args.only).any(axis=1)]
        where = "; ".join(
            f"{machine if device == 'cpu' else device}, torch {torch}, commit {commit}"
            for device, machine, torch, commit in table[WHERE]
            .drop_duplicates()
            .itertuples(index=False)
        )
        texts[path.stem] = f"{to_markdown(table.drop(columns=WHERE))}\n\n{path.name}: {where}."
        print(texts[path.stem])
    if args.insert:
        insert(args.insert, texts)


if __name__ == "__main__":
    sys.exit(cli(main))
