"""Commands of analysis/ given a results.csv of a task of one's own: each prints, or refuses."""

import subprocess
import sys

import pandas as pd
import pytest
from made_up_runs import of, runs_csv

import common
from analysis import best, claims, ladder, predictions, summary_table, table, tables

SCORES = {"FSD_I": [0.90, 0.91, 0.92], "VKD": [0.60, 0.61, 0.63], "none": [0.50, 0.51, 0.52]}
COMMANDS = [
    (claims, []),
    (table, []),
    (table, ["--task", "RTE"]),
    (tables, []),
    (tables, ["--tables", "claims"]),
    (summary_table, []),
    (best, ["--method", "VKD", "--flags", "learning_rate"]),
    (best, ["--flags", "beta"]),
    (predictions, ["--csv", "p.csv"]),
    (predictions, ["--check", "mood.csv"]),
    (ladder, []),
]


@pytest.fixture
def mood(tmp_path, monkeypatch):
    """A results.csv of single runs of the task mood."""
    monkeypatch.chdir(tmp_path)
    rows = [run for method, scores in SCORES.items() for run in of(method, scores, task="mood")]
    return runs_csv(tmp_path / "mood.csv", *(row | {"f1_macro": row["acc"]} for row in rows))


@pytest.mark.parametrize(("command", "more"), COMMANDS)
def test_no_command_ends_well_and_prints_nothing(command, more, mood, capsys):
    code = common.cli(command.main, [str(mood), *more])
    said = capsys.readouterr()
    if code:
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
    else:
        assert said.out.strip()


def test_claims_of_a_task_of_ones_own_are_those_of_a_task_of_glue(mood, tmp_path, capsys):
    """With another name: of RTE too, the score is the accuracy."""
    claims.main([str(mood)])
    found = capsys.readouterr().out
    assert "VKD is better than the student alone by 10.3 points" in found
    glue = tmp_path / "glue.csv"
    pd.read_csv(mood).drop(columns="f1_macro").assign(task="RTE").to_csv(glue, index=False)
    tables.main([str(glue), "--tables", "claims"])
    as_glue = capsys.readouterr().out
    assert found.replace("mood", "RTE").split() == as_glue.split()


def test_claims_runs_as_a_script(mood):
    script = claims.__file__
    done = subprocess.run([sys.executable, script, mood], capture_output=True, text=True)
    assert done.returncode == 0 and "Claims by rule" in done.stdout
    done = subprocess.run(
        [sys.executable, script, mood, "--task", "RTE"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "has no run of RTE" in done.stderr


def test_claims_refuse_what_may_not_be_compared(mood, tmp_path, capsys):
    runs = pd.read_csv(mood)
    runs.loc[0, "--learning_rate"] = 0.5
    runs.to_csv(mood, index=False)
    assert common.cli(claims.main, [str(mood)]) == 1
    assert "differ in --learning_rate" in capsys.readouterr().err
