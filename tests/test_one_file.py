"""A rival with a weight of its own is one file, a flag is one declaration: both are added to a copy
of this repository, and all that a user does with them works there.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap

import pandas as pd
import pytest
from conftest import ROOT, flags

import glue_with_cka_i

PARTS = ("common", "training", "baselines", "tasks", "analysis")
RIVAL = '''
"""The mean squared difference of two features, which no paper proposes."""

from baselines.shared import between_rows

METHOD = {
    "name": "Throwaway",
    "help": "the difference of the first numbers",
    "defaults": {
        "beta": 2.0, "gamma_x": 3.0, "squared": False,
        "between": "samples", "sample_features": "flat",
    },
    "flags": {
        "gamma_x": {"role": "weight", "type": "float", "least": 0, "most": 9, "help": "γ_x."},
        "squared": {"role": "variant", "type": "bool", "help": "Squared, not absolute."},
    },
}


def difference(x_s, x_t, mask=None, count_undefined=False):
    found = (x_s[..., 0] - x_t.detach()[..., 0]).abs().mean()
    return found, 0 * found.detach()


def structure(args):
    return {"throwaway": between_rows(args.beta * args.gamma_x, difference, args)}
'''
FLAG = """
    Flag(
        "throwaway", "variant", float, 0.5, "Nothing.", least=0, most=1, of="FSD", before=0.5
    ),
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository without its tests."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def session(copy):
    """Runs [(script, flags)] in the copy as a user does, in one process, as imports take seconds.

    Returns [(exit code, stdout, stderr)].
    """
    program = textwrap.dedent(
        """
        import contextlib, importlib, io, json, sys
        from accelerate.state import AcceleratorState
        import common
        told = []
        for script, words in json.load(sys.stdin):
            AcceleratorState._reset_state(reset_partial_state=True)
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = common.cli(importlib.import_module(script).main, words)
                except SystemExit as end:
                    code = end.code
            told.append((code, out.getvalue(), err.getvalue()))
        json.dump(told, sys.stdout)
        """
    )

    def run(*commands):
        commands = [(script, [str(word) for word in words]) for script, words in commands]
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=copy,
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.slow
def test_a_rival_with_a_weight_of_its_own_is_one_file(copy, session, tiny, tmp_path):
    (copy / "baselines" / "throwaway.py").write_text(RIVAL, encoding="utf-8")
    table = tmp_path / "r.csv"
    script = "baselines.glue_with_baseline"

    def command(name, *more, method="throwaway"):
        words = flags(tiny, tmp_path / name, "--method", method, "--max_steps", 3, *more)
        return script, words

    resume = ["--resume_from_checkpoint", tmp_path / "runs/three/checkpoint-2"]
    told = session(
        (script, ["--help"]),
        command("runs/three", "--results_csv", table, "--save_steps", 2),
        command("runs/four", "--gamma_x", 4, "--squared"),
        command("again", *resume),
        command("other", *resume, "--gamma_x", 5),
        command("limit", "--gamma_x", 10),
        command("foreign", "--gamma_x", 1, method="rkd"),
        ("analysis.best", [tmp_path / "runs", "--flags", "gamma_x", "squared"]),
        ("analysis.tables", [table]),
        ("analysis.tables", [tmp_path / "runs"]),
    )
    codes = [code for code, _, _ in told]
    assert codes[:4] == [0, 0, 0, 0], told
    help_text = " ".join(told[0][1].split())
    assert "throwaway the difference of the first numbers" in help_text
    assert "--gamma_x GAMMA_X γ_x." in help_text
    run = json.loads((tmp_path / "runs/three/run.json").read_text())
    assert run["method"] == "Throwaway" and run["settings"]["gamma_x"] == 3
    assert run["arguments"]["beta"] == 2 and run["arguments"]["squared"] is False
    log = [json.loads(line) for line in (tmp_path / "runs/three/train_log.jsonl").open()]
    assert all(entry["throwaway"] > 0 for entry in log)
    assert codes[4:7] == [1, 1, 1]
    assert "gamma_x was 3.0 and is 5.0" in told[4][2]
    assert "--gamma_x must be between 0 and 9, got 10" in told[5][2]
    assert "--gamma_x means nothing to --method rkd" in told[6][2]
    assert codes[7] == 0 and re.match("--gamma_x (3|4 --squared)\n", told[7][1]), told[7]
    for code, found, _ in told[8:]:
        assert code == 0 and "| Throwaway " in found and "gamma_x 3" in found
    assert "| Throwaway, squared " in told[9][1]


@pytest.mark.slow
def test_a_rivals_cell_is_read_by_its_type(copy, session, tmp_path):
    (copy / "baselines" / "throwaway.py").write_text(RIVAL, encoding="utf-8")
    table = tmp_path / "r.csv"
    table.write_text("method,seed,task,acc,--gamma_x,--squared\nThrowaway,1,RTE,0.5,many,True\n")
    ((code, _, said),) = session(("analysis.tables", [table]))
    assert code == 1 and "'many' in the column --gamma_x, which holds numbers" in said


@pytest.mark.slow
def test_a_flag_is_one_declaration(copy, session, tiny, tmp_path):
    """A run from before the flag goes on with its `before`, and not with another value."""
    table = tmp_path / "r.csv"
    shared = ["--max_steps", 3, "--internal"]
    old = [*shared, "--save_steps", 2, "--results_csv", table]
    glue_with_cka_i.main(flags(tiny, tmp_path / "old", *old))
    declared = copy / "training" / "loss_flags.py"
    text = declared.read_text(encoding="utf-8")
    place = '    Flag("temperature", "weight"'
    assert text.count(place) == 1
    declared.write_text(text.replace(place, FLAG + place), encoding="utf-8")

    def command(name, *more):
        return "glue_with_cka_i", flags(tiny, tmp_path / name, *shared, *more)

    resume = ["--resume_from_checkpoint", tmp_path / "old/checkpoint-2"]
    told = session(
        ("glue_with_cka_i", ["--help"]),
        command("same", *resume),
        command("changed", *resume, "--throwaway", 0.7),
        command("limit", "--throwaway", 2),
        command("new", "--throwaway", 0.7, "--results_csv", table),
        ("analysis.best", [table, "--flags", "throwaway"]),
        ("analysis.tables", [table]),
    )
    codes = [code for code, _, _ in told]
    assert codes == [0, 0, 1, 1, 0, 0, 0], told
    assert "| FSD_I " in told[6][1] and "| FSD_I, throwaway 0.7 " in told[6][1]
    assert "--throwaway THROWAWAY" in told[0][1]
    assert "throwaway was 0.5 and is 0.7" in told[2][2]
    assert "--throwaway must be between 0 and 1, got 2" in told[3][2]
    assert pd.read_csv(table)["--throwaway"].tolist() == [0.5, 0.7]
    assert re.search(r"--throwaway 0\.[57]", told[5][1])
    assert "| FSD_I " in told[6][1] and "| FSD_I, throwaway 0.7 " in told[6][1]
