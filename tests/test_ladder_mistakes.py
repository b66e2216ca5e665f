"""Ladders that would mix what does not belong together are refused: two dev sets, two students of
one name, another teacher; and rows and classes of own files are known again.
"""

import shutil

import pandas as pd
import pytest
import transformers
from conftest import save_models
from families import permute_vocabulary
from own_data import own, rows_of, run, write

import glue_with_cka_i
import train_teacher
from analysis import ladder
from common import UserError, read_json, write_json

QUICK = ["--rounds", "1", "--no_cuda"]


@pytest.fixture
def mood(tiny, tmp_path):
    """A function that trains students of own files: mood(name, *flags), their folder runs/."""
    files = own(tmp_path / "data")
    run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)

    def train(name, *more):
        words = [*files, "--model_name_or_path", tmp_path / "t", "--max_steps", 1]
        words += ["--student_num_hidden_layers", 1, *more]
        assert run(glue_with_cka_i, tiny, tmp_path / "runs" / name, *words) == 0

    return train


def measure(tmp_path, *more):
    """The table of runs/."""
    ladder.main([str(tmp_path / "runs"), "--csv", str(tmp_path / "l.csv"), *QUICK, *map(str, more)])
    return pd.read_csv(tmp_path / "l.csv").set_index("name")


def evaluate(tiny, tmp_path, name, dev):
    """Evaluate a student of runs/ again."""
    words = ["--model_name_or_path", str(tmp_path / "t"), "--validation_file", str(dev)]
    words += ["--task_name", "mood", "--do_eval", "--max_seq_length", "24"]
    assert glue_with_cka_i.main([*words, "--output_dir", str(tmp_path / "runs" / name)]) == 0


def corrected(path, rows=(0, 3, 5)):
    """The tests' dev file with some labels the other way round."""
    found = rows_of(12, 1)
    for i in rows:
        found[i]["label"] = {"bad": "good", "good": "bad"}[found[i]["label"]]
    return write(path, found)


# ---- two dev sets --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dev_file_that_was_changed_is_refused(tiny, tmp_path, mood):
    """Its texts, its labels, or another one that is named; an evaluation on it is what helps."""
    mood("1")
    measure(tmp_path)
    dev = tmp_path / "data/dev.csv"
    shutil.copy(dev, tmp_path / "elsewhere.csv")
    pairs = zip(rows_of(12, 99), rows_of(12, 1), strict=True)
    texts = [new | {"label": row["label"]} for new, row in pairs]
    said = r"runs/1 was scored on a dev.csv whose content is not that of the {} .*--validation_file"
    for other in (write(tmp_path / "texts.csv", texts), corrected(tmp_path / "labels.csv")):
        with pytest.raises(UserError, match=said.format(other.name)):
            measure(tmp_path, "--validation_file", other)
        shutil.copy(other, dev)
        with pytest.raises(UserError, match=said.format("dev.csv")):
            measure(tmp_path)
    measure(tmp_path, "--validation_file", tmp_path / "elsewhere.csv")
    evaluate(tiny, tmp_path, "1", dev)
    found = measure(tmp_path).acc["FSD_L, 1 layer"]
    assert found == read_json(tmp_path / "runs/1/eval_results.json")["acc"]


def test_scores_and_predictions_are_of_one_evaluation(tiny, tmp_path, mood):
    """Also where an older run.json does not tell what its scores are of."""
    mood("1")
    before = read_json(tmp_path / "runs/1/run.json")
    evaluate(tiny, tmp_path, "1", corrected(tmp_path / "data/dev.csv"))
    after = read_json(tmp_path / "runs/1/run.json") | {"results": before["results"]}
    del after["data"]["dev"]
    write_json(tmp_path / "runs/1/run.json", after)
    with pytest.raises(
        UserError, match=r"runs/1 has acc .* in its run.json, but .* by its dev_pred"
    ):
        measure(tmp_path)


# ---- students of one name ------------------------------------------------------------------------


@pytest.mark.slow
def test_students_of_one_name_have_one_size_and_one_tokenizer(tiny, tmp_path, mood):
    """Two models in folders of one name, of which seed 1 copies the one, seed 2 the other."""
    save_models(tmp_path / "wide", intermediate_size=32)
    (tmp_path / "permuted").mkdir()
    permute_vocabulary(tiny / "pretrained", tmp_path / "permuted/pretrained")
    for folder, said in (("wide", r"parameters \(\d+ and \d+\)"), ("permuted", "tokenizers")):
        for seed, start in ((1, tiny), (2, tmp_path / folder)):
            mood(str(seed), "--seed", seed, "--model_name_or_path_for_copy", start / "pretrained")
        with pytest.raises(UserError, match=f"named FSD_L, 1 layer have different {said}"):
            measure(tmp_path)
        shutil.rmtree(tmp_path / "runs")


# ---- the teacher ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_teacher_is_that_of_a_run_that_had_one(tiny, tmp_path, mood):
    """Not what the student alone, which comes first, was trained from."""
    files = own(tmp_path / "data")
    words = [*files, "--student_num_hidden_layers", 1, "--max_steps", 1, "--seed", 9]
    run(train_teacher, tiny, tmp_path / "other", *words[:6], "--seed", 9, teacher=True)
    run(train_teacher, tiny, tmp_path / "runs/a", *words, teacher=True)
    with pytest.raises(
        UserError, match=r"no student in .* was distilled from a teacher.*--teacher"
    ):
        measure(tmp_path)
    mood("b")
    found = measure(tmp_path)
    results = read_json(tmp_path / "t/run.json")["results"]
    assert found.acc["teacher"].tolist() == pytest.approx([results["acc"]] * 2)
    with pytest.raises(UserError, match=r"runs/b was distilled from another teacher than .*other"):
        measure(tmp_path, "--teacher", tmp_path / "other")


# ---- rows and classes of own files ---------------------------------------------------------------


IDS = {"all": ["{:03}"], "mixed": ["{:03}", "{}.0", "{},5", 'a "{}"\nb,c', "NA", "nan"]}


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_texts(tiny, tmp_path, kind, mood):
    """007, 7.0, 1,5, NA: as they are in the file."""
    forms = IDS[kind]
    rows = [{"id": forms[i % len(forms)].format(i), **row} for i, row in enumerate(rows_of(12, 1))]
    mood("1", "--validation_file", write(tmp_path / "ids.csv", rows))
    assert len(measure(tmp_path)) == 2
    table = pd.read_csv(tmp_path / "runs/1/dev_predictions.tsv", sep="\t", dtype=str)
    table.assign(index="x").to_csv(tmp_path / "runs/1/dev_predictions.tsv", sep="\t", index=False)
    said = r"for other rows than those of ids.csv: .*, with --validation_file"
    with pytest.raises(UserError, match=said):
        measure(tmp_path)


def test_a_dev_file_that_lacks_a_class_of_a_nameless_teacher(tiny, tmp_path):
    """LABEL_0, LABEL_1 and LABEL_2: the runs say which classes these are."""
    files = own(tmp_path / "data", labels=("a", "b", "c"))
    run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "t")
    config.id2label = {k: f"LABEL_{k}" for k in range(3)}
    config.save_pretrained(tmp_path / "t")
    write(tmp_path / "data/dev.csv", rows_of(12, 1, labels=("a", "c")))
    words = [*files, "--model_name_or_path", tmp_path / "t", "--student_num_hidden_layers", 1]
    run(glue_with_cka_i, tiny, tmp_path / "runs/1", *words)
    found = measure(tmp_path)
    results = read_json(tmp_path / "runs/1/run.json")["results"]
    assert found.acc["FSD_L, 1 layer"] == pytest.approx(results["acc"])
