"""Published predictions: collected whole, and the metrics of results computed again from them."""

import csv

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from conftest import flags, shell
from made_up_runs import COUNTS, run_folder, table_of, write_run

import glue_with_cka_i
from analysis import predictions
from common import UserError


@pytest.fixture
def runs(tmp_path):
    """Two folders of runs of four kinds of tasks."""
    for task in ("MRPC", "STS-B", "MNLI", "CoLA"):
        for seed in (1, 2):
            run_folder(tmp_path / "runs" / f"{task},seed={seed}", task, seed=seed)
    run_folder(tmp_path / "more" / "teacher", "MRPC", "teacher", seed=3)
    run_folder(tmp_path / "more" / "not_evaluated", "MRPC", "PKD", evaluated=False)
    write_run(tmp_path / "more" / "unfinished", "VKD", 0.5, finished=False)
    return tmp_path


@pytest.fixture
def published(runs):
    predictions.main([str(runs / "runs"), str(runs / "more"), "--csv", str(runs / "p.csv")])
    table_of(runs / "runs", runs / "r.csv")
    table_of(runs / "more", runs / "r2.csv")
    return runs / "p.csv"


def checked(published, *results, capsys):
    code = predictions.main([str(published), "--check", *map(str, results)])
    return code, capsys.readouterr().out.splitlines()


def changed(path, line, old, new):
    """The file with something else in one line, counted from 1."""
    lines = path.read_text().split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


def edited(folder, change):
    """A run's folder with other predictions in it."""
    path = folder / "dev_predictions.tsv"
    change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


# ---- the file -----------------------------------------------------------------------------------


def test_a_row_a_run_and_dev_set_below_its_labels(published, runs):
    rows = list(csv.DictReader(published.open()))
    assert list(rows[0]) == list(predictions.COLUMNS)
    facts = [(row["run"], row["task"], row["method"], row["seed"], row["split"]) for row in rows]
    assert facts[:3] == [
        ("label", "CoLA", "", "", "dev"),
        ("CoLA,seed=1", "CoLA", "FSD_I", "1", "dev"),
        ("CoLA,seed=2", "CoLA", "FSD_I", "2", "dev"),
    ]
    mrpc = [fact for fact in facts if fact[1] == "MRPC"]
    assert [fact[0] for fact in mrpc] == ["label", "MRPC,seed=1", "MRPC,seed=2", "teacher"]
    assert [fact[4] for fact in facts if fact[1] == "MNLI"] == ["dev"] * 3 + ["dev_mm"] * 3
    for row in rows:
        assert len(row["predictions"].split()) == COUNTS[row["split"]]
        if row["run"] != "label":
            place = runs / ("more" if row["run"] == "teacher" else "runs") / row["run"]
            there = pd.read_csv(place / f"{row['split']}_predictions.tsv", sep="\t")
            kind = np.float32 if row["task"] == "STS-B" else int  # to the last bit
            assert (np.array(row["predictions"].split(), dtype=kind) == there.prediction).all()


def test_a_run_that_was_not_evaluated_is_left_out_and_told(runs, capsys):
    predictions.main([str(runs / "more"), "--csv", str(runs / "p.csv")])
    said = capsys.readouterr()
    assert said.err.endswith("not_evaluated is left out, as the run was not evaluated\n")
    assert said.out == f"wrote {runs}/p.csv: the predictions of 1 run\n"


def test_nothing_is_written_where_something_is_wrong(runs, tmp_path):
    out, arguments = tmp_path / "p.csv", ["--csv", str(tmp_path / "p.csv")]
    wrong = {"not_there": "neither a results.csv nor a folder"}
    missing = run_folder(runs / "missing" / "a")
    (missing / "dev_predictions.tsv").unlink()
    wrong["missing"] = "a/dev_predictions.tsv is missing, though the run was evaluated"
    edited(run_folder(runs / "class" / "a"), lambda frame: frame.assign(prediction=7))
    wrong["class"] = "line 2 has '7' where a class of MRPC, 0 to 1 is expected"
    for name in "ab":
        path = run_folder(runs / "labels" / name) / "dev_predictions.tsv"
    edited(path.parent, lambda frame: frame.assign(label=1 - frame.label))
    wrong["labels"] = "b/dev_predictions.tsv has other rows or labels than the first MRPC run"
    for name in "ab":
        path = run_folder(runs / "rows" / name) / "dev_predictions.tsv"
    edited(path.parent, lambda frame: frame.assign(index=frame["index"] + 1))
    wrong["rows"] = wrong["labels"]
    run_folder(runs / "none" / "a", evaluated=False)
    wrong["none"] = "no run in .*none was evaluated"
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message):
            predictions.main([str(runs / name), *arguments])
    with pytest.raises(UserError, match="is there twice"):
        predictions.main([str(runs / "runs")] * 2 + arguments)
    with pytest.raises(UserError, match=r"_predictions\.tsv is a file"):
        predictions.main([str(path), *arguments])
    assert not out.exists() and not list(tmp_path.glob(".p.csv*"))


def test_one_of_the_two_things_is_asked_for(runs):
    for more, found in (((), "neither"), (("--csv", "a", "--check", "b"), "both")):
        with pytest.raises(UserError, match=f"found {found}: give one"):
            predictions.main([str(runs / "runs"), *more])


# ---- the formulas -------------------------------------------------------------------------------

SECOND = {
    "acc": sklearn.metrics.accuracy_score,
    "f1": lambda y, p: sklearn.metrics.f1_score(y, p, zero_division=0),
    "mcc": sklearn.metrics.matthews_corrcoef,
    "pearson": lambda y, p: scipy.stats.pearsonr(p, y).statistic,
    "spearmanr": lambda y, p: scipy.stats.spearmanr(p, y).statistic,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SECOND)
def test_formulas_agree_with_the_libraries(name, seed):
    rng = np.random.default_rng(seed)
    labels, found = rng.integers(0, 2, (2, 50))
    if name in ("pearson", "spearmanr"):  # with many ties
        labels, found = np.round(rng.normal(size=(2, 50)) + rng.normal(size=50), 1)
    second = SECOND[name](labels, found)
    assert predictions.FORMULAS[name](found, labels) == pytest.approx(second, abs=1e-12)


def test_formulas_where_a_model_learned_nothing():
    zeros, labels = np.zeros(4), np.array([0, 1, 1, 0])
    found = [predictions.FORMULAS[name](zeros, labels) for name in SECOND]
    assert found == [0.5, 0, 0, 0, 0]
    assert np.isnan(predictions.FORMULAS["spearmanr"](np.array([1, np.nan, 2, 3]), labels))
    assert predictions.ranks(np.array([5, 1, 5, 3])).tolist() == [3.5, 1, 3.5, 2]


def test_scores_close_together_keep_their_order(tmp_path):
    """Of a model that says nearly one number for all rows, to the last bit of float32."""
    steps = np.float32(3) + np.arange(COUNTS["dev"]) % 7 * np.spacing(np.float32(3))
    folder = run_folder(tmp_path / "runs" / "a", "STS-B", predicted=steps.astype(np.float64))
    predictions.main([str(folder.parent), "--csv", str(tmp_path / "p.csv")])
    assert predictions.main([str(tmp_path / "p.csv"), "--check", str(folder.parent)]) == 0


# ---- the check ----------------------------------------------------------------------------------


def test_labels_twice_are_refused_and_a_file_given_twice_is_read_once(published, runs, capsys):
    assert checked(published, runs / "r.csv", runs / "r2.csv", runs / "r.csv", capsys=capsys)[1][
        -1
    ] == ("9 of 9 rows agree with their predictions")
    lines = published.read_text().splitlines()
    own = next(line for line in lines if line.startswith("label,MRPC"))
    published.write_text("\n".join([*lines, own]) + "\n")
    with pytest.raises(UserError, match="the dev labels of MRPC a second time"):
        predictions.main([str(published), "--check", str(runs / "r.csv")])


def test_all_agree(published, runs, capsys):
    code, lines = checked(published, runs / "r.csv", runs / "r2.csv", capsys=capsys)
    assert code == 0 and lines[-1] == "9 of 9 rows agree with their predictions"
    assert [line for line in lines[:-1] if not line.startswith("note: PKD on MRPC")] == []


def test_published_results_name_the_runs_and_no_path(published, runs):
    rows = pd.read_csv(runs / "r.csv")
    assert list(rows)[:4] == ["method", "task", "seed", "run"] and "--output_dir" not in rows
    assert set(rows.run) == {path.name for path in (runs / "runs").iterdir()}
    table_of(runs / "r.csv", runs / "again.csv")  # and so does a copy
    assert (runs / "again.csv").read_bytes() == (runs / "r.csv").read_bytes()


def test_results_with_folders_match_by_their_names(published, runs, capsys):
    """As --results_csv writes them, with the whole --output_dir of another machine."""
    rows = pd.read_csv(runs / "r.csv")
    places = rows.drop(columns="run").assign(**{"--output_dir": "/there/" + rows.run + "/"})
    places.to_csv(runs / "own.csv", index=False)
    assert checked(published, runs / "own.csv", runs / "r2.csv", capsys=capsys)[0] == 0
    rows.assign(run=rows.run + "x").to_csv(runs / "other.csv", index=False)
    code, lines = checked(published, runs / "other.csv", runs / "r2.csv", capsys=capsys)
    assert code == 1 and lines[-1] == (
        "1 of 9 rows agree with their predictions; predictions without a row: 8"
    )


def test_results_without_names_match_by_method_seed_and_start(published, runs, capsys):
    rows = pd.read_csv(runs / "r.csv").drop(columns="run")
    rows.to_csv(runs / "old.csv", index=False)
    assert checked(published, runs / "old.csv", runs / "r2.csv", capsys=capsys)[0] == 0
    rows.assign(started="2027").to_csv(runs / "later.csv", index=False)
    assert checked(published, runs / "later.csv", runs / "r2.csv", capsys=capsys)[0] == 1
    run_folder(runs / "runs" / "same", "MRPC", seed=1)  # a variant that started in the same second
    predictions.main([str(runs / "runs"), "--csv", str(published)])
    capsys.readouterr()
    code, lines = checked(published, runs / "old.csv", capsys=capsys)
    assert code == 1 and "it may be any of 2 runs with predictions: it names no folder" in lines[0]


def test_a_broken_prediction_is_found(published, runs, capsys):
    for split, name in (("dev", "acc"), ("dev_mm", "acc_mm")):
        rows = list(csv.reader(published.open()))
        truth, row = (
            next(row for row in rows if row[:2] == [run, "MNLI"] and row[5] == split)
            for run in ("label", "MNLI,seed=2")
        )
        labels, words = truth[6].split(), row[6].split()
        i = next(i for i, word in enumerate(words) if word == labels[i])
        words[i] = "2" if words[i] != "2" else "1"
        row[6] = " ".join(words)
        with (runs / "broken.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)
        code, lines = checked(runs / "broken.csv", runs / "r.csv", runs / "r2.csv", capsys=capsys)
        assert code == 1 and lines[-1] == "8 of 9 rows agree with their predictions"
        told = [text for text in lines if f"{name} is 0." in text]
        assert len(told) == 1
        assert told[0].startswith("FSD_I on MNLI with seed 2 (MNLI,seed=2, 2026)")
        assert told[0].endswith("by its predictions") and ";" not in told[0]


@pytest.mark.parametrize("column", ["mcc", "acc", "f1", "acc_mm", "pearson", "spearmanr"])
def test_a_broken_number_of_any_metric_is_found(published, runs, capsys, column):
    for change, code in ((5e-7, 0), (-2e-6, 1), (None, 1)):
        rows = pd.read_csv(runs / "r.csv")
        line = rows[column].last_valid_index()
        rows.loc[line, column] = rows.loc[line, column] + change if change else None
        rows.to_csv(runs / "broken.csv", index=False)
        found, lines = checked(published, runs / "broken.csv", runs / "r2.csv", capsys=capsys)
        told = [text for text in lines if f"{column} is " in text]
        assert found == code and len(told) == code and lines[-1].startswith(f"{9 - code} of 9 rows")


def test_missing_runs_are_found_on_either_side(published, runs, capsys):
    lines = [
        line
        for line in published.read_text().split("\n")
        if not line.startswith(('"STS-B,seed=1"', '"MNLI,seed=1",MNLI,FSD_I,1,2026,dev_mm'))
    ]
    published.write_text("\n".join(lines))
    rows = pd.read_csv(runs / "r.csv")
    rows[rows.run != "CoLA,seed=2"].to_csv(runs / "fewer.csv", index=False)
    code, lines = checked(published, runs / "fewer.csv", runs / "r2.csv", capsys=capsys)
    assert code == 1
    assert [line for line in lines if not line.startswith("note")] == [
        "FSD_I on MNLI with seed 1 (MNLI,seed=1, 2026) in "
        f"{runs}/fewer.csv: no predictions for acc_mm",
        "FSD_I on STS-B with seed 1 (STS-B,seed=1, 2026) in "
        f"{runs}/fewer.csv: there are no predictions",
        "FSD_I on CoLA with seed 2 (CoLA,seed=2, 2026): there are predictions, but no row",
        "6 of 8 rows agree with their predictions; predictions without a row: 1",
    ]


def test_predictions_without_a_row_alone_are_wrong(published, runs, capsys):
    code, lines = checked(published, runs / "r.csv", capsys=capsys)
    assert code == 1
    assert lines[-1] == "8 of 8 rows agree with their predictions; predictions without a row: 1"


WRONG = {
    "label": ("label,MRPC,", "other,MRPC,", "40 predictions, but no row of labels before"),
    "class": (" 1", " 2", "line 2 has '2' where a class of"),
    "fewer": ("1,2026,dev,", "1,2026,dev,0 ", "has 41 predictions, but 40 labels"),
    "split": (",dev,", ",test,", "'test' where a dev set of"),
    "task": (",CoLA,", ",CoLAX,", "a task name among"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_file_is_refused_by_its_line(published, runs, name):
    old, new, message = WRONG[name]
    lines = published.read_text().split("\n")
    changed(published, next(i for i, line in enumerate(lines, 1) if old in line), old, new)
    with pytest.raises(UserError, match=message):
        predictions.main([str(published), "--check", str(runs / "r.csv")])


def test_a_file_of_another_kind_is_refused(runs, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no file of predictions"):
        predictions.main([str(tmp_path / "x.csv"), "--check", str(tmp_path / "x.csv")])


def test_predictions_are_not_taken_for_results(published):
    with pytest.raises(UserError, match="has the predictions of runs, not their results"):
        table_of(published, published)


@pytest.mark.slow
def test_of_a_real_run(tiny, tmp_path):
    """From the training to the check, as a user does it."""
    more = ["--max_steps", 1, "--results_csv", tmp_path / "r.csv"]
    for seed in (1, 2):
        glue_with_cka_i.main(flags(tiny, tmp_path / "runs" / f"s{seed}", "--seed", seed, *more))
    done = shell("analysis/predictions.py", tmp_path / "runs", "--csv", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    done = shell("analysis/predictions.py", tmp_path / "p.csv", "--check", tmp_path / "r.csv")
    assert (done.returncode, done.stdout) == (0, "2 of 2 rows agree with their predictions\n")


@pytest.mark.parametrize("most", [None, 7])
def test_labels_that_are_not_glues_are_refused(tiny, tmp_path, capsys, most):
    """A file whose labels were changed agrees with itself, and with scores made from it."""
    limit = ["--max_eval_samples", most] if most else []
    more = ["--max_steps", 1, "--results_csv", tmp_path / "r.csv", *limit]
    glue_with_cka_i.main(flags(tiny, tmp_path / "runs" / "s", *more))
    predictions.main([str(tmp_path / "runs"), "--csv", str(tmp_path / "p.csv")])
    check = ["--check", str(tmp_path / "r.csv"), "--data_dir", str(tiny)]
    assert predictions.main([str(tmp_path / "p.csv"), *check]) == 0
    table = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    flipped = table.assign(predictions=table.predictions.str.translate(str.maketrans("01", "10")))
    flipped.to_csv(tmp_path / "q.csv", index=False)
    assert checked(tmp_path / "q.csv", tmp_path / "r.csv", capsys=capsys)[0] == 0
    with pytest.raises(UserError, match=r"q\.csv, line 2 has dev labels of RTE that are not those"):
        predictions.main([str(tmp_path / "q.csv"), *check])
    with pytest.raises(UserError, match="--data_dir is for --check alone"):
        predictions.main([str(tmp_path / "runs"), "--csv", str(tmp_path / "o"), *check[2:]])
