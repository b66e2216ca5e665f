"""analysis/probe.py: it leaves a training as it is, and its command."""

import json

import pytest
import torch
from conftest import ROOT, flags, read_log, save_models, shell, write_task
from families import FAMILIES
from probes import numbers, of, probed
from safetensors.torch import load_file

import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
from analysis import probe
from baselines import glue_with_baseline
from common import UserError

SCRIPTS = {
    "glue_with_cka_ilg.py": glue_with_cka_ilg,
    "glue_with_cka_i.py": glue_with_cka_i,
    "glue_with_cka_g.py": glue_with_cka_g,
    "baselines/glue_with_baseline.py": glue_with_baseline,
}
ALL = ("--beta", 2, "--gamma_i", 3, "--gamma_g", 0.5, "--gamma_m", 0.01)


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
@pytest.mark.parametrize("start", [None, "matched", "averaged"])
def test_a_resumed_run_has_all_its_probes(tiny, trained_with_dropout, tmp_path, monkeypatch, start):
    """M_s, too, has moved from where it started, and not from where it was resumed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--beta", 2, "--save_steps", 2]
    script = "glue_with_cka_g.py" if start else "glue_with_cka_i.py"
    if start:
        words += ["--student_memory_init", start, "--teacher_memory_path", trained_with_dropout]
    probed(
        script,
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
        probed(script, flags(tiny, tmp_path / "s", *words), probes=6)
    assert len((tmp_path / "s/probe.jsonl").read_text().splitlines()) == 2
    with pytest.raises(UserError, match=r"probe.jsonl was begun with --probes 6, and this is 5"):
        probed(script, flags(tiny, tmp_path / "s", *words), probes=5)
    probed(
        script,
        flags(tiny, tmp_path / "s", *words),
        "--csv",
        tmp_path / "b.csv",
        probes=6,
    )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    if start:
        moved = [
            value
            for (_, what, *_), value in numbers(tmp_path / "b.csv").items()
            if what == "memory_moved"
        ]
        assert len(moved) == 6 and moved[0] == 0 < moved[1] < moved[-1] < 1


# ---- the command ---------------------------------------------------------------------------------


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


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"has no measurements in probe\.jsonl"):
        probed("glue_with_cka_i.py", words)
    (tmp_path / "q.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no table of today's analysis/probe\.py"):
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
