"""The tasks of GLUE, and of AX, its diagnostic set: a table."""

from tasks.task import Task, expect


def _task(
    name,
    rows,
    text_columns=("sentence1", "sentence2"),
    label_column="label",
    labels=("0", "1"),
    metrics=("acc",),
    **fields,
):
    """The Task of a row of the table; the defaults are what most tasks have.

    rows: the number of rows of each split, in the order of the files.
    """
    usual = {
        "folder": name,
        "files": {split: f"{split}.tsv" for split in ("train", "dev", "test")},
        "submissions": {"test": f"{name}.tsv"},
        "downloads": {f"glue/data/{name}.zip": f"{name}.zip"},
    }
    fields = usual | fields
    return Task(
        name=name,
        rows=dict(zip(fields["files"], rows, strict=True)),
        text_columns=text_columns,
        label_column=label_column,
        labels=labels,
        metrics=metrics,
        **fields,
    )


NLI_LABELS = ("contradiction", "entailment", "neutral")
RTE_LABELS = ("entailment", "not_entailment")
TASKS = {
    task.name.lower(): task
    for task in (
        _task(
            "CoLA",
            (8551, 1043, 1063),
            ("sentence",),
            metrics=("mcc",),
            headerless=("source", "label", "star", "sentence"),
        ),
        _task("SST-2", (67349, 872, 1821), ("sentence",)),
        _task(
            "MRPC",
            (3668, 408, 1725),
            ("#1 String", "#2 String"),
            "Quality",
            metrics=("acc", "f1"),
            downloads={
                "senteval/senteval_data/msr_paraphrase_train.txt": "msr_paraphrase_train.txt",
                "senteval/senteval_data/msr_paraphrase_test.txt": "msr_paraphrase_test.txt",
                "glue/data/mrpc_dev_ids.tsv": "dev_ids.tsv",
            },
        ),
        _task(
            "STS-B",
            (5749, 1500, 1379),
            label_column="score",
            labels=None,
            scores=(0, 5),
            metrics=("pearson", "spearmanr"),
        ),
        _task(
            "QQP",
            (363846, 40430, 390965),
            ("question1", "question2"),
            "is_duplicate",
            metrics=("acc", "f1"),
            downloads={"glue/data/QQP-clean.zip": "QQP-clean.zip"},
        ),
        _task(
            "MNLI",
            (392702, 9815, 9832, 9796, 9847),
            label_column="gold_label",
            labels=NLI_LABELS,
            files={
                "train": "train.tsv",
                "dev": "dev_matched.tsv",
                "dev_mm": "dev_mismatched.tsv",
                "test": "test_matched.tsv",
                "test_mm": "test_mismatched.tsv",
            },
            submissions={"test": "MNLI-m.tsv", "test_mm": "MNLI-mm.tsv"},
        ),
        _task(
            "QNLI",
            (104743, 5463, 5463),
            ("question", "sentence"),
            labels=RTE_LABELS,
            downloads={"glue/data/QNLIv2.zip": "QNLIv2.zip"},
        ),
        _task("RTE", (2490, 277, 3000), labels=RTE_LABELS),
        _task("WNLI", (635, 71, 146)),
        _task(
            "AX",
            (1104,),
            labels=NLI_LABELS,
            metrics=("mcc",),
            files={"test": "diagnostic.tsv"},
            folder="diagnostic",
            downloads={"glue/data/AX.tsv": "diagnostic.tsv"},
        ),
    )
}


def usual_centroids(name):
    """The default number of centroids in a task's memory: the paper's; 100 for other tasks."""
    return 300 if name.lower() in ("mnli", "qqp") else 100


def get_task(name):
    """The Task of a name in any case, with or without hyphen (SST-2, sst2).

    UserError with all names for an unknown one.
    """
    keys = {key.replace("-", ""): key for key in TASKS}
    key = name.lower().replace("-", "")
    expect(key in keys, f"a task name among {', '.join(TASKS)}", repr(name), "choose one of these")
    return TASKS[keys[key]]
