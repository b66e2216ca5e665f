"""A task of the user's own files ("own files") for tests: its rows, its files, and runs on it."""

import csv
import json
import random

from conftest import flags, sentence


def rows_of(number, seed, labels=("bad", "good"), share=1.0):
    """A list of rows {"text", "label"}; about `share` of them have a label, the others "".

    number: of rows. labels: to draw from.
    """
    rng = random.Random(seed)
    return [
        {"text": sentence(rng), "label": rng.choice(labels) if rng.random() < share else ""}
        for _ in range(number)
    ]


def write(path, rows):
    """Write rows as JSON lines, CSV or TSV, by the file's ending; returns the path."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            kind = "excel" if path.suffix == ".csv" else "excel-tab"
            writer = csv.DictWriter(file, rows[0], dialect=kind)
            writer.writeheader()
            writer.writerows(rows)
    return path


def own(folder, suffix=".csv", share=1.0, **changes):
    """Write own files into a folder; returns the flags that name them, for runs on the tiny task.

    changes: of rows_of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = write(folder / f"train{suffix}", rows_of(21, 0, share=share, **changes))
    dev = write(folder / f"dev{suffix}", rows_of(12, 1, **changes))
    return ["--train_file", train, "--validation_file", dev, "--task_name", "mood"]


def without_glue(words):
    """A list of flags without --data_dir and its value."""
    place = words.index("--data_dir")
    return [*words[:place], *words[place + 2 :]]


def run(script, tiny, output, *more, **options):
    return script.main(without_glue(flags(tiny, output, *more, **options)))


def classes_of(folder):
    return json.loads((folder / "config.json").read_text())["id2label"]
