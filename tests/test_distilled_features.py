"""Which features the losses get: layers, modes, padding, and the variants of a loss."""

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from conftest import assert_same_training, flags, read_log

import cka
import glue_with_cka_i
from tasks.features import load_features
from tasks.glue import get_task
from training.batches import windows


@pytest.mark.slow
def test_mask_padding_is_the_unpadded_computation(tiny_without_dropout, tmp_path):
    """Rows have at most 24 tokens: with padding left out, 24 columns are as good as 48."""
    for length in (24, 48):
        glue_with_cka_i.main(
            flags(
                tiny_without_dropout,
                tmp_path / str(length),
                "--mask_padding",
                "--internal",
                "--max_seq_length",
                length,
            )
        )
    assert_same_training(tmp_path / "24", tmp_path / "48")
    glue_with_cka_i.main(flags(tiny_without_dropout, tmp_path / "padded", "--internal"))
    assert (
        abs(read_log(tmp_path / "padded")[0]["intra"] - read_log(tmp_path / "24")[0]["intra"])
        > 1e-4
    )


@pytest.mark.slow
def test_variants_reach_the_losses(tiny_without_dropout, tmp_path):
    first = {}
    for name, more in {
        "plain": [],
        "log_mean": ["--intra_reduction", "log_mean"],
        "layers": ["--do_layerwise"],
        "debiased": ["--cka_estimator", "debiased"],
        "bf16": ["--bf16"],
    }.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        glue_with_cka_i.main(
            flags(tiny_without_dropout, tmp_path / name, "--internal", "--max_steps", 1, *more)
        )
        first[name] = read_log(tmp_path / name)[0]["intra"]
    assert len(set(first.values())) == 5
    assert first["bf16"] == pytest.approx(
        first["plain"], rel=0.05
    )  # bfloat16 models, float32 losses
    assert first["log_mean"] < first["plain"]


def first_features(folder, tmp_path, monkeypatch, *more):
    """(h_s, h_t) that the loss of the first step gets, and the rows of its mini-batch."""
    seen = []
    monkeypatch.setattr(
        cka,
        "intra_feature_loss",
        lambda h_s, h_t, *more, **kw: (
            seen.append((h_s.detach(), h_t)) or (h_s.sum() * 0, torch.zeros(()))
        ),
    )
    glue_with_cka_i.main(flags(folder, tmp_path / "s", "--internal", "--max_steps", 1, *more))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "teacher")
    features = load_features(get_task("rte"), folder, "train", tokenizer, 24)
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    return *seen[0], {
        key: value[indices].long() for key, value in features.tensors.items() if key != "labels"
    }


def test_the_teachers_features_are_those_of_its_penultimate_layer_in_eval_mode(
    tiny, tmp_path, monkeypatch
):
    """tiny has dropout, so a teacher in train mode would give other features."""
    _, h_t, rows = first_features(tiny, tmp_path, monkeypatch)
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "teacher"
    ).eval()
    torch.testing.assert_close(
        h_t, teacher(**rows, output_hidden_states=True).hidden_states[3]
    )  # of 4 layers
    assert not h_t.requires_grad


def test_the_students_features_are_those_of_its_penultimate_layer(
    tiny_without_dropout, tmp_path, monkeypatch
):
    h_s, _, rows = first_features(tiny_without_dropout, tmp_path, monkeypatch, "--learning_rate", 0)
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    torch.testing.assert_close(
        h_s, student(**rows, output_hidden_states=True).hidden_states[1]
    )  # of 2 layers


def test_layerwise_pairs(tiny_without_dropout, tmp_path, monkeypatch):
    seen, real = [], cka.intra_feature_loss
    monkeypatch.setattr(
        cka,
        "intra_feature_loss",
        lambda h_s, h_t, *more, **kw: seen.append(h_t.detach()) or real(h_s, h_t, *more, **kw),
    )
    glue_with_cka_i.main(
        flags(
            tiny_without_dropout, tmp_path / "a", "--internal", "--max_steps", 1, "--do_layerwise"
        )
    )
    assert len(seen) == 1  # a student of 2 layers: its layer 1 with the teacher's layer 2
