"""--teacher_cache refuses what is not its own: changed numbers, other caches' shards and facts."""

import json
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import flags
from safetensors.torch import load_file, save_file

import glue_with_cka_i
from common import UserError
from training import cache_shards, teacher_cache

IDENTITY = {"entry": "logits", "shard": 0, "cache": "a" * 64}


def run(folder, output, cache, *more):
    """VKD on a cache, in which its 21 rows are three shards of logits."""
    AcceleratorState._reset_state(reset_partial_state=True)
    words = flags(folder, output, "--beta", 0, "--max_steps", 2, "--teacher_cache", cache, *more)
    return glue_with_cka_i.main(words)


@pytest.fixture
def cache(tiny, tmp_path, monkeypatch):
    """A cache in DIR/rte-..., and its folder."""
    monkeypatch.setattr(teacher_cache, "SHARD", 8)
    run(tiny, tmp_path / "first", tmp_path / "teachers")
    (folder,) = (tmp_path / "teachers").iterdir()
    return folder


def flip(path, at, bit=0):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def forget(path):
    """Make a shard one of an earlier version, which had no note."""
    save_file(load_file(path), path)


# ---- a shard -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_any_changed_bit_of_the_numbers_is_noticed(dtype, tmp_path):
    path, values = tmp_path / "00000.safetensors", torch.arange(6).reshape(2, 3).to(dtype)
    cache_shards.write_shard(path, values, IDENTITY)
    size, name = values.nbytes, str(dtype).removeprefix("torch.")
    for at in range(-size, 0):
        for bit in range(8):
            flip(path, at, bit)
            found, note = cache_shards.map_shard(path, name, (2, 3))
            with pytest.raises(UserError, match=r"00000\.safetensors have changed since they"):
                cache_shards.check_numbers(path, found, note)
            flip(path, at, bit)
    found, note = cache_shards.map_shard(path, name, (2, 3))
    cache_shards.check_numbers(path, found, note)
    assert torch.equal(found, values)


@pytest.mark.parametrize("key, other", [("entry", "tokens"), ("shard", 1), ("cache", "b" * 64)])
def test_a_shard_of_another_place_is_refused(key, other, tmp_path):
    path = tmp_path / "00000.safetensors"
    cache_shards.write_shard(path, torch.zeros(2), IDENTITY | {key: other})
    _, note = cache_shards.map_shard(path, "float32", (2,))
    with pytest.raises(UserError, match=rf"should hold .*, found .*{key} {other}.*: delete it"):
        cache_shards.check_identity(path, note, IDENTITY)


def test_a_forged_identity_is_no_checksums(tmp_path):
    """The checksum is of the identity, too."""
    path = tmp_path / "00000.safetensors"
    cache_shards.write_shard(path, torch.zeros(2), IDENTITY | {"shard": 1})
    path.write_bytes(path.read_bytes().replace(rb"shard\": 1", rb"shard\": 0"))
    values, note = cache_shards.map_shard(path, "float32", (2,))
    cache_shards.check_identity(path, note, IDENTITY)
    with pytest.raises(UserError, match="by its checksum"):
        cache_shards.check_numbers(path, values, note)


@pytest.mark.parametrize("note", ["no JSON", "[]", "7", '"text"', '{"identity": 3}'])
def test_a_note_of_another_program_is_refused(note, tmp_path):
    path = tmp_path / "00000.safetensors"
    save_file({"values": torch.zeros(2)}, path, {"shard": note})
    with pytest.raises(UserError, match=r"00000\.safetensors should .*: delete it"):
        cache_shards.check_identity(
            path, cache_shards.map_shard(path, "float32", (2,))[1], IDENTITY
        )


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_refuses_a_changed_bit_before_it_trains(tiny, tmp_path, cache):
    flip(cache / "logits/00002.safetensors", -1)
    with pytest.raises(UserError, match=r"00002\.safetensors have changed since .*: delete it"):
        run(tiny, tmp_path / "second", tmp_path / "teachers")
    assert not (tmp_path / "second/train_log.jsonl").exists()
    (cache / "logits/00002.safetensors").unlink()  # as the sentence says
    assert run(tiny, tmp_path / "second", tmp_path / "teachers") == 0


def test_a_run_refuses_shards_of_another_cache(tiny, tmp_path, cache):
    run(tiny, tmp_path / "other", tmp_path / "others", "--max_seq_length", 20)
    (other,) = (tmp_path / "others").iterdir()
    shutil.copy(other / "logits/00001.safetensors", cache / "logits")
    with pytest.raises(UserError, match=r"00001\.safetensors should hold entry logits, shard 1"):
        run(tiny, tmp_path / "second", tmp_path / "teachers")
    shutil.rmtree(cache)
    shutil.copytree(other, cache)  # the whole folder, under this one's name
    with pytest.raises(
        UserError, match=r"facts\.json should describe .*, found another max_seq_len"
    ):
        run(tiny, tmp_path / "second", tmp_path / "teachers")
    (cache / "facts.json").unlink()
    with pytest.raises(UserError, match=r"00000\.safetensors should hold entry logits, shard 0"):
        run(tiny, tmp_path / "second", tmp_path / "teachers")


def test_shards_that_changed_places_are_refused(tiny, tmp_path, cache):
    shutil.copy(cache / "logits/00000.safetensors", cache / "logits/00001.safetensors")
    with pytest.raises(UserError, match=r"00001.*should hold .* shard 1, .*found .* shard 0,"):
        run(tiny, tmp_path / "second", tmp_path / "teachers")


def test_shards_of_before_the_notes_are_made_again(tiny, tmp_path, cache, capsys):
    """With one sentence, and as they were; the others stay."""
    paths = sorted(cache.glob("logits/*.safetensors"))
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in paths}
    for path in paths[:2]:
        save_file({"values": torch.zeros(8, 2)}, path)  # nobody can tell that it is wrong
    capsys.readouterr()
    run(tiny, tmp_path / "second", tmp_path / "teachers")
    assert capsys.readouterr().err.count("2 of its shards are an earlier version's") == 1
    assert all(path.read_bytes() == content for path, (content, _) in before.items())
    assert paths[2].stat().st_ino == before[paths[2]][1]
    run(tiny, tmp_path / "third", tmp_path / "teachers")
    assert "earlier" not in capsys.readouterr().err


def test_what_is_made_again_takes_no_more_disk(tiny, tmp_path, cache, monkeypatch):
    forget(cache / "logits/00000.safetensors")
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: full)
    assert run(tiny, tmp_path / "second", tmp_path / "teachers") == 0


def test_the_facts_are_those_of_the_shards(tiny, tmp_path, cache):
    facts = json.loads((cache / "facts.json").read_text())
    for changed in (facts | {"teacher": "another"}, facts | {"more": 1}, {"task": "RTE"}):
        (cache / "facts.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"facts\.json should describe .* cache, found another"):
            run(tiny, tmp_path / "second", tmp_path / "teachers")
