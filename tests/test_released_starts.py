"""The starts of both memories as in the released code, beside those of the paper."""

import json

import pytest
import torch
from conftest import flags, memory_flags, read_log, teacher_features, two_processes
from made_up_runs import of, runs_csv
from safetensors.torch import load_file

import glue_with_cka_g
import memory
import train_memory
from analysis.runs import name_variants, read_runs, with_names
from seeds import mix
from training import memory_file
from training.flags import hyperparameters

# ---- the teacher's memory ------------------------------------------------------------------------


def test_the_released_start_by_hand():
    last = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3 + 2
    start = memory.released_centroids(last, 7, (200, 40), seed=4)
    assert start.shape == (200, 40) and start.dtype == torch.float32
    assert start.mean().item() == pytest.approx(last.mean().item() / 7, abs=0.05)
    assert start.std().item() == pytest.approx((last.var().item() / 7) ** 0.5, rel=0.03)
    again = (memory.released_centroids(last, 7, (200, 40), seed) for seed in (4, 5))
    assert [torch.equal(start, other) for other in again] == [True, False]


def test_without_restarts_a_centroid_that_never_wins_stays():
    x = torch.tensor([[0.0], [1.0], [100.0]])
    start = torch.tensor([[0.4], [90.0], [999.0]])
    for restarts, last in ((False, 999.0), (True, 1.0)):
        kmeans = memory.KMeans(start.clone(), 3, restarts=restarts)
        kmeans.add(x, torch.arange(3))
        found = kmeans.update()
        assert found["restarted"] == int(restarts) and kmeans.centroids[2].item() == last


def starts_of(monkeypatch, arguments):
    """(centroids, restarts) that a clustering starts with."""
    seen, real = [], memory.KMeans.__init__

    def spy(kmeans, centroids, *args, **kwargs):
        real(kmeans, centroids, *args, **kwargs)
        seen.append((centroids.clone(), kmeans.restarts))

    with monkeypatch.context() as patch:
        patch.setattr(memory.KMeans, "__init__", spy)
        train_memory.main(arguments)
    return seen[0]


@pytest.mark.slow
def test_the_released_memory(tiny_without_dropout, tmp_path, monkeypatch):
    """21 rows in mini-batches of 8: the last one has five, and its numbers make the start."""
    more = ["--memory_init", "released", "--num_centroid", 9]
    start, restarts = starts_of(
        monkeypatch, memory_flags(tiny_without_dropout, tmp_path / "m", *more)
    )
    last = teacher_features(tiny_without_dropout)[16:]
    noise = torch.randn(9, 24 * 16, generator=torch.Generator().manual_seed(mix(3, "memory")))
    torch.testing.assert_close(
        start, noise * (last.var() / 3).sqrt() + last.mean() / 3, rtol=1e-3, atol=1e-4
    )
    assert not restarts
    centroids, facts = memory_file.load_memory(tmp_path / "m" / memory_file.FILE)
    never = [size == 0 for size in facts["cluster_sizes"]]
    assert any(never) and facts["memory_init"] == "released"
    assert torch.equal((centroids == start).all(1)[never], torch.ones(sum(never), dtype=torch.bool))
    assert all(entry.get("restarted_centroids", 0) == 0 for entry in read_log(tmp_path / "m"))
    normal, restarts = starts_of(
        monkeypatch, memory_flags(tiny_without_dropout, tmp_path / "n", "--memory_init", "normal")
    )
    assert restarts and normal.std() > start.std()


@pytest.mark.slow
def test_the_released_start_without_padding(tiny_without_dropout, tmp_path, monkeypatch):
    """24 or 48 columns: the same spread, and nothing where every row is padding."""
    deviations = []
    for length in (24, 48):
        start, _ = starts_of(
            monkeypatch,
            memory_flags(
                tiny_without_dropout,
                tmp_path / str(length),
                "--memory_init",
                "released",
                "--num_centroid",
                20,
                "--mask_padding",
                "--max_seq_length",
                length,
            ),
        )
        start = start.view(20, length, 16)
        assert (start[:, 24:] == 0).all() and (start[:, 0] != 0).all()
        deviations.append(start[:, :8].std().item())
    assert deviations[1] == pytest.approx(deviations[0], rel=0.1)


@pytest.mark.slow
def test_two_processes_start_as_one_with_their_mini_batch(tiny_without_dropout, tmp_path):
    more = ["--memory_init", "released", "--num_centroid", 9]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "train_memory.py",
        memory_flags(
            tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4
        ),
    )
    (one, first), (two, second) = (
        memory_file.load_memory(tmp_path / name / memory_file.FILE) for name in ("one", "two")
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert first["cluster_sizes"] == second["cluster_sizes"] and 0 in first["cluster_sizes"]


# ---- the student's memory ------------------------------------------------------------------------


def test_the_students_released_start_is_standard_normal():
    m_t = 3 + 2 * torch.randn(50, 6, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(1))
    noise[:, 4:] = 0
    shape = {"width": 4, "length": 6, "seed": 1, "used": torch.arange(6) < 4}
    found = memory.Memories(m_t.flatten(1), **shape, init="released").student
    assert torch.equal(found, noise.flatten(1))
    matched = memory.Memories(m_t.flatten(1), **shape).student
    assert not torch.equal(found, matched)


def test_the_students_start_is_a_flag_a_setting_and_a_row(tiny_without_dropout, trained, tmp_path):
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        "--teacher_memory_path",
        trained,
        "--student_memory_init",
        "released",
        "--learning_rate",
        0,
        "--max_steps",
        1,
        "--results_csv",
        tmp_path / "r.csv",
    )
    glue_with_cka_g.main(arguments)
    found = load_file(tmp_path / "s/student_memory.safetensors")["centroids"]
    assert torch.equal(found, torch.randn(4, 24 * 16, generator=torch.Generator().manual_seed(42)))
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["settings"]["student_memory_init"] == "released"
    assert {"student_memory_init", "group_by_length"} <= hyperparameters()
    (name,) = with_names(name_variants(read_runs(tmp_path / "r.csv"))).method
    assert name == "FSD_G, student_memory_init released"


def test_a_run_without_g_has_no_use_for_the_students_start(tmp_path):
    rows = [
        *of("FSD_IL", (0.8,)),
        *of("VKD", (0.7,)),
        *of("FSD_ILG", (0.8,)),
        *of("FSD_LG", (0.6,)),
    ]
    path = runs_csv(
        tmp_path / "r.csv",
        *[row | {"--student_memory_init": "released", "--gamma_m": 1} for row in rows],
    )
    assert with_names(name_variants(read_runs(path))).method.tolist() == [
        "FSD_IL",
        "VKD",
        "FSD_ILG, student_memory_init released",
        "FSD_LG, student_memory_init released",
    ]
    teacher = runs_csv(tmp_path / "t.csv", *of("teacher", (0.8,), **{"--group_by_length": True}))
    assert with_names(name_variants(read_runs(teacher))).method.tolist() == ["teacher"]
