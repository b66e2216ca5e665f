"""The files of a GLUE submission: written by a run, checked and zipped."""

import re
import zipfile
from pathlib import Path

import numpy as np

from common import UserError, atomic_path
from tasks.glue import TASKS
from tasks.reading import parse_label, read_lines
from tasks.task import CORRECT, expect

UNWRITABLE = re.compile("[\t\n\r\ud800-\udfff]")  # in a cell of a .tsv


def write_submission(path, task, split, indices, predictions):
    """Write predictions (N,) for the rows of a test split, with the rows' indices (N,), to `path`.

    The format is GLUE's. Class indices become the task's words; scores are clipped to the task's
    range, and have three decimals in GLUE, else all digits of a float32. UserError if `path` has
    another file name than the task's, or check_indices refuses the rows.
    """
    name = task.submissions.get(split)
    expect(
        Path(path).name == name,
        f"the file name for the {split} split of {task.name}, {name}",
        path,
        "pass a test split and its file name",
    )
    if task.labels:
        words = [task.labels[prediction] for prediction in predictions]
    else:
        if task.scores:
            predictions = np.clip(predictions, *task.scores)
        words = [format(score, ".3f" if task.is_glue else ".9g") for score in predictions]
    check_indices(task, split, indices)
    rows = [f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True)]
    with atomic_path(path) as temporary:
        temporary.write_text("index\tprediction\n" + "".join(rows), encoding="utf-8", newline="\n")


def check_indices(task, split, indices):
    """Refuse a user's own test file whose rows cannot be told apart in the file of predictions.

    indices: those of the test file's first rows, in their order. Refused are an index that two rows
    share, and an index or class with a character that a tab-separated cell cannot hold.
    """
    if task.is_glue:
        return
    path, rows = task.files[split], {}
    for word in task.labels or ():
        expect(
            not UNWRITABLE.search(word),
            "classes without tabs and line ends, as predictions go into a .tsv",
            f"{word!r} among the labels",
            "rename it in the training file",
        )
    for number, index in enumerate(map(str, indices), start=1):
        expect(
            not UNWRITABLE.search(index),
            "an index or id without tabs and line ends, in UTF-8",
            f"{index!r} in {path}, row {number}",
            CORRECT,
        )
        first = rows.setdefault(index, number)
        expect(
            first == number,
            "an index or id that no other row has",
            f"{index!r} in {path}, row {first} and row {number}",
            "number the rows, or rename that column",
        )


def zip_submission(folders, zip_path):
    """Zip GLUE's eleven files of predictions; equal files give an equal zip.

    Each file is in one of the folders, or in its submission/. UserError with a sentence for every
    file that is missing, found twice, or has another header, number of rows, index or label than
    GLUE expects.
    """
    found, problems = {}, []
    for task in TASKS.values():
        for split, name in task.submissions.items():
            try:
                found[name] = _checked_submission(task, split, name, folders)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, path in found.items():  # ZipInfo is dated 1980: the content alone decides the zip
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)


def _checked_submission(task, split, name, folders):
    places = [
        place
        for folder in folders
        for place in (Path(folder, name), Path(folder, "submission", name))
    ]
    places = [place for place in places if place.is_file()]
    expect(
        len(places) == 1,
        f"{name} in exactly one of {', '.join(map(str, folders))}",
        ", ".join(map(str, places)) or "none",
        "name the folders that hold each file once",
    )
    path, advice = places[0], f"predict the whole official {split} split of {task.name}"
    header, *rows = read_lines(path) or [""]
    expect(
        header == "index\tprediction",
        "the header index<TAB>prediction",
        f"{header!r} in {path}",
        advice,
    )
    expect(
        len(rows) == task.rows[split], f"{task.rows[split]} rows", f"{len(rows)} in {path}", advice
    )
    for number, row in enumerate(rows):
        (index, _, word), where = row.partition("\t"), f"{path}, line {number + 2}"
        expect(index == str(number), f"the index {number}", f"{index!r} in {where}", advice)
        parse_label(task, word, where)
    return path
