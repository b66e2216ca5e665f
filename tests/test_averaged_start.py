"""--student_memory_init averaged: M_s starts as the student's features, by the teacher's clusters.

The student is not trained here (a learning rate of 0), so what it leaves is where it began.
"""

import pytest
import torch
import transformers
from conftest import (
    assert_same_files,
    assert_same_training,
    flags,
    memory_flags,
    read_log,
    teacher_features,
    two_processes,
)
from safetensors.torch import load_file
from stopped_runs import stopped_at

import glue_with_cka_g
import glue_with_cka_ilg
import memory
import train_memory
from analysis.runs import name_variants, read_runs, with_names
from tasks.features import load_features
from tasks.glue import get_task
from training import memory_file

AVERAGED = ["--student_memory_init", "averaged"]
STANDING = [*AVERAGED, "--learning_rate", 0, "--max_steps", 1]


def start_of(folder, output, memory_folder, *more, main=glue_with_cka_g.main):
    """M_s (C, W*D) at the first step of a run."""
    more = [*STANDING, "--teacher_memory_path", memory_folder, *more]
    main(flags(folder, output, *more))
    return load_file(output / "student_memory.safetensors")["centroids"]


def centroids_of(folder):
    return load_file(folder / memory_file.FILE)["centroids"]


def student_features(folder, layers=2, length=24):
    """(21, length * 16) and the mask (21, length): a fresh student's penultimate features, by
    transformers alone.
    """
    student = transformers.AutoModel.from_pretrained(
        folder / "pretrained", num_hidden_layers=layers
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "pretrained")
    rows = load_features(get_task("rte"), folder, "train", tokenizer, length).tensors
    rows = {key: value.long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        hidden = student(**rows, output_hidden_states=True).hidden_states[layers - 1]
    return hidden, rows["attention_mask"]


def means_of(h_s, nearest, number):
    """The mean of the rows of each cluster, by a loop."""
    return torch.stack([h_s[nearest == j].mean(0) for j in range(number)])


# ---- what it is ----------------------------------------------------------------------------------


def test_by_hand():
    """Three centroids, of which the last is nearest to no row and starts as the mean of all."""
    memories = memory.Memories(torch.eye(3), width=1, length=2, seed=0, init="averaged")
    one = (torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[1.0, 2, 3], [1, 2, 3]]))
    two = (torch.tensor([[5.0, 7.0]]), torch.tensor([[2.0, 1, 3]]))
    memories.average(iter([one, two]))
    assert memories.student.tolist() == [[2, 1], [5, 7], [3, 3]]
    assert memories.student.requires_grad


def test_before_it_is_averaged_the_start_is_as_matched():
    starts = [
        memory.Memories(3 + torch.randn(5, 8), width=2, length=4, seed=1, init=init).student
        for init in ("matched", "averaged")
        if torch.manual_seed(0)
    ]
    assert torch.equal(*starts)


def test_the_means_are_those_of_transformers_alone(tiny_without_dropout, trained, tmp_path):
    found = start_of(tiny_without_dropout, tmp_path / "s", trained)
    m_t, h_t = centroids_of(trained), teacher_features(tiny_without_dropout)
    h_s, _ = student_features(tiny_without_dropout)
    nearest = torch.cdist(h_t, m_t).argmin(1)
    assert len(nearest.unique()) == 4
    torch.testing.assert_close(found, means_of(h_s.flatten(1), nearest, 4), rtol=1e-4, atol=1e-5)


def test_without_padding_it_is_of_tokens_alone(tiny_without_dropout, tmp_path):
    masked = ["--mask_padding"]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", *masked))
    found = start_of(tiny_without_dropout, tmp_path / "s", tmp_path / "m", *masked)
    h_s, mask = student_features(tiny_without_dropout)
    h_t = teacher_features(tiny_without_dropout).view(len(mask), 24, -1) * mask.unsqueeze(-1)
    nearest = torch.cdist(h_t.flatten(1), centroids_of(tmp_path / "m")).argmin(1)
    wanted = means_of((h_s * mask.unsqueeze(-1)).flatten(1), nearest, 4)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_its_teacher_starts_with_the_teachers_memory(
    tiny_without_dropout, tmp_path
):
    """Where k-means has come to rest, a centroid is the mean of its rows: M_s = M_t, and F_MM,
    F_E and F_C are 0.
    """
    passes = ["--memory_num_train_epochs", 20]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", *passes))
    teacher = tiny_without_dropout / "teacher"
    itself = ["--model_name_or_path_for_copy", teacher, "--student_num_hidden_layers", 4]
    found = start_of(tiny_without_dropout, tmp_path / "s", tmp_path / "m", *itself)
    torch.testing.assert_close(found, centroids_of(tmp_path / "m"), rtol=1e-4, atol=1e-5)
    (entry,) = read_log(tmp_path / "s")
    assert [entry[name] for name in ("F_MM", "F_E", "F_C")] == pytest.approx([0] * 3, abs=1e-5)


# ---- in a run ------------------------------------------------------------------------------------


def test_with_a_cache_the_start_is_the_same(tiny_without_dropout, trained, tmp_path):
    plain = start_of(tiny_without_dropout, tmp_path / "plain", trained)
    cache = ["--teacher_cache", tmp_path / "cache"]
    cached = start_of(tiny_without_dropout, tmp_path / "cached", trained, *cache)
    torch.testing.assert_close(plain, cached, rtol=1e-5, atol=1e-6)


def test_it_has_a_name_in_the_tables(tiny, trained_with_dropout, tmp_path):
    rows = ["--results_csv", tmp_path / "r.csv"]
    start_of(tiny, tmp_path / "g", trained_with_dropout, *rows)
    start_of(tiny, tmp_path / "ilg", trained_with_dropout, *rows, main=glue_with_cka_ilg.main)
    names = with_names(name_variants(read_runs(tmp_path / "r.csv"))).method.tolist()
    words = "student_memory_init averaged"
    assert names == [f"FSD_G, {words}", f"FSD_ILG, {words}"]


def test_the_pass_draws_no_random_number(tiny, trained_with_dropout, tmp_path):
    """With a weight of 0 for all that reads M_s, dropout is that of a run without the pass."""
    more = ["--teacher_memory_path", trained_with_dropout, "--gamma_g", 1e-30]
    for name, start in (("averaged", AVERAGED), ("matched", [])):
        glue_with_cka_ilg.main(flags(tiny, tmp_path / name, *more, *start, "--max_steps", 2))
    assert_same_files(tmp_path / "averaged", tmp_path / "matched", "model.safetensors")


@pytest.mark.slow
def test_resumed_it_is_uninterrupted(tiny, trained_with_dropout, tmp_path):
    more = [*AVERAGED, "--teacher_memory_path", trained_with_dropout]
    glue_with_cka_g.main(flags(tiny, tmp_path / "straight", *more))
    stopped_at(tiny, tmp_path / "s", *more, main=glue_with_cka_g.main)
    glue_with_cka_g.main(flags(tiny, tmp_path / "s", *more))
    names = ("model.safetensors", "student_memory.safetensors", "dev_predictions.tsv")
    assert_same_files(tmp_path / "straight", tmp_path / "s", *names)


@pytest.mark.slow
def test_two_processes_are_one(tiny_without_dropout, trained, tmp_path):
    more = [*AVERAGED, "--teacher_memory_path", trained, "--gamma_m", 0.01]
    glue_with_cka_ilg.main(flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "glue_with_cka_ilg.py",
        flags(tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4),
    )
    assert_same_training(tmp_path / "one", tmp_path / "two")
