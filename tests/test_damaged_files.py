"""Changed files are refused by name, what killed writers left goes, and a full disk is told."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import flags, memory_flags, read_log, room_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stopped_runs import stopped_at, stopped_clustering

import common
import glue_with_cka_i
import train_memory
from common import UserError, files
from tasks.reading import read_text
from training import logs, memory_file, results_csv

if sys.platform != "linux":
    pytestmark = pytest.mark.skip("/dev/full and limits of a file's size are Linux's")


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def without_checksum(path):
    """A safetensors file as earlier versions wrote it."""
    with safe_open(path, framework="pt") as file:
        metadata = {
            key: json.loads(text) for key, text in file.metadata().items() if key != "checksum"
        }
    for facts in metadata.values():
        facts.pop("checksum", None)
    save_file(load_file(path), path, {key: json.dumps(facts) for key, facts in metadata.items()})


# ---- changed files -------------------------------------------------------------------------------


def test_a_changed_checkpoint_is_refused_by_the_files_name(tiny, tmp_path):
    stopped_at(tiny, tmp_path / "s")
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


def test_a_checkpoint_of_an_earlier_version_is_resumed(tiny, tmp_path):
    stopped_at(tiny, tmp_path / "s")
    path = tmp_path / "s/checkpoint-2/progress.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"})
    )
    assert glue_with_cka_i.main(flags(tiny, tmp_path / "s")) == 0
    assert len(read_log(tmp_path / "s")) == 6


def test_a_changed_clustering_is_refused(tiny, tmp_path):
    state = tmp_path / "m/clustering.safetensors"
    stopped_clustering(tiny, tmp_path / "m")
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
    path = tmp_path / memory_file.FILE
    memory_file.save_memory(path, torch.eye(3), {"task": "RTE", "inertia": [0.1, 1e-20]})
    assert memory_file.load_memory(path)[1] == {"task": "RTE", "inertia": [0.1, 1e-20]}
    change_a_byte(path)
    with pytest.raises(UserError, match=r"a damaged one .* not what was written"):
        memory_file.load_memory(path)
    without_checksum(path)
    assert memory_file.load_memory(path)[1]["task"] == "RTE"


# ---- left-over files -----------------------------------------------------------------------------


def test_what_a_process_that_is_gone_left_is_removed_at_once(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        number: tmp_path / f".r.csv.{files.HOST}-{number}.tmp"
        for number in (gone.pid, os.getppid())
    }
    elsewhere = tmp_path / f".r.csv.{files.HOST}x-{gone.pid}.tmp"
    for path in (*names.values(), elsewhere):
        path.touch()
    results_csv.append_result(tmp_path / "r.csv", {"method": "VKD", "seed": 1})
    assert [path.exists() for path in (*names.values(), elsewhere)] == [False, True, True]


def test_leftovers_of_killed_writers_go_after_a_day(tmp_path):
    old, young, other = (
        tmp_path / name for name in (".r.csv.11.tmp", ".r.csv.12.tmp", ".r.csv.lock")
    )
    folder, same_start = tmp_path / ".r.csv.13.tmp-old", tmp_path / ".r.csv.more.14.tmp"
    for path in (old, young, other, same_start):
        path.touch()
    folder.mkdir()
    for path in (old, other, folder, same_start):
        os.utime(path, (time.time() - 2 * files.DAY,) * 2)
    results_csv.append_result(tmp_path / "r.csv", {"method": "VKD", "seed": 1})
    assert set(os.listdir(tmp_path)) == {"r.csv", young.name, other.name, same_start.name}


@pytest.mark.slow
def test_a_killed_teacher_cache_leaves_nothing_once_it_goes_on(tiny, tmp_path, monkeypatch):
    more = ["--teacher_cache", tmp_path / "tc"]

    def kill(tensors, path, *_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.cache_shards.save_file", kill)
        patch.setattr("common.files.discard", lambda path: None)  # SIGKILL tidies nothing up
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    assert list((tmp_path / "tc").glob("*/*/.*.tmp"))
    monkeypatch.setattr("psutil.pid_exists", lambda number: False)
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    assert not list((tmp_path / "tc").glob("*/*/.*.tmp"))


# ---- a disk that is full -------------------------------------------------------------------------


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


@pytest.mark.parametrize("read", [common.sha256_of_file, read_text])
def test_what_may_not_be_read_is_not_said_to_be_unwritable(read, tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): mend that, or name"):
        read(tmp_path)
