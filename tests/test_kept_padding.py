"""Where a model reads its padding, or nothing can tell, whole rows are computed."""

import pytest
import torch
import transformers
from conftest import PAIR_LABELS, SHAPE, flags, memory_flags, save_models, write_task
from padded_runs import LENGTH, MASK, lengths_computed, pad_on_the_left
from stopped_runs import loop_of

import glue_with_cka_i
import train_memory
from baselines import glue_with_baseline
from tasks.features import load_features
from tasks.glue import get_task
from training import reading
from training.batches import first_tokens


@pytest.mark.slow
def test_positions_that_are_counted_from_the_padding_keep_it(tmp_path, monkeypatch, capsys):
    """BERT numbers positions from the row's start: padded on the left, a cut row is another row."""
    folder = save_models(tmp_path)
    pad_on_the_left(folder)
    write_task(folder)
    for more in ([], [MASK, "--sample_features", "flat"]):
        own = ["--method", "rkd" if more else "vkd", *more]
        loop = loop_of(glue_with_baseline.main, flags(folder, tmp_path / "s", *own))
        assert not loop.cut
        assert "BertForSequenceClassification reads padding as well" in capsys.readouterr().err
    lengths = lengths_computed(monkeypatch)
    train_memory.main(memory_flags(folder, tmp_path / "m", MASK))
    assert set(lengths[-3:]) == {LENGTH}  # the memory is of the same features


def test_a_family_that_mixes_in_what_it_does_not_mask_keeps_it():
    """FNet has no attention mask at all."""
    torch.manual_seed(0)
    config = transformers.FNetConfig(
        vocab_size=40,
        num_labels=2,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=24,
        type_vocab_size=2,
        max_position_embeddings=64,
        tpu_short_seq_length=LENGTH,
    )
    model = transformers.FNetForSequenceClassification(config)
    mask = (torch.arange(LENGTH) < torch.tensor([[9], [14]])).byte()
    features = {"input_ids": torch.randint(5, 40, (2, LENGTH)) * mask, "attention_mask": mask}
    assert not reading.ignores_padding(model, features)
    assert model.training  # as it was
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=40, **SHAPE, **PAIR_LABELS)
    )
    assert reading.ignores_padding(bert, features)
    features["attention_mask"] = torch.ones_like(mask)
    assert reading.ignores_padding(model, features) is None  # without any nothing can be tried


def test_dev_rows_are_tried_where_training_rows_have_no_padding(tmp_path):
    """Cut to 8 tokens no training row has any; a short dev row does, and its place matters."""
    folder = save_models(tmp_path)
    pad_on_the_left(folder)
    write_task(folder)
    (folder / "RTE" / "dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\tdog\tcat\tentailment\n"
        "1\tthe dog sees a cat\tthe cat sees a dog\tnot_entailment\n"
    )
    glue_with_baseline.main(flags(folder, tmp_path / "s", "--method", "vkd", "--max_seq_length", 8))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "s")
    task = get_task("rte")
    rows = load_features(task, folder, "dev", tokenizer, 8).tensors
    assert not rows["attention_mask"].all()
    with torch.no_grad():
        wanted = model(**{k: v.long() for k, v in rows.items() if k != "labels"}).logits
    lines = (tmp_path / "s" / "dev_predictions.tsv").read_text().splitlines()[1:]
    found = torch.tensor([[float(cell) for cell in line.split("\t")[-2:]] for line in lines])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_asked_as_well(tiny, tmp_path, monkeypatch):
    real = reading.ignores_padding

    def ask(model, features):
        return real(model, features) if model.config.num_hidden_layers == 2 else False

    monkeypatch.setattr(reading, "ignores_padding", ask)
    loop = loop_of(glue_with_baseline.main, flags(tiny, tmp_path / "s", "--method", "vkd"))
    assert not loop.cut


def test_bigbird_keeps_its_attention(tmp_path):
    """It falls back to full attention, for good, once it has met a short row."""
    folder = save_models(
        tmp_path, "big_bird", block_size=2, num_random_blocks=1, attention_type="block_sparse"
    )
    write_task(folder)
    loop = loop_of(glue_with_cka_i.main, flags(folder, tmp_path / "s", MASK))
    kinds = {model.base_model.attention_type for model in (loop.student, loop.teacher.model)}
    assert not loop.cut and kinds == {"block_sparse"}


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--method", "vkd"), ("--method", "rkd", MASK)])
def test_a_feed_forward_part_in_chunks_gets_whole_rows(more, tmp_path):
    folder = save_models(tmp_path, chunk_size_feed_forward=4)
    write_task(folder)
    assert glue_with_baseline.main(flags(folder, tmp_path / "s", *more)) == 0


def test_first_tokens_are_no_padding():
    h = torch.arange(24.0).view(2, 4, 3)
    batch = {"attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]).bool()}
    assert torch.equal(first_tokens(h, batch), torch.stack([h[0, 2], h[1, 0]]))
