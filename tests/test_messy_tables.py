"""Tables that spreadsheets and people have changed since we wrote them are read as meant."""

import importlib
import re

import pandas as pd
import pytest
from conftest import ROOT
from made_up_runs import write_record
from table_files import CLEAN, HEAD, LINES, STEP, spreadsheet, written

from analysis import best, table, tables
from analysis.means import PUBLISHED
from analysis.report_cost import read_cost
from analysis.runs import TEXTS, read_runs
from common import UserError
from scripts import estimate
from training import results_csv

MESSY = {
    "mark": "\ufeff" + CLEAN,
    "semicolons": spreadsheet(CLEAN),
    "tabs": spreadsheet(CLEAN, "\t"),
    "mark and semicolons": "\ufeff" + spreadsheet(CLEAN),
    "points beside semicolons": CLEAN.replace('"M, 2 cores"', "?")
    .replace(",", ";")
    .replace("?", "M, 2 cores"),
    "empty rows": "\n\n" + "\n\n".join([*LINES, "," * HEAD.count(","), "  "]) + "\n\n",
    "empty rows of a spreadsheet": spreadsheet(CLEAN) + ";" * HEAD.count(",") + "\r\n",
    "second header": "\n".join([*LINES[:3], HEAD, *LINES[3:]]),
    "second file with a mark": "\n".join([*LINES[:3], "\ufeff" + HEAD, *LINES[3:]]),
    "second file, quoted": "\n".join(
        [*LINES[:3], "\ufeff" + HEAD.replace("method", '"method"', 1), *LINES[3:]]
    ),
    "padded": "\n".join(line + ",," for line in LINES),
    "old line ends": CLEAN.replace("\n", "\r"),
}


@pytest.fixture(params=MESSY)
def messy(request, tmp_path):
    return written(tmp_path, MESSY[request.param])


@pytest.mark.slow
def test_committed_tables_read_as_pandas_reads_them():
    found = 0
    for path in [*(ROOT / "results").glob("*.csv"), PUBLISHED]:
        plain = pd.read_csv(path)
        keys = [name for name in ("method", "form", "machine") if name in plain][:1] or [
            plain.columns[0]
        ]
        pd.testing.assert_frame_equal(
            results_csv.read_checked_csv(path, keys)[0], plain, check_exact=True
        )
        if {"method", "seed"} <= set(plain) and "predictions" not in plain:
            as_before = pd.read_csv(path, dtype=TEXTS)
            found_now = read_runs(path)[list(as_before)]  # beside flags that came later
            if (
                "--sample_features" in as_before
            ):  # L's is filled in: earlier rows have the rivals' alone
                given = as_before["--sample_features"].notna()
                assert set(found_now["--sample_features"][~given].dropna()) <= {"flat"}
            for column in as_before:  # a teacher of an earlier version beside today's students
                given = as_before[column].notna()
                if found_now[column][~given].notna().any():
                    kind = as_before[column].dtype
                    found_now[column] = found_now[column].astype(kind).where(given)
            pd.testing.assert_frame_equal(found_now, as_before, check_exact=True)
            found += 1
    assert found >= 8


def test_a_table_is_read_as_it_is_meant(messy, tmp_path):
    clean = read_runs(written(tmp_path, CLEAN, "clean.csv"))
    assert clean.acc.tolist() == [0.5, 0.75, 0.625, 0.875] and clean.minutes.dtype == float
    pd.testing.assert_frame_equal(read_runs(messy), clean, check_exact=True)


@pytest.mark.slow
def test_the_commands_read_a_table_as_it_is_meant(messy, tmp_path, capsys):
    outputs = []
    for source in (messy, written(tmp_path, CLEAN, "clean.csv")):
        table.main([str(source), "--csv", str(tmp_path / "out.csv")])
        tables.main([str(source), "--csv", str(tmp_path / "numbers.csv")])
        best.main([str(source), "--flags", "learning_rate", "--name", "0"])
        best.main([str(source), "--flags", "learning_rate", "--method", "FSD_I", "--expect", "2"])
        files = [(tmp_path / name).read_bytes() for name in ("out.csv", "numbers.csv")]
        outputs.append((capsys.readouterr(), files))
    assert outputs[0] == outputs[1]
    assert (
        "VKD | 62.50 ± 17.68" in outputs[0][0].out
        and "--learning_rate 0.0001\n" in outputs[0][0].out
    )
    assert "VKD on RTE: 50.00" in outputs[0][0].err  # the run in the folder 007 alone


def test_appending_leaves_one_clean_table(messy, tmp_path):
    clean = results_csv.read_results(written(tmp_path, CLEAN, "clean.csv"), dtype=str)
    clean["--group_by_length"] = clean["--group_by_length"].astype(str)
    row = {"method": "VKD", "seed": 3, "started": "2027", "--output_dir": "00", "extra": 0.5}
    for _ in range(2):  # the second replaces the first
        results_csv.append_result(messy, row)
    text = messy.read_text(encoding="utf-8")
    assert text.startswith("method,task,seed,") and text.count("method") == 1 and ";" not in text
    found = pd.read_csv(messy, dtype=str)
    pd.testing.assert_frame_equal(found.iloc[:4][list(clean)], clean)
    added = dict(found.iloc[4].drop("--group_by_length").dropna())
    assert len(found) == 5 and added == {key: str(value) for key, value in row.items()}


def test_a_second_header_may_have_other_columns(tmp_path):
    more = "seed,--beta,method,task,acc,--output_dir\n3,2.5,VKD,RTE,0.25,3\n"
    for text in (CLEAN + more, spreadsheet(CLEAN) + more.replace(",", ";").replace("2.5", "2,5")):
        found = read_runs(written(tmp_path, text))
        assert found.seed.tolist() == [1, 2, 1, 2, 3] and found.method.tolist()[-1] == "VKD"
        assert found["--beta"].isna().tolist() == [True] * 4 + [False] and found["--beta"][4] == 2.5
        assert found["--output_dir"].tolist() == ["007", "1", "2026", "12", "3"]
        assert found.minutes.isna().tolist() == [False] * 4 + [True]
        best.main([str(tmp_path / "r.csv"), "--flags", "beta", "--name", "3"])


# ---- texts and truths ----------------------------------------------------------------------------


def test_texts_stay_texts(tmp_path):
    text = "method,seed,task,commit,data,machine,"
    text += "--output_dir,--tokenizer_name,--teacher_memory_path,acc\n"
    row = "VKD,{},RTE,123,0011,7,{},{},2026,0.5\n"
    path = written(tmp_path, text + row.format(1, "007", "01") + row.format(2, "NA", "1e5"))
    found = results_csv.read_results(path)
    assert found["--output_dir"].tolist() == ["007", "NA"] and found[
        "--tokenizer_name"
    ].tolist() == ["01", "1e5"]
    columns = ["commit", "data", "machine", "--teacher_memory_path"]
    assert found[columns].iloc[0].tolist() == ["123", "0011", "7", "2026"]
    results_csv.append_result(path, {"method": "VKD", "seed": 3, "--output_dir": "03"})
    assert results_csv.read_results(path)["--output_dir"].tolist() == ["007", "NA", "03"]


@pytest.mark.parametrize("word", ["True", "TRUE", "true"])
def test_booleans_of_a_spreadsheet(word, tmp_path):
    """Rows from before --group_by_length: the masked ones were grouped, in any spelling."""
    path = written(tmp_path, f"method,seed,acc,--mask_padding\nFSD_I,1,0.5,{word}\nFSD_I,2,0.5,\n")
    results_csv.append_result(
        path, {"method": "FSD_I", "seed": 3, "acc": 0.5, "--group_by_length": False}
    )
    assert results_csv.read_results(path)["--group_by_length"].tolist() == [True, False, False]
    path.write_text(path.read_text().replace(word, "WAHR"))
    with pytest.raises(UserError, match="line 2 has 'WAHR' in the column --mask_padding"):
        results_csv.read_results(path)


def test_runs_in_folders_named_by_digits(tmp_path, capsys):
    for name, method in (("007", "VKD"), ("1", "FSD_I")):
        write_record(tmp_path / "runs" / name, method=method)
        results_csv.append_result(
            tmp_path / "r.csv",
            read_runs(tmp_path / "runs").iloc[-1].to_dict() | {"--output_dir": name},
        )
    for source in (tmp_path / "runs", tmp_path / "r.csv"):
        table.main([str(source)])
        tables.main([str(source), "--tables", "2"])
        best.main([str(source), "--flags", "output_dir", "--name", "00"])
        assert re.search(r"--output_dir \S*007\n", capsys.readouterr().out)


# ---- other tables of ours ------------------------------------------------------------------------


def test_a_file_of_means_is_read_as_it_is_meant(tmp_path, capsys):
    text = PUBLISHED.read_text(encoding="utf-8")
    lines = text.splitlines()
    commas = "\n".join(
        ";".join(re.sub(r"^(\d+)\.", r"\1,", cell) for cell in re.split(r",(?! BERT)", line))
        for line in lines
    ).replace('"', "")
    tables.main([str(written(tmp_path, text))])
    plain = capsys.readouterr().out
    for changed in (
        "\ufeff" + text,
        "\ufeff" + commas,
        "\n".join([*lines[:9], "", lines[0], *lines[9:]]),
    ):
        tables.main([str(written(tmp_path, changed))])
        assert capsys.readouterr().out == plain
    for changed, words in (
        (
            "\n".join([lines[0], "", "2,VKD,RTE,f1,1,1,1"]),
            "line 3 has the metric f1, not one of RTE",
        ),
        (text + "2,VKD,RTE,acc,high,1,1", f"line {len(lines) + 1} has 'high' in the column mean"),
        (text + "2,VKD,RTE,acc,5", f"line {len(lines) + 1} has 5 cells"),
        (text + "2,VKD,,acc,5,1,1", f"line {len(lines) + 1} has nothing in the column task"),
    ):
        with pytest.raises(UserError, match=rf"r\.csv, {words}"):
            tables.main([str(written(tmp_path, changed))])


def test_benchmarks_are_read_as_they_are_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmarks, scale = (
        importlib.import_module("benchmarks.report"),
        importlib.import_module("benchmarks.scale"),
    )
    readme, found = tmp_path / "README.md", []
    semicolons = (
        re.sub(r",(?! )", ";", STEP)
        .replace(".5;", ",5;")
        .replace("8.25", "8,25")
        .replace("0.75", "0,75")
    )
    for text in (
        STEP,
        "\ufeff" + semicolons.replace("1.0;", "1,0;"),
        STEP.replace("\n", "\n\n"),
        STEP.replace('"FSD', STEP.split("\n")[0] + '\n"FSD'),
    ):
        path = written(tmp_path, text, "step.csv")
        readme.write_text("<!-- table step --><!-- end step -->", encoding="utf-8")
        benchmarks.main([str(path), "--insert", str(readme)])
        found.append(
            (capsys.readouterr().out, readme.read_text(encoding="utf-8"), scale.read_rates([path]))
        )
        costs = read_cost(path, "VKD")
        assert costs["x VKD"].tolist() == [1.0, 0.75] and costs["B"].tolist() == [8, 8]
        monkeypatch.setattr(estimate, "STEP", path)
        assert estimate.step_rates() == (
            {("VKD", "no"): 10.5, ("FSD_I, cached", "no"): 8.25},
            "M, 2 cores",
        )
    assert all(one == found[0] for one in found)
    assert "| 8.25 | 0.75 |" in found[0][0] and "commit 0123456" in found[0][0]
    for read, text, words in (
        (
            lambda path: read_cost(path, "VKD"),
            STEP.replace("0.75", "slow"),
            "line 3 has 'slow'",
        ),
        (lambda path: scale.read_rates([path]), STEP.replace("8.25", "slow"), "line 3 has 'slow'"),
        (lambda path: scale.read_rates([path]), CLEAN, r"is no table of benchmarks/step\.py"),
        (lambda path: benchmarks.main([str(path)]), STEP + "VKD,1\n", "line 4 has 2 cells"),
        (
            lambda path: benchmarks.main([str(path)]),
            "form,machine\nx,M\n",
            "no table of a benchmark",
        ),
        (lambda path: benchmarks.main([str(path) + "x"]), STEP, r"cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            read(written(tmp_path, text, "step.csv"))
