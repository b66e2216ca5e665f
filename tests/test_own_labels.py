"""Whose classes the labels of own files are: numbers, accents, words for nothing, a memory's."""

import json

import pandas as pd
import pytest
import transformers
from conftest import memory_flags
from own_data import classes_of, own, rows_of, run, without_glue, write

import glue_with_cka_i
import train_memory
import train_teacher
from common import UserError
from tasks.own import choose_classes

PLACE = ["train.csv, line 2"]
FIVE = [f"LABEL_{k}" for k in range(5)]
RATINGS = tuple("12345")
NFC, NFD = "caf\u00e9", "cafe\u0301"


def choose(labels, words, bound=True):
    return choose_classes(dict.fromkeys(labels.split(), PLACE), words, bound)


def memory_of(tiny, folder, *more):
    words = without_glue(memory_flags(tiny, folder, *more))
    return train_memory.main([word for word in words if word != "--do_eval"])


def unname(model):
    """Take a model's words for its classes away: LABEL_0, LABEL_1, ... as most on the hub have."""
    config = transformers.AutoConfig.from_pretrained(model)
    config.id2label = {k: f"LABEL_{k}" for k in range(config.num_labels)}
    config.save_pretrained(model)


@pytest.fixture(scope="module")
def good_or_bad(tiny, tmp_path_factory):
    """(own files' flags, the folder of a teacher of bad and good)."""
    folder = tmp_path_factory.mktemp("mood")
    files = own(folder / "data")
    run(train_teacher, tiny, folder / "t", *files, "--max_steps", 1, teacher=True)
    return files, folder / "t"


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, words, classes",
    [
        ("1 2 3 4 5", FIVE, "1 2 3 4 5"),
        ("0 1 2 4", FIVE, "0 1 2 3 4"),
        ("1 2", ["LABEL_0", "LABEL_1"], "1 2"),
        ("LABEL_2 label_4", FIVE, "LABEL_0 LABEL_1 LABEL_2 LABEL_3 label_4"),
        ("0 2", ["worse", "same", "better"], "0 1 2"),
        ("1 2 3 4", RATINGS, "1 2 3 4 5"),
    ],
)
def test_numbers_are_places_only_where_nothing_else_can_be_meant(labels, words, classes):
    assert choose(labels, words) == tuple(classes.split())


@pytest.mark.parametrize(
    "labels, words, said",
    [
        ("1 2 3 4", FIVE, "the 5 classes LABEL_0 to LABEL_4, but the labels are 1, 2, 3, 4, the"),
        ("2 1", ["LABEL_0", "LABEL_1", "LABEL_2"], "write them as the model does, or as 0 to 2"),
        ("1 2", ["worse", "same", "better"], "'1' in train.csv, line 2 is none of the classes"),
        ("0 1 2 3 4", RATINGS, "'0' in train.csv, line 2 is none of the classes .*, 1, 2, 3, 4, 5"),
        ("0 1", ["1.0", "2.0"], "the label '0' in train.csv"),
        ("bad 0", ["bad", "good"], "the label '0' in train.csv"),
    ],
)
def test_numbers_that_may_be_counted_from_another_are_refused(labels, words, said):
    with pytest.raises(UserError, match=said):
        choose(labels, words)


@pytest.mark.parametrize("labels", ["1 2 3", "0 2", "LABEL_0 LABEL_3"])
def test_a_new_head_has_the_files_classes_alone(labels):
    assert choose(labels, FIVE, bound=False) == tuple(labels.split())


def test_a_teacher_of_ratings_is_not_read_with_one_of_them_missing(tiny, tmp_path):
    """Its outputs have no names: without rows of 5 each label would be the one above it."""
    more = {"labels": RATINGS}
    files = own(tmp_path / "data", **more)
    write(files[1], rows_of(60, 0, **more))
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    assert tuple(classes_of(tmp_path / "t").values()) == RATINGS
    unname(tmp_path / "t")
    model = ["--model_name_or_path", tmp_path / "t", "--max_steps", 1]
    run(glue_with_cka_i, tiny, tmp_path / "s", *files, *model)
    assert tuple(classes_of(tmp_path / "s").values()) == RATINGS
    for path in (files[1], files[3]):
        write(path, [row for row in rows_of(60, 0, **more) if row["label"] != "5"])
    with pytest.raises(UserError, match=r"5 classes LABEL_0 to LABEL_4, but the labels are 1, 2"):
        run(glue_with_cka_i, tiny, tmp_path / "n", *files, *model)


# ---- spelling ------------------------------------------------------------------------------------


def test_an_accent_has_one_spelling(tiny, tmp_path):
    """Of a letter and its accent, or of a character of their own: they look the same."""
    assert NFC != NFD and choose("tea", [NFD, "tea"]) == (NFC, "tea")
    assert choose(f"{NFC} tea", ["tea", NFD.upper()]) == ("tea", NFC)
    files = own(tmp_path / "data", labels=("tea", NFC))
    write(files[1], rows_of(21, 0, labels=("tea", NFC, NFD)))
    write(files[3], rows_of(12, 1, labels=("tea", NFD)))
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    assert classes_of(tmp_path / "t") == {"0": NFC, "1": "tea"}


@pytest.mark.parametrize("word", ["nan", "None", "N/A", "null", '"good"'])
def test_a_word_for_nothing_is_a_class_that_is_told(word, capsys):
    assert word in choose(f"bad {word}", ())
    said = capsys.readouterr().err
    assert said.count("note:") == 1 and f"the label {word!r}, in train.csv, line 2" in said
    choose(f"bad {word}", ["bad", word])
    assert not capsys.readouterr().err, "the model names it"


# ---- whose answers count -------------------------------------------------------------------------


def test_a_memory_is_of_the_teachers_classes(good_or_bad, tiny, tmp_path):
    """Its classes are those of a student of that teacher: numbers are read, others are refused."""
    (_, _, _, dev, *_), teacher = good_or_bad
    model = ["--task_name", "mood", "--validation_file", dev, "--model_name_or_path", teacher]
    numbers = write(tmp_path / "numbers.csv", [*rows_of(20, 0, labels=("0",)), *rows_of(1, 1, "0")])
    with pytest.raises(UserError, match="none of the classes that the model names, bad, good"):
        other = write(tmp_path / "other.csv", rows_of(21, 0, labels=("x", "y")))
        memory_of(tiny, tmp_path / "x", *model, "--train_file", other)
    assert memory_of(tiny, tmp_path / "m", *model, "--train_file", numbers) == 0
    assert set(pd.read_csv(tmp_path / "m/clusters.tsv", sep="\t").label) == {0}
    assert json.loads((tmp_path / "m/run.json").read_text())["finished"]


def test_a_flag_of_scores_that_is_forgotten_is_named(good_or_bad, tiny, tmp_path):
    _, teacher = good_or_bad
    scores = own(tmp_path / "data", labels=("1", "2"))
    more = [*scores, "--max_steps", 1]
    run(train_teacher, tiny, tmp_path / "t", *more, "--do_regression", teacher=True)
    with pytest.raises(UserError, match="has 1 label, but mood has 2: pass --do_regression if"):
        run(glue_with_cka_i, tiny, tmp_path / "s", *more, "--model_name_or_path", tmp_path / "t")
    with pytest.raises(UserError, match="has 2 labels, but mood has 1: leave --do_regression out"):
        more += ["--model_name_or_path", teacher, "--do_regression"]
        run(glue_with_cka_i, tiny, tmp_path / "s", *more)


def test_a_model_whose_classes_have_one_name_is_refused():
    found = {"a": ["x.csv, line 2"], "b": ["x.csv, line 3"]}
    with pytest.raises(UserError, match="class names A and a count as the same"):
        choose_classes(found, ("A", "a", "b"), bound=True)
