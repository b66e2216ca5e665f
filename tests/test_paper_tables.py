"""The paper's own numbers through analysis/tables.py: their order, their marks, their averages."""

import pandas as pd
import pytest
from conftest import shell
from made_up_runs import lines_of, means_csv, numbers, of, runs_csv
from scipy.stats import ttest_ind_from_stats

from analysis.means import PUBLISHED

RANKED = {  # best first; methods with equal means in the order of the rows
    ("WNLI", "acc"): "FSD_ILG VKD PKD RKD MiniLM",
    ("RTE", "acc"): "FSD_ILG VKD RKD PKD MiniLM",
    ("STS-B", "pearson"): "FSD_ILG PKD RKD VKD MiniLM",
    ("STS-B", "spearmanr"): "FSD_ILG RKD PKD VKD MiniLM",
    ("CoLA", "mcc"): "RKD FSD_ILG PKD VKD MiniLM",
    ("MRPC", "f1"): "FSD_ILG RKD PKD VKD MiniLM",
    ("MRPC", "acc"): "FSD_ILG RKD PKD VKD MiniLM",
    ("SST-2", "acc"): "FSD_ILG RKD VKD PKD MiniLM",
    ("QNLI", "acc"): "MiniLM FSD_ILG RKD PKD VKD",
    ("QQP", "acc"): "RKD FSD_ILG VKD PKD MiniLM",
    ("QQP", "f1"): "FSD_ILG RKD VKD PKD MiniLM",
    ("MNLI", "acc"): "FSD_ILG RKD PKD MiniLM VKD",
    ("MNLI", "acc_mm"): "FSD_ILG RKD VKD MiniLM PKD",
}


def test_the_published_numbers_rank_as_in_the_paper(tmp_path):
    rows = numbers(tmp_path, PUBLISHED)
    students = rows[rows.method != "teacher"]
    ranked = {
        key: " ".join(column.sort_values("mean", ascending=False, kind="stable").method)
        for key, column in students.groupby(["task", "metric"], sort=False)
    }
    assert ranked == RANKED and list(ranked) == list(RANKED)
    assert set(rows.table) == {"2", "3"}


@pytest.mark.slow
def test_the_published_table_is_printed_as_in_the_paper():
    done = shell("analysis/tables.py", PUBLISHED)
    assert done.returncode == 0 and not done.stderr
    assert lines_of(done.stdout, "method")[0] == [
        "WNLI (acc)",
        "RTE (acc)",
        "STS-B (Pearson/Spearman)",
        "CoLA (Matthews)",
        "MRPC (F1/acc)",
    ]
    assert lines_of(done.stdout, "FSD_ILG") == [
        [
            "**55.49 ± 1.61**",
            "**66.61 ± 1.01**",
            "**88.69 ± 0.10**‡/**88.33 ± 0.09**†",
            "43.03 ± 1.43",
            "**87.10 ± 0.24**/**82.20 ± 0.33**",
        ],
        [
            "**91.04 ± 0.28**",
            "88.97 ± 0.25‡",
            "91.19 ± 0.05/**88.14 ± 0.08**",
            "**82.42 ± 0.13**/**83.00 ± 0.20**",
        ],
    ]
    assert lines_of(done.stdout, "RKD")[0][3] == "**43.07 ± 1.49**"
    assert lines_of(done.stdout, "teacher")[0][4] == "86.00/81.10 (n 1)"
    assert (
        "n = 6 unless" in done.stdout
        and "7 tests without" in done.stdout
        and "CoLA, Matthews: RKD" in done.stdout
    )


def test_welch_of_means_is_scipys(tmp_path):
    rows = numbers(tmp_path, PUBLISHED)
    row = rows[(rows.task == "CoLA") & (rows.method == "FSD_ILG")].iloc[0]
    expected = ttest_ind_from_stats(43.03, 1.43, 6, 43.07, 1.49, 6, equal_var=False).pvalue
    assert (row.against, row.p_value) == ("RKD", pytest.approx(expected, rel=1e-12))
    assert rows.p_value.count() == 13 and set(rows.method[rows.p_value.notna()]) == {"FSD_ILG"}


def test_ablation_of_the_published_average_change(tmp_path, capsys):
    """The paper gives its ablation as averages over tasks alone, so every task is put at its
    method's average.
    """
    published = pd.read_csv(PUBLISHED).query("method == 'FSD' and table < 4")
    changes = {"FSD_I": -0.78, "FSD_L": -0.90, "FSD_G": -0.86, "FSD_IL": -0.48}
    rows = [
        (method, row.task, row.metric, row["mean"] * (1 + change / 100), 1.0, 6)
        for method, change in ({"FSD_ILG": 0} | changes).items()
        for _, row in published.iterrows()
    ]
    found = numbers(tmp_path, means_csv(tmp_path / "means.csv", *rows), "--tables", "4").query(
        "task == 'average'"
    )
    assert found.method.tolist() == list(changes) and (found.n == 9).all()
    assert found["mean"].tolist() == pytest.approx(list(changes.values()), abs=1e-9)
    assert found.published_mean.tolist() == list(changes.values())
    assert lines_of(capsys.readouterr().out, "without IL (FSD_G)") == [
        ["-0.86"] * 10 + ["9", "-0.86"]
    ]


def test_ablation_averages_the_tasks_that_have_both(tmp_path):
    source = means_csv(
        tmp_path / "means.csv",
        ("FSD", "RTE", "acc", 50, 1, 3),
        ("FSD", "MRPC", "acc", 70, 1, 3),
        ("FSD", "MRPC", "f1", 90, 1, 3),
        ("FSD_I", "RTE", "acc", 51, 1, 3),
        ("FSD_L", "CoLA", "mcc", 9, 1, 3),
        ("FSD_IL", "RTE", "acc", 49, 1, 3),
        ("FSD_IL", "MRPC", "acc", 68, 1, 3),
        ("FSD_IL", "MRPC", "f1", 84, 1, 3),
    )
    rows = numbers(tmp_path, source, "--tables", "4").set_index(["method", "task"])["mean"]
    assert rows["FSD_I", "RTE"] == rows["FSD_I", "average"] == pytest.approx(2)
    assert rows["FSD_IL", "MRPC"] == pytest.approx(-5)  # 80 -> 76, each the mean of accuracy and F1
    assert rows["FSD_IL", "average"] == pytest.approx(-3.5) and "FSD_L" not in rows


def test_no_relative_change_from_a_score_below_0(tmp_path):
    rows = [
        row | {"task": "CoLA", "mcc": score}
        for method, score in (("FSD_ILG", -0.01), ("FSD_I", 0.02))
        for row in of(method, (0.5,))
    ]
    assert numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", 4).empty
