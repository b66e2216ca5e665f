"""What every benchmark leaves: a Markdown table on stdout and, if asked for, a CSV with where it was measured."""
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.table import markdown
from training.records import atomic_path, provenance


def report(rows, csv=None, device="cpu"):
    """Print rows (dicts) as a table; write them to `csv` with device, machine, torch's version and commit."""
    table, run = pd.DataFrame(rows), provenance()
    print(markdown(table))
    if csv:
        with atomic_path(csv) as path:
            table.assign(device=device, machine=run["machine"], torch=run["versions"]["torch"],
                         commit=run["commit"][:12]).to_csv(path, index=False)
