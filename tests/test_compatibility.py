"""What the project takes from the libraries beyond what they promise: a look at an unknown version.

Pins are in requirements.txt. Earlier versions, from torch 2.11 and transformers 5.17 on, run too,
as on machines where nothing can be installed; on a new one these tests come first.
"""

import re

import accelerate
import pytest
import torch
import transformers
from conftest import SHAPE, flags, memory_flags, read_log, save_models, shell, write_task

from training import models
from training.batches import MiniBatch, Rows

OLDEST = {"torch": (2, 11), "transformers": (5, 17), "accelerate": (1, 15)}


@pytest.mark.parametrize("library", [torch, transformers, accelerate], ids=lambda one: one.__name__)
def test_the_version_is_not_older_than_what_was_tried(library):
    found = tuple(map(int, re.findall(r"\d+", library.__version__)[:2]))
    assert found >= OLDEST[library.__name__]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert"])
def test_hidden_states_are_those_of_their_layers(family):
    """Heard by hooks at each layer: versions have counted lists of layers from different ends."""
    own = {"distilbert": {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24}}
    config = transformers.AutoConfig.for_model(family, **own.get(family, SHAPE), vocab_size=50)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    rows = {"input_ids": torch.randint(5, 30, (3, 9)), "attention_mask": torch.ones(3, 9)}
    batch = MiniBatch(Rows(rows)[torch.arange(3)], "cpu")
    layers = next(one for one in model.base_model.modules() if isinstance(one, torch.nn.ModuleList))
    heard, handles = [], []
    for layer in layers:
        handles.append(
            layer.register_forward_hook(
                lambda module, given, out: heard.append(out[0] if isinstance(out, tuple) else out)
            )
        )
    with torch.no_grad():
        model(**batch.arguments(model))
    for handle in handles:
        handle.remove()
    assert len(heard) == 4
    with torch.no_grad():
        for asked in ((3,), (1, 3), (4,), (1, 2, 3, 4)):
            found = batch.forward(model, asked).features
            for k, h in zip(asked, found, strict=True):
                torch.testing.assert_close(h, heard[k - 1])  # hidden state 0 is the embeddings'


def test_an_attention_mask_is_made_without_looking_at_it():
    """Of a mini-batch without padding, which transformers would otherwise leave out."""
    models.mask_without_waiting()
    config = transformers.BertConfig(**SHAPE, vocab_size=50, attn_implementation="sdpa")
    model, seen = transformers.BertModel(config), []
    model.encoder.layer[0].register_forward_pre_hook(
        lambda module, given, named: seen.append(named.get("attention_mask", (*given, None)[1])),
        with_kwargs=True,
    )
    model(input_ids=torch.randint(5, 30, (2, 7)), attention_mask=torch.ones(2, 7))
    assert seen[0] is not None and seen[0].shape[-2:] == (7, 7)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_run_from_the_teacher_to_the_student(family, tmp_path):
    """Teacher, memory, FSD_ILG with a cache, resumed: by the commands."""
    folder = save_models(tmp_path / "models", family)
    write_task(folder)
    done = shell("train_memory.py", *memory_flags(folder, tmp_path / "memory"))
    assert done.returncode == 0, done.stderr
    more = [
        "--teacher_memory_path",
        tmp_path / "memory",
        "--teacher_cache",
        tmp_path / "cache",
        "--save_steps",
        4,
        "--save_total_limit",
        0,
    ]
    from_checkpoint = ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4"]
    for name, resume in (("s", []), ("r", from_checkpoint)):
        done = shell("glue_with_cka_ilg.py", *flags(folder, tmp_path / name, *more, *resume))
        assert done.returncode == 0, done.stderr
    straight, resumed = (read_log(tmp_path / name) for name in "sr")
    assert [entry["total"] for entry in straight[4:]] == [entry["total"] for entry in resumed]
    student = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert student.config.num_hidden_layers == 2
