"""Tasks of a user's own files: CSV, TSV and JSON lines through the scripts, rows without a label,
the classes, and what is refused.
"""

import json

import pandas as pd
import pytest
import torch
import transformers
from conftest import flags, memory_flags, read_log, two_processes
from own_data import classes_of, own, rows_of, run, without_glue, write

import glue_with_cka_i
import glue_with_cka_ilg
import kd
import train_memory
import train_teacher
from analysis import report, table
from common import UserError
from tasks.own import choose_classes

PLACE = ["train.csv, line 2"]


# ---- through the scripts -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_teacher_a_memory_a_student_and_what_tells_of_them(tiny, tmp_path, capsys):
    """Half of the labels are missing; the teacher's classes are the file's words."""
    files = own(tmp_path / "data", share=0.5)
    assert run(train_teacher, tiny, tmp_path / "t", *files, teacher=True) == 0
    assert "of 21 rows of train.csv have no label and are left out" in capsys.readouterr().err
    assert classes_of(tmp_path / "t") == {"0": "bad", "1": "good"}
    teacher = ["--model_name_or_path", tmp_path / "t"]
    words = without_glue(memory_flags(tiny, tmp_path / "m", *files, *teacher))
    assert train_memory.main([word for word in words if word != "--do_eval"]) == 0
    clusters = pd.read_csv(tmp_path / "m/clusters.tsv", sep="\t")
    assert (clusters.label == -100).sum() > 5
    more = [*files, *teacher, "--teacher_cache", tmp_path / "cache"]
    memory = ["--teacher_memory_path", tmp_path / "m"]
    assert run(glue_with_cka_ilg, tiny, tmp_path / "runs/s", *more, *memory) == 0
    assert "they have KD and the structures, no cross-entropy" in capsys.readouterr().err
    results = json.loads((tmp_path / "runs/s/eval_results.json").read_text())
    assert results["task"] == "mood" and {"acc", "f1_macro"} < results.keys()
    table.main([str(tmp_path / "runs"), "--task", "mood"])
    assert "| method  | acc" in capsys.readouterr().out.replace("| method |", "| method  |")
    words = ["--model_name_or_path", tmp_path / "t", "--task_name", "mood", *files[:4]]
    words += ["--students", tmp_path / "runs/s", *memory, "--output_dir", tmp_path / "r"]
    report.main(list(map(str, words)))
    assert "mood" in (tmp_path / "r/report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_each_kind_of_file_says_the_same(suffix, tiny, tmp_path):
    """Rows are the same whatever file they are in, so is what is trained."""
    for kind in (".csv", suffix):
        files = own(tmp_path / kind, kind)
        run(train_teacher, tiny, tmp_path / f"t{kind}", *files, "--max_steps", 2, teacher=True)
    losses = [[line["ce"] for line in read_log(tmp_path / f"t{k}")] for k in (".csv", suffix)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_regression(tiny, tmp_path):
    scores = [f"{value / 7:.3f}" for value in range(-9, 30)]
    files = [*own(tmp_path / "data", labels=scores, share=0.8), "--do_regression"]
    assert run(train_teacher, tiny, tmp_path / "t", *files, teacher=True) == 0
    results = json.loads((tmp_path / "t/eval_results.json").read_text())
    assert {"pearson", "spearmanr"} < results.keys()
    model = ["--model_name_or_path", tmp_path / "t", "--student_num_hidden_layers", 2]
    assert run(glue_with_cka_i, tiny, tmp_path / "s", *files, *model) == 0
    assert all(line["ce"] == line["ce"] for line in read_log(tmp_path / "s"))


@pytest.mark.slow
def test_no_label_at_all_is_a_distillation_without_cross_entropy(tiny, tmp_path, capsys):
    """α is 0, and the run is that of a file with labels at --alpha 0."""
    bare = [{"text": row["text"]} for row in rows_of(21, 0)]
    files = own(tmp_path / "data")
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    teacher = ["--model_name_or_path", tmp_path / "t", "--max_steps", 2]
    run(glue_with_cka_i, tiny, tmp_path / "labelled", *files, *teacher, "--alpha", 0)
    files[1] = write(tmp_path / "bare.csv", bare)
    run(glue_with_cka_i, tiny, tmp_path / "bare", *files, *teacher)
    assert "has no labels: α is 0" in capsys.readouterr().err
    record = json.loads((tmp_path / "bare/run.json").read_text())
    assert record["arguments"]["alpha"] == record["settings"]["alpha"] == 0
    logs = [read_log(tmp_path / name) for name in ("labelled", "bare")]
    for one, other in zip(*logs, strict=True):
        assert one["kd"] == other["kd"] and "ce" not in other
    with pytest.raises(UserError, match="has no labels, and the loss is the cross-entropy alone"):
        named = ["--validation_file", files[3], "--model_name_or_path", tmp_path / "t"]
        run(train_teacher, tiny, tmp_path / "n", *files, *named, teacher=True)


def test_test_rows_are_predicted_in_the_files_words(tiny, tmp_path):
    files = own(tmp_path / "data")
    test = write(tmp_path / "data/test.csv", [{"text": row["text"]} for row in rows_of(5, 2)])
    more = [*files, "--test_file", test, "--do_predict"]
    run(train_teacher, tiny, tmp_path / "t", *more, teacher=True)
    found = pd.read_csv(tmp_path / "t/submission/mood.tsv", sep="\t")
    assert list(found["index"]) == list(range(5)) and set(found.prediction) <= {"bad", "good"}


def test_ids_that_are_there_twice_stop_the_run_before_it_trains(tiny, tmp_path):
    rows = [{"text": row["text"], "id": i // 2} for i, row in enumerate(rows_of(4, 2))]
    test = write(tmp_path / "test.csv", rows)
    more = [*own(tmp_path / "data"), "--test_file", test, "--do_predict"]
    with pytest.raises(UserError, match=r"'0' in .*test.csv, row 1 and row 2"):
        run(train_teacher, tiny, tmp_path / "t", *more, teacher=True)
    assert not (tmp_path / "t/model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_are_as_one(tiny_without_dropout, tmp_path):
    tiny = tiny_without_dropout
    files = own(tmp_path / "data", share=0.4)
    run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)
    more = [*files, "--model_name_or_path", tmp_path / "t", "--internal"]
    run(glue_with_cka_i, tiny, tmp_path / "one", *more)
    half = [*more, "--per_gpu_train_batch_size", 4]
    two_processes("glue_with_cka_i.py", without_glue(flags(tiny, tmp_path / "two", *half)))
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    for left, right in zip(one, two, strict=True):
        assert left["ce"] == pytest.approx(right["ce"], rel=1e-4)


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
def test_rows_without_a_label_have_no_part_in_the_cross_entropy(classes):
    """Value and gradient are those of the labelled rows alone; without any they are 0."""
    torch.manual_seed(0)
    z = torch.randn(6, classes, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    none = torch.tensor([-100])
    if classes == 1:
        labels, none = labels.double(), torch.tensor([torch.nan], dtype=torch.float64)
    there = torch.tensor([True, False, True, True, False, False])
    found = kd.task_loss(z, torch.where(there, labels, none), there)
    wanted = kd.task_loss(z[there], labels[there])
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients)
    nothing = kd.task_loss(z, none.expand(6), torch.zeros(6, dtype=torch.bool))
    assert nothing == 0 and not torch.autograd.grad(nothing, z)[0].any()


# ---- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, model, classes",
    [
        ("b a", [], "a b"),
        ("10 9 2", [], "2 9 10"),
        ("0 1", ["LABEL_0", "LABEL_1"], "0 1"),
        ("1 2", ["LABEL_0", "LABEL_1"], "1 2"),
        ("0 1 2", ["LABEL_0", "LABEL_1"], "0 1 2"),
        ("negative positive", ["POSITIVE", "NEGATIVE"], "positive negative"),
        ("negative", ["Neutral", "negative", "positive"], "Neutral negative positive"),
        ("", ["yes", "no"], "yes no"),
        ("1 2", ["2.0", "1.0"], "2 1"),
        ("1", ["2.0", "1.0"], "2 1"),
        ("-1 1", [], "-1 1"),
        ("+ -", [], "+ -"),
    ],
)
def test_classes_are_the_models_where_its_words_cover_the_files(words, model, classes):
    found = dict.fromkeys(words.split(), PLACE)
    assert choose_classes(found, model) == tuple(classes.split())


@pytest.mark.slow
def test_a_teacher_with_its_classes_the_other_way_round_teaches_the_same(tiny, tmp_path):
    """Its own words say which output is which class, whatever their order."""
    files = own(tmp_path / "data")
    run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "t")
    with torch.no_grad():
        for weight in (model.classifier.weight, model.classifier.bias):
            weight.copy_(weight.flip(0))
    model.config.id2label = {0: "good", 1: "bad"}
    model.config.label2id = {"good": 0, "bad": 1}
    model.save_pretrained(tmp_path / "turned")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "t").save_pretrained(tmp_path / "turned")
    scores = []
    for name in ("t", "turned"):
        more = [*files, "--model_name_or_path", tmp_path / name, "--max_steps", 1]
        run(glue_with_cka_i, tiny, tmp_path / f"s-{name}", *more)
        scores.append(json.loads((tmp_path / f"s-{name}/run.json").read_text())["teacher_scores"])
    assert scores[0] == scores[1]
    assert classes_of(tmp_path / "s-turned") == {"0": "good", "1": "bad"}


# ---- what is refused -----------------------------------------------------------------------------

TEXT = "text,label\na dog,good\na cat,bad\n"
REFUSED = {  # what is wrong -> (train.csv or its flags, what the sentence says)
    "nothing in it": ("", "Expected the text columns of exactly one of .*, found no column in"),
    "no row": ("text,label\n", "Expected data rows, found none in .*train.csv; add some"),
    "no text column": ("body,label\na,good\n", "found body, label in .*train.csv; name one or two"),
    "two usual ones": (
        "text,premise,hypothesis,label\na,b,c,good\n",
        "found text, premise, hypothesis, label in",
    ),
    "too many cells": (TEXT + "a,b,c\n", "Expected 2 columns, found 3 in .*train.csv, line 4"),
    "too few cells": (TEXT + "a\n", "Expected 2 columns, found 1 in .*train.csv, line 4"),
    "no text": (TEXT + ",good\n", "Expected text in text, found none in .*train.csv, line 4"),
    "one class": ("text,label\na,good\nb,good\n", "two classes or more, found 'good'"),
    "one class by number": ("text,label\na,1\nb,1\n", "two classes or more, found '1'"),
    "an open quote": (TEXT + '"a dog,good\n', "found unexpected end of data in .*, line 4"),
    "text behind a quote": (TEXT + '"a" dog,good\n', "expected after '\"' in .*train.csv, line 4"),
    "scores": ("text,label\na,0.25\nb,1.5\n", "the label '0.25' in .*line 2 is a score"),
    "a class a row": (
        "text,label\n" + "".join(f"a,c{i}\n" for i in range(40)),
        "40 different labels in 40 rows",
    ),
    "two spellings": (TEXT + "a,Good\n", "the labels 'good' and 'Good', in .*line 4, count as one"),
    "a column twice": (
        "text,text,label\na,b,good\na,b,bad\n",
        "has 2 columns named text",
    ),
    "no UTF-8": (
        b"text,label\n\xff,good\n",
        "Expected UTF-8 text, found the byte 0xff in .*line 2",
    ),
    "GLUE's name": (["--task_name", "mrpc"], "--task_name mrpc is GLUE's"),
    "a path as a name": (["--task_name", "../x"], "becomes part of names of folders and files"),
    "both data": (["--data_dir", "glue"], "pass one of the two"),
    "no file": (["--train_file", "no.csv"], "--train_file no.csv does not exist"),
    "another ending": (
        ["--train_file", __file__],
        "ends in .py, but its ending must say how",
    ),
    "no such text": (["--text_column_names", "body"], "no body in .*train.csv, line 1"),
    "three texts": (["--text_column_names", "a,b,c"], "Expected one or two columns"),
    "no such label": (["--label_column_name", "y"], "--label_column_name is y, but .* has the"),
    "words as scores": (["--do_regression"], "Expected a number, found 'good' in .*line 2"),
    "no test": (["--do_predict"], "--do_predict needs --test_file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_one_sentence(case, tiny, tmp_path):
    content, said = REFUSED[case]
    words = content if isinstance(content, list) else []
    files = own(tmp_path / "data")
    if not words:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "data/train.csv").write_bytes(data)
    elif case != "three texts":
        (tmp_path / "data/train.csv").write_text(TEXT)
    with pytest.raises(UserError, match=said):
        run(train_teacher, tiny, tmp_path / "t", *files, *words, teacher=True)
    assert not (tmp_path / "t/model.safetensors").exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ('["a", "good"]', "a JSON object on each line, .*found list in .*line 2"),
        ("{'text': 1}", "a JSON object on each line, .*line 2"),
        ('{"text": 5, "label": "good"}', "Expected text in text, found 5 in .*line 2"),
        ('{"label": "good"}', "Expected text in text, found nothing in .*line 2"),
    ],
)
def test_a_bad_line_of_json_is_one_sentence(line, said, tiny, tmp_path):
    files = own(tmp_path / "data", ".jsonl")
    good = '{"text": "a dog", "label": "good"}\n'
    (tmp_path / "data/train.jsonl").write_text(good + line + '\n{"text": "a", "label": "bad"}\n')
    with pytest.raises(UserError, match=said):
        run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)


def test_a_validation_row_without_a_label_is_refused(tiny, tmp_path):
    files = own(tmp_path / "data")
    (tmp_path / "data/dev.csv").write_text(TEXT + "a bird,\n")
    with pytest.raises(UserError, match=r"Expected a label among bad, good, found '' in .*line 4"):
        run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)


def test_neither_glue_nor_own_files(tiny, tmp_path):
    for more in ([], ["--data_dir", ""]):
        with pytest.raises(UserError, match="--data_dir is missing"):
            run(train_teacher, tiny, tmp_path / "t", "--task_name", "RTE", *more, teacher=True)
    with pytest.raises(UserError, match="--do_regression is for files of your own"):
        train_teacher.main(flags(tiny, tmp_path / "t", "--do_regression", teacher=True))
