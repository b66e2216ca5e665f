"""train_memory.py as a user runs it, on tiny random models: the memory, its passes, kills."""

import json

import pandas as pd
import pytest
import torch
from conftest import (
    assert_same_files,
    memory_flags,
    read_log,
    shell,
    teacher_features,
    two_processes,
    write_task,
)
from safetensors import safe_open
from safetensors.torch import load_file
from stopped_runs import start_and_kill, stopped_clustering
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_memory
from common import UserError
from training import clustering, memory_file


def facts_of(folder):
    with safe_open(folder / memory_file.FILE, framework="pt") as file:
        return json.loads(file.metadata()["memory"])


def test_a_memory_is_the_k_means_of_the_teachers_penultimate_features(
    trained, tiny_without_dropout
):
    x = teacher_features(tiny_without_dropout)
    facts, centroids = facts_of(trained), load_file(trained / memory_file.FILE)["centroids"]
    assert centroids.shape == (4, 24 * 16) and centroids.dtype == torch.float32
    expected = {
        "task": "RTE",
        "layer": 3,
        "max_seq_length": 24,
        "hidden_size": 16,
        "num_centroid": 4,
        "seed": 3,
        "samples": 21,
        "mask_padding": False,
    }
    assert expected.items() <= facts.items()
    assert len(facts["inertia"]) == facts["passes"] <= 3 and sum(facts["cluster_sizes"]) == 21
    table = pd.read_csv(trained / "clusters.tsv", sep="\t")
    assert (
        table.cluster.value_counts().reindex(range(4), fill_value=0).tolist()
        == facts["cluster_sizes"]
    )
    means = torch.stack([x[table.cluster.to_numpy() == k].mean(0) for k in range(4)])
    torch.testing.assert_close(centroids, means, rtol=1e-4, atol=1e-5)
    run = json.loads((trained / "run.json").read_text())
    assert run["finished"] and run["memory"] == facts and run["method"] == "memory"
    assert (trained / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert not (trained / "clustering.safetensors").exists() and not list(trained.rglob("*.tmp*"))


def test_what_tensorboard_shows(trained):
    board = EventAccumulator(str(trained / "tensorboard"), purge_orphaned_data=False).Reload()
    tags = board.Tags()
    assert {"memory/inertia", "memory/occupied_centroids", "memory/largest_cluster"} <= set(
        tags["scalars"]
    )
    assert "memory/cluster_sizes" in tags["histograms"] and "memory/clusters" in tags["images"]
    facts = facts_of(trained)
    assert [event.value for event in board.Scalars("memory/inertia")] == pytest.approx(
        facts["inertia"]
    )
    assert [event.step for event in board.Scalars("memory/inertia")] == [
        3 * (k + 1) for k in range(facts["passes"])
    ]


def test_a_pass_is_one_pass_of_the_teacher(tiny, tmp_path, monkeypatch):
    """Every sample goes through the teacher once per clustering epoch, and once more if the start
    draws it.
    """
    seen, real = [], clustering.Teacher.__call__

    def counted(teacher, batch, *args, **kwargs):
        seen.append(batch.size)
        return real(teacher, batch, *args, **kwargs)

    monkeypatch.setattr(clustering.Teacher, "__call__", counted)
    train_memory.main(
        memory_flags(
            tiny,
            tmp_path / "m",
            "--memory_num_train_epochs",
            2,
            "--num_centroid",
            3,
            "--memory_learning_rate",
            0.5,
            "--logging_steps",
            1,
            "--save_steps",
            1,
        )
    )
    assert seen == [8, 4] + 2 * [8, 8, 5]  # a sample of 4 * 3 rows for the start; 21 rows a pass
    steps = [entry["step"] for entry in read_log(tmp_path / "m")]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


@pytest.mark.slow
def test_passes_end_early_when_no_sample_changes(tiny, tmp_path):
    train_memory.main(memory_flags(tiny, tmp_path / "m", "--memory_num_train_epochs", 100))
    facts = facts_of(tmp_path / "m")
    assert facts["passes"] < 20 and facts["inertia"] == sorted(facts["inertia"], reverse=True)
    assert read_log(tmp_path / "m")[-1]["changed_samples"] == 0


@pytest.mark.slow
def test_a_masked_memory_does_not_see_the_padding(tiny_without_dropout, tmp_path):
    """24 or 48 columns make no difference when padded positions are 0."""
    found = []
    for length in (24, 48):
        train_memory.main(
            memory_flags(
                tiny_without_dropout,
                tmp_path / str(length),
                "--mask_padding",
                "--max_seq_length",
                length,
            )
        )
        found.append(load_file(tmp_path / str(length) / memory_file.FILE)["centroids"])
    torch.testing.assert_close(found[1][:, : 24 * 16], found[0], rtol=1e-4, atol=1e-5)
    assert (found[1][:, 24 * 16 :] == 0).all()


@pytest.mark.slow
def test_the_check_against_scikit_learn_runs(tiny, tmp_path):
    done = shell("scripts/check_kmeans.py", *memory_flags(tiny, tmp_path / "m"))
    assert done.returncode == 0, done.stderr
    assert "| RTE | 21 | 384 | 4 | kmeans++ | 1.0 |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--memory_init", "normal", "--num_centroid", 9]])
def test_two_processes_make_the_same_memory(more, tiny_without_dropout, tmp_path):
    """torchrun with 2 gloo processes of 4 rows against one of 8; normal leaves centroids empty,
    which restart.
    """
    more = [*more, "--save_steps", 1, "--logging_steps", 3]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "train_memory.py",
        memory_flags(
            tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4
        ),
    )
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
    one, two = facts_of(tmp_path / "one"), facts_of(tmp_path / "two")
    assert one["cluster_sizes"] == two["cluster_sizes"]
    assert one["inertia"] == pytest.approx(two["inertia"], rel=1e-5)
    torch.testing.assert_close(
        *(load_file(tmp_path / name / memory_file.FILE)["centroids"] for name in ("one", "two")),
        rtol=1e-5,
        atol=1e-5,
    )
    tables = [pd.read_csv(tmp_path / name / "clusters.tsv", sep="\t") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-3)
    logs = [pd.DataFrame(read_log(tmp_path / name)) for name in ("one", "two")]
    assert bool("normal" in more) == (logs[1].restarted_centroids.max() > 0)
    pd.testing.assert_frame_equal(*logs, rtol=1e-5)  # what is logged in the middle of a pass too


# ---- stopped -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_started_again_it_is_the_same_memory(tiny, tmp_path):
    """SIGKILL in the middle of a pass leaves no memory; the same command goes on and ends with the
    same bits.
    """
    write_task(tmp_path, rows=(200, 4, 1))
    more = [
        "--data_dir",
        tmp_path,
        "--memory_num_train_epochs",
        3,
        "--per_gpu_train_batch_size",
        1,
        "--save_steps",
        7,
        "--logging_steps",
        1,
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train_memory.main(memory_flags(tiny, straight, *more))
    start_and_kill("train_memory.py", memory_flags(tiny, killed, *more), killed, after_step=230)
    assert not (killed / memory_file.FILE).exists() and (killed / "clustering.safetensors").exists()
    done = shell("train_memory.py", *memory_flags(tiny, killed, *more))
    assert done.returncode == 0 and "going on after" in done.stderr
    assert_same_files(killed, straight, memory_file.FILE, "clusters.tsv")
    logs = [pd.DataFrame(read_log(folder)) for folder in (straight, killed)]
    pd.testing.assert_frame_equal(*logs)  # every step once, none lost


@pytest.mark.slow
def test_an_unfinished_clustering_of_other_settings_is_refused(tiny, tmp_path):
    stopped_clustering(tiny, tmp_path / "m")
    with pytest.raises(UserError, match="num_centroid was 4 and is 5"):
        train_memory.main(memory_flags(tiny, tmp_path / "m", "--num_centroid", 5))
    state = tmp_path / "m/clustering.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[:-9])
    with pytest.raises(UserError, match="is damaged"):
        train_memory.main(memory_flags(tiny, tmp_path / "m"))
    train_memory.main(
        memory_flags(tiny, tmp_path / "m", "--num_centroid", 5, "--overwrite_output_dir")
    )
    assert facts_of(tmp_path / "m")["num_centroid"] == 5 and not state.exists()
    with pytest.raises(UserError, match="finished run"):
        train_memory.main(memory_flags(tiny, tmp_path / "m"))
