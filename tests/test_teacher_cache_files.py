"""The files of a teacher's cache: missing, torn or damaged shards, and no place for them."""

import shutil

import pytest
import torch
from conftest import flags
from safetensors.torch import save_file
from teacher_caches import assert_same_log, count_calls, entry_values, run, shards

import glue_with_cka_i
from common import UserError
from training import teacher_cache
from training.teacher import Teacher


def test_a_killed_making_goes_on_with_the_next_shard(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    cache = ["--teacher_cache", tmp_path / "cache"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_calls(patch, stop_after=2)
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *cache))
    assert shards(tmp_path / "cache", "features-3") == ["00000", "00001"]
    with monkeypatch.context() as patch:
        seen = count_calls(patch)
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *cache, "--logging_steps", 100))
        assert seen[0] == 5  # the third shard's; then the relations of the last step
    run(glue_with_cka_i, tiny, tmp_path / "t", "--teacher_cache", tmp_path / "whole")
    for path in (tmp_path / "whole").glob("*/*/*.safetensors"):
        again = tmp_path / "cache" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == again.read_bytes()
    assert not [path for path in (tmp_path / "cache").rglob("*") if ".tmp" in path.name]


def test_shards_that_are_missing_here_and_there_are_made(tiny, tmp_path, monkeypatch):
    """Of one entry the first, of another the last: no others are computed again, nor changed."""
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    cache = ["--teacher_cache", tmp_path / "cache"]
    run(glue_with_cka_i, tiny, tmp_path / "s", *cache)
    before = {path: path.read_bytes() for path in (tmp_path / "cache").glob("*/*/*.safetensors")}
    for name in ("logits/00000", "features-3/00002"):
        next((tmp_path / "cache").glob(f"*/{name}.safetensors")).unlink()
    seen = count_calls(monkeypatch)
    run(glue_with_cka_i, tiny, tmp_path / "t", *cache, "--logging_steps", 100)
    assert seen[:2] == [8, 5] and len(seen) == 3  # the third is the last step's relations
    assert len(before) == 6 and all(path.read_bytes() == was for path, was in before.items())


def test_mini_batches_of_several_shards_are_read(tiny, tmp_path, monkeypatch):
    run(glue_with_cka_i, tiny, tmp_path / "one", "--teacher_cache", tmp_path / "whole")
    monkeypatch.setattr(teacher_cache, "SHARD", 6)  # no multiple of the mini-batch
    run(glue_with_cka_i, tiny, tmp_path / "four", "--teacher_cache", tmp_path / "cut")
    assert shards(tmp_path / "cut", "logits") == ["00000", "00001", "00002", "00003"]
    assert_same_log(tmp_path / "one", tmp_path / "four", rel=5e-3, abs=1e-4)


def test_leftovers_of_two_killed_runs_are_not_mixed_up(tiny, tmp_path, monkeypatch):
    """VKD killed after two mini-batches, FSD_L after one, VKD again: no row is made up."""
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    cache = ["--teacher_cache", tmp_path / "cache", "--overwrite_output_dir"]
    for stop, more in ((2, ["--beta", 0]), (1, [])):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            count_calls(patch, stop_after=stop)
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", *cache, *more))
    run(glue_with_cka_i, tiny, tmp_path / "t", "--beta", 0, *cache)
    run(glue_with_cka_i, tiny, tmp_path / "u", "--beta", 0, "--teacher_cache", tmp_path / "whole")
    found, wanted = (entry_values(tmp_path / name, "logits") for name in ("cache", "whole"))
    assert torch.equal(found, wanted)


# ---- what is refused -----------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_read(tiny, tmp_path, monkeypatch):
    run(glue_with_cka_i, tiny, tmp_path / "s", "--beta", 0, "--teacher_cache", tmp_path / "cache")
    monkeypatch.setattr(teacher_cache.TeacherCache, "hold", None)
    run(glue_with_cka_i, tiny, tmp_path / "t", "--beta", 0, "--teacher_cache", tmp_path / "cache")


def test_a_place_that_is_no_folder_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--teacher_cache .* cannot be used"):
        run(glue_with_cka_i, tiny, tmp_path / "s", "--teacher_cache", tmp_path / "file/below")


def test_a_disk_too_small_is_refused_before_anything_is_written(tiny, tmp_path, monkeypatch):
    small = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: small)
    with pytest.raises(
        UserError, match=r"needs 0.0 MB more in .*, where 0.0 MB are free: name another"
    ):
        run(glue_with_cka_i, tiny, tmp_path / "s", "--teacher_cache", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*/*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b"something else"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink() or path.mkdir(),
        lambda path: save_file({"values": torch.zeros(3)}, path),
        lambda path: save_file({"other": torch.zeros(21, 2)}, path),
    ],
)
def test_a_damaged_file_is_said_to_be_one(harm, tiny, tmp_path):
    run(glue_with_cka_i, tiny, tmp_path / "s", "--beta", 0, "--teacher_cache", tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/logits/*.safetensors")
    harm(path)
    with pytest.raises(
        UserError,
        match=r"00000\.safetensors should hold float32 \(21, 2\), found .*: delete it",
    ):
        run(
            glue_with_cka_i,
            tiny,
            tmp_path / "t",
            "--beta",
            0,
            "--teacher_cache",
            tmp_path / "cache",
        )


def test_features_that_half_precision_cannot_hold_are_refused(tiny, tmp_path, monkeypatch):
    real = Teacher.__call__

    def large(*args, **kwargs):
        outputs = real(*args, **kwargs)
        return outputs._replace(features=tuple(h * 1e6 for h in outputs.features))

    monkeypatch.setattr(Teacher, "__call__", large)
    with pytest.raises(
        UserError, match=r"features-3 have numbers that float16 cannot hold: run without"
    ):
        run(glue_with_cka_i, tiny, tmp_path / "s", "--teacher_cache", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*/*.safetensors"))
