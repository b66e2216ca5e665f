"""A finished run that is evaluated again: how it is read, and what then says the new scores."""

import json

import pandas as pd
import pytest
from conftest import flags
from own_data import own, rows_of, run, without_glue, write

import glue_with_cka_i
import train_teacher
from analysis import report, table
from analysis.runs import read_runs
from common import UserError


def without(words, *left_out):
    return [word for word in words if word not in left_out]


def evaluate(tiny, folder, *more):
    """Evaluate a folder alone, with own files among `more`."""
    words = without_glue(flags(tiny, folder, *more, teacher=True))
    train_teacher.main(without(words, "--do_train"))
    return read(folder / "eval_results.json")


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def not_evaluated(tiny, tmp_path):
    """(the own files' flags, a finished run without --do_eval, its table)."""
    files, rows = own(tmp_path / "data"), tmp_path / "r.csv"
    words = without_glue(
        flags(tiny, tmp_path / "t", *files, "--results_csv", rows, "--max_steps", 2, teacher=True)
    )
    train_teacher.main(without(words, "--do_eval"))
    return files, tmp_path / "t", rows


# ---- what follows --------------------------------------------------------------------------------


def test_a_run_that_was_not_evaluated_does_not_spoil_its_table(not_evaluated, tiny, tmp_path):
    files, folder, rows = not_evaluated
    run(train_teacher, tiny, tmp_path / "u", *files, "--results_csv", rows, teacher=True)
    assert read_runs(rows).task.tolist() == ["mood"] * 2
    assert read_runs(folder.parent).task.tolist() == ["mood"] * 2


def test_record_card_and_row_follow(not_evaluated, tiny, tmp_path):
    files, folder, rows = not_evaluated
    assert "The run was not evaluated." in (folder / "README.md").read_text()
    before = read(folder / "run.json")
    found = evaluate(tiny, folder, *files, "--results_csv", rows)
    after = read(folder / "run.json")
    assert after["results"] == {name: found[name] for name in ("acc", "f1_macro", "eval_loss")}
    assert after["data"]["dev"]["file"] == "dev.csv" and after["finished"]
    assert {k: after[k] for k in ("command", "started", "settings")} == {
        k: before[k] for k in ("command", "started", "settings")
    }
    assert f"| {found['acc']:.4f} |" in (folder / "README.md").read_text()
    (row,) = pd.read_csv(rows).to_dict("records")
    assert row["acc"] == found["acc"] and row["dev_data"]
    table.main([str(folder.parent)])


def test_other_rows_are_other_scores(not_evaluated, tiny, tmp_path):
    """A corrected dev file: what the record says is of the file that it names."""
    files, folder, _ = not_evaluated
    evaluate(tiny, folder, *files)
    first = read(folder / "run.json")
    other = write(tmp_path / "other.csv", rows_of(9, 5))
    found = evaluate(tiny, folder, *files, "--validation_file", other, "--max_eval_samples", 7)
    record = read(folder / "run.json")
    assert record["results"]["eval_loss"] == found["eval_loss"]
    assert record["results"]["eval_loss"] != first["results"]["eval_loss"]
    assert record["data"]["dev"]["file"] == "other.csv"
    assert record["arguments"]["max_eval_samples"] == 7
    assert record["arguments"]["validation_file"] == str(other)


def test_scores_at_another_length_are_not_the_runs(not_evaluated, tiny, capsys):
    files, folder, _ = not_evaluated
    before = read(folder / "run.json")
    evaluate(tiny, folder, *files, "--max_seq_length", 12)
    assert read(folder / "run.json") == before
    assert "keeps the scores of before" in capsys.readouterr().err


def test_scores_on_another_task_are_not_the_runs(not_evaluated, tiny, tmp_path, capsys):
    """As of a model that is tried on the rows of a like task: its row would say the wrong one."""
    files, folder, rows = not_evaluated
    before, table_before = read(folder / "run.json"), rows.read_text()
    evaluate(tiny, folder, *files, "--task_name", "humour", "--results_csv", rows)
    assert read(folder / "run.json") == before and rows.read_text() == table_before
    assert "keeps the scores of before" in capsys.readouterr().err


def test_a_row_without_a_run_is_refused(tiny, tmp_path):
    words = flags(tiny, tiny / "teacher", "--results_csv", tmp_path / "r.csv", teacher=True)
    with pytest.raises(
        UserError, match=r"--results_csv gets the row of a finished run, and .* has no"
    ):
        train_teacher.main(without(words, "--do_train"))


# ---- how it is read ------------------------------------------------------------------------------


def columns_file(path, seed=0):
    """Rows with two texts and two labels, under usual names and others."""
    rows = [
        {"text": one["text"], "other": two["text"], "label": one["label"], "mark": two["label"]}
        for one, two in zip(rows_of(21, seed), rows_of(21, seed + 9), strict=True)
    ]
    return write(path, rows)


@pytest.fixture
def of_other_columns(tiny, tmp_path):
    """(the files' flags, a model trained on the columns other and mark)."""
    file = columns_file(tmp_path / "rows.csv")
    files = ["--train_file", file, "--validation_file", file, "--task_name", "two"]
    named = ["--text_column_names", "other", "--label_column_name", "mark"]
    run(train_teacher, tiny, tmp_path / "t", *files, *named, teacher=True)
    return files, tmp_path / "t"


def test_a_model_reads_the_columns_that_it_learned(of_other_columns, tiny):
    files, folder = of_other_columns
    trained = read(folder / "run.json")
    assert trained["data"]["train"]["text_columns"] == ["other"]
    assert trained["data"]["train"]["label_column"] == "mark"
    assert evaluate(tiny, folder, *files)["eval_loss"] == trained["results"]["eval_loss"]


def test_other_columns_are_told_and_are_no_scores_of_the_run(of_other_columns, tiny, capsys):
    files, folder = of_other_columns
    trained = read(folder / "run.json")
    found = evaluate(tiny, folder, *files, "--text_column_names", "text")
    assert found["eval_loss"] != trained["results"]["eval_loss"]
    assert "was trained on the columns other, and reads text now" in capsys.readouterr().err
    assert read(folder / "run.json") == trained


def test_other_labels_are_told_and_are_no_scores_of_the_run(of_other_columns, tiny, capsys):
    files, folder = of_other_columns
    trained = read(folder / "run.json")
    found = evaluate(tiny, folder, *files, "--label_column_name", "label")
    assert found["eval_loss"] != trained["results"]["eval_loss"]
    said = "was trained on the labels in the column mark, and is scored on those in label now"
    assert said in capsys.readouterr().err
    assert read(folder / "run.json") == trained


def test_a_task_without_labels_scores_nothing(tiny, tmp_path):
    """GLUE's diagnostic set: the scores that a model has would be emptied."""
    words = flags(tiny, tmp_path / "t", "--task_name", "AX", teacher=True)
    with pytest.raises(UserError, match="AX has no rows with labels to score a model on"):
        train_teacher.main(without(words, "--do_train"))


def test_two_texts_for_a_model_of_one_are_refused(of_other_columns, tiny):
    files, folder = of_other_columns
    with pytest.raises(UserError, match="on the columns other, and would read text and other"):
        evaluate(tiny, folder, *files, "--text_column_names", "text,other")


@pytest.mark.slow
def test_a_report_reads_the_columns_of_its_students(of_other_columns, tiny, tmp_path):
    files, teacher = of_other_columns
    named = ["--text_column_names", "other", "--label_column_name", "mark"]
    words = ["--model_name_or_path", teacher, "--max_steps", 2]
    run(glue_with_cka_i, tiny, tmp_path / "s", *files, *words, *named)
    words = [*words[:2], *files, "--students", tmp_path / "s", "--max_seq_length", 24]
    report.main([str(word) for word in (*words, "--output_dir", tmp_path / "report")])
    (found,) = pd.read_csv(tmp_path / "report" / "restoration.csv").to_dict("records")
    trained = read(tmp_path / "s" / "run.json")["results"]
    for name in ("acc", "f1_macro"):
        assert found[f"score_{name}"] == pytest.approx(trained[name])


def test_a_card_reads_as_many_texts_as_the_model(tiny, tmp_path):
    rows = [
        {"premise": row["text"], "hypothesis": "a", "label": row["label"]} for row in rows_of(21, 0)
    ]
    file = write(tmp_path / "pairs.csv", rows)
    run(train_teacher, tiny, tmp_path / "t", "--train_file", file, "--validation_file", file,
        "--task_name", "nli", "--max_steps", 1, teacher=True)  # fmt: skip
    assert 'tokenizer("the premise", "the hypothesis", ' in (tmp_path / "t/README.md").read_text()


# ---- caches of some rows ------------------------------------------------------------


@pytest.mark.slow
def test_a_teachers_scores_are_of_the_rows_that_have_labels(tiny, tmp_path):
    """Two annotators have labelled other rows of one file; the teacher's logits are of each's."""
    rows = [
        {"text": row["text"], "one": row["label"] * (i < 10), "two": row["label"] * (i >= 10)}
        for i, row in enumerate(rows_of(20, 0))
    ]
    file = write(tmp_path / "rows.csv", rows)
    files = ["--train_file", file, "--task_name", "marks"]
    teacher = ["--model_name_or_path", tmp_path / "t"]
    words = flags(tiny, tmp_path / "t", *files, "--label_column_name", "one", teacher=True)
    train_teacher.main(without(without_glue(words), "--do_eval"))

    def scores(output, column, *more):
        named = ["--label_column_name", column, "--max_steps", 1]
        words = without_glue(flags(tiny, tmp_path / output, *files, *teacher, *named, *more))
        glue_with_cka_i.main(without(words, "--do_eval"))
        return read(tmp_path / output / "run.json")["teacher_scores"]

    shared = ["--cache_dir", tmp_path / "shared"]
    scores("one", "one", *shared)
    found = scores("two", "two", *shared)
    assert found == scores("fresh", "two", "--cache_dir", tmp_path / "cache")
    assert len(list((tmp_path / "shared").glob("marks_logits_*"))) == 2  # also where scores agree


def test_two_label_columns_of_a_file_have_a_cache_each(tiny, tmp_path):
    """Runs at the same time do not take turns in one file."""
    file = columns_file(tmp_path / "rows.csv")
    files = ["--train_file", file, "--task_name", "two", "--cache_dir", tmp_path / "cache"]
    for column in ("label", "mark"):
        words = flags(tiny, tmp_path / column, *files, "--label_column_name", column,
                      "--max_steps", 1, teacher=True)  # fmt: skip
        train_teacher.main(without(without_glue(words), "--do_eval"))
    assert len(list((tmp_path / "cache").glob("two_train_24_*.safetensors"))) == 2
