"""benchmarks/onnx_int8.py: its scores are those of the run, whatever computes the logits."""

import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT

from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from tasks.metrics import compute_metrics, predictions_from_logits

sys.path.insert(0, str(ROOT / "benchmarks"))
import onnx_int8


class Session:
    """What onnxruntime does, by PyTorch: a model of a folder, with the logits times a factor."""

    def __init__(self, path, options, providers):
        folder, factor = Path(path).read_text().split("\n")
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        self.model, self.factor = load(folder).eval(), float(factor)

    def get_inputs(self):
        return [types.SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]

    def run(self, wanted, rows):
        assert all(value.dtype == "int64" for value in rows.values())
        with torch.no_grad():
            found = self.model(**{name: torch.from_numpy(value) for name, value in rows.items()})
        return [(self.factor * found.logits).numpy()]


def test_each_form_has_its_scores(tiny, tmp_path, monkeypatch, capsys):
    fake = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    teacher, files = tiny / "teacher", []
    for name, factor in (("same", 1), ("other", -1)):
        files.append(tmp_path / name)
        files[-1].write_text(f"{teacher}\n{factor}")
    words = ["--model_name_or_path", teacher, "--data_dir", tiny, "--task_name", "RTE"]
    words += [
        "--max_seq_length",
        24,
        "--batch_size",
        5,
        "--repeats",
        2,
        "--csv",
        tmp_path / "t.csv",
    ]
    onnx_int8.main([str(word) for word in [*words, "--onnx", *files]])
    assert "| PyTorch, float32 | RTE | 12 |" in capsys.readouterr().out
    task, tokenizer = get_task("RTE"), transformers.AutoTokenizer.from_pretrained(teacher)
    rows = load_features(task, tiny, "dev", tokenizer, 24).tensors
    model = transformers.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    with torch.no_grad():
        logits = model(**{k: v.long() for k, v in rows.items() if k != "labels"}).logits.numpy()
    wanted = [
        compute_metrics(task, predictions_from_logits(task, f * logits), rows["labels"].numpy())
        for f in (1, 1, -1)
    ]
    found = pd.read_csv(tmp_path / "t.csv")
    assert found.acc.tolist() == [round(one["acc"], 4) for one in wanted]
    assert found.acc[1] == pytest.approx(1 - found.acc[2], abs=1e-3) and (found.MB >= 0).all()


def test_inputs_that_the_tokenizer_does_not_give(monkeypatch, tmp_path):
    """Token types are 0, as in PyTorch; what else is unknown is refused."""
    seen = {}

    class Asks(Session):
        def __init__(self, path, *_):
            self.asked = Path(path).read_text().split()

        def get_inputs(self):
            return [types.SimpleNamespace(name=name) for name in self.asked]

        def run(self, wanted, rows):
            seen.update(rows)
            return [None]

    fake = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Asks)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    rows = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}
    (tmp_path / "a").write_text("input_ids token_type_ids")
    onnx_int8.load_onnx(tmp_path / "a")(rows)
    assert seen["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    (tmp_path / "b").write_text("input_ids position_ids")
    with pytest.raises(UserError, match=r"b has the input position_ids, and the rows have input_"):
        onnx_int8.load_onnx(tmp_path / "b")(rows)


def test_two_files_of_one_name_are_refused(tiny, tmp_path, monkeypatch):
    fake = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    words = ["--model_name_or_path", tiny / "teacher", "--data_dir", tiny, "--task_name", "RTE"]
    files = [tmp_path / name / "int8/model.onnx" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text(f"{tiny / 'teacher'}\n1")
    with pytest.raises(UserError, match=r"two of --onnx would be the row int8/model\.onnx"):
        onnx_int8.main([str(word) for word in [*words, "--max_seq_length", 24, "--onnx", *files]])


def test_what_is_missing_is_said(tiny, tmp_path, monkeypatch):
    words = ["--model_name_or_path", str(tiny / "teacher"), "--data_dir", str(tiny)]
    words += ["--task_name", "RTE", "--max_seq_length", "24", "--onnx", str(tmp_path / "a.onnx")]
    with pytest.raises(UserError, match=r"there is no file .*a\.onnx"):
        onnx_int8.main(words)
    (tmp_path / "a.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        onnx_int8.main(words)
