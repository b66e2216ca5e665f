"""Places on disk: ~ in paths, symbolic links, damaged and left-over files, full disks, a home that
is none.
"""

import argparse
import contextlib
import errno
import importlib.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import ROOT, flags, memory_flags, read_log, shell
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_distill import stopped_at

import common
import glue_with_cka_i
import memory
import train_memory
import utils_glue
from analysis import report
from common import UserError
from training import logs, records, results_csv

SCRIPTS = sorted(
    path
    for pattern in ("*.py", "*/*.py")
    for path in ROOT.glob(pattern)
    if "sys.exit(cli(main" in path.read_text().replace("common.", "")
    and path.parent.name != "tests"
    and path.name != "sweep.py"  # which reads its words itself, as runs' flags stand among them
)
NO_PATHS = {
    "tasks",
    "task",
    "task_name",
    "base_url",
    "only",
    "flags",
    "method",
    "name",
    "tuned",
    "commit",
    "tests",
    "methods",
    "rates",
    "teacher_rate",
    "student_layers",
    "seeds",
    "more_seeds",
    "variants",
    "until",
    "jobs",
    "epochs",
    "warmup_ratio",
    "relation_heads",
    "learning_rate",
    "stage",
    "shard",
    "layers",
}


class Seen(Exception):
    """Carries a parser out of a script's main."""


@contextlib.contextmanager
def ended(code=2):
    """A command that argparse refuses."""
    with pytest.raises(SystemExit) as error:
        yield
    assert error.value.code == code


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# ---- paths ---------------------------------------------------------------------------------------


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


def test_an_unknown_users_home_and_an_empty_place_are_refused_before_anything_is_made(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for more, said in (
        (["--output_dir", "~no-such-user/x"], "no such user here"),
        (["--output_dir", ""], "an empty"),
        (["--data_dir", ""], "an empty"),
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


def test_what_a_process_that_is_gone_left_is_removed_at_once(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        number: tmp_path / f".r.csv.{common.HOST}-{number}.tmp"
        for number in (gone.pid, os.getppid())
    }
    elsewhere = tmp_path / f".r.csv.{common.HOST}x-{gone.pid}.tmp"
    for path in (*names.values(), elsewhere):
        path.touch()
    results_csv.append_result(tmp_path / "r.csv", {"method": "VKD", "seed": 1})
    assert [path.exists() for path in (*names.values(), elsewhere)] == [False, True, True]


def test_a_table_that_is_no_file_is_refused(tiny, tmp_path, capsys):
    """/dev/full was read without an end."""
    with pytest.raises(UserError, match="no regular file"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--results_csv", "/dev/full"))


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


# ---- symbolic links ------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_atomic_path_writes_what_a_link_leads_to(there, tmp_path):
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far/file").write_text("old")
        (tmp_path / "far/folder").mkdir()
        (tmp_path / "far/folder/old").touch()
    for name in ("file", "folder"):
        (tmp_path / name).symlink_to(Path("far") / name)
    with common.atomic_path(tmp_path / "file") as temporary:
        assert temporary.parent.samefile(tmp_path / "far")
        temporary.write_text("new")
    with common.atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert all((tmp_path / name).is_symlink() for name in ("file", "folder"))
    assert (tmp_path / "far/file").read_text() == "new" and os.listdir(tmp_path / "far/folder") == [
        "new"
    ]
    assert sorted(os.listdir(tmp_path / "far")) == ["file", "folder"]


def test_a_link_in_a_circle_and_a_device(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="in a circle"), common.atomic_path(tmp_path / "a"):
        pass
    (tmp_path / "null").symlink_to("/dev/null")
    with common.atomic_path(tmp_path / "null") as path:
        path.write_text("nothing")
    assert Path("/dev/null").is_char_device() and (tmp_path / "null").is_symlink()


def test_a_table_has_one_lock_whatever_name_it_goes_by(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "r.csv").symlink_to("far/table.csv")
    results_csv.append_result(tmp_path / "r.csv", {"method": "VKD", "seed": 1})
    with filelock.FileLock(tmp_path / "far/.table.csv.lock"):
        process = multiprocessing.get_context("fork").Process(
            target=results_csv.append_result,
            args=(tmp_path / "r.csv", {"method": "VKD", "seed": 2}),
        )
        process.start()
        process.join(0.5)
        assert process.is_alive()
    process.join()
    assert (tmp_path / "r.csv").is_symlink() and (tmp_path / "far/table.csv").read_text().count(
        "VKD"
    ) == 2


def moved(checkpoint, place):
    """Move a checkpoint away, and leave a link where it was."""
    place.mkdir()
    os.replace(checkpoint, place / checkpoint.name)
    checkpoint.symlink_to(place / checkpoint.name)
    return place / checkpoint.name


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "link", "place"])
def test_a_checkpoint_that_was_moved_and_linked_is_the_runs_own(named, tiny, tmp_path, monkeypatch):
    """It is found, or named by either name; once newer ones are kept, the link goes and what it
    leads to stays.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "s", monkeypatch)
    link = tmp_path / "s/checkpoint-2"
    place = moved(link, tmp_path / "far")
    before = sorted(os.listdir(place))
    more = {
        "link": ["--resume_from_checkpoint", link],
        "place": ["--resume_from_checkpoint", place],
    }.get(named, [])
    assert (
        common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s", "--save_steps", 2, *more)) == 0
    )
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in (tmp_path / "s").glob("*checkpoint*")] == ["checkpoint-4"]
    assert sorted(os.listdir(place)) == before and not list(tmp_path.rglob("*.tmp*"))


def test_an_output_folder_of_links(tiny, tmp_path, monkeypatch):
    """The folder itself, and files in it of the same run, lead elsewhere: the run goes on there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "s").symlink_to(tmp_path / "real")
    stopped_at(tiny, tmp_path / "s", monkeypatch)
    (tmp_path / "far").mkdir()
    for name in ("run.json", "train_log.jsonl", "model.safetensors"):
        if (tmp_path / "real" / name).exists():
            os.replace(tmp_path / "real" / name, tmp_path / "far" / name)
        (tmp_path / "real" / name).symlink_to(tmp_path / "far" / name)
    real = os.replace

    def one_file_system_each(source, target):
        if Path(source).resolve().parent != Path(target).resolve().parent and "far" in str(
            Path(target).resolve()
        ):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", one_file_system_each)
    assert glue_with_cka_i.main(flags(tiny, tmp_path / "s")) == 0
    assert sorted(os.listdir(tmp_path / "far")) == [
        "model.safetensors",
        "run.json",
        "train_log.jsonl",
    ]
    assert all((tmp_path / "real" / name).is_symlink() for name in os.listdir(tmp_path / "far"))
    assert (
        json.loads((tmp_path / "far/run.json").read_text())["finished"]
        and len(read_log(tmp_path / "s")) == 6
    )
    assert not (tmp_path / "real/trained-model").exists()


def test_overwriting_removes_links_and_no_targets(tmp_path):
    output, far = tmp_path / "s", tmp_path / "far"
    output.mkdir()
    far.mkdir()
    (far / "RTE.tsv").touch()
    (far / "model.safetensors").touch()
    (output / "submission").symlink_to(far)
    (output / "model.safetensors").symlink_to(far / "model.safetensors")
    records.clear(output)
    assert not os.listdir(output) and sorted(os.listdir(far)) == ["RTE.tsv", "model.safetensors"]


def test_a_claim_cleans_up_links_and_not_what_they_lead_to(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/precious").touch()
    (tmp_path / "s").mkdir()
    (tmp_path / "s/.checkpoint-2.1.tmp-old").symlink_to(tmp_path / "far")
    with common.lock_output_dir(tmp_path / "s"):
        assert os.listdir(tmp_path / "s") == [".lock"]
    assert (tmp_path / "far/precious").exists()


# ---- changed and left-over files -----------------------------------------------------------------


def test_a_changed_checkpoint_is_refused_by_the_files_name(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "s", monkeypatch)
    folder = tmp_path / "s/checkpoint-2"
    names = set(os.listdir(folder)) - {"progress.json"}
    assert json.loads((folder / "progress.json").read_text())["sha256"].keys() == names
    for name in ("model.safetensors", "training_state.safetensors", "config.json"):
        whole = (folder / name).read_bytes()
        change_a_byte(folder / name)
        with pytest.raises(
            UserError, match=rf"is damaged: {name} should have the sha256 \w+, found \w+: delete"
        ):
            glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
        (folder / name).write_bytes(whole)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer_config.json should have .* found no file"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))


def test_a_checkpoint_of_an_earlier_version_is_resumed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "s", monkeypatch)
    path = tmp_path / "s/checkpoint-2/progress.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"})
    )
    assert glue_with_cka_i.main(flags(tiny, tmp_path / "s")) == 0
    assert len(read_log(tmp_path / "s")) == 6


def without_checksum(path):
    """A safetensors file as earlier versions wrote it."""
    with safe_open(path, framework="pt") as file:
        metadata = {
            key: json.loads(text) for key, text in file.metadata().items() if key != "checksum"
        }
    for facts in metadata.values():
        facts.pop("checksum", None)
    save_file(load_file(path), path, {key: json.dumps(facts) for key, facts in metadata.items()})


def test_a_changed_clustering_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state, real = tmp_path / "m/clustering.safetensors", memory.KMeans.save

    def save_and_stop(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(memory.KMeans, "save", save_and_stop)
        train_memory.main(memory_flags(tiny, tmp_path / "m"))
    whole = state.read_bytes()
    change_a_byte(state)
    with pytest.raises(
        UserError, match=r"clustering.safetensors is damaged .* not what was written"
    ):
        train_memory.main(memory_flags(tiny, tmp_path / "m"))
    state.write_bytes(whole)
    without_checksum(state)
    assert train_memory.main(memory_flags(tiny, tmp_path / "m")) == 0


def test_a_changed_memory_is_refused(tmp_path):
    path = tmp_path / memory.FILE
    memory.save_memory(path, torch.eye(3), {"task": "RTE", "inertia": [0.1, 1e-20]})
    assert memory.load_memory(path)[1] == {"task": "RTE", "inertia": [0.1, 1e-20]}
    change_a_byte(path)
    with pytest.raises(UserError, match=r"a damaged one .* not what was written"):
        memory.load_memory(path)
    without_checksum(path)
    assert memory.load_memory(path)[1]["task"] == "RTE"


def test_leftovers_of_killed_writers_go_after_a_day(tmp_path):
    old, young, other = (
        tmp_path / name for name in (".r.csv.11.tmp", ".r.csv.12.tmp", ".r.csv.lock")
    )
    folder, same_start = tmp_path / ".r.csv.13.tmp-old", tmp_path / ".r.csv.more.14.tmp"
    for path in (old, young, other, same_start):
        path.touch()
    folder.mkdir()
    for path in (old, other, folder, same_start):
        os.utime(path, (time.time() - 2 * common.DAY,) * 2)
    results_csv.append_result(tmp_path / "r.csv", {"method": "VKD", "seed": 1})
    assert set(os.listdir(tmp_path)) == {"r.csv", young.name, other.name, same_start.name}


def test_a_killed_teacher_cache_leaves_nothing_once_it_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    more = ["--teacher_cache", tmp_path / "tc"]

    def kill(tensors, path, *_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.shards.save_file", kill)
        patch.setattr(common, "discard", lambda path: None)  # SIGKILL tidies nothing up
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    assert list((tmp_path / "tc").glob("*/*/.*.tmp"))
    monkeypatch.setattr("psutil.pid_exists", lambda number: False)
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    assert not list((tmp_path / "tc").glob("*/*/.*.tmp"))


# ---- one --run_file for several runs -------------------------------------------------------------


def curves(folder):
    """The folders below with curves in them."""
    return sorted(
        {str(path.parent.relative_to(folder)) for path in folder.rglob("events.out.tfevents.*")}
    )


def test_runs_with_one_run_file_have_a_folder_each(tmp_path, capsys):
    board, opened = tmp_path / "tb", []
    for output in ("a/s", "b/s", "c/s"):
        opened.append(logs.Log(tmp_path / output, str(board), 0))
    assert [Path(log.folder).relative_to(board).as_posix() for log in opened] == [".", "s", "s-2"]
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 2 and str(tmp_path / "a/s") in said[0] and said[0].endswith(str(board / "s"))
    )
    for output, log in zip(("a/s", "b/s", "c/s"), opened, strict=True):
        for step in (0, 5):  # overwritten, resumed
            assert logs.curves_folder(tmp_path / output, str(board), step) == log.folder


@pytest.mark.slow
def test_a_single_run_writes_into_its_very_run_file(tiny, tmp_path):
    for _ in range(2):
        AcceleratorState._reset_state(reset_partial_state=True)
        glue_with_cka_i.main(
            flags(
                tiny,
                tmp_path / "s",
                "--run_file",
                tmp_path / "tb",
                "--max_steps",
                1,
                "--overwrite_output_dir",
            )
        )
    assert curves(tmp_path / "tb") == ["."]
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "t", "--run_file", tmp_path / "t", "--max_steps", 1)
    )
    assert curves(tmp_path / "t") == ["."]  # the output folder itself


def test_curves_of_an_earlier_version_are_of_the_run_that_is_resumed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.out.tfevents.1").touch()
    assert logs.curves_folder(tmp_path / "s", str(tmp_path / "one"), 4) == str(tmp_path / "one")
    assert logs.curves_folder(tmp_path / "s", str(tmp_path / "two"), 0) == str(tmp_path / "two/s")


def claim(output, board, start, found):
    start.wait()
    found.put(logs.curves_folder(output, board, 0))


def test_runs_that_start_at_once_do_not_share_a_folder(tmp_path):
    fork = multiprocessing.get_context("fork")
    start, found = fork.Event(), fork.Queue()
    processes = [
        fork.Process(
            target=claim, args=(tmp_path / str(k) / "s", str(tmp_path / "tb"), start, found)
        )
        for k in range(6)
    ]
    for process in processes:
        process.start()
    start.set()
    assert len({found.get(timeout=60) for _ in processes}) == 6
    for process in processes:
        process.join()


# ---- a home that is none, a disk that is full ----------------------------------------------------


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


@contextlib.contextmanager
def room_for(size):
    """No file may grow beyond this many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_tensors(folder):
    with common.atomic_path(folder / "big.safetensors") as path:
        save_file({"a": torch.zeros(9999)}, path)


def write_text(folder):
    common.write_json(folder / "big.json", ["word"] * 9999)


def write_lines(folder):
    lines = logs.JsonLines(folder / "train_log.jsonl", 0)
    lines.write({"word": "word" * 9999})


def write_curves(folder):
    log = logs.Log(folder, None, 0)
    log.lines = type("Nowhere", (), {"write": lambda self, entry: None})()
    for step in range(999):
        log(step, loss={"ce": 1.0})


@pytest.mark.parametrize(
    "write, name",
    [
        (write_tensors, "big.safetensors"),
        (write_text, "big.json"),
        (write_lines, "train_log.jsonl"),
        (write_curves, "tensorboard"),
    ],
)
def test_a_full_disk_names_its_file(write, name, tmp_path, capfd):
    with room_for(5000):
        assert common.cli(lambda argv: write(tmp_path)) == 1
    said = capfd.readouterr().err
    assert (
        said.startswith(f"error: {tmp_path / name} cannot be written (File too large)")
        and said.count("\n") == 1
    )
    assert not list(tmp_path.glob(".big*"))


def test_a_full_device_names_its_file(tmp_path, capsys):
    (tmp_path / "train_log.jsonl").symlink_to("/dev/full")
    lines = logs.JsonLines(tmp_path / "train_log.jsonl", 0)
    assert common.cli(lambda argv: lines.write({"step": 1})) == 1
    assert (
        f"error: {tmp_path / 'train_log.jsonl'} cannot be written (No space left"
        in capsys.readouterr().err
    )


if sys.platform != "linux":
    pytestmark = pytest.mark.skip("/dev/full and limits of a file's size are Linux's")
