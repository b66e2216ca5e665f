"""The teacher runs no more than is needed; mini-batches wait for nothing; what is only faster
changes nothing.
"""

import accelerate
import pytest
import torch
import transformers
from conftest import SHAPE, flags, read_log, same_weights
from torch.utils._python_dispatch import TorchDispatchMode

import glue_with_cka_i
import glue_with_cka_ilg
import loop
import memory
from baselines import glue_with_baseline
from tasks.features import load_features
from tasks.glue import get_task
from training import models, unpadding
from training.batches import SORTED, MiniBatch, Rows, epoch_order, windows
from training.teacher import Teacher


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "megatron-bert"])
def test_its_features_are_the_classifiers_hidden_states(family):
    config = transformers.AutoConfig.for_model(family, **SHAPE, vocab_size=50)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    rows = {"input_ids": torch.randint(5, 30, (6, 9)), "attention_mask": torch.ones(6, 9)}
    accelerator = accelerate.Accelerator(cpu=True)
    batch = MiniBatch(Rows(rows)[torch.arange(6)], accelerator.device)
    wanted = model(**batch.inputs, output_hidden_states=True)
    teacher = Teacher(model, accelerator)
    for logits in (True, False):
        found = teacher(batch, (3, 0), logits)
        torch.testing.assert_close(
            found.features, (wanted.hidden_states[3], wanted.hidden_states[0])
        )
        assert (found.logits is not None) == logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, layers", [(["--beta", 0], 4), (["--internal"], 4), (["--beta", 0, "--alpha", 1], 0)]
)
def test_a_step_runs_the_teacher_for_its_terms_alone(more, layers, tiny, tmp_path, monkeypatch):
    """Of the second of three steps; the last one also observes the relations."""
    runs, real = [], transformers.models.bert.modeling_bert.BertLayer.forward
    step = loop.Loop.take_step

    def counted(layer, *args, **kwargs):
        runs.append(layer.training)
        return real(layer, *args, **kwargs)

    def second_step(self, *args):
        with monkeypatch.context() as patch:
            if self.state.step == 1:
                patch.setattr(transformers.models.bert.modeling_bert.BertLayer, "forward", counted)
            return step(self, *args)

    monkeypatch.setattr(loop.Loop, "take_step", second_step)
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "s", *more, "--max_steps", 3, "--logging_steps", 100)
    )
    assert runs.count(False) == layers  # the teacher's, in eval mode
    assert runs.count(True) == 2


def test_half_weights_give_the_bits_of_autocast(tiny):
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher").eval()
    rows = {"input_ids": torch.randint(5, 30, (6, 9)), "attention_mask": torch.ones(6, 9)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model(
            **{key: value.long() for key, value in rows.items()}, output_hidden_states=True
        )
    teacher = Teacher(model, accelerator)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.dtype == torch.bfloat16
    batch = MiniBatch(Rows(rows)[torch.arange(6)], accelerator.device)
    found = teacher(batch, (1, 3))
    assert torch.equal(found.logits, wanted.logits)
    assert all(
        torch.equal(h, wanted.hidden_states[k]) for h, k in zip(found.features, (1, 3), strict=True)
    )
    assert torch.equal(teacher(batch, (3,), logits=False).features[0], wanted.hidden_states[3])


# ---- waiting -------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Remembers the operations that make the processor wait for a GPU: numbers or shapes taken from
    tensors.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten.is_nonzero,
        ):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def integrated(more):
    args = glue_with_cka_ilg.make_parser().parse_args(
        [*more, "--teacher_memory_path", "-", "--gamma_m", "0.1"]
    )
    return args, glue_with_cka_ilg.terms(args, memory.Memories(torch.randn(5, 24 * 16), 16, 24, 1))


def rival(more):
    args = glue_with_baseline.make_parser().parse_args(more)
    glue_with_baseline.fill_flags(args)
    return args, glue_with_baseline.terms(args)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, more",
    [
        (integrated, []),
        (integrated, ["--mask_padding"]),
        (rival, ["--method", "pkd"]),
        (rival, ["--method", "rkd"]),
        (rival, ["--method", "minilm"]),
        (rival, ["--method", "gram"]),
        (rival, ["--method", "procrustes"]),
    ],
)
def test_a_step_between_logs_waits_for_nothing(make, more, tiny, monkeypatch):
    """Not the loop, its terms, the optimizer or transformers: no number leaves the device."""
    monkeypatch.setattr(unpadding, "encoder_of", lambda model: None)  # as on a GPU
    accelerator = accelerate.Accelerator(cpu=True)
    models.mask_without_waiting()
    args, terms = make([*flags(tiny, "-"), *more])
    teacher, student = (
        transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher")
        for _ in range(2)
    )
    rows = {
        "input_ids": torch.randint(5, 30, (8, 24)),
        "attention_mask": torch.ones(8, 24, dtype=torch.uint8),
        "labels": torch.randint(2, (8,)),
    }
    rows["attention_mask"][:, 15:] = 0
    trained = loop.Loop(
        args,
        accelerator,
        student.train(),
        Teacher(teacher.eval(), accelerator),
        terms,
        [(3, 3)],
        rows,
    )
    batch = MiniBatch(trained.data[torch.arange(8)], accelerator.device)
    trained.take_step([batch])
    batch.targets.pop("G", None)  # what terms share of a mini-batch
    with Waits() as waits:
        trained.take_step([batch])
    assert not waits.found
    with Waits() as waits:
        trained.observe(batch.indices)
    assert waits.found  # the mode does see such operations


# ---- order and loading ---------------------------------------------------------------------------


def test_rows_of_like_length_share_mini_batches_but_the_order_stays_random():
    rows, size = 1003, 8
    lengths = torch.randint(5, 100, (rows,), generator=torch.Generator().manual_seed(0))
    plain, grouped = epoch_order(rows, size, 1, 0), epoch_order(rows, size, 1, 0, lengths)
    for batches in (plain, grouped):
        assert sorted(torch.cat(batches).tolist()) == list(range(rows))
        assert sorted(len(batch) for batch in batches) == [3, *[8] * 125]

    def padded(batches):
        return sum((lengths[batch].max() - lengths[batch]).sum().item() for batch in batches)

    assert padded(grouped) < padded(plain) / 4
    firsts = torch.tensor([lengths[batch].max() for batch in grouped]).double()
    assert (
        torch.corrcoef(torch.stack([firsts[1:], firsts[:-1]]))[0, 1].abs() < 0.3
    )  # no trend in the order
    assert [b.tolist() for b in grouped] == [
        b.tolist() for b in epoch_order(rows, size, 1, 0, lengths)
    ]
    assert grouped[0].tolist() != epoch_order(rows, size, 1, 1, lengths)[0].tolist()
    assert (
        SORTED * size < rows
    )  # not the whole epoch is sorted: its mini-batches differ from one to the next


def test_a_later_start_continues_the_same_order():
    lengths = torch.randint(5, 100, (50,))
    whole = list(windows(50, 8, 2, 3, 0, 9, lengths))
    for one, two in zip(whole[5:], windows(50, 8, 2, 3, 5, 9, lengths), strict=True):
        assert one[:2] == two[:2] and all(
            torch.equal(a, b) for a, b in zip(one[2], two[2], strict=True)
        )


@pytest.mark.slow
def test_workers_change_nothing(tiny, tmp_path):
    for name, more in (("none", []), ("two", ["--dataloader_num_workers", 2])):
        glue_with_cka_i.main(
            flags(
                tiny, tmp_path / name, "--mask_padding", "--teacher_cache", tmp_path / name, *more
            )
        )
    assert same_weights(tmp_path / "none", tmp_path / "two")


def test_masked_losses_are_those_of_unpadded_samples(tiny_without_dropout, tmp_path):
    """I and L of the first mini-batch, from each sample alone without padding, by transformers and
    the equations.
    """
    for name, more in (("i", ["--internal"]), ("l", [])):
        glue_with_cka_i.main(
            flags(
                tiny_without_dropout,
                tmp_path / name,
                "--mask_padding",
                "--learning_rate",
                0,
                "--max_steps",
                1,
                *more,
            )
        )
    teacher, student = (
        transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        for folder in (tiny_without_dropout / "teacher", tmp_path / "i")
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher")
    rows = training_rows(tiny_without_dropout, tokenizer)
    lengths = rows["attention_mask"].sum(1)
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    intra, flat = 0.0, [torch.zeros(8, 24, 16, dtype=torch.float64) for _ in range(2)]
    for place, i in enumerate(indices):
        sample = {
            key: rows[key][i : i + 1, : lengths[i]].long()
            for key in ("input_ids", "token_type_ids")
        }
        with torch.no_grad():
            h_s = (
                student(**sample, output_hidden_states=True).hidden_states[1][0].double()
            )  # (length, D)
            h_t = teacher(**sample, output_hidden_states=True).hidden_states[3][0].double()
        intra -= log_cka(h_s, h_t) / 8
        for all_rows, h in zip(flat, (h_s, h_t), strict=True):
            all_rows[place, : lengths[i]] = h
    assert read_log(tmp_path / "i")[0]["intra"] == pytest.approx(intra, rel=1e-4)
    local = -log_cka(*(all_rows.flatten(1) for all_rows in flat))
    assert read_log(tmp_path / "l")[0]["local"] == pytest.approx(local, rel=1e-3)


def training_rows(folder, tokenizer):
    return load_features(get_task("rte"), folder, "train", tokenizer, 24).tensors


def log_cka(x, y):
    """log CKA by explicit centring matrices (Eq. 4-5)."""
    c = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
    k, l_ = c @ x @ x.T @ c, c @ y @ y.T @ c
    return ((k * l_).sum() / (k.norm() * l_.norm())).log().item()
