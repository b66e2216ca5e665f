"""The tables of single runs: means, p values, batch sizes, captions, files and the figure."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest
from conftest import ROOT
from made_up_runs import FSD, RKD, VKD, lines_of, means_csv, numbers, of, runs_csv, write_run
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import ttest_ind

from analysis import tables
from analysis.figures_scores import draw_task
from analysis.means import PUBLISHED
from analysis.methods import Name
from analysis.runs import metric_names, read_runs, task_score
from analysis.tables_numbers import LONG
from common import UserError


def test_single_runs_have_scipys_p_against_the_best_baseline(tmp_path, capsys):
    source = runs_csv(
        tmp_path / "r.csv",
        *of("VKD", VKD),
        *of("FSD_ILG", FSD),
        *of("RKD", RKD),
        *of("none", (0.9, 0.91, 0.93)),
        *of("teacher", (0.95,)),
        *of("Gram", (0.7, 0.71, 0.74)),
    )
    rows = numbers(tmp_path, source).set_index("method")
    for method, scores in (("FSD_ILG", FSD), ("Gram", (0.7, 0.71, 0.74))):
        assert (
            rows.against[method] == "RKD"
        )  # not `none` and not the teacher, though they score higher
        assert rows.p_value[method] == pytest.approx(
            ttest_ind(scores, RKD, equal_var=False).pvalue, rel=1e-9
        )
    assert rows.p_value.count() == 2
    assert (
        rows["mean"]["FSD_ILG"] == pytest.approx(100 * sum(FSD) / 3)
        and rows.published_mean["FSD_ILG"] == 66.61
    )
    printed = capsys.readouterr().out
    assert lines_of(printed, "FSD_ILG") == [["80.67 ± 2.08†", "66.61 ± 1.01"]]
    assert lines_of(printed, "none") == [
        ["**91.33 ± 1.53**", "–"]
    ]  # the best student; the teacher is none
    assert lines_of(printed, "PKD") == [["–", "63.90 ± 0.79"]]
    assert lines_of(printed, "teacher") == [["95.00 (n 1)", "66.79"]]
    assert "No runs of WNLI, STS-B, CoLA, MRPC." in printed
    assert (
        "RTE: seeds 1, 2, 3; students: learning rate 0.0001, epochs 4, batch 32, length 80, "
        "precision bf16.\nM, 2 cores; 32 minutes of training in all; torch 2.1, transformers 5.0, "
        "commit 123456."
    ) in printed
    assert "Table 3, large tasks, %**: No runs of SST-2, QNLI, QQP, MNLI." in printed


def test_the_best_baseline_can_be_gram_itself(tmp_path):
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", FSD), *of("Gram", RKD))
    rows = numbers(tmp_path, source, "--tables", "2").set_index("method")
    assert rows.against.dropna().to_dict() == {"FSD_I": "Gram"}


@pytest.mark.filterwarnings("error")
def test_no_test_without_spread_and_no_warning(tmp_path, capsys):
    source = runs_csv(
        tmp_path / "r.csv", *of("VKD", (0.7, 0.7)), *of("FSD_I", (0.8, 0.8)), *of("FSD_L", (0.8,))
    )
    rows = numbers(tmp_path, source, "--tables", "2").set_index("method")
    assert (
        rows.p_value.isna().all()
        and rows.against["FSD_L"] == "VKD"
        and pd.isna(rows["std"]["FSD_L"])
    )
    printed = capsys.readouterr().out
    assert [lines_of(printed, method)[0][0] for method in ("FSD_I", "FSD_L")] == [
        "**80.00 ± 0.00**",
        "80.00 (n 1)",
    ]
    assert "†" not in printed


def test_mnli_and_its_score_have_both_dev_sets(tmp_path, capsys):
    assert metric_names("mnli") == ["acc", "acc_mm"]
    assert task_score({"acc": 0.8, "acc_mm": 0.6, "eval_loss": 3}, "MNLI") == pytest.approx(0.7)
    source = runs_csv(tmp_path / "r.csv", *of("VKD", (0.8, 0.82), task="MNLI", acc_mm=0.7))
    tables.main([str(source), "--tables", "3"])
    assert lines_of(capsys.readouterr().out, "VKD") == [
        ["**81.00 ± 1.41**/**70.00 ± 0.00**", "82.20 ± 0.19/82.85 ± 0.12"]
    ]


def test_sources_are_joined(tmp_path):
    runs_csv(tmp_path / "r.csv", *of("VKD", VKD))
    means_csv(tmp_path / "means.csv", ("FSD", "rte", "acc", 80.0, 1.0, 3))
    write_run(tmp_path / "runs" / "pkd", "PKD", 0.5)
    rows = numbers(
        tmp_path, tmp_path / "r.csv", tmp_path / "runs", tmp_path / "means.csv", "--tables", "2"
    )
    assert rows.dropna(subset="mean").method.tolist() == ["VKD", "PKD", "FSD_ILG"]
    with pytest.raises(UserError, match="FSD_ILG on RTE is there twice"):
        tables.main([str(tmp_path / "means.csv")] * 2)
    with pytest.raises(UserError, match=r"has the metric f1, not one of RTE's \(acc\)"):
        tables.main([str(means_csv(tmp_path / "m.csv", ("VKD", "RTE", "f1", 80.0, 1.0, 3)))])
    with pytest.raises(UserError, match="has no run of MRPC"):
        tables.main([str(tmp_path / "r.csv"), "--task", "MRPC"])


def test_the_captions_seeds_are_the_students(tmp_path, capsys):
    rows = [{"method": "teacher", "seed": 1, "acc": 0.9}, *of("VKD", VKD), *of("FSD_L", FSD[:2])]
    tables.main(
        [
            str(
                runs_csv(
                    tmp_path / "r.csv",
                    *[
                        row | {"seed": row["seed"] + 5 * (row["method"] != "teacher")}
                        for row in rows
                    ],
                )
            )
        ]
    )
    assert "seeds 6, 7, 8 (not every method has all)" in capsys.readouterr().out


# ---- batch sizes ---------------------------------------------------------------------------------


def test_spread_over_seeds_and_batch_sizes(tmp_path, capsys):
    batch = "--per_gpu_train_batch_size"
    source = runs_csv(
        tmp_path / "r.csv",
        *of("VKD", (0.70, 0.72)),
        *of("VKD", (0.74, 0.80), **{batch: 8}),
        *of("FSD_I", (0.80, 0.81)),
        *of("FSD_I", (0.80, 0.82), **{batch: 8}),
        *of("teacher", (0.9,)),
    )
    rows = numbers(tmp_path, source).set_index(["table", "method"])
    assert (
        rows["std"]["5", "VKD"] == pytest.approx(pd.Series([70, 72, 74, 80]).std())
        and rows.n["5", "VKD"] == 4
    )
    assert (
        rows["mean"]["2", "VKD"] == pytest.approx(71) and rows.n["2", "VKD"] == 2
    )  # those of batch 32
    assert ("5", "teacher") not in rows.index
    printed = capsys.readouterr().out
    assert (
        "**0.96**" in printed
        and "batch sizes 8, 32, n = 4" in printed
        and "batch 8 or 32" in printed
    )
    assert "those of 32 count here" in printed
    assert numbers(tmp_path, source, "--batch_size", 8).set_index(["table", "method"])["mean"][
        "2", "VKD"
    ] == (pytest.approx(77))
    with pytest.raises(UserError, match="batches of 8, 32, none of 16"):
        tables.main([str(source), "--batch_size", "16"])


def test_one_batch_size_is_no_table_5(tmp_path, capsys):
    tables.main([str(runs_csv(tmp_path / "r.csv", *of("VKD", VKD))), "--tables", "5"])
    assert capsys.readouterr().out.strip().endswith("no task has runs of several batch sizes.")


def test_spread_is_compared_of_methods_with_all_batch_sizes(tmp_path):
    sizes = [
        row | {"seed": seed, "--per_gpu_train_batch_size": size}
        for size in (8, 32)
        for row in of("VKD", VKD[:1])
        for seed in (1, 2)
    ]
    for i, row in enumerate(sizes):
        row["acc"] += i / 100
    found = numbers(
        tmp_path, runs_csv(tmp_path / "r.csv", *sizes, *of("none", (0.7, 0.7))), "--tables", 5
    )
    assert set(found.method) == {"VKD"}


# ---- files ---------------------------------------------------------------------------------------


def test_tables_go_between_the_markers_that_are_there(tmp_path, capsys):
    source, readme = runs_csv(tmp_path / "r.csv", *of("VKD", VKD)), tmp_path / "README.md"
    readme.write_text("before\n<!-- table 2 -->\nstale\n<!-- end 2 -->\nafter\n")
    tables.main([str(source), "--insert", str(readme), "--markdown", str(tmp_path / "t.md")])
    text, written = readme.read_text(), (tmp_path / "t.md").read_text()
    assert text.startswith("before\n<!-- table 2 -->\n**Table 2") and text.endswith(
        "\n<!-- end 2 -->\nafter\n"
    )
    assert "stale" not in text and "Table 3" not in text and "Table 3" in written
    assert written == capsys.readouterr().out
    readme.write_text("no marker\n")
    for path in (readme, tmp_path / "absent.md"):
        with pytest.raises(UserError, match="has no line <!-- table 2 -->"):
            tables.main([str(source), "--insert", str(path)])


def test_csv_has_every_number_once(tmp_path):
    rows = numbers(tmp_path, runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_ILG", FSD)))
    assert list(rows) == LONG
    assert rows.method.tolist() == ["teacher", "VKD", "PKD", "RKD", "MiniLM", "FSD_ILG"]
    assert rows.n.tolist() == [0, 3, 0, 0, 0, 3] and (rows["mean"].isna() == (rows.n == 0)).all()


@pytest.mark.slow
def test_the_figure_is_drawn(tmp_path):
    rows = [
        run
        for task in ("RTE", "WNLI")
        for method, scores in (("teacher", (0.9,)), ("VKD", VKD), ("FSD_I", FSD))
        for run in of(method, scores, task=task)
    ]
    source = runs_csv(tmp_path / "r.csv", *rows)
    for suffix in ("png", "svg"):
        tables.main([str(source), "--figure", str(tmp_path / f"figure.{suffix}")])
    assert (
        imread(tmp_path / "figure.png")[..., :3].min() < 0.1
        and imread(tmp_path / "figure.png").shape[1] > 600
    )
    paths = (
        ElementTree.parse(tmp_path / "figure.svg")
        .getroot()
        .iter("{http://www.w3.org/2000/svg}path")
    )
    assert sum(1 for _ in paths) > 20
    for path, file, message in (
        (source, "f.txt", "must end in .png"),
        (PUBLISHED, "f.png", "there are only means"),
    ):
        with pytest.raises(UserError, match=message):
            tables.main([str(path), "--figure", str(tmp_path / file)])


def test_the_teacher_is_the_dashed_line(tmp_path):
    source = runs_csv(
        tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", FSD), *of("teacher", (0.9, 0.92))
    )
    axes = Figure().add_subplot()
    draw_task(axes, read_runs(source), "RTE", [Name("VKD"), Name("RKD"), Name("FSD_I")])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["VKD", "RKD", "FSD_I"]
    assert axes.get_title() == "RTE, n = 3 runs" and axes.get_xlabel().endswith("%")
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [
        pytest.approx(91)
    ]
    dots = sorted(
        float(x)
        for group in axes.collections
        if len(group.get_offsets()) == 3
        for x in group.get_offsets()[:, 0]
    )
    assert dots == pytest.approx(sorted(100 * score for score in VKD + FSD))


@pytest.mark.slow
def test_a_reader_who_has_enough():
    """`... | head`: no traceback."""
    command = f"{sys.executable} {ROOT / 'analysis/tables.py'} {PUBLISHED} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
