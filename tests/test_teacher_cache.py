"""--teacher_cache: it changes nothing but rounding, and is made once for all that can share it."""

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
    same_weights,
    save_models,
    teacher_features,
    two_processes,
    write_task,
)
from safetensors.torch import load_file
from teacher_caches import assert_same_log, count_calls, entry_values, files, run

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
from common import UserError

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
    assert same_weights(tmp_path / "first", tmp_path / "second")


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
    assert same_weights(tmp_path / "s", tmp_path / "t")
    assert Path(tmp_path / "elsewhere").is_dir()
