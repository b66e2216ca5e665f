"""Reports of tiny models, for the tests of analysis/report.py."""

import pandas as pd


def report_flags(folder, output, students, *more):
    """The flags of a report on the tiny task, as words: mini-batches of 5, on the CPU.

    folder: with teacher/ and RTE/. students: their folders.
    """
    return [
        str(x)
        for x in (
            "--model_name_or_path",
            folder / "teacher",
            "--task_name",
            "rte",
            "--data_dir",
            folder,
            "--output_dir",
            output,
            "--per_gpu_eval_batch_size",
            5,
            "--no_cuda",
            "--students",
            *students,
            *more,
        )
    ]


def read(folder, name):
    """The table `name` of a report, as a DataFrame. folder: of the report."""
    return pd.read_csv(folder / f"{name}.csv")
