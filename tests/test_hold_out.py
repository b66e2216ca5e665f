"""scripts/hold_out.py: every row of a training set is in one of two parts."""

from collections import Counter

import pytest
from conftest import shell, write_task

from common import UserError
from scripts import hold_out
from tasks.glue import get_task
from tasks.reading import read_examples


def test_every_row_is_in_one_of_the_two_parts(tmp_path):
    data = write_task(tmp_path / "glue", rows=(40, 12, 5))
    done = shell(
        "scripts/hold_out.py",
        "--data_dir",
        data,
        "--tasks",
        "rte",
        "--fraction",
        0.2,
        "--output_dir",
        tmp_path / "held",
    )
    assert done.returncode == 0 and "32 rows to train on, 8 held out" in done.stderr
    lines = (data / "RTE/train.tsv").read_bytes().splitlines(keepends=True)
    parts = {
        name: (tmp_path / f"held/RTE/{name}.tsv").read_bytes().splitlines(keepends=True)
        for name in ("train", "dev")
    }
    assert parts["train"][0] == parts["dev"][0] == lines[0]
    assert Counter(parts["train"][1:] + parts["dev"][1:]) == Counter(lines[1:])
    assert parts["train"][1:] == [line for line in lines[1:] if line in set(parts["train"])]
    assert len(read_examples(get_task("rte"), tmp_path / "held", "dev")) == 8
    before = parts["dev"]
    for seed in (0, 1):  # the seed decides
        hold_out.main(
            [
                "--data_dir",
                str(data),
                "--tasks",
                "rte",
                "--fraction",
                "0.2",
                "--seed",
                str(seed),
                "--output_dir",
                str(tmp_path / f"seed{seed}"),
            ]
        )
        again = (tmp_path / f"seed{seed}/RTE/dev.tsv").read_bytes().splitlines(keepends=True)
        assert (again == before) == (seed == 0)


def test_files_without_header_bom_and_two_dev_sets(tmp_path):
    """CoLA's files have no header, MRPC's begin with a byte-order mark in the wild, MNLI has two
    dev sets.
    """
    for task, text in (
        ("CoLA", "".join(f"s\t{i % 2}\t\tsentence {i}\n" for i in range(10))),
        (
            "MRPC",
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
            + "".join(f"{i % 2}\t1\t2\ta {i}\tb\r\n" for i in range(10)),
        ),
        (
            "MNLI",
            "index\tgenre\tsentence1\tsentence2\tgold_label\n"
            + "".join(f"{i}\tg\ta {i}\tb\tneutral\n" for i in range(10)),
        ),
    ):
        (tmp_path / task).mkdir()
        (tmp_path / task / "train.tsv").write_bytes(text.encode())
        hold_out.main(
            [
                "--data_dir",
                str(tmp_path),
                "--tasks",
                task,
                "--fraction",
                "0.25",
                "--output_dir",
                str(tmp_path / "held"),
            ]
        )
        found = get_task(task)
        for split, rows in ("train", 7), ("dev", 3):
            assert len(read_examples(found, tmp_path / "held", split)) == rows
    assert (tmp_path / "held/MNLI/dev_matched.tsv").read_bytes() == (
        tmp_path / "held/MNLI/dev_mismatched.tsv"
    ).read_bytes()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--fraction", "1"], "between 0 and 1"),
        (["--fraction", "0.99"], "leaves none to train on"),
        (["--tasks", "rted"], "a task name"),
        (["--output_dir", "DATA"], "would be overwritten"),
    ],
)
def test_refusals(tmp_path, more, said):
    data = write_task(tmp_path / "glue")
    more = [str(data) if word == "DATA" else word for word in more]
    with pytest.raises(UserError, match=said):
        hold_out.main(
            [
                "--data_dir",
                str(data),
                "--tasks",
                "rte",
                "--output_dir",
                str(tmp_path / "held"),
                *more,
            ]
        )
