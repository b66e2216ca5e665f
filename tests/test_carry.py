"""scripts/carry.py: models and data travel in parts, and are whole where they arrive."""

import json
import shutil
import subprocess
import tarfile

import pytest
import torch
import transformers
from conftest import shell
from safetensors.torch import load_file, save_file

from common import UserError
from scripts import carry


def packed(tmp_path, tiny, *more):
    """A packing of a tiny model and RTE in parts of 5 kB."""
    return shell(
        "scripts/carry.py",
        "pack",
        "--models",
        tiny / "pretrained",
        "--data_dir",
        tiny,
        "--tasks",
        "rte",
        "--part_mb",
        0.005,
        "--output_dir",
        tmp_path / "parts",
        *more,
    )


@pytest.mark.slow
def test_parts_are_joined_to_what_was_packed(tiny, tmp_path):
    done = packed(tmp_path, tiny)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "parts").glob("*/carried*"), key=lambda path: int(path.parent.name))
    assert len(parts) > 1 and all(path.stat().st_size <= 5_000 for path in parts)
    for number, path in enumerate(parts):  # each came on a trip of its own, the last one first
        (tmp_path / f"trip{-number % 7}{number}").mkdir()
        shutil.copy(path, tmp_path / f"trip{-number % 7}{number}")
        shutil.copy(path.with_name("parts.json"), tmp_path / f"trip{-number % 7}{number}")
    done = shell(
        "scripts/carry.py", "join", *tmp_path.glob("trip*"), "--output_dir", tmp_path / "there"
    )
    assert done.returncode == 0, done.stderr
    there = tmp_path / "there"
    for split in ("train", "dev"):
        assert (there / f"glue/RTE/{split}.tsv").read_bytes() == (
            tiny / f"RTE/{split}.tsv"
        ).read_bytes()
    assert not (there / "glue/RTE/test.tsv").exists()
    here, halved = (
        load_file(folder / "model.safetensors")
        for folder in (tiny / "pretrained", there / "models/pretrained")
    )
    assert here.keys() == halved.keys()
    assert all(torch.equal(halved[name], here[name].half()) for name in here)
    model = transformers.AutoModel.from_pretrained(there / "models/pretrained")
    words = transformers.AutoTokenizer.from_pretrained(there / "models/pretrained")(
        "a dog runs", return_tensors="pt"
    )
    wanted = transformers.AutoModel.from_pretrained(tiny / "pretrained")(**words).last_hidden_state
    torch.testing.assert_close(
        model.float()(**words).last_hidden_state, wanted, rtol=0.1, atol=0.05
    )
    # without this project, cat and tar do it
    with (
        subprocess.Popen(["cat", *map(str, parts)], stdout=subprocess.PIPE) as cat,
        tarfile.open(fileobj=cat.stdout, mode="r|xz") as archive,
    ):
        assert "models/pretrained/model.safetensors" in archive.getnames()


@pytest.mark.slow
def test_what_packing_and_joining_refuse(tiny, tmp_path):
    def refused(said, *words):
        done = shell("scripts/carry.py", *words)
        assert (
            done.returncode == 1 and len(done.stderr.splitlines()) == 1 and said in done.stderr
        ), done.stderr

    out = ("--output_dir", tmp_path / "out")
    refused("nothing to pack", "pack", *out)
    refused("needs --data_dir", "pack", "--tasks", "rte", *out)
    refused("no config.json", "pack", "--models", tmp_path, *out)
    refused("something else", "pack", "--models", tiny / "pretrained", "--output_dir", tiny)
    for number in (0, "nan", "inf", "1e-7"):
        more = ("--models", tiny / "pretrained", "--part_mb", number)
        refused("--part_mb must", "pack", *more, *out)
    refused("no parts.json", "join", tmp_path, *out)
    assert packed(tmp_path, tiny).returncode == 0
    second = next((tmp_path / "parts/2").glob("carried*"))
    content = second.read_bytes()
    second.write_bytes(b"x" + content[1:])
    refused("is damaged, as its sha256", "join", tmp_path / "parts", *out)
    second.unlink()
    refused("1 of", "join", tmp_path / "parts", *out)
    second.write_bytes(content)
    refused("is not an empty folder", "join", tmp_path / "parts", "--output_dir", tiny)
    refused("is not an empty folder", "join", tmp_path / "parts", "--output_dir", second)
    (tmp_path / "a-copy").mkdir()
    (tmp_path / "a-copy" / second.name).write_bytes(b"damaged")  # beside a good one, does no harm
    done = shell(
        "scripts/carry.py",
        "join",
        tmp_path / "parts",
        tmp_path / "a-copy",
        "--output_dir",
        tmp_path / "whole",
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "parts/notes").touch()
    assert packed(tmp_path, tiny).returncode == 1 and (tmp_path / "parts/notes").exists()
    manifest = tmp_path / "parts/1/parts.json"
    manifest.write_text(json.dumps({"parts": [{"name": "other", "sha256": "0"}]}))
    refused("more than one call of pack", "join", tmp_path / "parts", *out)
    assert not (tmp_path / "out").exists()


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    save_file({"weight": torch.tensor([1e6])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="half precision cannot hold"):
        carry.halve(tmp_path / "model.safetensors", tmp_path / "half.safetensors")
