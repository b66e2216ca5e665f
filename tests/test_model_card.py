"""The model card of a finished run: what the Hub reads of it, and what it never says."""

import dataclasses
import json
import math
import re
import shutil
import sys

import pytest
import torch
import transformers
from cards import run_of
from conftest import ROOT, flags
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from stopped_runs import stopped_at

import glue_with_cka_i
import train_teacher
from training import card_file, card_page, model_card, records
from training.methods import Method


def card_of(run, base_model=None):
    return ModelCard(model_card.make_card(run, base_model))


def scores_of(card):
    """{(split, name): (type, value)} of a card's results."""
    return {
        (result.dataset_split, result.metric_name): (result.metric_type, result.metric_value)
        for result in card.data.eval_results
    }


# ---- what the Hub reads --------------------------------------------------------------------------


def test_the_metadata_of_a_classification():
    card = card_of(run_of(), "bert-base-uncased")
    data = card.data
    assert data.library_name == "transformers" and data.pipeline_tag == "text-classification"
    assert data.base_model == "bert-base-uncased" and data.language == "en"
    assert data.datasets == ["nyu-mll/glue"] and data.metrics == ["accuracy", "f1"]
    assert data.license is None and data.model_name == "FSD_I on MRPC"
    assert {"knowledge-distillation", "fsd_i"} < set(data.tags)
    assert scores_of(card) == {
        ("validation", "acc"): ("accuracy", 0.8161764705882353),
        ("validation", "f1"): ("f1", 0.87),
    }
    assert {result.dataset_config for result in data.eval_results} == {"mrpc"}


def test_a_regression():
    card = card_of(run_of("STS-B", {"pearson": 0.9, "spearmanr": 0.8, "eval_loss": 1.0}))
    assert scores_of(card) == {
        ("validation", "pearson"): ("pearsonr", 0.9),
        ("validation", "spearmanr"): ("spearmanr", 0.8),
    }
    assert card.data.eval_results[0].dataset_config == "stsb"
    assert "mean squared error" in card.text and "print(logits.item())" in card.text


def test_two_dev_sets():
    card = card_of(run_of("MNLI", {"acc": 0.8, "eval_loss": 1.0, "acc_mm": 0.7, "eval_loss_mm": 1}))
    assert scores_of(card) == {
        ("validation_matched", "acc"): ("accuracy", 0.8),
        ("validation_mismatched", "acc_mm"): ("accuracy", 0.7),
    }


def test_rows_that_are_not_glues_are_not_said_to_be():
    for run in (run_of(rows=400), run_of("sentiment", {"acc": 0.5}, train_file="/x/rows.csv")):
        card = card_of(run)
        assert card.data.datasets is None and card.data.language is None
        assert {result.dataset_type for result in card.data.eval_results} == {"custom"}
        assert "a task of GLUE" not in card.text or "rows that are not GLUE's own" in card.text


def test_scores_of_other_rows_are_not_said_to_be_of_glues_dev_set():
    """A model of GLUE's training rows, evaluated again on a part of them; MNLI on one set of its
    own.
    """
    run = run_of()
    run["data"]["dev"]["rows"] = 551
    card = card_of(run)
    assert {result.dataset_type for result in card.data.eval_results} == {"custom"}
    assert "On the 551 rows of dev.tsv, which are not GLUE's dev set:" in card.text
    assert "On the dev set, not on test rows:" in card_of(run_of()).text
    run = run_of("MNLI", {"acc": 0.8, "acc_mm": 0.7})
    run["data"]["dev_mm"]["rows"] = 5
    card = card_of(run)
    assert [result.dataset_type for result in card.data.eval_results] == ["nyu-mll/glue", "custom"]
    assert "9815 rows of dev.tsv and 5 rows of dev_mm.tsv, which are not" in card.text


@pytest.mark.parametrize(
    "run",
    [
        run_of(max_eval_samples=100),
        run_of(results={}),
        run_of(results={"acc": math.nan}),
    ],
    ids=["a part", "none", "no number"],
)
def test_the_hub_gets_no_score_that_is_none_of_the_dev_set(run):
    card = card_of(run)
    assert card.data.eval_results is None and card.data.model_name is None
    words = {100: "first 100 rows", None: "not evaluated" if not run["results"] else "nan"}
    assert words[run["arguments"].get("max_eval_samples")] in card.text


# ---- what people read ----------------------------------------------------------------------------


def test_the_page_says_how_the_model_was_made():
    run = run_of(method="FSD_ILG", gamma_i=1.0, gamma_l=1.0, gamma_g=0.1, cka_estimator="debiased")
    run["teacher_memory"] = {"sha256": "f" * 64, "memory_init": "released"}
    text = card_of(run).text
    for words in (
        "# FSD_ILG, debiased, memory_init released on MRPC",
        "α CE + (1−α) KD + β (γ_i I + γ_l L + γ_g G)",
        "https://arxiv.org/abs/2204.08922",
        "`beta` 4, `gamma_i` 1",
        "| acc | 0.8162 |",
        "on 408 rows of dev.tsv: acc 0.8400, f1 0.8800",
        "e" * 64,
        "f" * 64,
        "| seed | 3 |",
        "torch 2.13.0",
        "A processor, 2 cores",
    ):
        assert words in text
    assert "α CE + (1−α) KD + β (I)" in card_of(run_of()).text
    assert "α CE + (1−α) KD\n" in card_of(run_of(method="VKD")).text
    assert "γ_d distances" in card_of(run_of(method="RKD")).text
    teacher = run_of(method="teacher") | {"teacher": None, "teacher_scores": None}
    assert "KD" not in card_of(teacher).text and card_of(teacher).data.tags is None


def test_of_a_resumed_run_all_origins_are_told():
    before = {
        "commit": "old",
        "uncommitted_changes": True,
        "versions": {"torch": "2.11.0"},
        "machine": "Another",
        "device": "A GPU",
    }
    text = card_of(run_of() | {"earlier": [before]}).text
    assert "old with uncommitted changes then abc" in text
    assert "A GPU; Another then A processor" in text and "torch 2.11.0 then python" in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("t.py --data_dir /data/glue --seed 1", "t.py --data_dir DATA_DIR --seed 1"),
        ("t.py --data_dir=/data/glue", "t.py --data_dir=DATA_DIR"),
        ("t.py --data_dir '/my data/glue'", "t.py --data_dir DATA_DIR"),
        ("t.py --output_dir ~/runs", "t.py --output_dir OUTPUT_DIR"),
        ("t.py --output_dir ../runs", "t.py --output_dir OUTPUT_DIR"),
        (r"t.py --output_dir 'C:\runs'", "t.py --output_dir OUTPUT_DIR"),
        ("t.py --output_dir runs/rte", "t.py --output_dir runs/rte"),
        ("t.py --model_name_or_path google/bert", "t.py --model_name_or_path google/bert"),
        ("t.py --students /a/b c=/d e", "t.py --students STUDENTS STUDENTS e"),
        ("t.py --output_dir it's", "t.py --output_dir 'it'\"'\"'s'"),
        ("glue_with_baseline.py", "baselines/glue_with_baseline.py"),
    ],
)
def test_places_of_one_machine_are_not_told(given, shown):
    assert card_page.shorten_command(given) == f"python {shown}"


def test_odd_names_do_no_harm():
    name = "a: `b` | <c> #\n---\n# [d](e)"
    run = run_of(name, {"acc": 0.5}, train_file="rows.csv")
    run["data"]["train"]["text_columns"] = ['sa"y', "ü"]
    run["command"] = "t.py --output_dir 'runs/```\n---'"
    card = card_of(run)
    assert card.data.model_name == f"FSD_I on {name}"
    assert len(re.findall("^# ", card.text, re.M)) == 1 and "<c>" not in card.text
    assert "````bash" in card.text and r'tokenizer("the sa\"y", "the ü"' in card.text


# ---- where the layers come from ------------------------------------------------------------------


def test_the_base_model_is_a_hub_name_or_nothing(tmp_path, monkeypatch):
    def find(source, **more):
        return model_card.find_base_model({"model_name_or_path": source, **more})

    monkeypatch.chdir(tmp_path)
    assert find("bert-base-uncased") == "bert-base-uncased"
    assert find("/t", model_name_or_path_for_copy="o/b", copy_teacher=True) == "o/b"
    assert find("o/t", model_name_or_path_for_copy="o/b", copy_teacher=False) is None
    assert find("/cache/models--google--b-1/snapshots/0a1b") == "google/b-1"
    assert find("/nowhere/bert") is None and find("./bert") is None
    model = tmp_path / "runs" / "model"
    model.mkdir(parents=True)
    for source in (str(model), "runs/model"):
        assert find(source) is None
    (model / "config.json").write_text(json.dumps({"_name_or_path": "/home/jane/bert"}))
    assert find("runs/model") is None
    (model / "README.md").write_text(model_card.make_card(run_of(), "o/base"))
    assert find("runs/model") == "o/base"  # a teacher of ours says what it began with
    (model / "config.json").write_text(json.dumps({"_name_or_path": "o/told"}))
    assert find("runs/model") == "o/told"
    (model / "config.json").write_text("{")
    assert find("runs/model") is None


# ---- in the folder of a run ----------------------------------------------------------------------


def test_only_a_card_of_ours_is_replaced_or_removed(tmp_path, capsys):
    record, card = records.Record(**run_of()), tmp_path / "README.md"
    model_card.write_card(record, tmp_path)
    first = card.read_text()
    record.seed = 4
    model_card.write_card(record, tmp_path)
    assert card.read_text() == first.replace("| seed | 3 |", "| seed | 4 |") != first
    records.clear(tmp_path)
    assert not card.exists()
    card.write_text("mine")
    model_card.write_card(record, tmp_path)
    assert card.read_text() == "mine" and "README.md is no model card" in capsys.readouterr().err
    records.clear(tmp_path)
    assert card.read_text() == "mine"
    far = tmp_path / "far.md"
    far.write_text(first)
    card.unlink()
    card.symlink_to(far)
    records.clear(tmp_path)
    assert not card.is_symlink() and far.read_text() == first


def test_bytes_that_are_no_text_stop_no_run(tmp_path):
    run = run_of() | {"command": "t.py --output_dir runs/\udcff"}
    model_card.write_card(records.Record(**run), tmp_path)
    assert r"runs/\udcff" in ModelCard.load(tmp_path / "README.md").text


def run_script(main, script, words, monkeypatch):
    """Run a script's main with these words as the command line that a run.json tells."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *words])
    assert main(words) == 0


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The folder of a finished student."""
    folder = tmp_path_factory.mktemp("of jane") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        words = flags(tiny, folder, "--save_steps", 2)
        run_script(glue_with_cka_i.main, "glue_with_cka_i.py", words, patch)
    return folder


def test_a_run_leaves_a_card_without_its_places(tiny, finished):
    card = ModelCard.load(finished / "README.md")
    results = json.loads((finished / "eval_results.json").read_text())
    assert scores_of(card) == {(None, "acc"): ("accuracy", results["acc"])}
    assert "python glue_with_cka_i.py --model_name_or_path MODEL_NAME_OR_PATH" in card.text
    assert str(tiny) in (finished / "run.json").read_text()
    for place in (tiny, finished.parent, ROOT):
        assert str(place) not in card.content and "of jane" not in card.content


def test_the_lines_of_the_card_load_the_model(finished, capsys):
    text = ModelCard.load(finished / "README.md").text
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    exec(code.replace("OWNER/NAME", str(finished)), {})
    assert capsys.readouterr().out.strip() in ("entailment", "not_entailment")


def test_what_the_page_uploads_is_the_model_alone(finished, tiny, tmp_path):
    page = (ROOT / "docs" / "running.md").read_text()
    (command,) = re.findall(r"^hf upload (?:.*\\\n)*.*", page, re.M)
    patterns = re.findall(r"--include \"?([^\s\"]+)", command)
    files = [str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()]
    chosen = list(filter_repo_objects(files, allow_patterns=patterns))
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} < set(chosen)
    for name in chosen:
        content = (finished / name).read_bytes()
        assert str(tiny).encode() not in content and b"of jane" not in content
        shutil.copyfile(finished / name, tmp_path / name)
    transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(finished)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_card_of_an_uninterrupted_one(
    tiny, finished, tmp_path, monkeypatch
):
    words = flags(tiny, tmp_path / "s", "--save_steps", 2)
    monkeypatch.setattr(sys, "argv", ["glue_with_cka_i.py", *words])
    stopped_at(tiny, tmp_path / "s")
    assert not (tmp_path / "s/README.md").exists()
    run_script(glue_with_cka_i.main, "glue_with_cka_i.py", words, monkeypatch)
    wanted = (finished / "README.md").read_bytes()
    assert (tmp_path / "s/README.md").read_bytes() == wanted
    # cut off between the card and the last word of run.json, and before the card
    told = json.loads((tmp_path / "s/run.json").read_text()) | {"finished": False}
    for remove in (False, True):
        (tmp_path / "s/run.json").write_text(json.dumps(told))
        if remove:
            (tmp_path / "s/README.md").unlink()
        run_script(glue_with_cka_i.main, "glue_with_cka_i.py", words, monkeypatch)
        assert (tmp_path / "s/README.md").read_bytes() == wanted
        assert json.loads((tmp_path / "s/run.json").read_text())["finished"]


def test_a_run_that_takes_the_folder_takes_the_card_away(tiny, tmp_path, monkeypatch):
    words = flags(tiny, tmp_path / "t", teacher=True)
    run_script(train_teacher.main, "train_teacher.py", words, monkeypatch)
    card = tmp_path / "t/README.md"
    assert "# Teacher on RTE" in card.read_text() and card_file.is_card(card)
    monkeypatch.setattr("distill.Loop.run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_teacher.main([*words, "--overwrite_output_dir"])
    assert not card.exists()


def test_the_formula_has_a_beta_only_if_the_rival_has_one(monkeypatch):
    with_one = Method("X", "the X of features", {"beta": 1.0, "gamma_x": 2.0})
    without = dataclasses.replace(with_one, name="Y", defaults={"gamma_x": 2.0})
    monkeypatch.setattr(card_page, "read_methods", lambda: {"x": with_one, "y": without})
    for name, formula in (("X", " + β · structure"), ("Y", " + structure"), ("VKD", "")):
        assert card_page.describe_structure({"method": name})[0] == formula
