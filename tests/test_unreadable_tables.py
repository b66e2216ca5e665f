"""Tables and records of runs that cannot be read: one sentence with the file, line and column."""

import io
import re

import pandas as pd
import pytest
from made_up_runs import write_record
from table_files import CLEAN, spreadsheet, written

from analysis import best, table, tables
from analysis.comparable import SHOWN
from analysis.runs import read_runs
from common import UserError
from scripts import estimate
from training import results_csv

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
        results_csv.read_checked_csv(tmp_path / "absent.csv", ["method"])


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


# ---- run.json ------------------------------------------------------------------------------------


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
    write_record(tmp_path / "runs" / "a")
    write_record(tmp_path / "runs" / "b", **changes)
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
    write_record(tmp_path / "b", command="gone")
    (tmp_path / "a/run.json").unlink()
    with pytest.raises(
        UserError, match=r"b/run\.json is not the record of a finished run \(it has no command\)"
    ):
        estimate.measured_rates(tmp_path)
