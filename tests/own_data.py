"""A task of own files for tests: its rows, its files, and runs on it."""

import csv
import json
import random

from conftest import flags, sentence


def rows_of(number, seed, labels=("bad", "good"), share=1.0):
    """Rows of text and label; of some the label is empty."""
    rng = random.Random(seed)
    return [
        {"text": sentence(rng), "label": rng.choice(labels) if rng.random() < share else ""}
        for _ in range(number)
    ]


def write(path, rows):
    """A file of rows, by its ending."""
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
    """Own files in a folder, as flags that replace the tiny task's."""
    folder.mkdir(parents=True, exist_ok=True)
    train = write(folder / f"train{suffix}", rows_of(21, 0, share=share, **changes))
    dev = write(folder / f"dev{suffix}", rows_of(12, 1, **changes))
    return ["--train_file", train, "--validation_file", dev, "--task_name", "mood"]


def without_glue(words):
    """Flags of conftest without --data_dir and what follows it."""
    place = words.index("--data_dir")
    return [*words[:place], *words[place + 2 :]]


def run(script, tiny, output, *more, **options):
    return script.main(without_glue(flags(tiny, output, *more, **options)))


def classes_of(folder):
    return json.loads((folder / "config.json").read_text())["id2label"]
