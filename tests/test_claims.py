"""Claims by rule: which comparisons, their p by scipy, their correction by hand, what is said."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from made_up_runs import FSD, RKD, VKD, of, runs_csv
from scipy.stats import ttest_ind

from analysis import claims, tables
from analysis.means import PUBLISHED
from analysis.methods import Name
from analysis.significance import holm
from analysis.tables_numbers import LONG
from common import UserError

MASKED = {"--mask_padding": True, "--group_by_length": False}


def compared(tmp_path, *rows, more=()):
    """What the command writes of these runs, and its text."""
    source, out = runs_csv(tmp_path / "r.csv", *rows), tmp_path / "claims.csv"
    tables.main(
        [
            str(source),
            "--tables",
            "claims",
            "--claims_csv",
            str(out),
            "--markdown",
            str(tmp_path / "claims.md"),
            *map(str, more),
        ]
    )
    return pd.read_csv(out), (tmp_path / "claims.md").read_text(encoding="utf-8")


# ---- Holm ---------------------------------------------------------------------------------------


def test_holm_by_hand():
    """Of four: 0.005 * 4, 0.01 * 3, 0.03 * 2, and for 0.04 * 1, which is smaller, that again."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1, 1] and holm([]) == []
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize("seed", range(5))
def test_what_holm_keeps(seed):
    """The order of p; never below p, above 1 or above Bonferroni's; in any order the same."""
    rng = random.Random(seed)
    p = [rng.random() ** 4 for _ in range(17)]
    corrected = holm(p)
    assert all(a <= b <= min(1, 17 * a) for a, b in zip(p, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p)] == sorted(corrected)
    order = rng.sample(range(17), 17)
    assert holm([p[i] for i in order]) == [corrected[i] for i in order]
    # as the definition has it: rejected at a level, the smallest first, until one is not
    for level in (0.01, 0.05, 0.3):
        steps = [p_k <= level / (17 - k) for k, p_k in enumerate(sorted(p))]
        rejected = steps.index(False) if False in steps else 17
        assert sum(c <= level for c in corrected) == rejected


def test_no_p_counts_as_a_comparison():
    corrected = holm([math.nan, 0.001, math.nan])
    assert corrected[1] == 0.003 and math.isnan(corrected[0]) and math.isnan(corrected[2])


# ---- which, and with what numbers ---------------------------------------------------------------


def test_all_comparisons_of_the_rule_and_no_others(tmp_path):
    rows, text = compared(
        tmp_path,
        *of("teacher", (0.9,)),
        *of("none", VKD),
        *of("VKD", VKD),
        *of("RKD", RKD),
        *of("MiniLM", (0.73,)),
        *of("Gram", VKD),
        *of("FSD_I", FSD),
        *of("FSD_IL", RKD),
        *of("FSD_ILG", RKD),
        *of("FSD_I", RKD, **MASKED),
        *of("FSD_L", (0.8,)),
    )
    found = list(zip(rows.method, rows.against, strict=True))
    assert found == [
        ("VKD", "none"),
        ("FSD_I", "RKD"),
        ("FSD_I, mask_padding", "RKD"),
        ("FSD_IL", "RKD"),
        ("FSD_ILG", "RKD"),
        ("FSD_ILG", "FSD_I"),
        ("FSD_IL", "FSD_I"),
        ("FSD_I, mask_padding", "FSD_I"),
    ]
    assert (
        list(rows) == list(claims.Comparison._fields)
        and (rows.n == 3).all()
        and set(rows.task) == {"RTE"}
    )
    assert "Left out, with a single run: RTE: MiniLM, FSD_L." in text
    assert "p < 0.01 after that" in text and "uncorrected" in text


def test_the_numbers_are_scipys(tmp_path):
    """Of MRPC the score is the mean of accuracy and F1, run by run."""
    f1 = {"VKD": (0.8, 0.7, 0.75), "FSD_L": (0.9, 0.81, 0.82, 0.84)}
    scores = {"VKD": (0.71, 0.73, 0.72), "FSD_L": (0.77, 0.79, 0.78, 0.8)}
    runs = [
        run | {"task": "MRPC", "f1": f1[method][i]}
        for method in scores
        for i, run in enumerate(of(method, scores[method]))
    ]
    rows, _ = compared(tmp_path, *runs)
    means = {m: 50 * (np.array(f1[m]) + scores[m]) for m in scores}
    test = ttest_ind(means["FSD_L"], means["VKD"], equal_var=False)
    (row,) = rows.itertuples()
    interval = test.confidence_interval(0.95)
    assert row.difference == pytest.approx(means["FSD_L"].mean() - means["VKD"].mean())
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (row.p_value, row.p_holm) == pytest.approx((test.pvalue, test.pvalue), rel=1e-9)
    assert (row.n, row.n_against) == (4, 3)


def test_each_task_is_corrected_for_its_own_comparisons(tmp_path):
    rows, _ = compared(
        tmp_path,
        *of("VKD", VKD),
        *of("FSD_I", FSD),
        *of("FSD_L", RKD),
        *of("VKD", VKD, task="WNLI"),
        *of("FSD_I", FSD, task="WNLI"),
    )
    p = {(row.task, row.method): row for row in rows.itertuples()}
    assert p["WNLI", "FSD_I"].p_holm == p["WNLI", "FSD_I"].p_value == p["RTE", "FSD_I"].p_value
    assert p["RTE", "FSD_I"].p_holm == pytest.approx(2 * p["RTE", "FSD_I"].p_value)


def test_the_best_rival_is_that_of_the_seeds_that_all_have(tmp_path):
    """The rows of a claim have further seeds; the student alone is a rival, too."""
    rows, _ = compared(
        tmp_path,
        *of("VKD", (0.60, 0.61, 0.60, 0.50, 0.51, 0.50)),
        *of("PKD", (0.580, 0.581, 0.582)),
        *of("FSD_I", FSD),
    )
    assert set(rows.against) == {"VKD"} and rows.n_against.tolist() == [6]
    rows, text = compared(
        tmp_path, *of("VKD", RKD), *of("none", (0.97, 0.98, 0.99)), *of("FSD_I", FSD)
    )
    assert rows.against.tolist() == ["none", "none"] and rows.verdict.tolist()[1] != "better"
    assert "FSD_I against the student alone, the best rival" in text


def test_a_better_rival_of_a_single_run_leaves_the_best_one_open(tmp_path):
    """As in a table that grows: one rival has one run yet, a worse one has two."""
    rkd, fsd = of("RKD", (0.60, 0.61)), of("FSD_I", FSD)
    rows, text = compared(tmp_path, *of("VKD", (0.99,)), *rkd, *fsd)
    assert not len(rows) and "Left out, with a single run: RTE: VKD." in text
    rows, _ = compared(tmp_path, *of("VKD", (0.59,)), *rkd, *fsd)
    assert rows.against.tolist() == ["RKD"]


def test_what_other_batch_sizes_leave_out_is_told(tmp_path, capsys):
    """Also which methods are gone with them, as the best of the rivals may be."""
    size = "--per_gpu_train_batch_size"
    runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("RKD", RKD, **{size: 16}), *of("FSD_I", FSD))
    claims.main([str(tmp_path / "r.csv")])
    said = capsys.readouterr().out
    assert "those of 32 count here. There are none of RKD on RTE." in said
    assert "FSD_I against VKD, the best rival" in said
    claims.main([str(tmp_path / "r.csv"), "--batch_size", "16"])
    assert "There are none of VKD on RTE, FSD_I on RTE." in capsys.readouterr().out


def test_a_method_that_was_run_as_a_variant_alone_stands_for_itself(tmp_path):
    """As MiniLM on encoders that need --relation_heads."""
    rows, _ = compared(
        tmp_path,
        *of("VKD", VKD),
        *of("FSD_I", FSD),
        *of("MiniLM", RKD, **{"--relation_heads": 12}),
        *of("FSD_G", FSD, memory_init="normal"),
        *of("VKD", (0.99, 0.98), **{"--group_by_length": True}),
    )
    pairs = dict(zip(rows.method, rows.against, strict=True))
    assert pairs == {"FSD_I": "MiniLM, relation_heads 12", "VKD, group_by_length": "VKD"}


# ---- what is said -------------------------------------------------------------------------------

NEAR = (0.7001, 0.7002, 0.7003)


def test_better_and_worse_need_p_below_a_hundredth_after_the_correction(tmp_path):
    """The same runs pass alone, and do not among many comparisons."""
    first, second = (0.70, 0.71, 0.72), (0.755, 0.765, 0.775)
    alone = ttest_ind(second, first, equal_var=False).pvalue
    assert alone < 0.01 < 4 * alone
    rows, text = compared(tmp_path, *of("VKD", first), *of("FSD_I", second))
    assert rows.verdict.tolist() == ["better"]
    assert (
        "- RTE: FSD_I is better than VKD, the best rival, by 5.5 points (3.2 to 7.8, "
        f"p = {alone:.3g} after correction over 1 comparison).\n"
    ) in text
    rows, text = compared(
        tmp_path,
        *of("VKD", first),
        *of("FSD_I", second),
        *(run for m in ("FSD_IG", "FSD_L", "FSD_G") for run in of(m, first)),
    )
    assert set(rows.verdict) == {claims.NO_DIFFERENCE}
    assert (
        "- RTE: no difference is shown between VKD, the best rival, and any of FSD_I, "
        "FSD_L, FSD_G or FSD_IG after correction over 4 comparisons.\n"
    ) in text


def test_the_sentence_names_better_then_worse_then_neither(tmp_path):
    rows, text = compared(
        tmp_path,
        *of("none", (0.7, 0.7001, 0.7002)),
        *of("VKD", NEAR),
        *of("PKD", (0.6, 0.61)),
        *of("FSD_L", (0.6001, 0.6002, 0.6003)),
        *of("FSD_I", (0.8001, 0.8002, 0.8003)),
        *of("FSD_ILG", (0.8001, 0.8002, 0.8004)),
        *of("FSD_I", (0.9001, 0.9002, 0.9003), **MASKED, **{"--cka_estimator": "debiased"}),
    )
    said = next(line for line in text.splitlines() if line.startswith("- RTE"))
    assert said == (
        "- RTE: FSD_I is better than VKD, the best rival, by 10.0 points (10.0 to 10.0, p < 0.0001 "
        "after correction over 6 comparisons); FSD_ILG is better than VKD by 10.0 points (10.0 to "
        "10.0, p < 0.0001); FSD_I with debiased + mask_padding is better than FSD_I by 10.0 points "
        "(10.0 to 10.0, p < 0.0001); FSD_L is worse than VKD by 10.0 points (10.0 to 10.0, "
        "p < 0.0001); no difference is shown between the student alone and VKD, between FSD_I and "
        "FSD_ILG."
    )
    assert rows.verdict.tolist().count("worse") == 1
    for row in rows.itertuples():
        assert (row.verdict == claims.NO_DIFFERENCE) == (row.p_holm >= 0.01)
        assert row.verdict != "worse" or row.difference < row.low + 1 < 0


@pytest.mark.filterwarnings("error")
def test_without_any_spread_there_is_no_p_and_no_claim(tmp_path):
    rows, text = compared(
        tmp_path, *of("VKD", (0.7, 0.7)), *of("FSD_I", (0.8, 0.8)), *of("FSD_L", (0.8, 0.81))
    )
    flat, usual = rows.itertuples()
    assert math.isnan(flat.p_value) and math.isnan(flat.low)
    assert flat.verdict == claims.NO_DIFFERENCE
    assert flat.difference == pytest.approx(10) and usual.p_holm == 2 * usual.p_value
    assert "No p, as no run differs from the others of its method: RTE: FSD_I against VKD." in text
    assert "better than VKD" not in text


def test_variants_without_a_difference_are_told_in_few_words(tmp_path):
    _, text = compared(
        tmp_path,
        *of("FSD_L", FSD),
        *of("FSD_L", FSD, **MASKED),
        *of("FSD_L", FSD, **{"--cka_estimator": "debiased"}),
    )
    assert "between FSD_L and any of itself with debiased or itself with mask_padding after" in text


def test_nothing_to_compare_is_said(tmp_path, capsys):
    rows, text = compared(tmp_path, *of("VKD", VKD), *of("FSD_I", (0.9,)), *of("teacher", VKD))
    assert rows.empty and "no task has single runs" in text and "a single run: RTE: FSD_I." in text
    tables.main([str(PUBLISHED), "--tables", "claims"])
    assert "no task has single runs" in capsys.readouterr().out


def test_claims_go_between_their_markers(tmp_path):
    source = runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("FSD_I", FSD))
    readme = tmp_path / "R.md"
    readme.write_text(
        "a\n<!-- claims -->\nstale\n<!-- end claims -->\nb\n<!-- table 2 -->\n<!-- end 2 -->\n"
    )
    tables.main([str(source), "--insert", str(readme), "--csv", str(tmp_path / "numbers.csv")])
    text = readme.read_text()
    assert text.startswith("a\n<!-- claims -->\n**Claims by rule**\n\n| task | comparison")
    assert "stale" not in text and "<!-- end claims -->\nb\n" in text
    assert "claims follow the corrected table alone" in text.partition("\nb\n")[2]
    assert list(pd.read_csv(tmp_path / "numbers.csv")) == LONG  # no claim among the numbers
    readme.write_text("<!-- table 2 -->\n<!-- claims -->\n<!-- end claims -->\n<!-- end 2 -->\n")
    with pytest.raises(UserError, match="has <!-- claims --> between <!-- table 2 -->"):
        tables.main([str(source), "--insert", str(readme)])


def test_claims_are_of_one_batch_size(tmp_path):
    size = {"--per_gpu_train_batch_size": 8}
    rows, text = compared(
        tmp_path,
        *of("VKD", VKD),
        *of("FSD_I", FSD),
        *of("VKD", FSD, **size),
        *of("FSD_I", VKD, **size),
    )
    assert rows.n.tolist() == [3] and rows.difference.iloc[0] > 0
    assert "those of 32 count here" in text


def test_a_p_is_never_printed_across_the_level():
    assert claims.p_text(0.00998) == "0.00998" and claims.p_text(1e-9) == "< 0.0001"
    assert claims.p_text(0.0099999) == "0.0099999" and claims.p_text(0.010001) == "0.01"
    row = claims.Comparison(
        task="RTE",
        kind=claims.PART,
        method=Name("FSD_IL"),
        against=Name("FSD_I"),
        n=3,
        n_against=3,
        difference=-0.5,
        low=-1,
        high=0,
        p_value=0.0200,
        p_holm=1.0,
        verdict=claims.NO_DIFFERENCE,
    )
    assert list(claims.line(row).values()) == [
        "RTE",
        "FSD_IL against FSD_I",
        "3/3",
        "-0.50",
        "-1.00 to +0.00",
        "0.02",
        "1",
        "no difference shown",
    ]
