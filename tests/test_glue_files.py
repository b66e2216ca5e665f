"""tasks/glue.py and tasks/reading.py: tasks' names and files, what is read, what is refused."""

import pytest
from glue_files import PAIR_LABEL, PAIRS, REAL_DATA, expect_error, put, real_file

from tasks.glue import TASKS, get_task
from tasks.reading import read_examples
from tasks.task import find_file

# ---- names and places ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, key",
    [
        ("SST-2", "sst-2"),
        ("sst2", "sst-2"),
        ("STSB", "sts-b"),
        ("wnli", "wnli"),
        ("CoLA", "cola"),
        ("AX", "ax"),
    ],
)
def test_task_names(name, key):
    assert get_task(name) is TASKS[key]


def test_unknown_task_lists_the_choices():
    with expect_error("cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli, ax", "'snli'"):
        get_task("snli")


def test_both_places_are_found_and_both_are_named(tmp_path):
    rte = get_task("rte")
    with expect_error(
        str(tmp_path / "RTE" / "dev.tsv"),
        str(tmp_path / "dev.tsv"),
        f"utils_glue.py download --data_dir {tmp_path} --tasks rte",
    ):
        find_file(rte, tmp_path, "dev")
    outside = put(tmp_path, "dev.tsv", PAIRS)
    assert find_file(rte, tmp_path, "dev") == outside
    inside = put(tmp_path, "RTE/dev.tsv", PAIRS)
    assert find_file(rte, tmp_path, "dev") == inside
    with expect_error("train, dev, test", "'dev_mm'"):
        find_file(rte, tmp_path, "dev_mm")


# ---- what is read --------------------------------------------------------------------------------


MNLI_SIDES = "\t".join(["n/a"] * 7)
MNLI_HEADER = "index\tp1\tp2\tgenre\tb1\tb2\ts1\ts2\tsentence1\tsentence2\tlabel1\tgold_label\n"
MNLI_DEV = MNLI_HEADER.replace("label1", "label1\tlabel2")
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
READABLE = {  # id -> (task, split, file, content, expected examples)
    "cola without header": (
        "cola",
        "train",
        "train.tsv",
        "gj04\t1\t\tA b.\ngj04\t0\t*\tB a.\n",
        [("0", "A b.", None, 1), ("1", "B a.", None, 0)],
    ),
    "cola test with header": (
        "cola",
        "test",
        "test.tsv",
        "index\tsentence\n0\tA b.\n",
        [("0", "A b.", None, None)],
    ),
    "no final newline": (
        "cola",
        "dev",
        "dev.tsv",
        "gj04\t1\t\tA\ngj04\t1\t\tB",
        [("0", "A", None, 1), ("1", "B", None, 1)],
    ),
    "byte order mark": (
        "mrpc",
        "dev",
        "dev.tsv",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tx\ty\n",
        [("0", "x", "y", 1)],
    ),
    "quotes": (
        "sst-2",
        "dev",
        "dev.tsv",
        'sentence\tlabel\n" a ""b\t1\n\'c"\t0\n',
        [("0", '" a ""b', None, 1), ("1", "'c\"", None, 0)],
    ),
    "carriage returns": (
        "wnli",
        "dev",
        "dev.tsv",
        f"{PAIR_LABEL}\r\n3\ta\tb\t1\r\n",
        [("3", "a", "b", 1)],
    ),
    "only newlines end rows": (
        "sst-2",
        "train",
        "train.tsv",
        "sentence\tlabel\na\x85b\u2028c\x0bd\t1\ne\rf\t0\n",
        [("0", "a\x85b\u2028c\x0bd", None, 1), ("1", "e\rf", None, 0)],
    ),
    "scores": (
        "sts-b",
        "dev",
        "dev.tsv",
        "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.800\n1\ta\tb\t5\n",
        [("0", "a", "b", 3.8), ("1", "a", "b", 5.0)],
    ),
    "mnli with extra rows": (
        "mnli",
        "train",
        "train.tsv",
        MNLI_HEADER
        + "40\t1\t1e\ttravel\t(\t(\t(\t(\ta\tb\tneutral\tneutral\n"
        + f"1000000\t{MNLI_SIDES}\tc\td\tn/a\tcontradiction\n",
        [("40", "a", "b", 2), ("1000000", "c", "d", 0)],
    ),
    "mnli matched": (
        "mnli",
        "dev",
        "dev_matched.tsv",
        f"{MNLI_DEV}5\t{MNLI_SIDES}\ta\tb\tneutral\tneutral\tentailment\n",
        [("5", "a", "b", 1)],
    ),
    "mnli mismatched": (
        "mnli",
        "dev_mm",
        "dev_mismatched.tsv",
        f"{MNLI_DEV}6\t{MNLI_SIDES}\tc\td\tentailment\tneutral\tneutral\n",
        [("6", "c", "d", 2)],
    ),
    "qqp": ("qqp", "train", "train.tsv", f"{QQP}\n9\tn/a\tn/a\ta\tb\t1\n", [("9", "a", "b", 1)]),
    "qqp test": (
        "qqp",
        "test",
        "test.tsv",
        "id\tquestion1\tquestion2\n0\ta\tb\n",
        [("0", "a", "b", None)],
    ),
    "qnli": (
        "qnli",
        "dev",
        "dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\ta\tb\tnot_entailment\n",
        [("0", "a", "b", 1)],
    ),
    "ax": (
        "ax",
        "test",
        "diagnostic.tsv",
        "index\tsentence1\tsentence2\n0\ta\tb",
        [("0", "a", "b", None)],
    ),
}


@pytest.mark.parametrize("task, split, file, content, expected", READABLE.values(), ids=READABLE)
def test_reading(tmp_path, task, split, file, content, expected):
    task = get_task(task)
    put(tmp_path, f"{task.folder}/{file}", content)
    assert [tuple(example) for example in read_examples(task, tmp_path, split)] == expected


# ---- what is refused -----------------------------------------------------------------------------


HEADER = f"{PAIR_LABEL}\n"
UNREADABLE = {  # id -> (task, content, parts of the error)
    "columns": (
        "rte",
        f"{HEADER}0\ta\tb\tentailment\n1\tb\tentailment\n",
        ["4 columns", "found 3", "line 3"],
    ),
    "blank line": ("rte", f"{HEADER}\n0\ta\tb\tentailment\n", ["4 columns", "found 1", "line 2"]),
    "empty text": (
        "rte",
        f"{HEADER}0\t \t\tentailment\n",
        ["sentence1 or sentence2", "none", "line 2"],
    ),
    "label": (
        "rte",
        f"{HEADER}0\ta\tb\tneutral\n",
        ["entailment, not_entailment", "'neutral'", "line 2"],
    ),
    "second header": ("rte", PAIRS + HEADER, ["'label'", "line 4"]),
    "not utf-8": (
        "rte",
        f"{HEADER}0\ta\tb\tentailment\n".encode() + b"1\t\xe9\n",
        ["UTF-8", "0xe9", "line 3"],
    ),
    "empty file": ("rte", "", ["rows", "none"]),
    "header alone": ("rte", HEADER, ["rows", "none"]),
    "empty cola": ("cola", "", ["rows", "none"]),
    "missing column": (
        "rte",
        "index\tsentence1\tlabel\n0\ta\tentailment\n",
        ["no sentence2", "line 1"],
    ),
    "test file as dev": ("rte", "index\tsentence1\tsentence2\n0\ta\tb\n", ["no label", "line 1"]),
    "high score": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\t5.1\n",
        ["0 to 5", "'5.1'", "line 2"],
    ),
    "low score": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\t-0.1\n",
        ["0 to 5", "'-0.1'", "line 2"],
    ),
    "score nan": (
        "sts-b",
        "sentence1\tsentence2\tscore\na\tb\tnan\n",
        ["0 to 5", "'nan'", "line 2"],
    ),
    "no score": ("sts-b", "sentence1\tsentence2\tscore\na\tb\tx\n", ["0 to 5", "'x'", "line 2"]),
    "cola label": ("cola", "gj04\t1\t\ta\ngj04\t2\t\tb\n", ["0, 1", "'2'", "line 2"]),
}


@pytest.mark.parametrize("task, content, parts", UNREADABLE.values(), ids=UNREADABLE)
def test_faulty_files(tmp_path, task, content, parts):
    path = put(tmp_path, "dev.tsv", content)
    with expect_error(str(path), *parts):
        read_examples(get_task(task), tmp_path, "dev")


# ---- the official files --------------------------------------------------------------------------


EXTRACTS = {  # rows of an extract of the large tasks that will do in place of all of them
    "QQP": {"train": 32946, "dev": 1000},
    "QNLI": {"train": 9833, "dev": 5463, "test": 5463},
    "MNLI": {"train": 15130, "dev": 9815, "dev_mm": 1000},
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_real_files(task):
    """Every official file reads with the table's number of rows, an extract with its own."""
    extract = EXTRACTS.get(task.name, {})
    for split in extract or task.rows:
        real_file(task, split)
        examples = read_examples(task, REAL_DATA, split)
        rows = len(examples)
        assert rows in (task.rows[split], extract.get(split))
        if split in task.submissions:
            assert [example.index for example in examples] == [
                str(number) for number in range(rows)
            ]
        elif task.labels:
            assert {example.label for example in examples} == set(range(len(task.labels)))
