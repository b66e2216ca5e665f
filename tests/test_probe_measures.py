"""What analysis/probe.py measures is so: by second implementations and theorems."""

import pytest
import torch
from conftest import flags, memory_flags
from families import permute_vocabulary
from probes import numbers, of, probed

import kd
import train_memory
from analysis import probe_measures, probing
from memory import Memories
from tasks.glue import get_task
from training.batches import windows

OF_CKA = {"rows", "width"} | {
    f"cka_{what}{number}" for what in ("signal", "noise") for number in ("", "_spread", "_number")
}


def test_gradients_are_those_of_each_term_alone(tiny_without_dropout, tmp_path, monkeypatch):
    """Of the first step: .backward() of one term of a student that is loaded afresh."""
    import transformers

    import cka
    from tasks.features import load_features

    words = flags(
        tiny_without_dropout,
        tmp_path / "s",
        "--beta",
        2,
        "--gamma_g",
        0,
        "--max_steps",
        1,
        "--learning_rate",
        0,
    )
    probed("glue_with_cka_ilg.py", words, "--csv", tmp_path / "p.csv")
    found = numbers(tmp_path / "p.csv")
    _, _, (indices,) = next(windows(21, 8, 1, 42, 0, 1))
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    student, teacher = (
        load(tmp_path / "s").double(),
        load(tiny_without_dropout / "teacher").double().eval(),
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_without_dropout / "teacher")
    rows = load_features(get_task("rte"), tiny_without_dropout, "train", tokenizer, 24).tensors
    rows = {key: value[indices].long() for key, value in rows.items()}
    with torch.no_grad():
        t = teacher(**rows, output_hidden_states=True)

    def gradients(loss_of):
        student.zero_grad()
        s = student(**rows, output_hidden_states=True)
        h = s.hidden_states[1]
        h.retain_grad()
        loss_of(s, h).backward()
        return torch.cat(
            [
                p.grad.flatten() if p.grad is not None else torch.zeros(p.numel())
                for p in student.parameters()
            ]
        ), h.grad

    h_t = t.hidden_states[3]
    losses = {
        "ce": lambda s, h: 0.5 * s.loss,
        "kd": lambda s, h: 0.5 * kd.kd_loss(s.logits, t.logits, 5.0),
        "intra": lambda s, h: (
            -2
            * torch.stack([cka.linear_cka(*pair).log() for pair in zip(h, h_t, strict=True)]).mean()
        ),
        "local": lambda s, h: -2 * cka.linear_cka(h.flatten(1), h_t.flatten(1)).log(),
    }
    alone = {name: gradients(loss) for name, loss in losses.items()}
    alone["total"] = [sum(pair) for pair in zip(*alone.values(), strict=True)]
    alone["ce+kd"] = [sum(pair) for pair in zip(alone["ce"], alone["kd"], strict=True)]
    for name, (of_parameters, of_features) in alone.items():
        assert found[1, "weighted_norm", name, "parameters"] == pytest.approx(
            of_parameters.norm().item(), rel=1e-4
        )
        if name != "ce+kd":
            assert found[1, "weighted_norm", name, "features"] == pytest.approx(
                of_features.norm().item(), rel=1e-4
            )
    cosines = of(found, "cosine", 1)
    assert (
        len(cosines) == 6 + 4 + 3
    )  # pairs of terms; with the total; of ce+kd with intra, local and the total
    for (a, b), value in cosines.items():
        wanted = torch.nn.functional.cosine_similarity(alone[a][0], alone[b][0], dim=0).item()
        assert value == pytest.approx(wanted, abs=1e-4)


def test_products_and_directions_of_groups():
    """Groups are sums of their members; a gradient of 0, be it None, has a norm and no cosine."""
    generator = torch.Generator().manual_seed(0)
    names = ["ce", "kd", "F_MM", "F_E", "total"]
    ce, kd, f_e = ([torch.randn(n, 3, generator=generator) for n in (2, 5)] for _ in range(3))
    gradients = [
        ce,
        kd,
        [None, torch.zeros(5, 3)],
        f_e,
        [sum(three) for three in zip(ce, kd, f_e, strict=True)],
    ]
    products = probe_measures.inner_products(gradients)
    assert probe_measures.sums_apart(products) < 1e-6
    rows = {row[:3]: row[3] for row in probe_measures.directions(products, names)}
    whole = {
        name: torch.cat([x.flatten() for x in x])
        for name, x in zip(("ce", "kd", "F_E", "total"), (ce, kd, f_e, gradients[-1]), strict=True)
    }
    assert rows["weighted_norm", "ce+kd", "parameters"] == pytest.approx(
        (whole["ce"] + whole["kd"]).norm().item()
    )
    assert rows["weighted_norm", "F_MM", "parameters"] == 0
    assert not any("F_MM" in key[1:] for key in rows if key[0] == "cosine")
    wanted = torch.cosine_similarity(whole["ce"] + whole["kd"], whole["F_E"], dim=0).item()
    assert rows["cosine", "ce+kd", "G"] == pytest.approx(wanted, abs=1e-6)
    assert ("cosine", "F_E", "G") not in rows and ("cosine", "ce", "ce+kd") not in rows


def test_agreement_is_the_cosine_between_two_mini_batches():
    generator = torch.Generator().manual_seed(0)
    names = ["ce", "kd", "F_MM", "total"]
    one, two = ({name: torch.randn(20, generator=generator) for name in names} for _ in range(2))
    one["F_MM"] = torch.zeros(20)
    products = probe_measures.inner_products(
        [[side[name]] for side in (one, two) for name in names]
    )
    found = {name: value for _, name, _, value in probe_measures.agreements(products, names)}
    assert set(found) == {"ce", "kd", "total", "ce+kd"}
    for side in (one, two):
        side["ce+kd"] = side["ce"] + side["kd"]
    for name, value in found.items():
        assert value == pytest.approx(
            torch.cosine_similarity(one[name], two[name], dim=0).item(), abs=1e-6
        )


def test_a_term_agrees_with_itself_on_the_same_mini_batch(
    tiny_without_dropout, tmp_path, monkeypatch
):
    """Were the two mini-batches one, their gradients would be, whatever the terms."""
    real = probing.ProbedLoop.draw_batches
    monkeypatch.setattr(
        probing.ProbedLoop, "draw_batches", lambda self, step: [real(self, step)[0]] * 2
    )
    probed(
        "glue_with_cka_ilg.py",
        flags(tiny_without_dropout, tmp_path / "s", "--gamma_g", 0),
        "--csv",
        tmp_path / "p.csv",
        probes=2,
    )
    found = of(numbers(tmp_path / "p.csv"), "agreement", 6)
    assert {term for term, _ in found} == {"ce", "kd", "intra", "local", "total", "ce+kd"}
    assert min(found.values()) > 1 - 1e-6


def test_long_parameters_are_multiplied_in_parts(monkeypatch):
    gradients = [[torch.randn(7, 5)] for _ in range(3)]
    whole = probe_measures.inner_products(gradients)
    monkeypatch.setattr(probe_measures, "PART", 4)
    torch.testing.assert_close(probe_measures.inner_products(gradients), whole)


@pytest.mark.parametrize("width", [64, 2048])
def test_noise_of_unrelated_features_has_its_known_value(width):
    """Of Gaussian n x p and n x q: 1 / √((1 + n/p)(1 + n/q)), by Wishart; debiased, 0."""
    generator = torch.Generator().manual_seed(0)
    n = 32
    pairs = [[torch.randn(n, width, generator=generator) for _ in range(2)] for _ in range(6)]
    known = 1 / (1 + n / width)
    for estimator, wanted in (("biased", known), ("debiased", 0)):
        for values, count in zip(
            probe_measures.between_samples(pairs, estimator), (6, 30), strict=True
        ):
            assert len(values) == count and values.mean().item() == pytest.approx(wanted, abs=0.03)
    triples = [
        (
            torch.randn(8, n, width, generator=generator),
            torch.randn(8, n, width, generator=generator),
            None,
        )
    ] * 2
    for estimator, wanted in (("biased", known), ("debiased", 0)):
        for values in probe_measures.between_tokens(triples, estimator):
            assert len(values) == 16 and values.mean().item() == pytest.approx(wanted, abs=0.03)


def test_the_signal_of_a_model_with_itself_is_1():
    h = torch.randn(3, 8, 10, 6)
    mask = torch.arange(10) < torch.tensor([10, 9, 8, 7, 6, 5, 4, 2]).unsqueeze(1)
    signal, noise = probe_measures.between_tokens([(x, 2 * x, mask) for x in h], "debiased")
    torch.testing.assert_close(
        signal, torch.ones(3 * 7)
    )  # a sample of 2 tokens has no debiased CKA
    assert len(noise) == 3 * 6 and noise.abs().max() < 0.99  # nor have its two neighbours with it
    other = h.clone()
    other[~mask.expand(3, -1, -1)] = 7.0  # what padded positions hold does not matter
    again = probe_measures.between_tokens(
        [(x, y, mask) for x, y in zip(h, other, strict=True)], "debiased"
    )
    torch.testing.assert_close(
        again[1], probe_measures.between_tokens([(x, x, mask) for x in h], "debiased")[1]
    )
    signal, noise = probe_measures.between_samples(
        [(x.flatten(1), -x.flatten(1)) for x in h], "biased"
    )
    torch.testing.assert_close(signal, torch.ones(3))
    assert len(noise) == 6


def test_a_memory_that_is_the_teachers():
    m_t, h = torch.randn(5, 12), torch.randn(9, 12)
    memories = Memories(m_t, 4, 3, seed=0)
    start = memories.student.detach().clone()
    rows = {row[:3]: row[3] for row in probe_measures.memory_rows(memories, start, [(h, h)])}
    assert rows["memory_moved", "M_s", ""] == 0
    assert abs(rows["memory_correlation", "M_s", "cosine"]) < 0.9
    with torch.no_grad():
        memories.student.copy_(m_t)
    rows = {
        row[:3]: row[3]
        for row in probe_measures.memory_rows(memories, start, [(h[:4], h[:4]), (h[4:], h[4:])])
    }
    cosine = torch.cosine_similarity(h.unsqueeze(1), m_t, dim=2)
    assert rows["memory_moved", "M_s", ""] == pytest.approx(
        ((m_t - start).norm() / start.norm()).item(), rel=1e-5
    )
    for key in (
        ("memory_cka", "M_s", "biased"),
        ("memory_cka", "M_s", "debiased"),
        ("memory_correlation", "M_s", "euclidean"),
        ("memory_correlation", "M_s", "cosine"),
    ):
        assert rows[key] == pytest.approx(1, abs=1e-5)
    for side in ("student", "teacher"):
        assert rows["memory_cosine", side, "mean"] == pytest.approx(cosine.mean().item(), abs=1e-6)
        assert rows["memory_cosine", side, "spread"] == pytest.approx(
            cosine.std(1).mean().item(), abs=1e-6
        )


@pytest.mark.parametrize(
    "total, number, steps", [(10, 2, {1, 10}), (6, 3, {1, 3, 6}), (3, 20, {1, 2, 3}), (1, 5, {1})]
)
def test_steps_are_even(total, number, steps):
    assert probing.steps_to_measure(total, number) == steps


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--mask_padding"]])
def test_a_teacher_with_its_words_in_another_order_is_probed_alike(more, tiny, tmp_path):
    """Between samples, and of the memory; between tokens nothing is measured."""
    found = []
    others = permute_vocabulary(tiny / "teacher", tmp_path / "teacher")
    for name, teacher in (("one", tiny / "teacher"), ("other", others)):
        own = [*more, "--model_name_or_path", teacher]
        train_memory.main(memory_flags(tiny, tmp_path / f"memory-{name}", *own))
        own += ["--gamma_i", 0, "--teacher_memory_path", tmp_path / f"memory-{name}"]
        places = ["--csv", tmp_path / f"{name}.csv", "--figure", tmp_path / f"{name}.svg"]
        words = flags(tiny, tmp_path / name, *own)
        assert not probed("glue_with_cka_ilg.py", words, *places, probes=2)
        found.append(numbers(tmp_path / f"{name}.csv"))
    one, other = found
    of_tokens = {key for key in one if key[1] in OF_CKA and key[2] == "I"}
    assert of_tokens and other.keys() == one.keys() - of_tokens
    for (
        key,
        value,
    ) in other.items():  # on some CPUs a product's bits depend on where its numbers lie
        assert value == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
    assert len({key[1] for key in other if key[1].startswith("memory_")}) == 4


def test_a_student_of_another_length_is_probed(tiny, tmp_path):
    own = ["--student_max_seq_length", 14, "--sample_features", "first"]
    words = flags(tiny, tmp_path / "s", *own)
    assert not probed("glue_with_cka_i.py", words, "--csv", tmp_path / "p.csv", probes=2)
    found = numbers(tmp_path / "p.csv")
    assert found[1, "width", "L", "student"] == 16 and 0 < found[1, "cka_signal", "L", "biased"] < 1
    assert not any(key[2] == "I" for key in found)
