"""analysis/ladder.py on runs of one's own files."""

import sys

import pandas as pd
import pytest
from own_data import own, run

import glue_with_cka_i
import train_teacher
from analysis import ladder
from common import UserError, read_json
from scripts import ladder as script

MEASURED = ["--rounds", "1", "--no_cuda"]


def make_runs(tiny, folder, files):
    """A teacher, and students of one layer and of two."""
    run(train_teacher, tiny, folder / "t", *files, "--max_steps", 2, teacher=True)
    model = ["--model_name_or_path", folder / "t", "--max_steps", 1]
    for layers in (1, 2):
        size = ["--student_num_hidden_layers", layers, "--seed", 3]
        run(glue_with_cka_i, tiny, folder / "runs" / f"{layers}", *files, *model, *size)
    return folder / "runs"


@pytest.mark.parametrize("regression", [False, True])
def test_a_ladder_of_own_files(regression, tiny, tmp_path, capsys):
    changes = {"labels": [f"{value / 7:.3f}" for value in range(9)]} if regression else {}
    files = own(tmp_path / "data", **changes) + ["--do_regression"] * regression
    runs, path = make_runs(tiny, tmp_path, files), tmp_path / "l.csv"
    ladder.main([str(runs), *MEASURED, "--csv", str(path), "--figure", str(tmp_path / "l.svg")])
    printed, table = capsys.readouterr().out, pd.read_csv(path)
    assert "mood dev set, 12 rows" in printed
    metrics = ("pearson", "spearmanr") if regression else ("acc", "f1_macro")
    words = "Pearson and Spearman" if regression else "acc and macro-F1"
    assert f"the mean of {words}; the best constant" in printed
    assert ("Pearson with the teacher" in printed) == regression
    for _, row in table[table.method != "teacher"].iterrows():
        found = read_json(runs / f"{row.layers}/eval_results.json")
        assert row.score == pytest.approx(sum(found[name] for name in metrics) / 2)
    teacher = read_json(tmp_path / "t/eval_results.json")
    assert table.score[0] == pytest.approx(sum(teacher[name] for name in metrics) / 2)
    assert str(tmp_path) not in path.read_text()
    ladder.main([str(path)])
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_the_script_trains_and_measures_sizes_of_own_files(tiny, tmp_path, monkeypatch):
    """By its commands: a teacher of own files, students of two sizes, and the table."""
    monkeypatch.setenv("PYTHON", sys.executable)
    files = own(tmp_path / "data")
    run(train_teacher, tiny, tmp_path / "t", *files, "--max_steps", 2, teacher=True)
    words = [tmp_path / "t", *files, "--model", tiny / "pretrained", "--layers", 1, 2]
    words += ["--seeds", 1, "--method", "fsd_l", "--runs", tmp_path / "runs", "--jobs", 1]
    words = [str(word) for word in (*words, "--", "--max_steps", 1, "--no_cuda")]
    assert script.main(words) == 0
    table = pd.read_csv(tmp_path / "runs/ladder.csv")
    assert table.layers.tolist() == [4, 1, 2]
    for _, row in table[1:].iterrows():
        found = read_json(tmp_path / f"runs/fsd_l-depth{row.layers},seed=1/run.json")
        assert found["data"]["train"]["file"] == "train.csv" and found["settings"]["classes"]
        scores = found["results"]["acc"], found["results"]["f1_macro"]
        assert row.score == pytest.approx(sum(scores) / 2)


def test_dev_rows_that_were_moved(tiny, tmp_path, capsys):
    files = own(tmp_path / "data")
    runs = make_runs(tiny, tmp_path, files)
    with pytest.raises(UserError, match="these runs are of files of your own: name the dev rows"):
        ladder.main([str(runs), *MEASURED, "--data_dir", str(tiny)])
    moved = files[3].rename(tmp_path / "elsewhere.csv")
    with pytest.raises(UserError, match=r"--validation_file .*dev.csv does not exist"):
        ladder.main([str(runs), *MEASURED])
    ladder.main([str(runs), *MEASURED, "--validation_file", str(moved)])
    assert "FSD_L, 1 layer" in capsys.readouterr().out
