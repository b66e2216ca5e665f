"""Made-up results of runs that nobody trained, for tests of the programs that read results: tables,
means, records (run.json), folders with predictions.
"""

import json

import numpy as np
import pandas as pd

from analysis import predictions, table, tables
from analysis.means import SUMMARY
from tasks.glue import get_task
from tasks.metrics import compute_metrics

COMMON = {
    "minutes": 2.0,
    "parameters": 17e6,
    "device": "cpu",
    "machine": "M, 2 cores",
    "precision": "bf16",
    "processes": 1,
    "torch": "2.1",
    "transformers": "5.0",
    "commit": "123456",
    "--learning_rate": 1e-4,
    "--num_train_epochs": 4,
    "--max_seq_length": 80,
    "--per_gpu_train_batch_size": 32,
    "--output_dir": "/somewhere",
}
VKD, RKD, FSD = (0.71, 0.73, 0.72), (0.74, 0.73, 0.76), (0.80, 0.79, 0.83)


def runs_csv(path, *rows):
    """Write a table of results with these rows, each a dict added to COMMON; returns its path."""
    pd.DataFrame([COMMON | {"task": "RTE"} | row for row in rows]).to_csv(path, index=False)
    return path


def of(method, scores, **fields):
    """Rows of runs of a method, one for each score, with seeds 1, 2, ...; fields: of all rows."""
    return [
        {"method": method, "seed": seed, "acc": score} | fields
        for seed, score in enumerate(scores, 1)
    ]


def record_of(**changes):
    """The record of a finished run of VKD with these fields changed; "gone" removes a field."""
    shared = {key: value for key, value in COMMON.items() if not key.startswith("--")}
    record = shared | {
        "finished": True,
        "method": "VKD",
        "seed": 1,
        "arguments": {"task_name": "RTE", "seed": 1},
        "results": {"acc": 0.5},
        "train_seconds": 60,
        "examples_per_second": 1,
        "steps": 1,
        "started": "2026",
        "teacher": None,
        "versions": {"torch": "2.1", "transformers": "5.0"},
        "command": "glue_with_cka_i.py",
    }
    return {name: value for name, value in (record | changes).items() if value != "gone"}


def write_record(folder, **changes):
    """Write a run's folder whose run.json is record_of(**changes)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record_of(**changes)), encoding="utf-8")


def write_run(folder, method, score, finished=True, data="abc", **flags):
    """Write a run's folder with the same flags as the rows of runs_csv, and further `flags`."""
    shared = {key[2:]: value for key, value in COMMON.items() if key.startswith("--")}
    write_record(
        folder,
        method=method,
        finished=finished,
        results={"acc": score},
        data={"train": {"sha256": data}},
        arguments={"task_name": "RTE", "seed": 1} | shared | flags,
    )


def means_csv(path, *rows):
    pd.DataFrame(rows, columns=SUMMARY).to_csv(path, index=False)
    return path


def numbers(tmp_path, *arguments):
    """The CSV that analysis/tables.py writes with these arguments, as a DataFrame."""
    tables.main([*map(str, arguments), "--csv", str(tmp_path / "numbers.csv")])
    return pd.read_csv(tmp_path / "numbers.csv", dtype={"table": str})


def lines_of(text, method):
    """The rows of a method in all printed tables, each a list of its cells after the method."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [line[1:] for line in lines if line[0] == method]


# ---- runs with predictions -----------------------------------------------------------------------

COUNTS = {"dev": 40, "dev_mm": 30}  # rows of made-up dev sets


def run_folder(folder, task="MRPC", method="FSD_I", seed=1, predicted=None, evaluated=True):
    """Write a finished run with the files and metrics that an evaluation leaves; returns `folder`.

    predicted: the predictions for each dev set, None for random ones.
    """
    task, results = get_task(task), {}
    write_run(folder, method, 0, task_name=task.name, seed=seed, output_dir=f"/there/{folder.name}")
    for split in predictions.dev_splits(task) if evaluated else []:
        drawn, truth, count = *map(np.random.default_rng, (seed, 99)), COUNTS[split]
        if task.labels:
            labels = truth.integers(len(task.labels), size=count)
            found = drawn.integers(len(task.labels), size=count)
        else:  # float32 labels, as in training, and many ties
            labels = truth.integers(0, 26, size=count).astype(np.float32) / 5
            found = drawn.normal(2, 1, size=count).round(1).astype(np.float32).astype(np.float64)
        found = found if predicted is None else np.asarray(predicted)
        metrics = compute_metrics(task, found, labels)
        results |= {name + split.removeprefix("dev"): value for name, value in metrics.items()}
        columns = {"index": range(count), "label": labels, "prediction": found, "logit_0": 0}
        path = folder / f"{split}_predictions.tsv"
        pd.DataFrame(columns).to_csv(path, sep="\t", index=False)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"results": results}))
    return folder


def table_of(folder, path):
    """Write the results of the runs in a folder as analysis/table.py publishes them."""
    table.main([str(folder), "--csv", str(path), "--no_table"])
