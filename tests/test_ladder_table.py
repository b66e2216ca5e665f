"""analysis/ladder.py: turns, widths and sizes by hand, the table and the figure, and a ladder of
tiny students beside transformers alone.
"""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers
from conftest import flags
from families import permute_vocabulary

import glue_with_cka_i
from analysis import ladder, timing
from common import UserError, read_json, write_json
from training.batches import Rows

# ---- what is measured ----------------------------------------------------------------------------


def test_models_have_their_turns_and_the_first_round_does_not_count(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 2 * next(clock))
    turns = []

    def forward(model):
        turns.append(model)
        return SimpleNamespace(logits=torch.ones(1))

    class Accelerator:
        autocast = torch.no_grad

    batches = dict.fromkeys("ab", [SimpleNamespace(forward=forward)] * 2)
    found = timing.time_rounds({"a": "A", "b": "B"}, batches, Accelerator(), 3)
    assert turns == ["A", "A", "B", "B"] * 4
    assert found == {"a": [2, 2, 2], "b": [2, 2, 2]}
    assert timing.milliseconds([4, 1, 100], 8) == 500


def test_mini_batches_are_as_wide_as_their_longest_row():
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    features = {
        "input_ids": mask * torch.arange(1, 6),
        "attention_mask": mask,
        "labels": torch.zeros(3, dtype=torch.long),
    }
    alone = timing.mini_batches(features, 32, 1, "cpu")
    assert [batch.inputs["input_ids"].shape for batch in alone] == [(1, 2), (1, 3), (1, 1)]
    (together,) = timing.mini_batches(features, 2, 32, "cpu")
    assert together.inputs["input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert "columns" not in together.targets  # by which padding between rows is not computed
    assert "columns" in Rows(features, cut=True)[torch.arange(2)]["targets"]


def test_megabytes_are_of_the_model_alone(tmp_path):
    assert timing.megabytes(tmp_path) is None and timing.megabytes("someone/model") is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 5000)
    assert timing.megabytes(tmp_path) == 0.005
    for name in ("model-1-of-2", "model-2-of-2", "student_memory"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"0" * 1000)
    assert timing.megabytes(tmp_path) == 0.002


# ---- table and figure ----------------------------------------------------------------------------


def write_measured(path, task="RTE"):
    """A CSV as the command writes it: a teacher, one and two layers, layers 0 and 3; two seeds, of
    the last one alone.
    """
    models = [
        # name, copied, layers, (score, agreement, ms alone) of each seed
        ("FSD_I, layers 0,3", "layers 0,3", 2, [(0.7, 0.75, 4)]),
        ("FSD_I, 2 layers", "2 layers", 2, [(0.8, 0.9, 4), (0.6, 0.8, 5)]),
        ("FSD_I, 1 layer", "1 layer", 1, [(0.5, 0.5, 2), (0.5, 0.5, 2)]),
        ("teacher", "all layers", 4, [(0.9, 1, 8), (0.9, 1, 10)]),
    ]
    rows = []
    for name, copied, layers, seeds in models:
        for seed, (score, agreement, ms) in enumerate(seeds, start=1):
            own = {
                "name": name,
                "method": name.partition(",")[0],
                "task": task,
                "seed": seed,
                "layers": layers,
                "copied": copied,
                "score": score,
                "agreement": agreement,
                "parameters": 1e6 * (10 + layers),
                "megabytes": 40 + 4 * layers,
                "ms_alone": ms,
                "ms_batch": ms / 4,
                "constant": 0.53,
                "rows": 277,
                "rounds": 10,
                "timed_rows": 32,
                "timed_on": "M, 2 cores, 1 thread",
                "timed_precision": "no",
                "timed_commit": "abc",
            }
            run = {
                "minutes": 1.5,
                "device": "cpu",
                "machine": "M, 2 cores",
                "precision": "bf16",
                "commit": "def",
                "torch": "2.13.0",
                "transformers": "5.23.0",
                "--learning_rate": 1e-4,
                "--num_train_epochs": 3.0,
                "--per_gpu_train_batch_size": 32,
                "--max_seq_length": 128,
                "--beta": 16.0,
            }
            rows.append(own | (run if name != "teacher" else {}))
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_the_table_by_hand(tmp_path):
    table = ladder.in_order(ladder.read_measured(write_measured(tmp_path / "l.csv")))
    shown = ladder.summarise(table).set_index("model")
    assert list(shown.index) == [
        "teacher, 4 layers",
        "FSD_I, 1 layer",
        "FSD_I, 2 layers",
        "FSD_I, layers 0,3",
    ]
    assert shown.loc["teacher, 4 layers"].tolist() == [
        "90.0", "100.0", "14.0", "56.0", "9.00 ± 1.41", "2.25 ± 0.35", "–", 2,
    ]  # fmt: skip
    assert shown.loc["FSD_I, 2 layers"].tolist() == [
        "70.0 ± 14.1", "85.0 ± 7.1", "12.0", "48.0",
        "4.50 ± 0.71", "1.12 ± 0.18", "2.0 ± 0.0", 2,
    ]  # fmt: skip
    assert shown.loc["FSD_I, layers 0,3"].tolist() == [
        "70.0", "75.0", "12.0", "48.0", "4.00", "1.00", "2.0", 1,
    ]  # fmt: skip
    text = ladder.as_text(table)
    assert "over seeds 1, 2 (not every method has all)" in text
    assert "the best constant answer has 53.0" in text
    assert "learning rate 0.0001, epochs 3, batch 32, length 128, precision bf16" in text
    assert "FSD_I beta 16; trained on M, 2 cores; 8 minutes" in text
    assert "10 rounds" in text and "M, 2 cores, 1 thread, commit abc" in text


def test_a_regression_has_a_correlation(tmp_path):
    table = ladder.in_order(ladder.read_measured(write_measured(tmp_path / "l.csv", "STS-B")))
    shown = ladder.summarise(table).set_index("model")
    assert shown.loc["FSD_I, 2 layers", "Pearson with the teacher"] == "0.850 ± 0.071"
    assert "the Pearson correlation with its scores" in ladder.as_text(table)


def test_a_csv_is_drawn_and_inserted_again(tmp_path, capsys):
    source, page = write_measured(tmp_path / "ladder_rte.csv"), tmp_path / "page.md"
    page.write_text("a\n<!-- table ladder_rte -->\nold\n<!-- end ladder_rte -->\nz\n")
    pictures = []
    for name in ("one", "two"):
        picture = tmp_path / f"{name}.svg"
        ladder.main([str(source), "--figure", str(picture), "--insert", str(page)])
        pictures.append(picture.read_bytes())
    printed = capsys.readouterr().out
    assert pictures[0] == pictures[1] and b"</svg>" in pictures[0]
    inside = page.read_text().removeprefix("a\n<!-- table ladder_rte -->\n")
    assert inside.endswith("\n<!-- end ladder_rte -->\nz\n") and "old" not in inside
    assert printed == 2 * inside.removesuffix("<!-- end ladder_rte -->\nz\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--figure", "x.gif"], "must end in .png, .svg or .pdf"),
        (["--insert", "page.md"], "has no lines <!-- table l -->"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        ladder.main([str(write_measured(tmp_path / "l.csv")), *more])
    with pytest.raises(UserError, match=r"there is no .*elsewhere"):
        ladder.main([str(tmp_path / "elsewhere")])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"other.csv is no table of analysis/ladder.py"):
        ladder.main([str(tmp_path / "other.csv")])


# ---- measured runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rungs(tiny, tmp_path_factory):
    """A folder of FSD_I with one layer and with the layers 0 and 3, two seeds each."""
    folder = tmp_path_factory.mktemp("ladder")
    for seed in (1, 2):
        for size in (["--student_num_hidden_layers", 1], ["--student_layers", "0,3"]):
            output = folder / f"{size[1]},seed={seed}".replace("0,3", "0+3")
            words = flags(tiny, output, "--internal", *size, "--seed", seed)
            glue_with_cka_i.main(words)
    return folder


@pytest.mark.slow
def test_measured_beside_transformers_alone(tiny, rungs, tmp_path, capsys):
    path = tmp_path / "l.csv"
    ladder.main([str(rungs), "--csv", str(path), "--rounds", "1", "--no_cuda"])
    printed = capsys.readouterr().out
    table = pd.read_csv(path)
    names = ["teacher", "teacher", *["FSD_I, 1 layer"] * 2, *["FSD_I, layers 0,3"] * 2]
    assert table["name"].tolist() == names and table.seed.tolist() == [1, 2] * 3
    teacher = answers(tiny / "teacher", tiny)
    for _, row in table[table.method != "teacher"].iterrows():
        folder = rungs / row.run
        assert row.agreement == pytest.approx((answers(folder, tiny) == teacher).float().mean())
        assert row.score == row.acc == read_json(folder / "eval_results.json")["acc"]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        assert row.parameters == sum(p.numel() for p in model.parameters())
        assert row.layers == model.config.num_hidden_layers
        size = (folder / "model.safetensors").stat().st_size
        assert row.megabytes == pytest.approx(size / 1e6)
    assert (table[["ms_alone", "ms_batch"]] > 0).all(axis=None)
    dev = pd.read_csv(tiny / "RTE/dev.tsv", sep="\t")
    right = teacher == torch.tensor(dev.label.map({"entailment": 0, "not_entailment": 1}).tolist())
    assert table.score[:2].tolist() == pytest.approx([right.float().mean().item()] * 2)
    assert str(tiny) not in path.read_text() and str(rungs) not in path.read_text()
    ladder.main([str(path)])
    assert capsys.readouterr().out == printed  # the CSV has all that the table says


def answers(folder, data):
    """A model's classes on tiny RTE's dev rows, by transformers alone, a row at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "teacher")
    dev = pd.read_csv(data / "RTE/dev.tsv", sep="\t")
    with torch.no_grad():
        return torch.tensor(
            [
                model(**tokenizer(*pair, return_tensors="pt")).logits.argmax().item()
                for pair in zip(dev.sentence1, dev.sentence2, strict=True)
            ]
        )


@pytest.mark.slow
def test_refused_runs(tiny, rungs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(rungs, folder)
    with pytest.raises(UserError, match=r"neither a results.csv nor a folder with finished runs"):
        ladder.main([str(tiny)])
    predictions = folder / "1,seed=1/dev_predictions.tsv"
    lines = predictions.read_text().splitlines()
    predictions.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(
        UserError, match=r"dev_predictions.tsv has predictions for other rows than those of dev.tsv"
    ):
        ladder.main([str(folder), "--rounds", "1", "--no_cuda"])
    table = pd.read_csv(rungs / "1,seed=1/dev_predictions.tsv", sep="\t")
    table.assign(label=1 - table.label).to_csv(predictions, sep="\t", index=False)
    with pytest.raises(
        UserError, match=r"dev_predictions.tsv has predictions for other rows than those of dev.tsv"
    ):
        ladder.main([str(folder), "--rounds", "1", "--no_cuda"])
    predictions.unlink()
    with pytest.raises(UserError, match=r"dev_predictions.tsv is missing"):
        ladder.main([str(folder), "--rounds", "1", "--no_cuda"])
    for name, value, said in (
        ("learning_rate", 0.5, "differ in --learning_rate"),
        ("task_name", "MRPC", "of the tasks"),
    ):
        path = folder / "1,seed=2/run.json"
        before = path.read_text()
        record = json.loads(before)
        record["arguments"][name] = value
        write_json(path, record)
        with pytest.raises(UserError, match=said):
            ladder.main([str(folder)])
        path.write_text(before)


@pytest.mark.slow
def test_students_with_a_tokenizer_of_their_own(tiny, tmp_path):
    """Of a teacher whose words are in another order: agreement, and times of rows as each reads."""
    teacher = permute_vocabulary(tiny / "teacher", tmp_path / "teacher")
    for layers in (1, 2):
        size = ["--student_num_hidden_layers", layers, "--model_name_or_path", teacher]
        words = flags(tiny, tmp_path / f"runs/{layers},seed=1", "--beta", 0, *size)
        assert glue_with_cka_i.main(words) == 0
    path = tmp_path / "l.csv"
    ladder.main([str(tmp_path / "runs"), "--csv", str(path), "--rounds", "1", "--no_cuda"])
    table = pd.read_csv(path).set_index("name")
    expected = answers(tiny / "teacher", tiny)
    for layers, name in ((1, "VKD, 1 layer"), (2, "VKD, 2 layers")):
        own = answers(tmp_path / f"runs/{layers},seed=1", tiny)
        assert table.agreement[name] == pytest.approx((own == expected).float().mean())
    assert (table[["ms_alone", "ms_batch"]] > 0).all(axis=None)
