"""Own files that once ended in a wrong number: what is read, whose classes, what is scored."""

import json

import pytest
import torch
import transformers
from conftest import flags, memory_flags
from own_data import classes_of, own, rows_of, run, without_glue, write
from safetensors.torch import load_file

import glue_with_cka_g
import glue_with_cka_i
import train_memory
import train_teacher
from analysis import report, table
from common import UserError
from tasks.own import choose_classes

PLACE = ["dev.csv, line 2"]
NO_CACHE = "--overwrite_cache"


def relabelled(path, words):
    """The file of a path beside it, its labels replaced."""
    text = path.read_text()
    for old, new in words.items():
        text = text.replace(f",{old}\n", f",{new}\n")
    other = path.with_name(f"other_{path.name}")
    other.write_text(text)
    return other


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """(own files' flags, the folder of a teacher that was trained on them)."""
    folder = tmp_path_factory.mktemp("own")
    files = own(folder / "data")
    run(train_teacher, tiny, folder / "t", *files, teacher=True)
    return files, folder / "t"


def evaluated(tiny, model, tmp_path, *more):
    """A copy of a trained model, evaluated alone. Its results."""
    words = without_glue(flags(tiny, tmp_path, *more, teacher=True))
    train_teacher.main([word for word in words if word != "--do_train"])
    return json.loads((tmp_path / "eval_results.json").read_text())


def copy_of(model, folder):
    """A trained model in a folder of its own."""
    folder.mkdir()
    for file in model.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    return folder


# ---- what is read --------------------------------------------------------------------------------


def two_columns(folder):
    """A file with two text columns, and the flags of it."""
    folder.mkdir()
    pairs = zip(rows_of(21, 0), rows_of(21, 9), strict=True)
    rows = [dict(row, other=other["text"]) for row, other in pairs]
    file = write(folder / "train.csv", rows)
    return ["--train_file", file, "--validation_file", file, "--task_name", "two"]


@pytest.mark.slow
def test_caches_and_memories_are_of_the_columns_that_are_read(tiny, tmp_path):
    """A teacher's outputs for one column are not taken for those of another one."""
    files = two_columns(tmp_path / "data")
    text, other = (["--text_column_names", name] for name in ("text", "other"))
    run(train_teacher, tiny, tmp_path / "t", *files, *text, teacher=True)
    more = [*files, "--model_name_or_path", tmp_path / "t", "--max_steps", 2]
    cache = ["--teacher_cache", tmp_path / "cache"]
    run(glue_with_cka_i, tiny, tmp_path / "text", *more, *text, *cache)
    run(glue_with_cka_i, tiny, tmp_path / "other", *more, *other, *cache)
    fresh = ["--cache_dir", tmp_path / "c", "--teacher_cache", tmp_path / "d"]
    run(glue_with_cka_i, tiny, tmp_path / "fresh", *more, *other, *fresh)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("other", "fresh")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    scores = [
        json.loads((tmp_path / name / "run.json").read_text())["teacher_scores"]
        for name in ("text", "other", "fresh")
    ]
    assert scores[1] == scores[2]
    words = ["--model_name_or_path", tmp_path / "t", *files, *text]
    words = without_glue(memory_flags(tiny, tmp_path / "m", *words))
    train_memory.main([word for word in words if word != "--do_eval"])
    memory = ["--teacher_memory_path", tmp_path / "m"]
    run(glue_with_cka_g, tiny, tmp_path / "g", *more, *text, *memory)
    with pytest.raises(UserError, match="was made from other training rows than this run"):
        run(glue_with_cka_g, tiny, tmp_path / "h", *more, *other, *memory)


@pytest.mark.slow
def test_the_same_bytes_as_tsv_and_as_csv_are_two_files(tiny, tmp_path):
    """Quotes are part of a .tsv's text, and not of a .csv's."""
    rows = [f'"{row["text"]}"\n' for row in rows_of(21, 0)]
    files = []
    for suffix in (".tsv", ".csv"):
        (tmp_path / f"train{suffix}").write_text("text\n" + "".join(rows))
        files.append(["--train_file", tmp_path / f"train{suffix}", "--task_name", "q"])
    labelled = own(tmp_path / "data")
    run(train_teacher, tiny, tmp_path / "t", *labelled, "--max_steps", 1, teacher=True)
    more = ["--model_name_or_path", tmp_path / "t", "--max_steps", 2]
    found = []
    for name, file, extra in (("tsv", 0, []), ("csv", 1, []), ("anew", 1, [NO_CACHE])):
        words = without_glue(flags(tiny, tmp_path / name, *more, *files[file], *extra))
        glue_with_cka_i.main([word for word in words if word != "--do_eval"])
        found.append((tmp_path / name / "model.safetensors").read_bytes())
    assert found[0] != found[1] == found[2]


def test_a_label_among_the_texts_is_refused(tiny, tmp_path):
    files = own(tmp_path / "data")
    with pytest.raises(UserError, match="has the label column, label, in it"):
        more = [*files, "--text_column_names", "text,label"]
        run(train_teacher, tiny, tmp_path / "t", *more, teacher=True)


@pytest.mark.parametrize(
    "header, row, said",
    [
        ("text;label", "a dog;bad", "save the file with commas between its cells"),
        ("text,label,label", "a dog,bad,bad", "has 2 columns named label in its first line"),
    ],
)
def test_a_header_that_is_none(header, row, said, tiny, tmp_path):
    files = own(tmp_path / "data")
    files[1].write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError, match=said):
        run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)


def test_spaces_around_a_columns_name_and_a_label_do_not_count(tiny, tmp_path):
    """And a cell may be longer than Python's csv module allows."""
    files = own(tmp_path / "data")
    text = files[1].read_text().replace("text,label", "text, label").replace(",bad\n", ", bad \n")
    files[1].write_text(text + f"{'dog ' * 40_000},good\n")
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    assert classes_of(tmp_path / "t") == {"0": "bad", "1": "good"}


# ---- labels --------------------------------------------------------------------------------------


def test_blank_null_and_nan_are_no_labels(tiny, tmp_path, capsys):
    files = own(tmp_path / "data", ".jsonl")
    lines = [json.dumps({"text": "a dog", "label": cell}) for cell in (" ", None, float("nan"))]
    files[1].write_text(files[1].read_text() + "\n".join(lines) + "\n")
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    assert "3 of 24 rows of train.jsonl have no label" in capsys.readouterr().err
    assert classes_of(tmp_path / "t") == {"0": "bad", "1": "good"}


def test_a_list_is_no_label(tiny, tmp_path):
    files = own(tmp_path / "data", ".jsonl")
    files[1].write_text(files[1].read_text() + '{"text": "a", "label": ["bad"]}\n')
    with pytest.raises(
        UserError, match=r"a word or a number as a label, found a list or an object in .*line 22"
    ):
        run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)


def test_whole_numbers_are_the_same_with_decimals(tiny, tmp_path):
    """As pandas writes a column of numbers with gaps."""
    files = own(tmp_path / "data", labels=("0", "1"))
    relabelled(files[1], {"0": "0.0", "1": "1.0"}).rename(files[1])
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 1, teacher=True)
    assert classes_of(tmp_path / "t") == {"0": "0", "1": "1"}


def test_classes_that_differ_in_a_sign_are_two():
    assert choose_classes(dict.fromkeys(["C", "C++", "C#"], PLACE), ()) == ("C", "C#", "C++")


@pytest.mark.parametrize("regression", [False, True])
def test_a_validation_file_without_labels_is_refused(regression, tiny, tmp_path):
    files = own(tmp_path / "data", labels=("0.5", "1.5") if regression else ("bad", "good"))
    files[3].write_text(files[3].read_text().replace("text,label", "text,stars"))
    more = ["--do_regression"] if regression else []
    with pytest.raises(UserError, match=r"dev.csv has no labels to score a model by: no column"):
        run(train_teacher, tiny, tmp_path / "t", *files, *more, teacher=True)


# ---- whose classes count -------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["yes no", "good great"])
def test_labels_that_a_bound_model_does_not_name_are_refused(labels):
    found = dict.fromkeys(labels.split(), PLACE)
    with pytest.raises(UserError, match=r"in dev.csv, line 2 is none of the classes .*bad, good"):
        choose_classes(found, ["bad", "good"], bound=True)
    assert choose_classes(found, ["bad", "good"]) == tuple(sorted(found)), "a new head learns them"


def test_a_model_with_one_output_is_told_to_be_a_regression():
    with pytest.raises(UserError, match="pass --do_regression, as the model has a single output"):
        choose_classes({}, ["LABEL_0"], bound=True)


def test_numbers_are_a_bound_models_classes_in_its_order(capsys):
    found = dict.fromkeys(["1", "0"], PLACE)
    assert choose_classes(found, ["worse", "better"], bound=True) == ("0", "1")
    assert "are taken for the model's classes, worse, better, in this" in capsys.readouterr().err


def test_a_model_is_not_scored_on_other_classes(trained, tiny, tmp_path):
    (_, _, _, dev, *_), teacher = trained
    model = copy_of(teacher, tmp_path / "t")
    words = ["--task_name", "mood", "--validation_file"]
    right = evaluated(tiny, model, model, *words, dev)
    other = relabelled(dev, {"bad": "nein", "good": "ja"})
    with pytest.raises(UserError, match="none of the classes that the model names, bad, good"):
        evaluated(tiny, model, model, *words, other)
    numbers = relabelled(dev, {"bad": "0", "good": "1"})
    assert evaluated(tiny, model, model, *words, numbers)["acc"] == right["acc"]


def test_a_teacher_of_other_classes_teaches_nobody(trained, tiny, tmp_path):
    (_, train, _, dev, *_), teacher = trained
    words = {"bad": "nein", "good": "ja"}
    files = ["--train_file", relabelled(train, words), "--validation_file", relabelled(dev, words)]
    more = [*files, "--task_name", "mood", "--model_name_or_path", teacher]
    with pytest.raises(UserError, match="none of the classes that the model names, bad, good"):
        run(glue_with_cka_i, tiny, tmp_path / "s", *more)
    with pytest.raises(UserError, match="none of the classes that the model names, bad, good"):
        more = ["--model_name_or_path", teacher, "--task_name", "mood", "--validation_file"]
        more += [files[3], "--students", teacher, "--output_dir", tmp_path / "r"]
        report.main(list(map(str, more)))


def test_the_labels_of_a_test_file_are_not_read(trained, tiny, tmp_path):
    """Predictions are in the model's words, whatever stands in the file's label column."""
    (_, train, *_), teacher = trained
    predictions = []
    for name, labels in (("bare", {}), ("others", {"bad": "ja", "good": "-1"})):
        model, test = copy_of(teacher, tmp_path / name), relabelled(train, labels)
        more = ["--test_file", test, "--label_column_name", "label", "--task_name", "mood"]
        words = without_glue(flags(tiny, model, *more, "--do_predict", teacher=True))
        train_teacher.main([word for word in words if word not in ("--do_train", "--do_eval")])
        predictions.append((model / "submission/mood.tsv").read_text())
    assert predictions[0] == predictions[1] and {"bad", "good"} >= {
        line.split("\t")[1] for line in predictions[0].split("\n")[1:-1]
    }


def test_without_training_labels_the_validation_file_tells_the_classes(tiny, tmp_path):
    """A teacher whose classes are LABEL_0 and LABEL_1, as most on the hub."""
    files = own(tmp_path / "data", labels=("0", "1"))
    run(train_teacher, tiny, tmp_path / "t", *files, teacher=True)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "t")
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    config.save_pretrained(tmp_path / "t")
    files[1] = write(tmp_path / "bare.csv", [{"text": row["text"]} for row in rows_of(21, 0)])
    more = [*files, "--model_name_or_path", tmp_path / "t", "--max_steps", 1]
    assert run(glue_with_cka_i, tiny, tmp_path / "s", *more) == 0


# ---- what is scored ------------------------------------------------------------------------------


def test_runs_that_were_scored_on_other_rows_are_not_averaged(trained, tiny, tmp_path):
    (*files,), teacher = trained
    other = write(tmp_path / "other.csv", rows_of(12, 5))
    for seed, dev in ((1, files[3]), (2, other)):
        more = ["--train_file", files[1], "--validation_file", dev, "--task_name", "mood"]
        more += ["--model_name_or_path", teacher, "--max_steps", 1, "--seed", seed]
        run(glue_with_cka_i, tiny, tmp_path / f"runs/{seed}", *more)
    record = json.loads((tmp_path / "runs/1/run.json").read_text())
    assert record["data"]["dev"]["file"] == "dev.csv" and record["data"]["dev"]["rows"] == 12
    with pytest.raises(UserError, match="had different rows to be scored on"):
        table.main([str(tmp_path / "runs")])


def test_a_model_with_one_answer_for_all_rows_is_told(trained, tiny, tmp_path, capsys):
    """It may have a fair score: that of the commonest class."""
    (_, _, _, dev, *_), teacher = trained
    folder = copy_of(teacher, tmp_path / "t")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    model.save_pretrained(folder)
    evaluated(tiny, folder, folder, "--task_name", "mood", "--validation_file", dev)
    assert "the model answers good to all 12 rows of dev" in capsys.readouterr().err


def test_a_student_is_evaluated_at_the_length_it_was_trained_with(tiny, tmp_path, capsys):
    more = ["--student_max_seq_length", 16, "--max_steps", 1]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    before = (tmp_path / "s/eval_results.json").read_text()
    words = [word for word in flags(tiny, tmp_path / "s") if word != "--do_train"]
    glue_with_cka_i.main(words)
    assert (tmp_path / "s/eval_results.json").read_text() == before
    words[words.index("--max_seq_length") + 1] = "20"
    capsys.readouterr()
    train_teacher.main(
        [word for word in flags(tiny, tmp_path / "s", teacher=True) if word != "--do_train"]
    )
    said = capsys.readouterr().err
    assert "was trained on rows of 16 tokens, and reads 24 now" in said
    assert "FSD_L on RTE" in said, "a model is of its own method, whatever script evaluates it"
