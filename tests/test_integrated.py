"""glue_with_cka_ilg.py as a user runs it, and the commands of the interface."""

import json

import numpy as np
import pytest
import torch
from conftest import (
    assert_same_files,
    assert_same_training,
    flags,
    memory_flags,
    read_log,
    shell,
    two_processes,
)
from safetensors.torch import load_file

import cka
import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
from common import UserError
from training import memory_file


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
    assert_same_files(tmp_path / "a", tmp_path / "b", "model.safetensors")


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


def test_mistakes_of_the_global_scripts(tiny, tmp_path):
    done = shell("glue_with_cka_g.py", *flags(tiny, tmp_path / "s"))
    assert (
        done.returncode == 1
        and "needs --teacher_memory_path, the folder that train_memory.py wrote" in done.stderr
    )
    for more, sentence in (
        (["--do_layerwise"], "--do_layerwise cannot go with the global structure"),
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
