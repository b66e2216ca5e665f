"""train_memory.py as a user runs it, on tiny random models: the memory, its passes, kills,
mistakes.
"""

import json
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import transformers
from conftest import (
    ROOT,
    flags,
    memory_flags,
    read_log,
    shell,
    teacher_features,
    two_processes,
    write_task,
)
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_distill import stopped_at

import choices
import common
import glue_with_cka_g
import glue_with_cka_i
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


def test_passes_end_early_when_no_sample_changes(tiny, tmp_path):
    train_memory.main(memory_flags(tiny, tmp_path / "m", "--memory_num_train_epochs", 100))
    facts = facts_of(tmp_path / "m")
    assert facts["passes"] < 20 and facts["inertia"] == sorted(facts["inertia"], reverse=True)
    assert read_log(tmp_path / "m")[-1]["changed_samples"] == 0


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
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_memory.py"), *memory_flags(tiny, killed, *more)],
        stderr=subprocess.PIPE,
    )
    log, deadline = killed / "train_log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 230,' in log.read_text()):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (killed / memory_file.FILE).exists() and (killed / "clustering.safetensors").exists()
    done = shell("train_memory.py", *memory_flags(tiny, killed, *more))
    assert done.returncode == 0 and "going on after" in done.stderr
    assert (killed / memory_file.FILE).read_bytes() == (straight / memory_file.FILE).read_bytes()
    assert (killed / "clusters.tsv").read_bytes() == (straight / "clusters.tsv").read_bytes()
    logs = [pd.DataFrame(read_log(folder)) for folder in (straight, killed)]
    pd.testing.assert_frame_equal(*logs)  # every step once, none lost


def stop_after_first_state(monkeypatch):
    real = memory_file.save_state

    def save_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(memory_file, "save_state", save_and_stop)


def test_an_unfinished_clustering_of_other_settings_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after_first_state(patch)
        train_memory.main(memory_flags(tiny, tmp_path / "m"))
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


def test_a_memory_and_a_student_do_not_share_a_folder(tiny, tmp_path, monkeypatch):
    """Neither overwrites the other unasked; a memory never overwrites the one that it was made
    from.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "s", monkeypatch)
    with pytest.raises(UserError, match="holds a run of FSD_L, and this one is of memory"):
        train_memory.main(memory_flags(tiny, tmp_path / "s"))
    assert (tmp_path / "s/checkpoint-2").exists()
    train_memory.main(memory_flags(tiny, tmp_path / "s", "--overwrite_output_dir"))
    assert not (tmp_path / "s/checkpoint-2").exists()
    with pytest.raises(UserError, match="holds a run of memory, and this one is of FSD_L"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    for path in (tmp_path / "s", tmp_path / "s" / memory_file.FILE):
        with pytest.raises(
            UserError, match="is also --teacher_memory_path, which it would overwrite"
        ):
            glue_with_cka_g.main(
                flags(tiny, tmp_path / "s", "--overwrite_output_dir", "--teacher_memory_path", path)
            )
    assert (tmp_path / "s" / memory_file.FILE).exists()


@pytest.mark.parametrize("init", choices.MEMORY_INITS)
def test_a_broken_teacher_gets_one_sentence(init, tiny, tmp_path):
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher")
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[7] = torch.nan
    teacher.save_pretrained(tmp_path / "t")
    transformers.AutoTokenizer.from_pretrained(tiny / "teacher").save_pretrained(tmp_path / "t")
    with pytest.raises(UserError, match="features are not finite numbers"):
        train_memory.main(
            memory_flags(
                tiny, tmp_path / "m", "--model_name_or_path", tmp_path / "t", "--memory_init", init
            )
        )


def test_a_full_disk_leaves_no_broken_memory(tiny, tmp_path, monkeypatch, capsys):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_file, "save_file", full)
    assert common.cli(train_memory.main, memory_flags(tiny, tmp_path / "m")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "m").glob("*.safetensors")) and not list(
        (tmp_path / "m").glob(".mem*")
    )


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


def test_the_number_of_centroids_is_the_tasks():
    for name, number in (("MNLI", 300), ("qqp", 300), ("wnli", 100), ("SST-2", 100), ("sst2", 100)):
        arguments = "--model_name_or_path t --data_dir d --output_dir o".split()
        arguments += ["--memory_learning_rate", "--task_name"]
        args, _ = train_memory.parse([*arguments, name])
        assert (args.num_centroid, args.memory_num_train_epochs, args.memory_learning_rate) == (
            number,
            3,
            1.0,
        )


MISTAKES = {
    "centroids": (
        ["--num_centroid", 22],
        "--num_centroid is 22, but there are 21 training samples",
    ),
    "no centroid": (["--num_centroid", 0], "--num_centroid must be at least 1, got 0"),
    "rate": (["--memory_learning_rate", 0], "must be above 0"),
    "large rate": (["--memory_learning_rate", 2], "must be between 0 and 1, got 2"),
    "passes": (["--memory_num_train_epochs", 0], "--memory_num_train_epochs must be at least 1"),
    "init": (["--memory_init", "zeros"], "kmeans++"),
    "resume": (["--resume_from_checkpoint"], "there is no unfinished clustering"),
    "endless": (["--num_train_epochs", "inf"], "--num_train_epochs must be at least 0, got inf"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence(name, tiny, tmp_path):
    more, sentence = MISTAKES[name]
    done = shell("train_memory.py", *memory_flags(tiny, tmp_path / "m", *more))
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "m" / memory_file.FILE).exists()


@pytest.mark.slow
def test_flags_without_a_use_are_said(tiny, tmp_path):
    done = shell(
        "train_memory.py", *memory_flags(tiny, tmp_path / "m", "--do_eval", "--learning_rate", 1e-3)
    )
    assert done.returncode == 0 and "no use for --do_eval, --learning_rate" in done.stderr
    arguments = [flag for flag in memory_flags(tiny, tmp_path / "n") if flag != "--do_train"]
    assert "pass --do_train" in shell("train_memory.py", *arguments).stderr


USED = {
    "model_type",
    "model_name_or_path",
    "config_name",
    "tokenizer_name",
    "cache_dir",
    "data_dir",
    "task_name",
    "output_dir",
    "do_train",
    "do_lower_case",
    "max_seq_length",
    "max_train_samples",
    "overwrite_cache",
    "overwrite_output_dir",
    "per_gpu_train_batch_size",
    "per_gpu_memory_train_batch_size",
    "num_train_epochs",
    "memory_num_train_epochs",
    "num_centroid",
    "memory_learning_rate",
    "memory_init",
    "mask_padding",
    "train_file",
    "validation_file",
    "test_file",
    "text_column_names",
    "label_column_name",
    "do_regression",
    "seed",
    "logging_steps",
    "save_steps",
    "run_file",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "no_cuda",
    "fp16",
    "bf16",
}


def test_every_flag_is_used_or_said_to_have_no_use():
    """A flag that training gets later is one of the two here, too."""
    args, _ = train_memory.parse(
        ["--model_name_or_path", "m", "--data_dir", "d", "--task_name", "rte", "--output_dir", "o"]
    )
    old = {"local_rank", "server_ip", "server_port", "fp16_opt_level"}
    assert set(vars(args)) - old == USED | set(train_memory.NO_USE)
    given = [
        "--model_name_or_path",
        "m",
        "--data_dir",
        "d",
        "--task_name",
        "rte",
        "--output_dir",
        "o",
    ]
    assert train_memory.parse([*given, "--warmup_ratio", "0.1"])[1] == ["warmup_ratio"]
