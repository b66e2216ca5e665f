"""glue_with_cka_g.py and glue_with_cka_ilg.py as a user runs them, on tiny random models."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import (
    flags,
    memory_flags,
    read_log,
    save_models,
    shell,
    teacher_features,
    two_processes,
)
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_distill import assert_same_training

import cka
import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import memory
import train_memory
from common import UserError
from tasks.features import load_features
from tasks.glue import get_task
from training import memory_file
from training.batches import flat, windows


def test_fsd_g(trained, tiny_without_dropout, tmp_path):
    output = tmp_path / "s"
    arguments = flags(
        tiny_without_dropout,
        output,
        "--beta",
        2,
        "--gamma_m",
        0.25,
        "--teacher_memory_path",
        trained,
        "--save_steps",
        2,
        "--results_csv",
        tmp_path / "r.csv",
    )
    assert glue_with_cka_g.main(arguments) == 0
    log = read_log(output)
    for entry in log:
        structure = entry["F_MM"] + 0.25 * entry["F_E"] + 0.75 * entry["F_C"]
        assert entry["total"] == pytest.approx(
            0.5 * entry["ce"] + 0.5 * entry["kd"] + 2 * structure, rel=1e-5
        )
    row = pd.read_csv(tmp_path / "r.csv").iloc[0]
    assert (row.method, row["--gamma_m"]) == ("FSD_G", 0.25)
    run = json.loads((output / "run.json").read_text())
    assert run["teacher_memory"]["task"] == "RTE"
    board = EventAccumulator(str(output / "tensorboard"), purge_orphaned_data=False).Reload()
    assert {"loss/F_MM", "loss/F_E", "loss/F_C"} <= set(board.Tags()["scalars"])

    start = memory.Memories(load_file(trained / memory_file.FILE)["centroids"], 16, 24, 42).student
    state = load_file(output / "checkpoint-4/training_state.safetensors")
    trained_memory = load_file(output / "student_memory.safetensors")["centroids"]
    assert not torch.equal(state["losses.0.student"], start) and not torch.equal(
        trained_memory, start
    )
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        output, output_loading_info=True
    )
    assert (
        not info["unexpected_keys"] and not info["missing_keys"]
    )  # plain BERT: the memory is not in it
    assert type(model).__name__ == "BertForSequenceClassification"


def test_the_first_losses_are_the_equations(trained, tiny_without_dropout, tmp_path):
    """F_MM, F_E and F_C of the first step, from the models by transformers alone and Eq. 8-9 by
    loops.
    """
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--teacher_memory_path",
            trained,
            "--gamma_m",
            0.5,
            "--learning_rate",
            0,
            "--max_steps",
            1,
        )
    )
    entry = read_log(tmp_path / "s")[0]
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    h_t = teacher_features(tiny_without_dropout)[indices]
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher")
    rows = load_features(get_task("rte"), tiny_without_dropout, "train", tokenizer, 24).tensors
    rows = {key: value[indices].long() for key, value in rows.items() if key != "labels"}
    with torch.no_grad():
        h_s = student(**rows, output_hidden_states=True).hidden_states[1].flatten(1)  # of 2 layers
    m_t = load_file(trained / memory_file.FILE)["centroids"]
    m_s = load_file(tmp_path / "s/student_memory.safetensors")["centroids"]
    distance_t, distance_s = torch.cdist(h_t, m_t), torch.cdist(h_s, m_s)
    cosine_t, cosine_s = (
        torch.nn.functional.cosine_similarity(h[:, None], m[None], dim=-1)
        for h, m in ((h_t, m_t), (h_s, m_s))
    )
    assert entry["F_E"] == pytest.approx((distance_t - distance_s).square().mean().item(), rel=1e-4)
    assert entry["F_C"] == pytest.approx((cosine_t - cosine_s).square().mean().item(), rel=1e-4)
    assert entry["F_MM"] == pytest.approx(-cka.linear_cka(m_t, m_s).log().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gamma_m, names", [(0, ["F_MM", "F_C"]), (1, ["F_E"])])
def test_training_brings_the_global_structures_together(
    gamma_m, names, trained, tiny_without_dropout, tmp_path
):
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--beta",
            10,
            "--gamma_m",
            gamma_m,
            "--num_train_epochs",
            15,
            "--student_memory_learning_rate",
            0.02,
            "--teacher_memory_path",
            trained,
        )
    )
    log = read_log(tmp_path / "s")
    for name in names:
        assert sum(e[name] for e in log[-5:]) < 0.8 * sum(e[name] for e in log[:5]), name


def test_fsd_ilg_is_eq_11(trained, tiny_without_dropout, tmp_path):
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        "--beta",
        2,
        "--gamma_i",
        3,
        "--gamma_l",
        0.5,
        "--gamma_g",
        0.1,
        "--gamma_m",
        0.25,
        "--teacher_memory_path",
        trained / memory_file.FILE,
    )
    glue_with_cka_ilg.main(arguments)
    for entry in read_log(tmp_path / "s"):
        g = entry["F_MM"] + 0.25 * entry["F_E"] + 0.75 * entry["F_C"]
        structure = 3 * entry["intra"] + 0.5 * entry["local"] + 0.1 * g
        assert entry["total"] == pytest.approx(
            0.5 * entry["ce"] + 0.5 * entry["kd"] + 2 * structure, rel=1e-5
        )
    assert json.loads((tmp_path / "s/run.json").read_text())["method"] == "FSD_ILG"


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, method, terms",
    [
        (["--gamma_g", 0], "FSD_IL", {"intra", "local"}),
        (["--gamma_i", 0, "--gamma_g", "0.0"], "FSD_L", {"local"}),
        (["--gamma_i", 0, "--gamma_l", 0, "--gamma_g", 0], "VKD", set()),
        (["--beta", 0], "VKD", set()),
    ],
)
def test_weights_of_zero_skip_the_structure_and_the_memory(
    more, method, terms, tiny, tmp_path, monkeypatch
):
    """No memory is asked for, and no function of G, or of another structure without weight, is
    called.
    """

    def forbidden(*args, **kwargs):
        raise AssertionError("computed for a weight of 0")

    for name in ("memory_relations", "global_losses"):
        monkeypatch.setattr(cka, name, forbidden)
    monkeypatch.setattr(distill.memory, "Memories", forbidden)
    for term, function in (("intra", "intra_feature_loss"), ("local", "local_inter_feature_loss")):
        if term not in terms:
            monkeypatch.setattr(cka, function, forbidden)
    glue_with_cka_ilg.main(flags(tiny, tmp_path / "s", *more))
    assert json.loads((tmp_path / "s/run.json").read_text())["method"] == method
    names = {"intra", "local", "F_MM", "F_E", "F_C"} & set(read_log(tmp_path / "s")[0])
    assert names == terms
    assert not (tmp_path / "s/student_memory.safetensors").exists()


@pytest.mark.parametrize("gamma_m, absent", [(0, "F_E"), (1, "F_C")])
def test_gamma_m_at_its_ends_skips_a_term(
    gamma_m, absent, trained, tiny_without_dropout, tmp_path, monkeypatch
):
    found, real = [], cka.global_losses
    monkeypatch.setattr(cka, "global_losses", lambda *args: found.append(real(*args)) or found[-1])
    memory = ["--teacher_memory_path", trained]
    words = flags(tiny_without_dropout, tmp_path / "s", "--gamma_m", gamma_m, *memory)
    glue_with_cka_g.main(words)
    assert {"F_MM", "F_E", "F_C"} - set(read_log(tmp_path / "s")[0]) == {absent}
    assert len(found) == 6 and all(absent not in parts for parts in found)  # steps


def test_the_matrix_products_of_f_e_and_f_c_are_shared(
    trained, tiny_without_dropout, tmp_path, monkeypatch
):
    calls, real = [], cka.memory_relations
    monkeypatch.setattr(cka, "memory_relations", lambda *args: calls.append(1) or real(*args))
    glue_with_cka_g.main(
        flags(
            tiny_without_dropout,
            tmp_path / "s",
            "--gamma_m",
            0.5,
            "--teacher_memory_path",
            trained,
            "--max_steps",
            2,
        )
    )
    assert len(calls) == 2 * 2  # student and teacher, two steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "alone, integrated",
    [
        (
            (glue_with_cka_i, ["--beta", 2, "--internal"]),
            ["--gamma_i", 2, "--gamma_l", 0, "--gamma_g", 0],
        ),
        ((glue_with_cka_i, ["--beta", 2]), ["--gamma_i", 0, "--gamma_l", 2, "--gamma_g", 0]),
        ((glue_with_cka_g, ["--beta", 2]), ["--gamma_i", 0, "--gamma_l", 0, "--gamma_g", 2]),
    ],
)
def test_one_structure_of_the_integrated_script_is_the_script_of_that_structure(
    alone, integrated, trained, tiny, tiny_without_dropout, tmp_path
):
    script, more = alone
    path = ["--teacher_memory_path", trained]
    script.main(
        flags(
            tiny_without_dropout,
            tmp_path / "a",
            *more,
            *(path if script is glue_with_cka_g else []),
        )
    )
    glue_with_cka_ilg.main(
        flags(tiny_without_dropout, tmp_path / "b", "--beta", 1, *integrated, *path)
    )
    assert (tmp_path / "a/model.safetensors").read_bytes() == (
        tmp_path / "b/model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_resumed_with_the_students_memory_is_bit_identical(tiny, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train_memory.main(memory_flags(tiny, tmp_path / "m"))
    more = [
        "--teacher_memory_path",
        tmp_path / "m",
        "--gamma_m",
        0.1,
        "--student_memory_learning_rate",
        0.01,
    ]
    glue_with_cka_g.main(flags(tiny, tmp_path / "straight", *more))
    real = distill.save_checkpoint

    def save_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill, "save_checkpoint", save_and_stop)
        glue_with_cka_g.main(flags(tiny, tmp_path / "s", *more, "--save_steps", 3))
    train_memory.main(memory_flags(tiny, tmp_path / "other", "--seed", 9))
    with pytest.raises(UserError, match="teacher memory was"):
        glue_with_cka_g.main(
            flags(tiny, tmp_path / "s", *more, "--teacher_memory_path", tmp_path / "other")
        )
    (tmp_path / "m").rename(tmp_path / "moved")
    glue_with_cka_g.main(
        flags(tiny, tmp_path / "s", *more, "--teacher_memory_path", tmp_path / "moved")
    )
    for name in ("model.safetensors", "student_memory.safetensors", "dev_predictions.tsv"):
        wanted, found = (tmp_path / folder / name for folder in ("straight", "s"))
        if name.startswith("student"):  # the metadata names the same facts in the same order
            assert torch.equal(load_file(wanted)["centroids"], load_file(found)["centroids"])
        assert wanted.read_bytes() == found.read_bytes()


def test_the_students_memory_has_a_rate_of_its_own(trained, tiny_without_dropout, tmp_path):
    start = memory.Memories(
        load_file(trained / memory_file.FILE)["centroids"], 16, 24, 42
    ).student.detach()
    moved = {}
    for rate in (0.0, 1e-3, 1e-2):
        output = tmp_path / str(rate)
        glue_with_cka_g.main(
            flags(
                tiny_without_dropout,
                output,
                "--teacher_memory_path",
                trained,
                "--max_steps",
                1,
                "--student_memory_learning_rate",
                rate,
            )
        )
        found = load_file(output / "student_memory.safetensors")["centroids"]
        moved[rate] = (found - start).abs().max().item()
    assert moved == pytest.approx(
        {0.0: 0, 1e-3: 1e-3, 1e-2: 1e-2}, rel=0.02
    )  # Adam's first step is the rate


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--mask_padding"]])
def test_two_processes_are_one(more, tiny_without_dropout, tmp_path):
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "m", *more))
    more = [*more, "--teacher_memory_path", tmp_path / "m", "--gamma_m", 0.01]
    glue_with_cka_ilg.main(flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "glue_with_cka_ilg.py",
        flags(tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4),
    )
    assert_same_training(tmp_path / "one", tmp_path / "two")
    torch.testing.assert_close(
        *(
            load_file(tmp_path / name / "student_memory.safetensors")["centroids"]
            for name in ("one", "two")
        ),
        rtol=1e-3,
        atol=1e-4,
    )


def test_masked_padding_is_the_unpadded_computation(tiny_without_dropout, tmp_path):
    """The teacher's side of G is the same at 24 and 48 columns; so is the student's, whose memory
    starts alike.
    """
    first = []
    for length in (24, 48):
        folder = tmp_path / str(length)
        masked = ["--mask_padding", "--max_seq_length", length]
        train_memory.main(memory_flags(tiny_without_dropout, folder / "m", *masked))
        relations, real = [], cka.memory_relations

        def spy(h, m, relations=relations, real=real):
            relations.append(real(h, m))
            return relations[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cka, "memory_relations", spy)
            glue_with_cka_g.main(
                flags(
                    tiny_without_dropout,
                    folder / "s",
                    *masked,
                    "--teacher_memory_path",
                    folder / "m",
                    "--max_steps",
                    1,
                )
            )
        first.append(relations[0])
    for psi in ("euclidean", "cosine"):
        torch.testing.assert_close(first[0][psi], first[1][psi], rtol=1e-4, atol=1e-4)


def test_columns_that_were_left_out_come_back_in_their_places():
    """As where padding is on the left, or in between."""
    h = torch.arange(1.0, 13).view(2, 3, 2)
    targets = {
        "mask": torch.tensor([[1, 1, 1], [0, 1, 1]]).bool(),
        "columns": torch.tensor([1, 3, 4]),
    }
    rows = flat(h, targets | {"length": 6}).view(2, 6, 2)
    assert rows[0].tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [5, 6], [0, 0]]
    assert rows[1].tolist() == [[0, 0], [0, 0], [0, 0], [9, 10], [11, 12], [0, 0]]
    assert torch.equal(flat(h, {}), h.flatten(1))


def test_a_memory_of_another_run_is_refused(trained, tiny, tiny_without_dropout, tmp_path):
    """Teacher, length, task and padding must be the memory's; the sentence says which differ."""

    def sentence(folder, *more):
        arguments = flags(folder, tmp_path / "s", "--teacher_memory_path", trained, *more)
        with pytest.raises(UserError) as error:
            glue_with_cka_g.main(arguments)
        return str(error.value)

    save_models(tmp_path / "other", seed=5)
    found = sentence(tiny_without_dropout, "--model_name_or_path", tmp_path / "other/teacher")
    assert "its teacher is" in found and "max seq length" not in found
    found = sentence(tiny_without_dropout, "--max_seq_length", 16)
    assert "its max seq length is 24 there and 16 here" in found and "its teacher" not in found
    assert "its mask padding is False there and True here" in sentence(
        tiny_without_dropout, "--mask_padding"
    )
    found = sentence(tiny_without_dropout, "--teacher_memory_path", tmp_path)
    assert "there is no memory" in found and "train_memory.py" in found
    (tmp_path / "WNLI").mkdir()
    for split in ("train", "dev"):
        (tmp_path / f"WNLI/{split}.tsv").write_text(
            "index\tsentence1\tsentence2\tlabel\n0\tthe dog\tthe cat\t1\n"
        )
    teacher = tmp_path / "wnli"
    transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_without_dropout / "teacher", id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}
    ).save_pretrained(teacher)
    transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher").save_pretrained(
        teacher
    )
    wnli = ["--task_name", "wnli", "--data_dir", tmp_path, "--model_name_or_path", teacher]
    found = sentence(tiny_without_dropout, *wnli)
    assert "its task is RTE there and WNLI here" in found and "its teacher" not in found


def test_mistakes_of_the_global_scripts(tiny, tmp_path):
    done = shell("glue_with_cka_g.py", *flags(tiny, tmp_path / "s"))
    assert (
        done.returncode == 1
        and "needs --teacher_memory_path, the folder that train_memory.py wrote" in done.stderr
    )
    for more, sentence in (
        (["--do_layerwise"], "--do_layerwise has no global structure"),
        (["--gamma_m", 1.5], "--gamma_m must be between 0 and 1"),
        (["--gamma_g", -1], "--gamma_g must be at least 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            glue_with_cka_ilg.main(
                flags(tiny, tmp_path / "s", "--teacher_memory_path", tmp_path, *more)
            )


@pytest.mark.slow
def test_the_commands_of_the_interface(tiny, tmp_path):
    """As the project's users type them, with the task named twice and a flag without its value."""
    out, memories = tmp_path / "out", tmp_path / "memory"
    copy, shared = (
        str(tiny / "pretrained"),
        ["--model_type", "bert", "--model_name_or_path", tiny / "teacher"],
    )
    done = shell(
        "train_memory.py",
        *shared,
        "--data_dir",
        tiny,
        "--per_gpu_train_batch_size",
        32,
        "--max_seq_length",
        32,
        "--output_dir",
        memories,
        "--do_train",
        "--logging_steps",
        500000,
        "--save_steps",
        500000,
        "--num_train_epochs",
        3,
        "--memory_num_train_epochs",
        3,
        "--task_name",
        "RTE",
        "--do_lower_case",
        "--num_centroid",
        10,
        "--memory_learning_rate",
        "--task_name",
        "rte",
    )
    assert done.returncode == 0, done.stderr
    both = [
        *shared,
        "--model_name_or_path_for_copy",
        copy,
        "--data_dir",
        tiny,
        "--per_gpu_train_batch_size",
        32,
        "--max_seq_length",
        32,
        "--output_dir",
        out,
        "--overwrite_output_dir",
        "--student_model_type",
        "bert",
        "--student_model_name_or_path",
        out,
        "--do_eval",
        "--do_train",
        "--run_file",
        tmp_path / "runs",
        "--copy_teacher",
        "--alpha",
        0.5,
        "--beta",
        1.0,
        "--gamma_m",
        1e-6,
        "--temperature",
        5.0,
        "--num_train_epochs",
        1,
        "--learning_rate",
        5e-5,
        "--task_name",
        "rte",
        "--do_lower_case",
        "--teacher_memory_path",
        memories,
    ]
    for script, more, method in (
        ("glue_with_cka_g.py", [], "FSD_G"),
        ("glue_with_cka_ilg.py", ["--gamma_i", 1.0, "--gamma_l", 1.0, "--gamma_g", 0.1], "FSD_ILG"),
        (
            "glue_with_cka_ilg.py",
            ["--gamma_i", 1.0, "--gamma_l", 1.0, "--gamma_g", "0.0"],
            "FSD_IL",
        ),
    ):
        done = shell(script, *both, *more)
        assert done.returncode == 0, done.stderr
        run = json.loads((out / "run.json").read_text())
        assert run["finished"] and run["method"] == method and np.isfinite(run["results"]["acc"])
        assert (out / "student_memory.safetensors").exists() == ("G" in method)
