"""--group_by_length and --mask_padding: each does one thing, in every script."""

from pathlib import Path

import pytest
import torch
from commands_of_plans import parse, reproduce, write_stub
from conftest import ROOT, flags, memory_flags
from stopped_runs import loop_of

import glue_with_cka_g
import glue_with_cka_i
import train_memory
import train_teacher
from baselines import glue_with_baseline
from scripts import estimate
from scripts.commands import words_for
from training.batches import epoch_order

BOTH = ["--mask_padding", "--group_by_length"]


@pytest.mark.parametrize(
    "more, cut, grouped",
    [
        ([], False, False),
        (["--mask_padding"], True, False),
        (["--group_by_length"], False, True),
        (BOTH, True, True),
    ],
)
def test_each_flag_does_one_thing(more, cut, grouped, tiny, tmp_path):
    loop = loop_of(glue_with_cka_i.main, flags(tiny, tmp_path / "s", *more))
    assert ("mask" in loop.data.features, loop.data.cut) == (cut, cut)
    assert (loop.lengths is not None) == grouped
    (_, _, (indices,)), *_ = loop.plan()
    plain = epoch_order(21, 8, 42, 0)[0]
    assert torch.equal(indices, plain) == (not grouped)
    columns = loop.data[indices]["inputs"]["input_ids"].shape[1]
    longest = int(loop.data.features["attention_mask"][indices].sum(1).max())
    assert columns == (longest if cut else 24)


@pytest.mark.parametrize("script", [train_teacher, glue_with_baseline, glue_with_cka_g])
def test_every_script_that_trains_groups(script, tiny_without_dropout, trained, tmp_path):
    more = {
        glue_with_baseline: ["--method", "rkd"],
        glue_with_cka_g: ["--teacher_memory_path", trained],
    }
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        *more.get(script, []),
        "--group_by_length",
        teacher=script is train_teacher,
    )
    assert loop_of(script.main, arguments).lengths is not None


def test_a_memory_has_no_use_for_groups(tiny, tmp_path):
    _, idle = train_memory.parse(memory_flags(tiny, tmp_path / "m", *BOTH))
    assert idle == ["group_by_length"]


def test_the_benchmark_and_the_estimate_know_the_pair(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import step

    _, own, _ = step.FORMS["FSD_ILG, masked"].make.args
    assert own.split() == BOTH
    rates = estimate.Rates(None, None)

    def rate(more):
        command = estimate.read_command(
            f"python glue_with_cka_ilg.py --teacher_memory_path m {more}", 1
        )
        return rates(command.kind)[0]

    step, _ = rates.published
    assert rate("--mask_padding --group_by_length") == step["FSD_ILG, masked", "no"]
    assert rate("--mask_padding") == rate("--group_by_length") == step["FSD_ILG", "no"]
    cached = "--teacher_cache c --bf16"
    assert rate(f"--mask_padding --group_by_length {cached}") == step["FSD_ILG, cached", "bf16"]


@pytest.mark.parametrize(
    "script, wanted",
    [
        ("train_teacher.py", "--group_by_length"),
        ("train_memory.py", "--mask_padding --group_by_length --memory_init normal"),
        ("glue_with_cka_i.py", "--mask_padding --group_by_length --cka_estimator debiased"),
        ("baselines/glue_with_baseline.py", "--mask_padding --group_by_length --relation_heads=4"),
        ("analysis/report.py", "--mask_padding"),
    ],
)
def test_each_script_is_given_those_flags_of_every_run_that_it_takes(script, wanted):
    """The student without a teacher, too: its script is the teacher's."""
    words = [*BOTH, *"--cka_estimator debiased --memory_init normal --relation_heads=4".split()]
    assert words_for(script, words) == wanted.split()
    assert words_for(script, ["--no_such_flag", "1"]) == ["--no_such_flag", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["one_task", "reproduce"])
def test_flags_of_every_run_may_leave_out_padding(script, tmp_path, monkeypatch):
    """All but the teacher's training have --mask_padding; all that train have --group_by_length."""
    python, calls = write_stub(tmp_path)
    (tmp_path / "glue/RTE").mkdir(parents=True)
    (tmp_path / "glue/RTE/train.tsv").write_text("")
    more = ["--stage", "teacher"] if script == "reproduce" else []
    done = reproduce(
        "rte", *more, "--", *BOTH, cwd=tmp_path, script=f"scripts/{script}", PYTHON=str(python)
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    trained = [words for words in calls() if "--do_train" in words]
    for words in trained:
        name = Path(words[0]).name
        assert ("--mask_padding" in words) == (
            name != "train_teacher.py"
        ) and "--group_by_length" in words
        if name != "train_memory.py":  # which says that it has no use for the latter
            parse(words, monkeypatch)
    assert script == "reproduce" or "--mask_padding" in calls()[-1]  # the report's
