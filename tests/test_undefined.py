"""Batches, teachers and memories without a structure: refused, or left out, counted and said."""

import math
import shutil

import pytest
import torch
from conftest import flags, memory_flags, read_log, refusal
from safetensors.torch import load_file, save_file

import glue_with_cka_g
import glue_with_cka_i
import train_memory
from baselines import glue_with_baseline, gram, procrustes, rkd
from training import memory_file

# ---- mini-batches --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--per_gpu_train_batch_size", 1, "--gradient_accumulation_steps", 8],
        ["--per_gpu_train_batch_size", 2],
        ["--per_gpu_train_batch_size", 3, "--cka_estimator", "debiased"],
        ["--max_train_samples", 2],
    ],
)
def test_a_batch_without_a_structure_is_refused(more, tiny, tmp_path, capsys):
    said = refusal(capsys, flags(tiny, tmp_path / "s", *more))
    assert "the loss term local" in said and "--per_gpu_train_batch_size" in said
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "v", *map(str, more), "--beta", 0, "--max_steps", 1)
    )


@pytest.mark.parametrize(
    "method, term", [("rkd", "distance"), ("gram", "gram"), ("procrustes", "procrustes")]
)
def test_a_batch_without_a_rivals_structure_is_refused(method, term, tiny, tmp_path, capsys):
    said = refusal(
        capsys,
        flags(tiny, tmp_path / "s", "--method", method, "--per_gpu_train_batch_size", 2),
        glue_with_baseline.main,
    )
    assert f"the loss term {term}" in said
    if method != "rkd":
        glue_with_baseline.main(
            flags(
                tiny,
                tmp_path / "t",
                "--method",
                method,
                "--per_gpu_train_batch_size",
                2,
                "--between",
                "tokens",
                "--max_steps",
                1,
            )
        )


def test_the_odd_last_mini_batch_is_counted(tiny, tmp_path):
    """21 rows in mini-batches of 10: the third has one sample, of which L says nothing, and is in
    the log.
    """
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--per_gpu_train_batch_size", 10))
    assert [entry["undefined_local"] for entry in read_log(tmp_path / "s")] == [0, 0, 1, 0, 0, 1]
    assert [entry["local"] == 0 for entry in read_log(tmp_path / "s")] == [False, False, True] * 2


@pytest.mark.parametrize(
    "loss", [rkd.distance_loss, rkd.angle_loss, gram.gram_distance, procrustes.procrustes_distance]
)
def test_rivals_leave_out_what_is_undefined(loss):
    generator = torch.Generator().manual_seed(0)
    x_s, x_t = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for pair in ((x_s[:2], x_t[:2]), (x_s, torch.ones_like(x_t)), (torch.ones_like(x_s), x_t)):
        student = pair[0].clone().requires_grad_()
        value, undefined = loss(student, pair[1], count_undefined=True)
        assert (value, undefined) == (0, 1)
        value.backward()
        assert (student.grad == 0).all()
    value, undefined = loss(x_s[:3], x_t[:3], count_undefined=True)
    assert value > 0 and undefined == 0


# ---- teachers and memories -----------------------------------------------------------------------


def test_a_collapsed_teacher_is_left_out_and_said(tiny, tmp_path, capsys):
    """All tokens alike: I had no gradient and stood at 14.8."""
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights[
        "bert.encoder.layer.2.output.LayerNorm.weight"
    ].zero_()  # what comes out of the penultimate layer
    save_file(weights, tmp_path / "teacher/model.safetensors", {"format": "pt"})
    for cached in ([], ["--teacher_cache", tmp_path / "cache"]):
        glue_with_cka_i.main(
            flags(
                tiny,
                tmp_path / f"s{len(cached)}",
                "--internal",
                "--model_name_or_path",
                tmp_path / "teacher",
                *cached,
            )
        )
        log = read_log(tmp_path / f"s{len(cached)}")
        assert all(entry["intra"] == 0 for entry in log)
        assert [entry["undefined_intra"] for entry in log] == [8, 8, 5] * 2
        said = capsys.readouterr().err
        assert said.count("warning: most values of the loss term intra were undefined") == 1


def test_a_memory_without_a_structure_is_refused(tiny_without_dropout, tmp_path, capsys):
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", "--num_centroid", 2))
    said = refusal(
        capsys,
        flags(tiny_without_dropout, tmp_path / "s", "--teacher_memory_path", tmp_path / "m"),
        glue_with_cka_g.main,
    )
    assert "2 centroids" in said and "3 or more" in said


@pytest.mark.parametrize(
    "centroids",
    [
        torch.zeros(4, 24 * 8),
        torch.zeros(0, 24 * 16),
        torch.zeros(24 * 16),
        torch.full((4, 24 * 16), math.nan),
    ],
)
def test_a_memory_that_is_not_what_it_says(
    centroids, trained, tiny_without_dropout, tmp_path, capsys
):
    _, facts = memory_file.load_memory(trained / memory_file.FILE)
    memory_file.save_memory(tmp_path / memory_file.FILE, centroids, facts)
    said = refusal(
        capsys,
        flags(tiny_without_dropout, tmp_path / "s", "--teacher_memory_path", tmp_path),
        glue_with_cka_g.main,
    )
    assert "train it again" in said
