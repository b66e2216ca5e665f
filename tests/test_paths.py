"""Paths of flags: ~ in them, empty ones, homes that are none."""

import argparse
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from conftest import ROOT, flags, shell

import glue_with_cka_i
import utils_glue
from analysis import report
from common import UserError

if sys.platform != "linux":
    pytestmark = pytest.mark.skip("/dev/full is Linux's")
SCRIPTS = sorted(
    path
    for pattern in ("*.py", "*/*.py")
    for path in ROOT.glob(pattern)
    if "sys.exit(cli(main" in path.read_text().replace("common.", "")
    and path.parent.name != "tests"
    and path.name != "sweep.py"  # which reads its words itself, as runs' flags stand among them
)
NO_PATHS = """
base_url commit epochs flags jobs layers learning_rate marker method methods more_seeds name only
rates relation_heads seeds shard stage student_layers task task_name tasks teacher_rate tests tuned
until variants warmup_ratio
""".split()


class Seen(Exception):
    """Carries a parser out of a script's main."""


@contextlib.contextmanager
def ended(code=2):
    """A command that argparse refuses."""
    with pytest.raises(SystemExit) as error:
        yield
    assert error.value.code == code


def parsers_of(script, monkeypatch):
    """A script's parser, or those of its commands."""

    def stop(self, *args):
        raise Seen(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.syspath_prepend(str(script.parent))
    spec = importlib.util.spec_from_file_location(f"seen_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Seen) as seen:
        module.main(["--a_word"])
    (parser,) = seen.value.args
    commands = [
        action.choices.values()
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return [parser, *(command for found in commands for command in found)]


# ---- every script --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_path_of_every_script_knows_homes(script, monkeypatch):
    """Of flags that are no numbers, choices or switches, all but NO_PATHS: a new one is a path
    until it is listed.
    """
    monkeypatch.setenv("HOME", "/home/me")
    for parser in parsers_of(script, monkeypatch):
        for action in parser._actions:
            number = isinstance(parser._get_value(action, "7"), int | float)
            if action.nargs == 0 or action.choices or action.dest in NO_PATHS or number:
                continue
            assert parser._get_value(action, "~/x") == "/home/me/x", action.dest
            assert parser._get_value(action, "bert-base-uncased") == "bert-base-uncased"
            if action.required:
                with pytest.raises(argparse.ArgumentError, match="found an empty one"):
                    parser._get_value(action, "")


def test_the_scripts_looked_at_are_all():
    assert {
        "glue_with_cka_ilg",
        "train_memory",
        "utils_glue",
        "glue_with_baseline",
        "report",
        "tables",
        "hold_out",
        "estimate",
        "toy_entailment",
        "check_kmeans",
        "step",
        "end_to_end",
        "predictions",
    } <= {path.stem for path in SCRIPTS}


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_below_the_users_home(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    glue_with_cka_i.main(
        flags(
            tiny,
            "~/x",
            "--results_csv=~/r.csv",
            "--teacher_cache=~/tc",
            "--run_file=~/tb",
            "--max_steps",
            1,
        )
    )
    assert {"x", "r.csv", "tc", "tb"} <= set(os.listdir(tmp_path)) and not (tmp_path / "~").exists()


def test_a_students_folder_is_the_part_after_its_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for word, expected in (
        ("VKD=~/a", "VKD=/home/me/a"),
        ("~/a,alpha=1", "/home/me/a,alpha=1"),
        ("VKD=a", "VKD=a"),
        ("a,alpha=1", "a,alpha=1"),
        ("~/b", "/home/me/b"),
    ):
        assert report.expand_student(word) == expected


def test_an_unknown_users_home_and_an_empty_place_are_refused_before_anything_is_made(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for more, said in (
        (["--output_dir", "~no-such-user/x"], "no such user here"),
        (["--output_dir", ""], "an empty"),
        (["--model_name_or_path", ""], "an empty"),
        (["--resume_from_checkpoint", ""], "an empty"),
        (["--run_file", "~no-such-user"], "no such"),
    ):
        with ended():
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
        error = capsys.readouterr().err
        assert error.startswith(f"error: argument {more[0]}") and ": expected" in error
        assert said in error and error.count("\n") == 1
    assert not os.listdir(tmp_path)
    with ended():
        utils_glue.main(["submit", "somewhere", "--output", ""])


def test_empty_optional_places_are_none(tiny, tmp_path):
    glue_with_cka_i.main(
        flags(
            tiny,
            tmp_path / "s",
            "--max_steps",
            1,
            *(
                f"--{name}="
                for name in (
                    "cache_dir",
                    "config_name",
                    "tokenizer_name",
                    "run_file",
                    "results_csv",
                    "teacher_cache",
                    "student_model_name_or_path",
                )
            ),
        )
    )
    assert (tmp_path / "s/tensorboard").is_dir()


def test_a_table_that_is_no_file_is_refused(tiny, tmp_path, capsys):
    """/dev/full was read without an end."""
    with pytest.raises(UserError, match="no regular file"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--results_csv", "/dev/full"))


# ---- a home that is none -------------------------------------------------------------------------


def test_without_a_home_the_cache_folder_is_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/dev/null/x")
    with pytest.raises(
        UserError, match=r"kept in /dev/null/x/.cache/fsd-glue \(Not a directory\).*--cache_dir"
    ):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(UserError, match=r"no home .* --cache_dir"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))


@pytest.mark.slow
def test_a_whole_run_without_a_home(tiny, tmp_path):
    home = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"} | {
        "HOME": "/dev/null/x"
    }
    done = shell(
        "glue_with_cka_i.py",
        *flags(tiny, tmp_path / "s", "--cache_dir", tmp_path / "c", "--max_steps", 1),
        env=home,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
