"""The record of a run, for tests of the model card that is made from it."""

from tasks.glue import TASKS

MRPC = {"acc": 0.8161764705882353, "f1": 0.87, "eval_loss": 0.6}


def run_of(task="MRPC", results=MRPC, method="FSD_I", rows=None, **arguments):
    """The run.json of a finished run, a dict, scored on the dev sets.

    rows: for training. arguments: more of its flags.
    """
    known = TASKS.get(task.lower())
    dev = {split: rows for split, rows in known.rows.items() if "dev" in split} if known else {}
    arguments = {
        "task_name": task,
        "model_name_or_path": "/home/jane/teacher",
        "model_name_or_path_for_copy": "bert-base-uncased",
        "copy_teacher": True,
        "max_seq_length": 128,
        "alpha": 0.5,
        "temperature": 5.0,
        "beta": 4.0,
        "learning_rate": 5e-5,
        **arguments,
    }
    return {
        "command": "glue_with_cka_i.py --model_name_or_path /home/jane/teacher --beta 4",
        "commit": "abc",
        "uncommitted_changes": False,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": "A processor, 2 cores",
        "device": "cpu",
        "method": method,
        "seed": 3,
        "processes": 1,
        "precision": "no",
        "arguments": arguments,
        "data": {
            "train": {
                "file": "train.tsv",
                "sha256": "d" * 64,
                "rows": rows or (known.rows["train"] if known else 50),
            },
            **{split: {"file": f"{split}.tsv", "rows": number} for split, number in dev.items()},
        },
        "teacher": "e" * 64,
        "teacher_scores": {"file": "dev.tsv", "rows": 408, "acc": 0.84, "f1": 0.88},
        "steps": 345,
        "parameters": 66955010,
        "results": results,
        "finished": True,
    }
