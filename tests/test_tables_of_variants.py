"""Variants in the tables: their names, their rows, their test against the published form."""

import pytest
from made_up_runs import FSD, VKD, numbers, of, runs_csv
from scipy.stats import ttest_ind

from analysis import table, tables
from common import UserError
from training import flags

VARIANTS = {
    "FSD_ILG, debiased": {"--cka_estimator": "debiased"},
    "FSD_ILG, mask_padding": {"--mask_padding": True, "--group_by_length": False},
    "FSD_ILG, mask_padding, group_by_length": {"--mask_padding": True, "--group_by_length": True},
    "FSD_ILG, group_by_length": {"--group_by_length": True},
    "FSD_ILG, intra_reduction log_mean": {"--intra_reduction": "log_mean"},
    "FSD_ILG, do_layerwise": {"--do_layerwise": True},
    "FSD_ILG, between tokens": {"--between": "tokens"},
    "FSD_ILG, relation_heads 6": {"--relation_heads": 6},
    "FSD_ILG, student_memory_learning_rate 0.01": {"--student_memory_learning_rate": 0.01},
    "FSD_ILG, student_memory_learning_rate 0": {"--student_memory_learning_rate": 0.0},
    "FSD_ILG, debiased, mask_padding": {
        "--cka_estimator": "debiased",
        "--mask_padding": True,
        "--group_by_length": False,
    },
    "FSD_ILG, sample_features first": {"--sample_features": "first"},
    "FSD_ILG, memory_init normal": {"memory_init": "normal"},
}


def test_variants_have_rows_of_their_own(tmp_path, capsys):
    usual = {
        "--cka_estimator": "biased",
        "--intra_reduction": "mean_log",
        "--between": "samples",
        "--sample_features": "flat",
        "memory_init": "kmeans++",
    }
    rows = [run for fields in VARIANTS.values() for run in of("FSD_ILG", FSD, **(usual | fields))]
    found = numbers(
        tmp_path,
        runs_csv(tmp_path / "r.csv", *rows, *of("FSD_ILG", VKD, **usual), *of("VKD", VKD)),
        "--tables",
        "2",
    ).dropna(subset="mean")
    assert found.method.tolist() == ["VKD", "FSD_ILG", *VARIANTS] and (found.n == 3).all()


def test_in_the_table_of_one_task_too_with_their_weights(tmp_path, capsys):
    first = {"--sample_features": "first", "--beta": 3.0}
    rows = [
        *of("FSD_L", VKD, **{"--sample_features": "flat", "--beta": 2.0}),
        *of("FSD_L", FSD, **first),
        *of("none", VKD),
    ]
    table.main([str(runs_csv(tmp_path / "r.csv", *rows)), "--csv", str(tmp_path / "out.csv")])
    printed = capsys.readouterr().out
    names = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines()[2:5]]
    assert names == ["none", "FSD_L", "FSD_L, sample_features first"]
    assert printed.endswith(". Weights: FSD_L beta 2; FSD_L, sample_features first beta 3.\n")
    assert "variant" not in (tmp_path / "out.csv").read_text().splitlines()[0].split(",")


def test_a_variant_that_a_caption_tells_has_a_row_too(tmp_path, capsys):
    """As the layers that a student begins with."""
    layers = {"--student_layers": "0,2,4"}
    runs_csv(tmp_path / "r.csv", *of("VKD", VKD), *of("VKD", (0.5, 0.6), **layers))
    table.main([str(tmp_path / "r.csv")])
    said = capsys.readouterr().out
    assert "| VKD | 72.00 ± 1.00 | 3 |" in said and "| VKD, student_layers 0,2,4 | 55.00" in said


def test_a_caption_names_full_precision(tmp_path, capsys):
    table.main([str(runs_csv(tmp_path / "r.csv", *of("VKD", VKD, precision="no")))])
    assert "precision float32;" in capsys.readouterr().out


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


def test_a_form_of_what_a_method_lacks_is_no_variant():
    """As a sweep over weights leaves such runs, one of which is at 0."""
    for method, settings in (
        ("FSD_LG", {"intra_reduction": "log_mean"}),
        ("FSD_IL", {"student_memory_learning_rate": 0.1, "student_memory_init": "released"}),
        ("VKD", {"do_layerwise": True, "student_memory_learning_rate": 0.1}),
        ("none", {"do_layerwise": True}),
    ):
        assert flags.variant_words(method, settings) == ()
    found = flags.variant_words("FSD_I", {"intra_reduction": "log_mean", "do_layerwise": True})
    assert set(found) == {"intra_reduction log_mean", "do_layerwise"}


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


def test_flags_that_vkd_has_no_use_for_are_no_variant(tmp_path):
    rows = [
        *of("VKD", VKD, **{"--cka_estimator": "debiased"}),
        *of("FSD_L", FSD, **{"--cka_estimator": "debiased"}),
    ]
    assert set(numbers(tmp_path, runs_csv(tmp_path / "r.csv", *rows), "--tables", 2).method) >= {
        "VKD",
        "FSD_L, debiased",
    }
