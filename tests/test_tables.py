"""The paper's tables from runs or from means, and the best setting of a search."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest
from conftest import ROOT, shell
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import ttest_ind, ttest_ind_from_stats

from analysis import best, table, tables
from analysis.figures_scores import draw_task
from analysis.means import SUMMARY
from analysis.methods import Name
from analysis.runs import glue_score, metric_names, read_runs
from analysis.tables_numbers import LONG
from common import UserError

PUBLISHED = ROOT / "analysis" / "published.csv"
COMMON = {
    "minutes": 2.0,
    "parameters": 17e6,
    "device": "cpu",
    "machine": "M, 2 cores",
    "precision": "bf16",
    "processes": 1,
    "torch": "2.1",
    "transformers": "5.0",
    "commit": "123456",
    "--learning_rate": 1e-4,
    "--num_train_epochs": 4,
    "--max_seq_length": 80,
    "--per_gpu_train_batch_size": 32,
    "--output_dir": "/somewhere",
}
VKD, RKD, FSD = (0.71, 0.73, 0.72), (0.74, 0.73, 0.76), (0.80, 0.79, 0.83)


def runs_csv(path, *rows):
    pd.DataFrame([COMMON | {"task": "RTE"} | row for row in rows]).to_csv(path, index=False)
    return path


def of(method, scores, **fields):
    """A run for each score, seeds 1, 2, ..."""
    return [
        {"method": method, "seed": seed, "acc": score} | fields
        for seed, score in enumerate(scores, 1)
    ]


def write_run(folder, method, score, finished=True, data="abc", **flags):
    """A run's folder."""
    flags = {key[2:]: value for key, value in COMMON.items() if key.startswith("--")} | flags
    run = COMMON | {
        "finished": finished,
        "method": method,
        "results": {"acc": score},
        "train_seconds": 60,
        "steps": 1,
        "examples_per_second": 1,
        "started": "2026",
        "teacher": None,
        "data": {"train": {"sha256": data}},
        "versions": COMMON,
        "arguments": {"task_name": "RTE", "seed": 1} | flags,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))


def means_csv(path, *rows):
    pd.DataFrame(rows, columns=SUMMARY).to_csv(path, index=False)
    return path


def numbers(tmp_path, *arguments):
    """What the command writes as CSV."""
    tables.main([*map(str, arguments), "--csv", str(tmp_path / "numbers.csv")])
    return pd.read_csv(tmp_path / "numbers.csv", dtype={"table": str})


def lines_of(text, method):
    """The rows of a method in all printed tables, as lists of cells."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [line[1:] for line in lines if line[0] == method]


# ---- the published numbers -----------------------------------------------------------------------

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


# ---- single runs ---------------------------------------------------------------------------------


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


def test_variants_are_tested_against_their_published_form(tmp_path, capsys):
    masked, lone = (0.85, 0.86, 0.83), (0.7, 0.72, 0.75)
    alone = {"--mask_padding": True, "--group_by_length": False}
    source = runs_csv(
        tmp_path / "r.csv",
        *of("VKD", VKD),
        *of("FSD_I", FSD),
        *of("FSD_I", masked, **alone),
        *of("FSD_L", lone, **{"--cka_estimator": "debiased"}),
    )
    rows = numbers(tmp_path, source, "--tables", "2").set_index("method")
    expected = ttest_ind(masked, FSD, equal_var=False).pvalue
    assert rows.p_form.dropna().to_dict() == {
        "FSD_I, mask_padding": pytest.approx(expected, rel=1e-9)
    }
    assert (
        f"p of the same test: FSD_I, mask_padding, RTE: acc {expected:.3f}.\n"
        in capsys.readouterr().out
    )


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
    assert glue_score({"acc": 0.8, "acc_mm": 0.6, "eval_loss": 3}, "MNLI") == pytest.approx(0.7)
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
    with pytest.raises(UserError, match="has the metric f1, not one of RTE's: acc"):
        tables.main([str(means_csv(tmp_path / "m.csv", ("VKD", "RTE", "f1", 80.0, 1.0, 3)))])
    with pytest.raises(UserError, match="has no run of MRPC"):
        tables.main([str(tmp_path / "r.csv"), "--task", "MRPC"])


MIXED = {
    "learning rate": (
        {"--learning_rate": 2e-4},
        r"RTE runs differ in --learning_rate \(0.0001, 0.0002\)",
    ),
    "length": ({"--max_seq_length": 128}, "differ in --max_seq_length"),
    "device": ({"device": "H"}, "differ in device"),
    "parameters": ({"parameters": 5}, "differ in parameters"),
    "no metric": ({"acc": None}, "FSD_I with seed 1 has no acc"),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_runs_are_refused(tmp_path, name):
    different, message = MIXED[name]
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", (0.8,), **different))
    with pytest.raises(UserError, match=message):
        tables.main([str(source)])


def test_one_seed_twice_is_refused_and_tasks_may_differ(tmp_path):
    rows = of("VKD", VKD)
    with pytest.raises(UserError, match="VKD with seed 2 is there twice for RTE"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows, rows[1]))])
    other = of("VKD", VKD, task="WNLI", **{"--learning_rate": 3e-4})
    tables.main([str(runs_csv(tmp_path / "r.csv", *rows, *other))])


def test_tuned_settings_differ_between_methods_never_within(tmp_path, capsys):
    rate = "--learning_rate"
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", FSD, **{rate: 2e-4}))
    tables.main([str(source), "--tuned", "learning_rate"])
    printed = capsys.readouterr().out
    assert (
        "learning rate 0.0001 or 0.0002, epochs 4" in printed
        and "Tuned for each method: learning_rate." in printed
    )
    within = runs_csv(
        tmp_path / "w.csv", *of("VKD", VKD), {"method": "VKD", "seed": 4, "acc": 0.7, rate: 2e-4}
    )
    with pytest.raises(UserError, match="RTE runs of VKD differ in --learning_rate"):
        tables.main([str(within), "--tuned", "learning_rate"])
    with pytest.raises(UserError, match="learning_rat is no setting"):
        tables.main([str(source), "--tuned", "learning_rat"])


VARIANTS = {
    "FSD_L, debiased": {"--cka_estimator": "debiased"},
    "FSD_L, mask_padding": {"--mask_padding": True, "--group_by_length": False},
    "FSD_L, mask_padding, group_by_length": {"--mask_padding": True, "--group_by_length": True},
    "FSD_L, group_by_length": {"--group_by_length": True},
    "FSD_L, intra_reduction log_mean": {"--intra_reduction": "log_mean"},
    "FSD_L, do_layerwise": {"--do_layerwise": True},
    "FSD_L, between tokens": {"--between": "tokens"},
    "FSD_L, relation_heads 6": {"--relation_heads": 6},
    "FSD_L, student_memory_learning_rate 0.01": {"--student_memory_learning_rate": 0.01},
    "FSD_L, student_memory_learning_rate 0": {"--student_memory_learning_rate": 0.0},
    "FSD_L, debiased, mask_padding": {
        "--cka_estimator": "debiased",
        "--mask_padding": True,
        "--group_by_length": False,
    },
    "FSD_L, sample_features first": {"--sample_features": "first"},
    "FSD_L, memory_init normal": {"memory_init": "normal"},
}


def test_variants_have_rows_of_their_own(tmp_path, capsys):
    usual = {
        "--cka_estimator": "biased",
        "--intra_reduction": "mean_log",
        "--between": "samples",
        "--sample_features": "flat",
        "memory_init": "kmeans++",
    }
    rows = [run for fields in VARIANTS.values() for run in of("FSD_L", FSD, **(usual | fields))]
    found = numbers(
        tmp_path,
        runs_csv(tmp_path / "r.csv", *rows, *of("FSD_L", VKD, **usual), *of("VKD", VKD)),
        "--tables",
        "2",
    ).dropna(subset="mean")
    assert found.method.tolist() == ["VKD", "FSD_L", *VARIANTS] and (found.n == 3).all()


def test_a_variant_at_two_weights_is_two(tmp_path, capsys):
    """A published form at two weights stays refused: it is not known which one is meant."""
    rows = [
        *of("FSD_G", VKD, **{"--beta": 1.0}),
        *of("FSD_G", FSD, **{"--beta": 1e-6, "--student_memory_init": "released"}),
        *of("FSD_G", FSD, **{"--beta": 1e-7, "--student_memory_init": "released"}),
    ]
    found = numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", "2").dropna(
        subset="mean"
    )
    assert found.method.tolist() == [
        "FSD_G",
        "FSD_G, student_memory_init released, beta 1e-06",
        "FSD_G, student_memory_init released, beta 1e-07",
    ]
    with pytest.raises(UserError, match="differ in --beta"):
        tables.main(
            [
                str(
                    runs_csv(
                        tmp_path / "r.csv",
                        *of("FSD_G", VKD, **{"--beta": 1.0}),
                        *of("FSD_G", FSD, **{"--beta": 2.0}),
                    )
                )
            ]
        )


def test_another_memory_is_refused_unless_its_kind_explains_it(tmp_path):
    rows = [
        *of("FSD_G", VKD, memory="aaa", memory_init="kmeans++"),
        *of("FSD_G", FSD, memory="bbb", memory_init="normal"),
    ]
    tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])
    rows += of("FSD_IG", FSD, memory="ccc", memory_init="kmeans++")
    with pytest.raises(UserError, match=r"different teacher memories \(aaa, ccc\)"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])


def test_the_form_of_l_makes_no_other_memory(tmp_path):
    """FSD_ILG has --sample_features and FSD_G has not: their memory is one all the same."""
    rows = [
        *of("FSD_ILG", VKD, memory="aaa", **{"--sample_features": "flat"}),
        *of("FSD_G", FSD, memory="bbb"),
    ]
    with pytest.raises(UserError, match=r"different teacher memories \(aaa, bbb\)"):
        tables.main([str(runs_csv(tmp_path / "r.csv", *rows))])


def test_rows_of_before_and_after_a_flag_share_a_table(tmp_path):
    """--warmup_ratio and L's --sample_features are filled in where rows do not have them yet."""
    before = {"--warmup_steps": 0, "--internal": False}
    after = before | {"--warmup_ratio": 0.0, "--sample_features": "flat"}
    rows = [*of("FSD_L", VKD[:2], **before), *of("VKD", FSD, **after)]
    rows += [run | {"seed": 9, "started": "later"} for run in of("FSD_L", VKD[:1], **after)]
    found = numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", "2").dropna(
        subset="mean"
    )
    assert found.set_index("method").n.to_dict() == {"VKD": 3, "FSD_L": 3}


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


# ---- best.py -------------------------------------------------------------------------------------


def search(path, **fields):
    """VKD's runs for two rates, two temperatures and two seeds; 5e-5 with 10 is the best."""
    scores = {
        (5e-5, 10.0): (0.80, 0.84),
        (5e-5, 5.0): (0.90, 0.70),
        (1e-5, 10.0): (0.81, 0.82),
        (1e-5, 5.0): (0.5, 0.6),
    }
    return runs_csv(
        path,
        *[
            run
            for (rate, temperature), pair in scores.items()
            for run in of(
                "VKD",
                pair,
                **{
                    "--learning_rate": rate,
                    "--temperature": temperature,
                    "--output_dir": "/x/vkd-1",
                }
                | fields,
            )
        ],
    )


def test_best_prints_the_best_setting(tmp_path):
    source = search(tmp_path / "r.csv")
    done = shell(
        "analysis/best.py", source, "--flags", "temperature", "learning_rate", "--expect", 8
    )
    assert done.returncode == 0 and done.stdout == "--temperature 10 --learning_rate 5e-05\n"
    assert done.stderr == (
        "VKD on RTE: 82.00 (mean of acc, %), the best of 4 settings, seeds a setting: 2; next "
        "81.50 with --temperature 10 --learning_rate 1e-05\n"
    )


def test_of_equal_settings_best_takes_the_smallest(tmp_path, capsys):
    rows = [run for beta in (3, 1, 2) for run in of("FSD_I", (0.7,), **{"--beta": beta})]
    best.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--flags", "beta"])
    assert capsys.readouterr().out == "--beta 1\n"


def test_best_scores_by_the_mean_of_the_metrics(tmp_path, capsys):
    rows = [
        {
            "method": "VKD",
            "seed": 1,
            "task": "MRPC",
            "acc": acc,
            "f1": f1,
            "--mask_padding": masked,
            "--group_by_length": False,
        }
        for acc, f1, masked in ((0.8, 0.8, None), (0.75, 0.9, True))
    ]
    best.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--flags", "mask_padding"])
    assert capsys.readouterr().out == "--mask_padding\n"


def test_best_shows_all_settings(tmp_path, capsys):
    best.main(
        [str(search(tmp_path / "r.csv")), "--flags", "learning_rate", "temperature", "--table"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "5e-05",
        "10.0",
        "82.00 ± 2.83",
        "2",
    ]
    assert len(lines) == 6 and "55.00" in lines[-1]


def test_best_takes_the_runs_of_a_method_or_a_name(tmp_path, capsys):
    folder = tmp_path / "search"
    for name, method, rate, score in (
        ("vkd-a", "VKD", 1e-5, 0.6),
        ("vkd-b", "VKD", 2e-5, 0.7),
        ("fsd-a", "FSD_I", 3e-5, 0.9),
        ("cut", "VKD", 4e-5, 0.99),
    ):
        write_run(folder / name, method, score, finished=name != "cut", learning_rate=rate)
    for more, expected in (
        (["--method", "VKD"], "2e-05"),
        (["--name", "fsd-"], "3e-05"),
        (["--name", "vkd"], "2e-05"),
    ):
        best.main([str(folder), "--flags", "learning_rate", *more])
        assert capsys.readouterr().out == f"--learning_rate {expected}\n"
    with pytest.raises(UserError, match=r"differ in method \(FSD_I, VKD\)"):
        best.main([str(folder), "--flags", "learning_rate"])
    with pytest.raises(UserError, match="has 2 finished runs of VKD, not 3"):
        best.main([str(folder), "--flags", "learning_rate", "--method", "VKD", "--expect", "3"])
    write_run(folder / "vkd-c", "VKD", 0.99, data="other", learning_rate=4e-5)
    with pytest.raises(UserError, match=r"differ in data \(abc, other\)"):
        best.main([str(folder), "--flags", "learning_rate", "--method", "VKD"])


def test_best_refuses_runs_of_several_searches(tmp_path):
    source = search(tmp_path / "r.csv")
    with pytest.raises(
        UserError, match=r"differ in --temperature \(10.0, 5.0\), which --flags does not name"
    ):
        best.main([str(source), "--flags", "learning_rate"])
    with pytest.raises(UserError, match="do not have the flag --gamma"):
        best.main([str(source), "--flags", "learning_rate", "temperature", "gamma"])
    with pytest.raises(UserError, match="has 0 finished runs of PKD"):
        best.main([str(source), "--flags", "learning_rate", "--method", "PKD"])
    twice = runs_csv(tmp_path / "t.csv", *of("VKD", (0.7,)), *of("VKD", (0.8,)))
    with pytest.raises(UserError, match=r"--learning_rate 0.0001 with seed 1 is there twice"):
        best.main([str(twice), "--flags", "learning_rate"])
    tasks = runs_csv(tmp_path / "k.csv", *of("VKD", (0.7,)), *of("VKD", (0.8,), task="WNLI"))
    with pytest.raises(UserError, match=r"differ in task \(RTE, WNLI\)"):
        best.main([str(tasks), "--flags", "learning_rate"])


def test_the_rows_of_a_search_without_a_table(tmp_path):
    """Of its settings no table is made; its rows are kept, without the paths of the machine."""
    source = runs_csv(
        tmp_path / "search.csv",
        *of("VKD", VKD[:1]),
        *of("VKD", VKD[1:2], **{"--learning_rate": 2e-4}),
    )
    with pytest.raises(UserError, match="learning_rate"):
        table.main([str(source), "--csv", str(tmp_path / "rows.csv")])
    assert not (tmp_path / "rows.csv").exists()
    table.main([str(source), "--csv", str(tmp_path / "rows.csv"), "--no_table"])
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert list(rows["--learning_rate"]) == [1e-4, 2e-4] and "--output_dir" not in rows
    with pytest.raises(UserError, match="--no_table goes with --csv"):
        table.main([str(source), "--no_table"])


def test_students_of_another_start_are_refused(tmp_path):
    """Whether layers are copied, and from what; but the student alone, of train_teacher.py, has no
    such flags.
    """
    first = {
        "teacher": "ab12",
        "--copy_teacher": True,
        "--model_name_or_path_for_copy": "/here/bert",
    }
    rows = [*of("none", VKD), *of("VKD", VKD, **first)]
    elsewhere = first | {
        "--model_name_or_path_for_copy": "/there/bert"
    }  # another machine of the same sweep
    tables.main([str(runs_csv(tmp_path / "good.csv", *rows, *of("FSD_L", FSD, **elsewhere)))])
    for name, change in (
        ("copy_teacher", {"--copy_teacher": None}),
        ("for_copy", {"--model_name_or_path_for_copy": "/here/teacher"}),
    ):
        with pytest.raises(UserError, match=name):
            tables.main(
                [
                    str(
                        runs_csv(
                            tmp_path / f"{name}.csv", *rows, *of("FSD_L", FSD, **first | change)
                        )
                    )
                ]
            )
    data = [*of("VKD", VKD, data="aa"), *of("FSD_L", FSD, data="bb")]
    with pytest.raises(UserError, match="different training data"):
        tables.main([str(runs_csv(tmp_path / "data.csv", *data))])


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


def test_no_relative_change_from_a_score_below_0(tmp_path):
    rows = [
        row | {"task": "CoLA", "mcc": score}
        for method, score in (("FSD_ILG", -0.01), ("FSD_I", 0.02))
        for row in of(method, (0.5,))
    ]
    assert numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", 4).empty


def test_flags_that_vkd_has_no_use_for_are_no_variant(tmp_path):
    rows = [
        *of("VKD", VKD, **{"--cka_estimator": "debiased"}),
        *of("FSD_L", FSD, **{"--cka_estimator": "debiased"}),
    ]
    assert set(numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", 2).method) >= {
        "VKD",
        "FSD_L, debiased",
    }


def test_a_reader_who_has_enough():
    """`... | head`: no traceback."""
    command = f"{sys.executable} {ROOT / 'analysis/tables.py'} {PUBLISHED} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_a_table_of_one_task_takes_no_other_tasks_teacher(tmp_path):
    """A mean over two tasks is no score; nor is one over fewer runs than it says."""
    shared = "method,task,seed,acc,f1,minutes,parameters,device,machine,torch,transformers,commit"
    rest = ",1,1000,cpu,m,2,5,abc"
    rows = [
        f"teacher,RTE,1,0.6,{rest}",
        f"teacher,MRPC,2,0.8,0.8{rest}",
        f"VKD,MRPC,1,0.7,0.8{rest}",
        f"VKD,MRPC,2,,0.8{rest}",
    ]
    path = tmp_path / "r.csv"
    path.write_text("\n".join([shared, *rows]) + "\n")
    with pytest.raises(UserError, match=r"of the tasks RTE, MRPC: pick one with --task"):
        table.main([str(path)])
    with pytest.raises(UserError, match="MRPC run of VKD with seed 2 has no acc"):
        table.main([str(path), "--task", "mrpc"])
