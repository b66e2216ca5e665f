"""Tables, logs and records that were changed since we wrote them: read as meant, or refused."""

import importlib
import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT

import common
from analysis import best, report_topics, table, tables
from analysis.comparable import SHOWN
from analysis.means import PUBLISHED
from analysis.report_cost import read_cost
from analysis.report_files import find_places
from analysis.report_measures import RELATIONS
from analysis.runs import TEXTS, read_runs
from common import UserError
from scripts import estimate
from training import logs, results_csv

HEAD = (
    "method,task,seed,acc,minutes,parameters,device,machine,precision,processes,started,commit,"
    "teacher,torch,transformers,--learning_rate,--mask_padding,--output_dir,--tokenizer_name"
)
ROW = 'cpu,"M, 2 cores",bf16,1,{started},123456,,2.1,5.0,0.0001,,{folder},'
CLEAN = (
    "\n".join(
        [
            HEAD,
            *(
                f"{method},RTE,{seed},{acc},2.5,17000000,"
                + ROW.format(started=f"2026-0{seed}", folder=folder)
                for method, seed, acc, folder in (
                    ("VKD", 1, 0.5, "007"),
                    ("VKD", 2, 0.75, "1"),
                    ("FSD_I", 1, 0.625, "2026"),
                    ("FSD_I", 2, 0.875, "12"),
                )
            ),
        ]
    )
    + "\n"
)
LINES = CLEAN.splitlines()


def spreadsheet(text, separator=";"):
    """As a spreadsheet of a country with decimal commas saves a table."""
    cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None)
    numbers = cells.drop(columns=range(11, 15)).columns  # not the commit and the versions
    cells[numbers] = cells[numbers].replace(r"^(\d+)\.(\d+)$", r"\1,\2", regex=True)
    return cells.to_csv(sep=separator, index=False, header=False, lineterminator="\r\n")


def written(folder, text, name="r.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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


# ---- tables -------------------------------------------------------------------------------------


def test_committed_tables_read_as_pandas_reads_them():
    found = 0
    for path in [*(ROOT / "results").glob("*.csv"), PUBLISHED]:
        plain = pd.read_csv(path)
        keys = [name for name in ("method", "form", "machine") if name in plain][:1] or [
            plain.columns[0]
        ]
        pd.testing.assert_frame_equal(
            results_csv.read_table(path, keys)[0], plain, check_exact=True
        )
        if {"method", "seed"} <= set(plain) and "predictions" not in plain:
            as_before = pd.read_csv(path, dtype=TEXTS)
            found_now = read_runs(path)[list(as_before)]  # beside flags that came later
            if (
                "--sample_features" in as_before
            ):  # L's is filled in: earlier rows have the rivals' alone
                given = as_before["--sample_features"].notna()
                assert set(found_now["--sample_features"][~given].dropna()) <= {"flat"}
                found_now["--sample_features"] = found_now["--sample_features"].where(given)
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


REFUSED = {
    "fewer cells": (
        CLEAN.replace("VKD,RTE,2", "VKD,2"),
        r"line 3 has 18 cells, but line 1 names 19 columns",
    ),
    "more cells": (
        CLEAN.replace('"M, 2 cores"', "M, 2 cores", 1),
        r"line 2 has 20 cells, but line 1 names 19",
    ),
    "decimal commas": (CLEAN.replace("0.75", "0,75"), r"line 3 has 20 cells.*semicolons"),
    "quoted decimal commas": (
        CLEAN.replace("0.75", '"0,75"'),
        r"line 3 has '0,75' in the column acc.*semicolons",
    ),
    "after a second header": (
        CLEAN + "method,seed\nVKD,3,4\n",
        r"line 7 has 3 cells, but line 6 names 2 columns",
    ),
    "no seed": (CLEAN.replace("VKD,RTE,1,", "VKD,RTE,,"), r"line 2 has nothing in the column seed"),
    "no method": (
        "\n" + CLEAN.replace("FSD_I,RTE,1,", " ,RTE,1,"),
        r"line 5 has nothing in the column method",
    ),
    "a seed of no number": (
        CLEAN.replace("RTE,2,0.875", "RTE,two,0.875"),
        r"line 5 has 'two' in the column seed",
    ),
    "a metric of no number": (
        CLEAN.replace("0.625", "good"),
        r"line 4 has 'good' in the column acc",
    ),
    "a truth for a number": (
        re.sub(r"0\.\d+,2.5", "True,2.5", CLEAN),
        r"line 2 has 'True' in the column acc",
    ),
    "minutes": (CLEAN.replace(",2.5,", ",2 min,", 1), r"line 2 has '2 min' in the column minutes"),
    "a flag": (
        CLEAN.replace("0.0001", "small", 1),
        r"line 2 has 'small' in the column --learning_rate",
    ),
    "thousands": (
        spreadsheet(CLEAN).replace("17000000", "17.000.000", 1),
        r"line 2 has '17.000.000' in the column p",
    ),
    "no columns": (
        CLEAN.replace("method", "who", 1),
        r"is not a table of results \(line 1 has no column method\)",
    ),
    "no text": (
        CLEAN.replace("FSD_I", "FSD_é").encode("latin-1"),
        r"line 4 has bytes that are not UTF-8",
    ),
    "sixteen bits": (CLEAN.encode("utf-16"), r"line 1 has bytes that are not UTF-8"),
    "a quote": (CLEAN.replace("FSD_I", '"FSD_I', 1), r"line 4 has a quoted cell that does not end"),
    "the last quote": (
        CLEAN.replace(",12,\n", ',"12,\n'),
        r"line 5 has a quoted cell that does not end",
    ),
    "two glued files": (CLEAN.rstrip("\n,") + CLEAN, r"line 5 has 36 cells"),
    "nothing": ("\n\n", r"is not a table of results \(it is empty\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tables(case, tmp_path):
    text, words = REFUSED[case]
    source = written(tmp_path, text)
    for main in (
        table.main,
        tables.main,
        lambda argv: best.main([*argv, "--flags", "learning_rate"]),
    ):
        with pytest.raises(UserError, match=rf"r\.csv.*{words}") as refused:
            main([str(source)])
        assert "\n" not in str(refused.value)


def test_lines_are_those_of_the_file(tmp_path):
    source = written(
        tmp_path, CLEAN.replace('"M, 2 cores"', '"M,\n2 cores"', 1).replace("0.875", "x")
    )
    with pytest.raises(UserError, match="line 6 has 'x' in the column acc"):
        read_runs(source)
    with pytest.raises(UserError, match=r"absent\.csv cannot be read \(No such file"):
        results_csv.read_table(tmp_path / "absent.csv", ["method"])


def test_appending_keeps_what_a_table_would_refuse(tmp_path):
    """At the end of a run its row matters more than another row's mistake."""
    source = written(tmp_path, CLEAN.replace("0.875", "x"))
    results_csv.append_result(source, {"method": "VKD", "seed": 3})
    assert pd.read_csv(source).acc.tolist()[:4] == ["0.5", "0.75", "0.625", "x"]
    source = written(tmp_path, CLEAN.replace("VKD,RTE,2", "VKD,2"))
    before = source.read_bytes()
    with pytest.raises(UserError, match="line 3 has 18 cells"):
        results_csv.append_result(source, {"method": "VKD", "seed": 3})
    assert source.read_bytes() == before


def test_missing_columns_are_said(tmp_path):
    for name in ("task", *SHOWN):
        frame = pd.read_csv(io.StringIO(CLEAN)).drop(columns=name)
        frame.to_csv(tmp_path / "r.csv", index=False)
        for main in (table.main, tables.main):
            with pytest.raises(UserError, match=f"have no column {name}:"):
                main([str(tmp_path / "r.csv")])
    text = "method,task,seed,acc,--beta\nVKD,RTE,1,0.5,1\n"  # enough for a search
    best.main([str(written(tmp_path, text)), "--flags", "beta"])
    more = "method,task,seed,acc,parameters,minutes,--learning_rate\n"
    partly = f"{CLEAN}{more}VKD,RTE,3,0.5,17000000,2,0.0001\n"
    with pytest.raises(UserError, match=r"differ in processes \(1.0, nan\)"):  # and not a traceback
        table.main([str(written(tmp_path, partly))])


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


def write_run(folder, method="VKD", **changes):
    run = {
        "finished": True,
        "method": method,
        "seed": 1,
        "arguments": {"task_name": "RTE", "seed": 1},
        "results": {"acc": 0.5},
        "train_seconds": 60,
        "examples_per_second": 1,
        "parameters": 1e6,
        "device": "cpu",
        "machine": "M",
        "precision": "no",
        "processes": 1,
        "steps": 1,
        "started": "2026",
        "commit": "abc",
        "teacher": None,
        "versions": {"torch": "2", "transformers": "5"},
        "command": "glue_with_cka_i.py",
    }
    run = {key: value for key, value in (run | changes).items() if value != "gone"}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def test_runs_in_folders_named_by_digits(tmp_path, capsys):
    for name, method in (("007", "VKD"), ("1", "FSD_I")):
        write_run(tmp_path / "runs" / name, method)
        results_csv.append_result(
            tmp_path / "r.csv",
            read_runs(tmp_path / "runs").iloc[-1].to_dict() | {"--output_dir": name},
        )
    for source in (tmp_path / "runs", tmp_path / "r.csv"):
        table.main([str(source)])
        tables.main([str(source), "--tables", "2"])
        best.main([str(source), "--flags", "output_dir", "--name", "00"])
        assert re.search(r"--output_dir \S*007\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"method": "gone"}, "has no method"),
        ({"versions": "gone"}, "has no versions"),
        ({"versions": {}}, "has no torch"),
        ({"arguments": {}}, "has no task_name"),
        ({"arguments": [1]}, "arguments is no JSON object"),
        ({"results": None}, "results is no JSON object"),
        ({"data": {"train": None}}, "not the record of a finished run"),
        ({"train_seconds": "x"}, "not the record"),
    ],
)
def test_a_run_json_that_lacks_something_is_named(changes, words, tmp_path):
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b", **changes)
    for main in (table.main, tables.main):
        with pytest.raises(UserError, match=rf"b/run\.json.*{words}"):
            main([str(tmp_path / "runs")])


def test_a_run_json_that_is_no_record(tmp_path):
    (tmp_path / "a").mkdir()
    for text in ("[1]", '"run"', "null", "{"):
        (tmp_path / "a/run.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"a/run\.json is damaged"):
            table.main([str(tmp_path)])
        with pytest.raises(UserError, match=r"a/run\.json is damaged"):
            estimate.measured_rates(tmp_path)
    write_run(tmp_path / "b", command="gone")
    (tmp_path / "a/run.json").unlink()
    with pytest.raises(
        UserError, match=r"b/run\.json is not the record of a finished run \(it has no command\)"
    ):
        estimate.measured_rates(tmp_path)


# ---- other tables of ours -----------------------------------------------------------------------


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


STEP = """form,model,precision,B,W,examples / s,x VKD,peak MiB,device,machine,torch,commit
VKD,bert-base,no,8,24,10.5,1.0,900,cpu,"M, 2 cores",2.1,0123456
"FSD_I, cached",bert-base,no,8,24,8.25,0.75,950,cpu,"M, 2 cores",2.1,0123456
"""


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


# ---- markers ------------------------------------------------------------------------------------

MARKERS = {
    "start twice": (
        "{start}\na\n{start}\n{end}\n",
        r"<!-- table {name} --> more than once, in the lines 3, 5",
    ),
    "end twice": (
        "{start}\n{end}\n\n{end}\n",
        r"<!-- end {name} --> more than once, in the lines 4, 6",
    ),
    "both twice": (
        "{start}\n{end}\n{start}\n{end}\n",
        r"<!-- table {name} --> more than once, in the lines 3, 5",
    ),
    "end before start": (
        "{end}\n{start}\n",
        r"<!-- end {name} --> in line 3, before <!-- table {name} --> in line 4",
    ),
    "another's within": (
        "{start}\n<!-- table x -->\n{end}\n",
        r"<!-- table x --> between .* line 3 and .* line 5",
    ),
    "no end": ("{start}\n", r"no lines? "),
}


@pytest.mark.parametrize("case", MARKERS)
def test_unclear_markers_leave_the_file_as_it_is(case, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmarks = importlib.import_module("benchmarks.report")
    source, step = written(tmp_path, CLEAN), written(tmp_path, STEP, "step.csv")
    means = PUBLISHED
    text, words = MARKERS[case]
    for name, command in (
        ("RTE", lambda readme: table.main([str(source), "--insert", readme])),
        ("3", lambda readme: tables.main([str(means), "--insert", readme])),
        ("step", lambda readme: benchmarks.main([str(step), "--insert", readme])),
        ("7", find_places),
    ):
        other = "6" if name == "7" else "2"  # that one is fine, and is not written either
        before = f"before <!-- table {other} -->\n<!-- end {other} -->\n" + text.format(
            start=f"<!-- table {name} -->", end=f"<!-- end {name} -->"
        )
        readme = written(tmp_path, before, "README.md")
        if name == "7" and case == "no end":
            continue  # the places with both lines count
        with pytest.raises(UserError, match=rf"README\.md has .*{words.format(name=name)}"):
            command(str(readme))
        assert readme.read_text(encoding="utf-8") == before


def test_tables_cannot_go_into_a_file_that_is_none(tmp_path):
    source = written(tmp_path, CLEAN)
    with pytest.raises(UserError, match="has no lines <!-- table RTE -->"):
        table.main([str(source), "--insert", str(tmp_path / "absent.md")])
    readme = written(tmp_path, "é<!-- table RTE --><!-- end RTE -->".encode("latin-1"), "README.md")
    with pytest.raises(UserError, match=r"README\.md is not text in UTF-8"):
        table.main([str(source), "--insert", str(readme)])


# ---- output -------------------------------------------------------------------------------------

SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "analysis", "baselines", "benchmarks", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_can_be_printed_in_any_encoding(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    text = (ROOT / script).read_text(encoding="utf-8")
    assert re.search(
        r"sys\.exit\(\s*(common\.)?cli\(\s*main[,)]", text
    )  # its main goes through cli
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    for encoding, errors in (
        ("ascii", "strict"),
        ("ascii", "surrogateescape"),
        ("latin-1", "strict"),
    ):
        streams = [
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)
        ]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as stopped:
                common.cli(main, ["--help"])
        assert not stopped.value.code
        streams[0].flush()
        assert b"usage" in streams[0].buffer.getvalue()


@pytest.mark.slow
def test_tables_can_be_printed_in_any_encoding(tmp_path, monkeypatch):
    done = subprocess.run(
        [sys.executable, ROOT / "analysis/tables.py", PUBLISHED],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and not done.stderr
    assert rb"**55.49 \xb1 1.61**" in done.stdout
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", utf8)
    assert common.cli(lambda argv: print("α \udcff")) == 0  # a file's name that is no UTF-8
    assert utf8.buffer.getvalue() == "α \\udcff\n".encode()
    raw = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdout", raw)
    assert common.cli(lambda argv: print("α \udcff")) == 0
    assert raw.buffer.getvalue() == "α ".encode() + b"\xff\n"


def test_output_that_is_no_text_stream(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert common.cli(lambda argv: print("α")) == 0
    assert sys.stdout.getvalue() == "α\n"


# ---- logs ---------------------------------------------------------------------------------------

FOREIGN = [
    b"[1]",
    b"5",
    b"{}",
    b'{"epoch": 1}',
    b'{"step": "2"}',
    b'{"step": null}',
    b'{"step": true}',
    b'{"step": NaN}',
    b"{no",
    b"\xff\xfe",
    b"\x00\x00\x00",
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_is_left_out_of_a_resumed_log(line, tmp_path, capsys):
    path = tmp_path / "train_log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n\n{"step": 2}\n{"step": 3}\n')
    logs.JsonLines(path, step=2).write({"step": 3, "again": True})
    assert (
        path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'
    )
    assert capsys.readouterr().err == (
        f"note: left out of {path}, as no JSON object with a number as step: line 2.\n"
    )
    path.write_bytes(b'{"step": 1}\n' + line)  # cut, as by a kill: nothing to be said
    logs.JsonLines(path, step=2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n' and not capsys.readouterr().err


def test_many_foreign_lines_are_one_note(tmp_path, capsys):
    (tmp_path / "log").write_text("no\n" * 12 + '{"step": 1}\n', encoding="utf-8")
    assert logs.read_log(tmp_path / "log") == [('{"step": 1}', {"step": 1})]
    assert "line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more.\n" in capsys.readouterr().err


def test_the_report_leaves_foreign_lines_out(tmp_path, capsys):
    entry = {"step": 1, "epoch": 0.5, **dict.fromkeys(RELATIONS, 0.25)}
    other = json.dumps(entry | {RELATIONS[0]: "far"}).encode()
    path, notes = tmp_path / "train_log.jsonl", []
    one, two = (json.dumps(entry | {"step": step}).encode() for step in (1, 2))
    lines = [one, b'{"step": 1, "loss": 2}', *FOREIGN, other, two]
    path.write_bytes(b"\n".join(lines) + b'\n{"step": 9')
    student = SimpleNamespace(folder=tmp_path, name="x", run=0)
    curves = report_topics.training_curves([student], notes.append)
    assert curves.step.tolist() == [1, 2] and curves[RELATIONS[0]].tolist() == [0.25, 0.25]
    assert notes == [
        f"left out of {path}, as no JSON object with a number as step: line 3, 4, 5, 6, 7, 8, 9, "
        "10, 11, 12 and 2 more."
    ]
    assert not capsys.readouterr().err
    del entry["epoch"]
    for text in ("", "{no\n{}\n", '{"step": 1}\n', json.dumps(entry) + "\n"):
        path.write_text(text, encoding="utf-8")
        assert report_topics.training_curves([student]).empty
