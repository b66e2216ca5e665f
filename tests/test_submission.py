"""tasks/submission.py: the leaderboard's files, and the zip of all eleven."""

import zipfile

import numpy as np
import pytest
from glue_files import expect_error, put

import utils_glue
from common import UserError, cli
from tasks.glue import TASKS, get_task
from tasks.reading import read_table
from tasks.submission import check_indices, write_submission, zip_submission
from tasks.task import Task

MOOD = {"test": "mood.tsv"}

# ---- one file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, split, file, predictions, words",
    [
        ("mnli", "test_mm", "MNLI-mm.tsv", [2, 0, 1], ["neutral", "contradiction", "entailment"]),
        ("rte", "test", "RTE.tsv", [1, 0], ["not_entailment", "entailment"]),
        ("qqp", "test", "QQP.tsv", [1, 0], ["1", "0"]),
        ("sts-b", "test", "STS-B.tsv", [5.2, -0.1, 2.34567], ["5.000", "0.000", "2.346"]),
    ],
)
def test_submission_files(tmp_path, name, split, file, predictions, words):
    indices = [str(number) for number in range(len(words))]
    write_submission(tmp_path / "new" / file, get_task(name), split, indices, np.array(predictions))
    rows = [f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True)]
    assert (tmp_path / "new" / file).read_bytes().decode() == "index\tprediction\n" + "".join(rows)


def test_submission_file_names(tmp_path):
    for split, name in (("test", "RTE-test.tsv"), ("dev", "RTE.tsv")):
        with expect_error(split, "RTE"):
            write_submission(tmp_path / name, get_task("rte"), split, ["0"], [0])
    assert list(tmp_path.iterdir()) == []


def own_task(path, labels=("bad", "good")):
    """A task of one's own with a test file alone."""
    return Task("mood", {"test": path}, ("text",), None, labels, (), submissions=MOOD, partial=True)


@pytest.mark.parametrize(
    "ids, said",
    [
        (["a", "b\nc"], r"'b\\nc' in .*test.csv, row 2; correct that row"),
        (["a\tb"], r"'a\\tb' in .*test.csv, row 1; correct that row"),
        (["a\rb"], "row 1; correct that row"),
        (["\ud800"], "in UTF-8, found .* row 1; correct that row"),
        (["7", "8", "7"], r"'7' in .*test.csv, row 1 and row 3; number the rows"),
    ],
)
def test_own_ids_that_would_not_read_back_are_refused(tmp_path, ids, said):
    """Before the run trains, and before the file is written."""
    task, rows = own_task(tmp_path / "test.csv"), [{"text": "a dog", "id": one} for one in ids]
    for check in (
        lambda: check_indices(task, "test", ids),
        lambda: write_submission(tmp_path / "mood.tsv", task, "test", ids, [0] * len(rows)),
    ):
        with pytest.raises(UserError, match=said):
            check()
    assert not (tmp_path / "mood.tsv").exists()


def test_a_class_that_would_not_read_back_is_refused(tmp_path):
    task = own_task(tmp_path / "test.csv", ("bad", "go\nod"))
    with pytest.raises(UserError, match=r"found 'go\\nod' among the labels"):
        write_submission(tmp_path / "mood.tsv", task, "test", ["0"], [0])


def test_own_ids_read_back(tmp_path):
    ids = ["", "a,b", 'a "b"', " é ", "\u0085", "a\x0bb"]
    task = own_task(tmp_path / "test.csv")
    write_submission(tmp_path / "mood.tsv", task, "test", ids, [0, 1, 0, 1, 0, 1])
    table = read_table(tmp_path / "mood.tsv")
    found = [(row["index"], row["prediction"]) for _, row in table.rows]
    assert found == list(zip(ids, ["bad", "good"] * 3, strict=True))


# ---- the zip -------------------------------------------------------------------------------------


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """Two folders with all eleven files, for official splits cut down to three rows."""
    for number, (key, task) in enumerate(list(TASKS.items())):
        monkeypatch.setitem(TASKS, key, task._replace(rows=dict.fromkeys(task.rows, 3)))
        for split, name in task.submissions.items():
            folder = tmp_path / "one" if number % 2 else tmp_path / "two" / "submission"
            write_submission(folder / name, task, split, range(3), [0, 1, 0])
    return [tmp_path / "one", tmp_path / "two"]


def test_zip_of_all_eleven(submission, tmp_path, capsys):
    args = ["submit", *map(str, submission), "--output", str(tmp_path / "a.zip")]
    assert cli(utils_glue.main, args) == 0 and "a.zip" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(archive.namelist()) == {
            "CoLA.tsv",
            "SST-2.tsv",
            "MRPC.tsv",
            "STS-B.tsv",
            "QQP.tsv",
            "MNLI-m.tsv",
            "MNLI-mm.tsv",
            "QNLI.tsv",
            "RTE.tsv",
            "WNLI.tsv",
            "AX.tsv",
        }
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}, (
            "the clock is in the zip"
        )
        rows = ["index\tprediction", "0\tcontradiction", "1\tentailment", "2\tcontradiction", ""]
        assert archive.read("AX.tsv").decode().split("\n") == rows
    for path in tmp_path.rglob("*.tsv"):
        path.touch()
    zip_submission(submission[::-1], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


BROKEN = {  # id -> (new content of one/WNLI.tsv, parts of the error)
    "header": ("id\tprediction\n0\t0\n1\t1\n2\t0\n", ["header", "id.tprediction"]),
    "count": ("index\tprediction\n0\t0\n1\t1\n", ["3 rows", "found 2"]),
    "word": ("index\tprediction\n0\t0\n1\tentailment\n2\t0\n", ["0, 1", "'entailment'", "line 3"]),
    "index": ("index\tprediction\n0\t0\n2\t1\n1\t0\n", ["index 1", "found '2'", "line 3"]),
    "empty": ("", ["header", "''"]),
}


@pytest.mark.parametrize("content, parts", BROKEN.values(), ids=BROKEN)
def test_broken_submission_files(submission, tmp_path, content, parts):
    path = next(tmp_path.rglob("WNLI.tsv"))
    path.write_text(content)
    with expect_error(str(path), *parts):
        zip_submission(submission, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_every_problem_is_named(submission, tmp_path):
    next(tmp_path.rglob("QNLI.tsv")).unlink()
    scores = next(tmp_path.rglob("STS-B.tsv"))
    scores.write_text("index\tprediction\n0\t1\n1\t6\n2\t0\n")
    put(tmp_path / "one", "submission/AX.tsv", "")
    put(tmp_path / "one", "AX.tsv", "")
    with pytest.raises(UserError) as caught:
        zip_submission(submission, tmp_path / "a.zip")
    problems = str(caught.value).split("\n")
    assert (
        [
            "STS-B" in problems[0] and "'6'" in problems[0],
            "QNLI.tsv in exactly one of" in problems[1],
            "AX.tsv in exactly one of" in problems[2],
        ]
        == [True] * 3
        == [True] * len(problems)
    )
