"""Symbolic links: what they lead to is written and kept, and they stay links."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import filelock
import pytest
from conftest import flags, read_log
from stopped_runs import stopped_at

import common
import glue_with_cka_i
from common import UserError
from training import records, results_csv

# ---- one file, one folder ------------------------------------------------------------------------


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


# ---- runs ----------------------------------------------------------------------------------------


def moved(checkpoint, place):
    """Move a checkpoint away, and leave a link where it was."""
    place.mkdir()
    os.replace(checkpoint, place / checkpoint.name)
    checkpoint.symlink_to(place / checkpoint.name)
    return place / checkpoint.name


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "link", "place"])
def test_a_checkpoint_that_was_moved_and_linked_is_the_runs_own(named, tiny, tmp_path):
    """It is found, or named by either name; once newer ones are kept, the link goes and what it
    leads to stays.
    """
    stopped_at(tiny, tmp_path / "s")
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
    (tmp_path / "s").symlink_to(tmp_path / "real")
    stopped_at(tiny, tmp_path / "s")
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
