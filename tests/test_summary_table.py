"""analysis/summary_table.py: the README's table, against arithmetic of its own."""

import csv
import statistics

import pytest
from conftest import ROOT
from import_times import SLOW, imported
from made_up_runs import of, runs_csv

from analysis import summary_table
from common import UserError

STUDY = [str(ROOT / "results" / f"study_{task}.csv") for task in ("mrpc", "stsb")]
METRICS = {"MRPC": ("acc", "f1"), "STS-B": ("pearson", "spearmanr")}


def shown(capsys, *arguments):
    """The table that the command prints, method -> column -> cell, and the lines below it."""
    summary_table.main([*map(str, arguments)])
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")
    ]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}, notes


def is_variant(row):
    return (
        row["--mask_padding"] == "True"
        or row["--cka_estimator"] == "debiased"
        or row["memory_init"] == "normal"
        or row.get("--student_memory_learning_rate", "") != ""
    )


def scores_of(task, method):
    """The scores of a method's plain runs in %, of the rows themselves."""
    found = []
    for path in STUDY:
        with open(path, encoding="utf-8", newline="") as file:
            found += [row for row in csv.DictReader(file) if row["task"] == task]
    plain = [row for row in found if row["method"] == method and not is_variant(row)]
    return [50 * sum(float(row[name]) for name in METRICS[task]) for row in plain]


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_scores_are_means_of_the_metrics_over_the_runs(task, capsys):
    table, _ = shown(capsys, *STUDY)
    assert len(table) == 13 and not [method for method in table if "," in method]
    for method, row in table.items():
        scores = scores_of(task, method)
        cell = f"{statistics.mean(scores):.1f}"
        cell += f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        assert row[task].removesuffix(" *") == cell, method


def test_the_best_rival_is_marked_and_claims_are_told(capsys):
    table, notes = shown(capsys, *STUDY)
    assert [method for method in table if table[method]["MRPC"].endswith("*")] == ["MiniLM"]
    assert [method for method in table if table[method]["STS-B"].endswith("*")] == ["PKD"]
    assert table["FSD_ILG"]["MRPC, paper"] == "84.7" and table["FSD_I"]["MRPC, paper"] == "–"
    assert "1 shows a difference" in " ".join(notes.split())
    assert "FSD_IL is worse than FSD_I on STS-B" in " ".join(notes.split())


def test_what_is_missing_is_told(capsys, tmp_path):
    """Without a claim and with a method of fewer runs."""
    lines = (ROOT / "results" / "study_mrpc.csv").read_text(encoding="utf-8").splitlines()
    (dropped,) = [line for line in lines if line.startswith("PKD,MRPC,4")]
    source = tmp_path / "runs.csv"
    source.write_text("\n".join(line for line in lines if line != dropped) + "\n")
    table, notes = shown(capsys, source)
    assert table["PKD"]["MRPC"].endswith("(n 2)") and "(n" not in table["RKD"]["MRPC"]
    assert "none shows a difference" in " ".join(notes.split())


def test_seeds_are_those_of_each_task_and_a_star_is_the_best(capsys, tmp_path):
    """Two tasks with other seeds; a better rival of a single run; another batch size."""
    size = {"--per_gpu_train_batch_size": 16}
    rows = [*of("VKD", (0.7, 0.71)), *of("RKD", (0.6, 0.61)), *of("PKD", (0.9, 0.9), **size)]
    rows += of("none", (0.8,))
    mrpc = [row | {"task": "MRPC", "f1": row["acc"], "seed": row["seed"] + 4} for row in rows[:4]]
    source = runs_csv(tmp_path / "r.csv", *(row | {"f1": None} for row in rows), *mrpc)
    table, notes = shown(capsys, source)
    notes = " ".join(notes.split())
    assert "seeds 1, 2 (not every method has all) on RTE; 5, 6 on MRPC; without" in notes
    assert not [method for method in table if table[method]["RTE"].endswith("*")]
    assert [method for method in table if table[method]["MRPC"].endswith("*")] == ["VKD"]
    assert "There are none of PKD on RTE." in notes and "PKD" not in table


def test_it_is_narrow_and_goes_between_its_markers(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table summary -->\nold\n<!-- end summary -->\nafter\n")
    summary_table.main([*STUDY, "--insert", str(page)])
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- table summary -->"] and "old" not in lines
    assert lines[-2:] == ["<!-- end summary -->", "after"]
    assert max(map(len, lines)) <= summary_table.WIDTH


def test_means_alone_are_refused():
    with pytest.raises(UserError, match="has only means of runs: give single runs"):
        summary_table.main([str(ROOT / "analysis" / "published.csv")])


def test_help_waits_for_no_library():
    assert not SLOW & imported("analysis/summary_table.py", "--help", code=0)[0]
