"""--teacher_cache: what it holds, that it changes nothing but rounding, and that it is never stale,
torn or double.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import (
    ROOT,
    flags,
    memory_flags,
    read_log,
    save_models,
    teacher_features,
    two_processes,
    write_task,
)
from safetensors.torch import load_file, save_file

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
from common import UserError
from training import teacher_cache
from training.teacher import Teacher

METHODS = {
    "VKD": (glue_with_cka_i, ["--beta", 0], {"logits"}),
    "FSD_I": (glue_with_cka_i, ["--internal"], {"logits", "tokens-3-biased"}),
    "FSD_I, α 1": (glue_with_cka_i, ["--internal", "--alpha", 1], {"tokens-3-biased"}),
    "FSD_L": (glue_with_cka_i, [], {"logits", "features-3"}),
    "FSD_G": (glue_with_cka_g, ["--gamma_m", 0.1, "MEMORY"], {"logits", "relations"}),
    "FSD_ILG": (
        glue_with_cka_ilg,
        ["--gamma_m", 0.1, "MEMORY"],
        {"logits", "features-3", "relations"},
    ),
    "FSD_IG": (
        glue_with_cka_ilg,
        ["--gamma_l", 0, "MEMORY"],
        {"logits", "tokens-3-biased", "relations"},
    ),
    "masked": (
        glue_with_cka_i,
        ["--internal", "--mask_padding"],
        {"logits", "tokens-3-biased-masked"},
    ),
    "masked L": (glue_with_cka_i, ["--mask_padding"], {"logits", "features-3"}),
    "debiased": (
        glue_with_cka_i,
        ["--internal", "--cka_estimator", "debiased"],
        {"logits", "tokens-3-debiased"},
    ),
    "layerwise": (glue_with_cka_i, ["--internal", "--do_layerwise"], {"logits", "tokens-2-biased"}),
    "bf16": (glue_with_cka_i, ["--internal", "--bf16"], {"logits", "tokens-3-biased"}),
}


def run(script, folder, output, *more):
    return script.main(flags(folder, output, "--save_steps", 2, *more))


def files(cache):
    """The names of the entries, of relations without the memory's."""
    names = {path.parent.name for path in cache.glob("*/*/*.safetensors")}
    return {"relations" if name.startswith("relations") else name for name in names}


def shards(cache, name):
    """The shards of an entry that are there."""
    return sorted(path.stem for path in cache.glob(f"*/{name}/*.safetensors"))


def entry_values(cache, name):
    """All that an entry holds, (N, ...)."""
    paths = sorted(cache.glob(f"*/{name}/*.safetensors"))
    return torch.cat([load_file(path)["values"] for path in paths])


def assert_same_log(one, two, **tolerance):
    for a, b in zip(read_log(one), read_log(two), strict=True):
        times = {"examples_per_second"}
        assert {k: v for k, v in a.items() if k not in times} == pytest.approx(
            {k: v for k, v in b.items() if k not in times}, **tolerance
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_cached_losses_are_the_uncached_ones(name, trained, tiny, tiny_without_dropout, tmp_path):
    """To half-precision accuracy, step after step, the first run that makes the cache and a second
    that reads it.
    """
    script, more, expected = METHODS[name]
    if "MEMORY" in more:  # it belongs to the teacher without dropout
        tiny, more = tiny_without_dropout, [*more[:-1], "--teacher_memory_path", trained]
    run(script, tiny, tmp_path / "plain", *more)
    for place in ("first", "second"):
        run(script, tiny, tmp_path / place, *more, "--teacher_cache", tmp_path / "cache")
        assert_same_log(
            tmp_path / "plain", tmp_path / place, rel=3e-2 if name == "bf16" else 5e-3, abs=1e-4
        )
    assert files(tmp_path / "cache") == expected
    assert_same_log(tmp_path / "first", tmp_path / "second", rel=0, abs=0)
    a, b = (load_file(tmp_path / place / "model.safetensors") for place in ("first", "second"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def count_calls(monkeypatch, stop_after=None):
    """A list to which every teacher forward adds its number of samples; the run is killed at
    `stop_after`.
    """
    seen, real = [], Teacher.__call__

    def counted(teacher, batch, *args, **kwargs):
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(batch.size)
        return real(teacher, batch, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__call__", counted)
    return seen


@pytest.mark.slow
def test_a_second_run_leaves_the_teacher_alone(tiny, tmp_path, monkeypatch):
    """But for the relation differences, at log steps."""
    seen = count_calls(monkeypatch)
    shared = ["--teacher_cache", tmp_path / "cache", "--logging_steps", 4]
    run(glue_with_cka_i, tiny, tmp_path / "a", *shared)
    assert seen == [8, 8, 5, 8, 5]  # 21 rows, once; relations at steps 4 and 6
    run(
        glue_with_cka_i,
        tiny,
        tmp_path / "b",
        *shared,
        "--seed",
        1,
        "--learning_rate",
        1e-4,
        "--alpha",
        0.2,
    )
    assert seen == [8, 8, 5, 8, 5, 8, 5]
    run(glue_with_cka_i, tiny, tmp_path / "c", *shared, "--beta", 0)  # its logits are there
    assert seen == [8, 8, 5, 8, 5, 8, 5, 8, 5]
    run(
        glue_with_cka_i, tiny, tmp_path / "d", *shared, "--internal"
    )  # makes the tokens, not the logits again
    assert seen[9:12] == [8, 8, 5]
    assert files(tmp_path / "cache") == {"logits", "features-3", "tokens-3-biased"}


def test_the_files_hold_what_transformers_says(tiny_without_dropout, tmp_path):
    run(
        glue_with_cka_i, tiny_without_dropout, tmp_path / "s", "--teacher_cache", tmp_path / "cache"
    )
    (path,) = (tmp_path / "cache").glob("*/features-3")
    found = entry_values(tmp_path / "cache", "features-3")
    assert found.dtype == torch.float16 and found.shape == (21, 24, 16)
    wanted = teacher_features(tiny_without_dropout).view(21, 24, 16)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-3, atol=1e-3)
    facts = json.loads((path.parent / "facts.json").read_text())
    run_facts = json.loads((tmp_path / "s/run.json").read_text())
    assert (
        facts["teacher"] == run_facts["teacher"]
        and facts["rows"] == 21
        and facts["max_seq_length"] == 24
    )
    assert str(path) in run_facts["teacher_cache"]


@pytest.mark.slow
def test_whatever_changes_the_outputs_gets_files_of_its_own(tiny, tmp_path):
    cache = tmp_path / "teachers"  # cache/ has the tokenised rows

    def entries_after(name, folder, *more):
        AcceleratorState._reset_state(reset_partial_state=True)
        run(glue_with_cka_i, folder, tmp_path / name, "--beta", 0, "--teacher_cache", cache, *more)
        return len(list(cache.iterdir()))

    assert entries_after("plain", tiny) == 1
    assert entries_after("same", tiny, "--learning_rate", 1e-5) == 1
    other = save_models(tmp_path / "other", seed=1)  # another teacher, the same data
    shutil.copytree(tiny / "RTE", other / "RTE")
    assert entries_after("teacher", other) == 2
    renamed = save_models(tmp_path / "renamed")  # the same teacher, a changed row
    write_task(renamed)
    train = renamed / "RTE/train.tsv"
    train.write_text(train.read_text().replace("the", "a", 1))
    assert entries_after("data", renamed) == 3
    train.write_text((tiny / "RTE/train.tsv").read_text())
    assert (
        entries_after("moved", renamed) == 3
    )  # the first one's again, wherever teacher and data lie
    config = renamed / "teacher/config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert entries_after("configuration", renamed) == 4  # the same weights, another computation
    assert entries_after("length", tiny, "--max_seq_length", 20) == 5
    assert entries_after("rows", tiny, "--max_train_samples", 20) == 6
    assert entries_after("precision", tiny, "--bf16") == 7


def test_another_memory_gets_relations_of_its_own(tiny_without_dropout, trained, tmp_path):
    train_memory.main(
        memory_flags(tiny_without_dropout, tmp_path / "m", "--seed", 4, "--memory_init", "random")
    )
    for name, memory in (("a", trained), ("b", tmp_path / "m")):
        run(
            glue_with_cka_g,
            tiny_without_dropout,
            tmp_path / name,
            "--teacher_memory_path",
            memory,
            "--gamma_m",
            0.1,
            "--teacher_cache",
            tmp_path / "cache",
        )
    assert len(list((tmp_path / "cache").glob("*/relations-*"))) == 2
    assert len(list((tmp_path / "cache").glob("*/logits"))) == 1


@pytest.mark.slow
def test_runs_that_start_at_once_make_it_once(tiny, tmp_path):
    more = ["--internal", "--teacher_cache", tmp_path / "cache", "--max_steps", 2]
    commands = [
        [sys.executable, str(ROOT / "glue_with_cka_i.py"), *flags(tiny, tmp_path / name, *more)]
        for name in "abc"
    ]
    run(glue_with_cka_i, tiny, tmp_path / "s", "--beta", 0, "--teacher_cache", tmp_path / "cache")
    (folder,) = {path.parent for path in (tmp_path / "cache").glob("*/logits")}
    with filelock.FileLock(folder / ".lock"):  # as another run that is writing
        run(
            glue_with_cka_i,
            tiny,
            tmp_path / "t",
            "--beta",
            0,
            "--teacher_cache",
            tmp_path / "cache",
        )  # needs no more
        runs = [
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands
        ]
        for process in runs:
            assert any("waiting for another run" in line for line in process.stderr)
    said = "".join(process.communicate(timeout=300)[1] for process in runs)
    assert [process.returncode for process in runs] == [0, 0, 0], said
    assert said.count("making the teacher cache") == 1
    assert_same_log(tmp_path / "a", tmp_path / "b", rel=0, abs=0)


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


@pytest.mark.slow
def test_two_processes_make_and_read_one_cache(trained, tiny_without_dropout, tmp_path):
    more = ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    run(
        glue_with_cka_ilg,
        tiny_without_dropout,
        tmp_path / "one",
        *more,
        "--teacher_cache",
        tmp_path / "by_one",
    )
    for name in ("two", "again"):
        two_processes(
            "glue_with_cka_ilg.py",
            flags(
                tiny_without_dropout,
                tmp_path / name,
                *more,
                "--per_gpu_train_batch_size",
                4,
                "--save_steps",
                2,
                "--no_cuda",
                "--teacher_cache",
                tmp_path / "by_two",
            ),
        )
        assert_same_log(tmp_path / "one", tmp_path / name, rel=2e-3, abs=1e-4)
    for path in (tmp_path / "by_one").glob("*/*/*.safetensors"):
        other = tmp_path / "by_two" / path.relative_to(tmp_path / "by_one")
        torch.testing.assert_close(load_file(other), load_file(path), rtol=2e-3, atol=2e-3)


def test_a_resumed_run_needs_the_cache_too(tiny, tmp_path):
    """Cached outputs are rounded: going on without them is another training, and refused."""
    cache = ["--teacher_cache", tmp_path / "cache"]
    run(glue_with_cka_i, tiny, tmp_path / "s", *cache)
    for more in ([], ["--teacher_cache", tmp_path / "elsewhere"]):
        arguments = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4", *more]
        if not more:
            with pytest.raises(UserError, match="teacher cache was True and is None"):
                run(glue_with_cka_i, tiny, tmp_path / "t", *arguments)
        else:
            run(glue_with_cka_i, tiny, tmp_path / "t", *arguments)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "st")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert Path(tmp_path / "elsewhere").is_dir()
