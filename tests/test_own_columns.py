"""What is read of own files: columns of two names, ids, halves of characters, quotes, the end."""

import json

import numpy as np
import pytest
from own_data import classes_of, own, rows_of, run, write

import glue_with_cka_i
import train_teacher
from common import UserError
from tasks.reading import read_examples, read_table
from tasks.submission import write_submission
from tasks.task import Task

ROWS = rows_of(21, 0)


def examples_of(path, **changes):
    """The Examples of a file as a test split."""
    more = {"submissions": {"test": "x.tsv"}, "partial": True} | changes
    task = Task("x", {"test": path, "train": path}, ("text",), "label", ("a", "b"), (), **more)
    return read_examples(task, None, "test")


def train(tiny, folder, *more):
    return run(train_teacher, tiny, folder, *more, "--max_steps", 1, teacher=True)


# ---- label columns -------------------------------------------------------------------------------


def test_a_label_column_of_a_flag_may_be_the_validation_files_alone(tiny, tmp_path, capsys):
    files = own(tmp_path / "data")
    train(tiny, tmp_path / "t", *files)
    write(files[1], [{"text": row["text"]} for row in ROWS])
    write(files[3], [{"text": row["text"], "y": row["label"]} for row in rows_of(12, 1)])
    model = ["--model_name_or_path", tmp_path / "t", "--max_steps", 1, "--label_column_name", "y"]
    capsys.readouterr()
    assert run(glue_with_cka_i, tiny, tmp_path / "s", *files, *model) == 0
    said = capsys.readouterr().err
    assert "train.csv has no labels: no column y, only text" in said and "α is 0" in said
    with pytest.raises(UserError, match=r"--label_column_name is z, but .*train.csv has the"):
        run(glue_with_cka_i, tiny, tmp_path / "n", *files, *model[:-1], "z")


@pytest.mark.parametrize(
    "names, more, said",
    [
        (("score", "label"), ["--do_regression"], "column score of .*train.csv, but in label of"),
        (("label", "score"), ["--do_regression"], "column score of .*dev.csv, but in label of"),
        (("label", "y"), ["--label_column_name", "y"], "column label of .*train.csv, but in y of"),
    ],
)
def test_labels_in_columns_of_two_names_are_refused(names, more, said, tiny, tmp_path):
    """They are not taken for rows without a label."""
    files = own(tmp_path / "data")
    for path, name in zip((files[1], files[3]), names, strict=True):
        write(path, [{"text": row["text"], name: f"{k / 7:.3f}"} for k, row in enumerate(ROWS)])
    with pytest.raises(UserError, match=f"{said} .*: give them one name in all files"):
        train(tiny, tmp_path / "t", *files, *more)


def test_spaces_in_a_tsvs_header_do_not_count(tmp_path):
    (tmp_path / "x.tsv").write_text("text \t label\na\tb\n")
    assert read_table(tmp_path / "x.tsv").columns == ["text", "label"]


# ---- quotes behind a space -----------------------------------------------------------------------


def test_spaces_behind_all_commas_are_no_part_of_the_cells(tiny, tmp_path):
    """As some write a table: the header shows it."""
    lines = ['"text", "label"', *(f'"{row["text"]}, he said", "{row["label"]}"' for row in ROWS)]
    files = own(tmp_path / "data")
    files[1].write_text("\n".join(lines) + "\n")
    rows = read_table(files[1]).rows
    assert [row for _, row in rows] == [dict(row, text=f"{row['text']}, he said") for row in ROWS]
    train(tiny, tmp_path / "t", *files)
    assert classes_of(tmp_path / "t") == {"0": "bad", "1": "good"}


def test_a_quote_behind_a_space_is_refused_where_the_header_has_no_space(tmp_path):
    (tmp_path / "x.csv").write_text('text,label\n"a","b"\n"a", "b"\n')
    with pytest.raises(UserError, match=r"right behind the comma, found spaces .*x.csv, line 3"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize("cell", [' "so" it is', ' "so"', "so, ", ', "'])
def test_spaces_and_quotes_within_quotes_are_text(cell, tmp_path):
    path = write(tmp_path / "x.csv", [{"text": cell, "label": "a"}])
    assert [row for _, row in read_table(path).rows] == [{"text": cell, "label": "a"}]


# ---- lines ---------------------------------------------------------------------------------------


def test_blank_lines_at_the_end_of_a_tsv_are_no_rows(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\r\na dog\tb\r\n\r\n\n")
    assert len(read_table(tmp_path / "x.tsv").rows) == 1
    (tmp_path / "x.tsv").write_text("text\tlabel\na dog\tb\n\na cat\tb\n")
    with pytest.raises(UserError, match=r"2 columns, found 1 in .*x.tsv, line 3"):
        read_table(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").write_text("\n\n")
    assert read_table(tmp_path / "x.tsv") == ([], [])


@pytest.mark.parametrize("column", ["text", "label", "id", "other"])
def test_half_a_character_stops_a_run_before_it_trains(column, tiny, tmp_path):
    """JSON can say one, UTF-8 cannot: an emoji that was cut."""
    files, bad = own(tmp_path / "data", ".jsonl"), ROWS[0] | {"id": 1} | {column: "so \ud83d"}
    files[1].write_text(files[1].read_text() + json.dumps(bad) + "\n")
    with pytest.raises(UserError, match=r"whole characters, found \\ud83d, .*train.jsonl, line 22"):
        train(tiny, tmp_path / "t", *files)
    assert not (tmp_path / "t/model.safetensors").exists()


def test_both_halves_of_a_character_are_one(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "so \U0001f600", "id": "\\ud83d"}) + "\n")
    assert examples_of(path)[0][:2] == ("\\ud83d", "so \U0001f600")


def test_json_without_an_end_is_one_sentence(tmp_path):
    (tmp_path / "x.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"a JSON object on each line, .*x.jsonl, line 1"):
        read_table(tmp_path / "x.jsonl")


# ---- what is predicted ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [None, "", float("nan")])
def test_an_empty_index_is_none(cell, tmp_path):
    """The row has its id, or its place."""
    path = tmp_path / "x.jsonl"
    rows = [{"index": cell, "id": "r0"}, {"index": cell, "id": None}, {"index": 0, "id": "r2"}]
    path.write_text("".join(json.dumps({"text": "a", **row}) + "\n" for row in rows))
    assert [example.index for example in examples_of(path)] == ["r0", "1", "0"]


def test_predicted_scores_have_all_their_digits(tmp_path):
    """Three decimals are GLUE's, whose one regression has scores from 0 to 5."""
    scores = np.array([1 / 70000, -123456.789, 0.5], dtype=np.float32)
    task = Task("x", {"test": "x.csv"}, ("text",), None, None, (), submissions={"test": "x.tsv"})
    write_submission(tmp_path / "x.tsv", task, "test", range(3), scores)
    found = [row["prediction"] for _, row in read_table(tmp_path / "x.tsv").rows]
    assert (np.array(found, dtype=np.float32) == scores).all() and found[2] == "0.5"


@pytest.mark.parametrize("name", ["x" * 101, "é" * 51])
def test_a_long_name_of_a_task_is_refused(name, tiny, tmp_path):
    files = own(tmp_path / "data")[:4]
    with pytest.raises(UserError, match=r"has 10[12] bytes: take a name of at most 100"):
        train(tiny, tmp_path / "t", *files, "--task_name", name)
    assert train(tiny, tmp_path / "t", *files, "--task_name", name[:50]) == 0
