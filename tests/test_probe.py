"""analysis/probe.py: it leaves a training as it is, and what it measures is so."""

import json

import pandas as pd
import pytest
import torch
from conftest import ROOT, flags, read_log, save_models, shell, write_task
from safetensors.torch import load_file
from test_models import FAMILIES

import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import kd
from analysis import probe, probing
from baselines import glue_with_baseline
from common import UserError
from memory import Memories
from tasks.glue import get_task
from training.batches import windows

SCRIPTS = {
    "glue_with_cka_ilg.py": glue_with_cka_ilg,
    "glue_with_cka_i.py": glue_with_cka_i,
    "glue_with_cka_g.py": glue_with_cka_g,
    "baselines/glue_with_baseline.py": glue_with_baseline,
}
ALL = ("--beta", 2, "--gamma_i", 3, "--gamma_g", 0.5, "--gamma_m", 0.01)


def probed(script, words, *more, probes=3):
    return probe.main(["--probes", str(probes), *map(str, more), "--", script, *words])


def numbers(path):
    """{(step, quantity, term, other): value}."""
    table = pd.read_csv(path, keep_default_na=False)
    return table.set_index(["step", "quantity", "term", "other"]).value.to_dict()


def of(found, quantity, step):
    return {key[2:]: value for key, value in found.items() if key[:2] == (step, quantity)}


# ---- the training is the same --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, more",
    [
        ("glue_with_cka_ilg.py", [*ALL, "memory"]),
        (
            "glue_with_cka_ilg.py",
            [*ALL, "memory", "--bf16", "--teacher_cache", "cache"],
        ),  # features, relations
        (
            "glue_with_cka_ilg.py",
            ["--gamma_l", 0, "--mask_padding", "--group_by_length", "--gamma_g", 0],
        ),
        ("glue_with_cka_i.py", ["--internal", "--teacher_cache", "cache"]),  # tokens alone
        (
            "glue_with_cka_i.py",
            ["--beta", 0, "--bf16"],
        ),  # mini-batches are cut, the encoder computes no padding
        ("glue_with_cka_i.py", ["--sample_features", "first", "--cka_estimator", "debiased"]),
        ("glue_with_cka_i.py", ["--do_layerwise", "--student_num_hidden_layers", 4]),
        ("glue_with_cka_g.py", ["memory", "--gamma_m", 0]),
        ("baselines/glue_with_baseline.py", ["--method", "rkd"]),
        ("baselines/glue_with_baseline.py", ["--method", "minilm"]),
        ("baselines/glue_with_baseline.py", ["--method", "none"]),
    ],
    ids=str,
)
def test_not_a_bit_of_the_training_is_another(script, more, tiny, trained_with_dropout, tmp_path):
    places = {"memory": ["--teacher_memory_path", trained_with_dropout], "cache": [tmp_path / "tc"]}
    more = [word for key in more for word in places.get(key, [key])]
    assert SCRIPTS[script].main(flags(tiny, tmp_path / "plain", *more)) == 0
    assert not probed(
        script,
        flags(tiny, tmp_path / "s", *more),
        "--csv",
        tmp_path / "p.csv",
        "--figure",
        tmp_path / "p.svg",
    )
    files = ["model.safetensors", "dev_predictions.tsv"] + (
        ["student_memory.safetensors"] if "--teacher_memory_path" in more else []
    )
    for name in files:
        plain, own = (tmp_path / folder / name for folder in ("plain", "s"))
        if name.startswith("student"):
            plain, own = load_file(plain)["centroids"], load_file(own)["centroids"]
            assert torch.equal(plain, own)
        else:
            assert plain.read_bytes() == own.read_bytes()
    logs = [
        [
            {k: v for k, v in entry.items() if k != "examples_per_second"}
            for entry in read_log(tmp_path / folder)
        ]
        for folder in ("plain", "s")
    ]
    assert logs[0] == logs[1]

    found = numbers(tmp_path / "p.csv")
    assert {key[0] for key in found} == {1, 3, 6}
    terms = set(logs[0][0]) & {
        "ce",
        "kd",
        "intra",
        "local",
        "F_MM",
        "F_E",
        "F_C",
        "distance",
        "angle",
        "attention",
    }
    for step in (1, 3, 6):
        log = logs[0][step - 1]
        assert {term for term, _ in of(found, "weight", step)} == terms
        for term in terms | {"total"}:
            assert found[step, "value", term, ""] == pytest.approx(log[term], rel=1e-5)
        # the trainer's own clipping computes the norm of what .backward() left in the parameters
        assert found[step, "weighted_norm", "total", "parameters"] == pytest.approx(
            log["grad_norm"], rel=2e-2 if "--bf16" in more else 1e-4
        )
        assert found[step, "sum_apart", "total", ""] < (2e-2 if "--bf16" in more else 1e-5)
        assert all(-1 <= value <= 1 for value in of(found, "cosine", step).values())
        assert found[step, "weighted_norm", "ce", "features"] > 0
        agreement = of(found, "agreement", step)
        assert {term for term, _ in agreement} >= (terms | {"total"}) - {"F_MM"}
        assert all(-1 <= value <= 1 for value in agreement.values())
        if "F_MM" in terms:  # it depends on the two memories alone
            assert found[step, "weighted_norm", "F_MM", "parameters"] == 0
            assert found[step, "weighted_norm", "F_MM", "features"] == 0
            assert found[step, "weighted_norm", "F_MM", "memory"] > 0
            assert found[step, "weighted_norm", "ce", "memory"] == 0
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["distilbert", "xlnet"])
def test_features_of_other_families(family, tmp_path):
    """XLNet's hidden states are copies, of which no gradient is told; DistilBERT has no pooler."""
    make_tokenizer, shape = FAMILIES[family]
    write_task(save_models(tmp_path, family, make_tokenizer(tmp_path), **shape))
    glue_with_cka_i.main(flags(tmp_path, tmp_path / "plain", "--beta", 2))
    probed(
        "glue_with_cka_i.py",
        flags(tmp_path, tmp_path / "s", "--beta", 2),
        "--csv",
        tmp_path / "p.csv",
        "--figure",
        tmp_path / "p.svg",
    )
    plain, own = (tmp_path / name / "model.safetensors" for name in ("plain", "s"))
    assert plain.read_bytes() == own.read_bytes()
    found = of(numbers(tmp_path / "p.csv"), "weighted_norm", 1)
    told = {term for term, other in found if other == "features"}
    assert told == (set() if family == "xlnet" else {"ce", "kd", "local", "total"})
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
def test_a_resumed_run_has_all_its_probes(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--beta", 2, "--internal", "--save_steps", 2]
    probed(
        "glue_with_cka_i.py",
        flags(tiny, tmp_path / "straight", *words),
        "--csv",
        tmp_path / "a.csv",
        probes=6,
    )
    real = distill.save_checkpoint

    def save_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill, "save_checkpoint", save_and_stop)
        probed("glue_with_cka_i.py", flags(tiny, tmp_path / "s", *words), probes=6)
    assert len((tmp_path / "s/probe.jsonl").read_text().splitlines()) == 2
    probed(
        "glue_with_cka_i.py",
        flags(tiny, tmp_path / "s", *words),
        "--csv",
        tmp_path / "b.csv",
        probes=6,
    )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


# ---- what is measured ----------------------------------------------------------------------------


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
    products = probing.inner_products(gradients)
    assert probing.sums_apart(products) < 1e-6
    rows = {row[:3]: row[3] for row in probing.directions(products, names)}
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
    products = probing.inner_products([[side[name]] for side in (one, two) for name in names])
    found = {name: value for _, name, _, value in probing.agreements(products, names)}
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
    whole = probing.inner_products(gradients)
    monkeypatch.setattr(probing, "PART", 4)
    torch.testing.assert_close(probing.inner_products(gradients), whole)


@pytest.mark.parametrize("width", [64, 2048])
def test_noise_of_unrelated_features_has_its_known_value(width):
    """Of Gaussian n x p and n x q: 1 / √((1 + n/p)(1 + n/q)), by Wishart; debiased, 0."""
    generator = torch.Generator().manual_seed(0)
    n = 32
    pairs = [[torch.randn(n, width, generator=generator) for _ in range(2)] for _ in range(6)]
    known = 1 / (1 + n / width)
    for estimator, wanted in (("biased", known), ("debiased", 0)):
        for values, count in zip(probing.between_samples(pairs, estimator), (6, 30), strict=True):
            assert len(values) == count and values.mean().item() == pytest.approx(wanted, abs=0.03)
    triples = [
        (
            torch.randn(8, n, width, generator=generator),
            torch.randn(8, n, width, generator=generator),
            None,
        )
    ] * 2
    for estimator, wanted in (("biased", known), ("debiased", 0)):
        for values in probing.between_tokens(triples, estimator):
            assert len(values) == 16 and values.mean().item() == pytest.approx(wanted, abs=0.03)


def test_the_signal_of_a_model_with_itself_is_1():
    h = torch.randn(3, 8, 10, 6)
    mask = torch.arange(10) < torch.tensor([10, 9, 8, 7, 6, 5, 4, 2]).unsqueeze(1)
    signal, noise = probing.between_tokens([(x, 2 * x, mask) for x in h], "debiased")
    torch.testing.assert_close(
        signal, torch.ones(3 * 7)
    )  # a sample of 2 tokens has no debiased CKA
    assert len(noise) == 3 * 6 and noise.abs().max() < 0.99  # nor have its two neighbours with it
    other = h.clone()
    other[~mask.expand(3, -1, -1)] = 7.0  # what padded positions hold does not matter
    again = probing.between_tokens(
        [(x, y, mask) for x, y in zip(h, other, strict=True)], "debiased"
    )
    torch.testing.assert_close(
        again[1], probing.between_tokens([(x, x, mask) for x in h], "debiased")[1]
    )
    signal, noise = probing.between_samples([(x.flatten(1), -x.flatten(1)) for x in h], "biased")
    torch.testing.assert_close(signal, torch.ones(3))
    assert len(noise) == 6


def test_a_memory_that_is_the_teachers():
    m_t, h = torch.randn(5, 12), torch.randn(9, 12)
    memories = Memories(m_t, 4, 3, seed=0)
    start = memories.student.detach().clone()
    rows = {row[:3]: row[3] for row in probing.memory_rows(memories, start, [(h, h)])}
    assert rows["memory_moved", "M_s", ""] == 0
    assert abs(rows["memory_correlation", "M_s", "cosine"]) < 0.9
    with torch.no_grad():
        memories.student.copy_(m_t)
    rows = {
        row[:3]: row[3]
        for row in probing.memory_rows(memories, start, [(h[:4], h[:4]), (h[4:], h[4:])])
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


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_tables_of_several_runs(tiny, trained_with_dropout, tmp_path, capsys):
    """The CSVs of two seeds are drawn and put into a page; means are over both."""
    page = tmp_path / "why.md"
    page.write_text("Why?\n<!-- table joined -->\nold\n<!-- end joined -->\n")
    for seed in (1, 2):
        probed(
            "glue_with_cka_ilg.py",
            flags(
                tiny,
                tmp_path / f"s{seed}",
                *ALL,
                "--seed",
                seed,
                "--teacher_memory_path",
                trained_with_dropout,
            ),
            "--csv",
            tmp_path / f"p{seed}.csv",
            probes=2,
        )
    capsys.readouterr()
    paths = [str(tmp_path / f"p{seed}.csv") for seed in (1, 2)]
    assert not probe.main(
        [
            "--probed",
            *paths,
            "--csv",
            str(tmp_path / "joined.csv"),
            "--figure",
            str(tmp_path / "f.svg"),
            "--insert",
            str(page),
        ]
    )
    text = capsys.readouterr().out
    assert text.strip() in page.read_text() and "old" not in page.read_text()
    assert "seed 1, 2; means over 2 steps from 1 to 6" in text
    joined = pd.read_csv(tmp_path / "joined.csv")
    pulls = joined[
        (joined.quantity == "weighted_norm")
        & (joined.term == "intra")
        & (joined.other == "parameters")
    ]
    assert len(pulls) == 4 and f"| {pulls.value.mean():.3g} |" in text
    for said in (
        "| F_MM | 1 |",
        "| samples, L | debiased | 8 | 384, 384 |",
        "CKA(M_t, M_s), biased",
    ):
        assert said in text
    probe.main(["--probed", str(tmp_path / "joined.csv"), "--figure", str(tmp_path / "g.svg")])
    assert (tmp_path / "f.svg").read_bytes() == (tmp_path / "g.svg").read_bytes()


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "found neither"),
        (["--probed", "x.csv", "--", "glue_with_cka_i.py"], "found both"),
        (["--probes", "1", "--", "glue_with_cka_i.py"], "--probes must be at least 2"),
        (["--figure", "x.jpg", "--", "glue_with_cka_i.py"], "must end in .png, .svg or .pdf"),
        (["--insert", "x.md", "--", "glue_with_cka_i.py"], "pass one with --csv"),
        (["--", "train_teacher.py"], "expected one of glue_with_cka_i.py"),
    ],
)
def test_refused_commands(words, said):
    with pytest.raises(UserError, match=said):
        probe.main(words)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--gradient_accumulation_steps", 2], "of one mini-batch"),
        (["--results_csv", "r.csv"], "longer than others"),
        (["--per_gpu_train_batch_size", 16], "are not two of 16"),
    ],
)
def test_refused_trainings(more, said, tiny, tmp_path):
    with pytest.raises(UserError, match=said):
        probed("glue_with_cka_i.py", flags(tiny, tmp_path / "s", *more))
    assert not (tmp_path / "s/model.safetensors").exists()


def test_no_training_and_several_processes_are_refused(tiny, tmp_path, monkeypatch):
    words = [word for word in flags(tiny, tmp_path / "s") if word != "--do_train"]
    with pytest.raises(UserError, match="pass --do_train"):
        probed("glue_with_cka_i.py", words)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="of one process"):
        probed("glue_with_cka_i.py", flags(tiny, tmp_path / "s"))


def test_a_training_without_a_probe_and_foreign_tables_are_refused(tiny, tmp_path, monkeypatch):
    """A plain training removes the numbers of the one whose folder it overwrites."""
    words = flags(tiny, tmp_path / "s", "--internal")
    probed("glue_with_cka_i.py", words, "--csv", tmp_path / "p.csv")
    glue_with_cka_i.main([*words, "--overwrite_output_dir"])
    assert not (tmp_path / "s/probe.jsonl").exists()
    record = json.loads((tmp_path / "s/run.json").read_text())
    (tmp_path / "s/run.json").write_text(
        json.dumps(record | {"finished": False})
    )  # cut off in its evaluation
    with pytest.raises(UserError, match=r"has no probe\.jsonl"):
        probed("glue_with_cka_i.py", words)
    other = pd.read_csv(tmp_path / "p.csv").assign(method="FSD_L")
    other.to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(UserError, match="FSD_I on RTE, FSD_L on RTE"):
        probe.main(["--probed", str(tmp_path / "p.csv"), str(tmp_path / "q.csv")])
    (tmp_path / "q.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no table of analysis/probe\.py"):
        probe.main(["--probed", str(tmp_path / "q.csv")])


@pytest.mark.slow
def test_as_a_user_starts_it(tiny, tmp_path):
    done = shell(
        "analysis/probe.py",
        "--probes",
        2,
        "--csv",
        tmp_path / "p.csv",
        "--",
        "glue_with_cka_i.py",
        *flags(tiny, tmp_path / "s", "--internal"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| term | weight | value |") and (tmp_path / "p.csv").is_file()
    refused = shell("analysis/probe.py", "--", "python", "glue_with_cka_i.py", cwd=ROOT)
    assert refused.returncode == 1 and "without python before it" in refused.stderr
