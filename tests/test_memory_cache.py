"""train_memory.py --teacher_cache: the teacher computes each row once, and the memory is of what
the cache holds.
"""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers
from conftest import assert_same_files, flags, memory_flags, teacher_features, two_processes
from safetensors.torch import load_file
from stopped_runs import stopped_clustering
from teacher_caches import count_calls, entry_values, files

import glue_with_cka_i
import train_memory
from common import UserError
from scripts import estimate
from training import cache_entries, memory_file


def cached_flags(folder, output, *more):
    return memory_flags(folder, output, "--teacher_cache", output.parent / "kept", *more)


def test_the_teacher_computes_each_row_once(tiny, tmp_path, monkeypatch, capsys):
    seen = count_calls(monkeypatch)
    train_memory.main(cached_flags(tiny, tmp_path / "one"))
    assert seen == [8, 8, 5]  # 21 rows
    cache = tmp_path / "kept"
    assert files(cache) == {"features-3"}
    features = entry_values(cache, "features-3").float().flatten(1)
    torch.testing.assert_close(features, teacher_features(tiny), rtol=1e-3, atol=1e-3)
    clusters = pd.read_csv(tmp_path / "one/clusters.tsv", sep="\t").cluster.to_numpy()
    means = torch.stack([features[clusters == k].mean(0) for k in range(4)])
    centroids = load_file(tmp_path / "one" / memory_file.FILE)["centroids"]
    torch.testing.assert_close(centroids, means, rtol=1e-5, atol=1e-5)
    (folder,) = json.loads((tmp_path / "one/run.json").read_text())["teacher_cache"]
    assert folder.startswith(str(cache)) and folder.endswith("features-3")

    train_memory.main(cached_flags(tiny, tmp_path / "again"))
    assert seen == [8, 8, 5]
    assert_same_files(tmp_path / "one", tmp_path / "again", memory_file.FILE, "clusters.tsv")

    capsys.readouterr()
    glue_with_cka_i.main(flags(tiny, tmp_path / "student", "--teacher_cache", cache))  # FSD_L
    assert f"{next(cache.iterdir())}: logits, " in capsys.readouterr().err


def test_a_cache_that_is_refused_leaves_a_finished_memory_whole(tiny, tmp_path):
    train_memory.main(cached_flags(tiny, tmp_path / "m"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir() if path.is_file()}
    (shard,) = (tmp_path / "kept").glob("*/*/*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="have changed since"):
        train_memory.main(cached_flags(tiny, tmp_path / "m", "--overwrite_output_dir"))
    after = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir() if path.is_file()}
    assert after == before and memory_file.FILE in after


def test_nothing_is_said_of_padding_that_could_not_be_cut(tiny, tmp_path, capsys):
    """In half precision the teacher cannot be tried any more, and features have all positions."""
    train_memory.main(cached_flags(tiny, tmp_path / "m", "--bf16"))
    assert "reads padding" not in capsys.readouterr().err


def test_a_teacher_without_attention_heads_has_a_cache():
    config = transformers.FNetConfig(hidden_size=16, num_labels=2)
    args = SimpleNamespace(max_seq_length=24)
    (entry,) = cache_entries.entries({"features"}, [3], config, args, False)["features"].values()
    assert entry.shape == (24, 16)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--mask_padding"], ["--memory_init", "released"]])
def test_it_is_the_memory_without_a_cache(more, tiny_without_dropout, tmp_path):
    """Except that features are rounded to half precision."""
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "plain", *more))
    train_memory.main(cached_flags(tiny_without_dropout, tmp_path / "cached", *more))
    plain, cached = (
        load_file(tmp_path / name / memory_file.FILE)["centroids"] for name in ("plain", "cached")
    )
    torch.testing.assert_close(cached, plain, rtol=2e-3, atol=2e-3)
    assert not cached.equal(plain)


@pytest.mark.slow
def test_an_unfinished_clustering_is_of_one_kind(tiny, tmp_path):
    stopped_clustering(tiny, tmp_path / "m")
    with pytest.raises(UserError, match="teacher cache"):
        train_memory.main(cached_flags(tiny, tmp_path / "m"))
    stopped_clustering(tiny, tmp_path / "c", "--teacher_cache", tmp_path / "kept")
    with pytest.raises(UserError, match="teacher cache"):
        train_memory.main(memory_flags(tiny, tmp_path / "c"))
    train_memory.main(cached_flags(tiny, tmp_path / "c"))
    train_memory.main(cached_flags(tiny, tmp_path / "straight"))
    assert_same_files(tmp_path / "c", tmp_path / "straight", memory_file.FILE, "clusters.tsv")


@pytest.mark.slow
def test_two_processes_read_one_cache(tiny_without_dropout, tmp_path):
    train_memory.main(cached_flags(tiny_without_dropout, tmp_path / "one"))
    more = "--per_gpu_train_batch_size", 4
    two_processes("train_memory.py", cached_flags(tiny_without_dropout, tmp_path / "two", *more))
    one, two = (
        load_file(tmp_path / name / memory_file.FILE)["centroids"] for name in ("one", "two")
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_passes_over_a_cache_tell_no_rate_of_the_teacher(tiny, tmp_path):
    train_memory.main(cached_flags(tiny, tmp_path / "runs"))
    assert not estimate.measured_rates(tmp_path)
    train_memory.main(memory_flags(tiny, tmp_path / "plain"))
    assert len(estimate.measured_rates(tmp_path)) == 1
