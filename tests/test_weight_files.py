"""Files of weights: old forms and prefixes are read, wrong ones refused, and no code is run."""

import json
import os
import shutil

import pytest
import torch
from conftest import flags, refusal, same_weights
from safetensors.torch import load_file, save_file

import glue_with_cka_i


def as_bin(source, folder, **options):
    """The model of a folder as pytorch_model.bin, as HuggingFace wrote them before safetensors."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", **options)
    return weights


# ---- what is read --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_teachers_as_pytorch_model_bin(zipped, tiny, tmp_path):
    """The same student; the older one is not a zip file, has no model_type and only a
    vocabulary.
    """
    for name in ("teacher", "pretrained"):
        as_bin(tiny / name, tmp_path / name, _use_new_zipfile_serialization=zipped)
    if not zipped:
        for name in ("teacher", "pretrained"):
            config = json.loads((tmp_path / name / "config.json").read_text())
            for key in ("model_type", "architectures", "transformers_version", "dtype"):
                config.pop(key, None)
            (tmp_path / name / "config.json").write_text(json.dumps(config))
            for file in (tmp_path / name).glob("*token*"):
                file.unlink()
            shutil.copy(tiny / "vocab.txt", tmp_path / name / "vocab.txt")
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--model_type", "bert", "--max_steps", 2))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 2))
    assert same_weights(tmp_path / "s", tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_students_of_a_wrapped_model_are_saved_without_its_prefix(prefix, tiny, tmp_path):
    for name in ("teacher", "pretrained"):
        shutil.copytree(tiny / name, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        save_file(
            {prefix + key: value for key, value in weights.items()},
            tmp_path / name / "model.safetensors",
            {"format": "pt"},
        )
    shutil.copytree(tiny / "RTE", tmp_path / "RTE")
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "s", "--max_steps", 1))
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 1))
    assert same_weights(tmp_path / "s", tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_of_a_wrapped_model_are_loaded(prefix, tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    save_file(
        {prefix + key: value for key, value in weights.items()},
        tmp_path / "teacher/model.safetensors",
        {"format": "pt"},
    )
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher", "--max_steps", 1)
    )
    glue_with_cka_i.main(flags(tiny, tmp_path / "plain", "--max_steps", 1))
    fingerprints = [
        json.loads((tmp_path / name / "run.json").read_text())["teacher"] for name in ("s", "plain")
    ]
    assert fingerprints[0] == fingerprints[1]


# ---- what is refused -----------------------------------------------------------------------------


def test_weights_of_another_shape_are_named(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["classifier.weight"] = torch.zeros(2, 20)
    save_file(weights, tmp_path / "teacher/model.safetensors", {"format": "pt"})
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "classifier.weight, (2, 20) there and (2, 16)" in said


class Touches:
    """A pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_no_code_in_a_file_is_run(tiny, tmp_path, capsys):
    weights = as_bin(tiny / "teacher", tmp_path / "teacher")
    torch.save(
        weights | {"more": Touches(tmp_path / "ran")}, tmp_path / "teacher/pytorch_model.bin"
    )
    said = refusal(
        capsys, flags(tiny, tmp_path / "s", "--model_name_or_path", tmp_path / "teacher")
    )
    assert "holds more than weights" in said and "no code in a file is ever run" in said
    assert not (tmp_path / "ran").exists()
