"""--warmup_ratio, and L between first tokens (--sample_features first)."""

import types

import pytest
import torch
from conftest import flags
from safetensors.torch import load_file

import cka
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_teacher
from common import UserError, read_json
from terms import local_term
from training import checks
from training.batches import Outputs


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_share_of_the_steps_warms_up(tiny, tmp_path):
    """Rounded up; 0 is none; every script that trains has it."""
    found = {}
    for name, more in {
        "share": ["--warmup_ratio", 0.4],
        "steps": ["--warmup_steps", 3],
        "fewer": ["--warmup_steps", 2],
        "none": [],
        "zero": ["--warmup_ratio", 0],
    }.items():
        train_teacher.main(flags(tiny, tmp_path / name, "--max_steps", 7, *more, teacher=True))
        found[name] = weights(tmp_path / name)
    assert same(found["share"], found["steps"])  # 2.8 of 7
    assert not same(found["share"], found["fewer"])
    assert same(found["none"], found["zero"]) and not same(found["none"], found["share"])
    assert read_json(tmp_path / "share" / "run.json")["arguments"]["warmup_ratio"] == 0.4


@pytest.mark.parametrize(
    "more, said",
    [
        (["--warmup_ratio", 0.1, "--warmup_steps", 3], "pass one of them"),
        (["--warmup_ratio", 1.5], "between 0 and 1"),
        (["--warmup_ratio", -1], "at least 0"),
        (["--warmup_ratio", "nan"], "at least 0"),
    ],
)
def test_what_no_warm_up_can_be(more, said, tiny, tmp_path):
    with pytest.raises(UserError, match=said):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))


def test_l_between_first_tokens():
    """Rows padded on the left begin at their first token; other tokens do not matter."""
    torch.manual_seed(0)
    h_s, h_t = torch.randn(6, 5, 4, dtype=torch.float64), torch.randn(6, 5, 7, dtype=torch.float64)
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[1, :2] = False
    mask[2, 3:] = False
    first = torch.tensor([0, 2, 0, 0, 0, 0])
    wanted = [
        cka.local_inter_feature_loss(
            *(h[range(6), first].unsqueeze(1) for h in (h_s, h_t)), estimator=one
        )
        for one in ("biased", "debiased")
    ]
    for batch in ({"attention_mask": mask}, {"attention_mask": mask, "mask": mask}):
        for estimator, value in zip(("biased", "debiased"), wanted, strict=True):
            term = local_term(1.0, estimator, "first")
            found = term.loss(Outputs(features=(h_s,)), Outputs(features=(h_t,)), batch)
            assert torch.equal(found.value, value) and not term.padding


@pytest.mark.parametrize(
    "main, more, said",
    [
        (glue_with_cka_i.main, ["--internal"], "is of L"),
        (glue_with_cka_i.main, ["--beta", 0], "is of L"),
        (glue_with_cka_ilg.main, ["--gamma_l", 0, "--gamma_g", 0], "is of L"),
        (glue_with_cka_g.main, [], "unrecognized arguments"),
    ],
)
def test_where_there_is_no_l_its_form_is_refused(main, more, said, tiny, tmp_path, capsys):
    with pytest.raises((UserError, SystemExit), match=said if "is of" in said else None):
        main(flags(tiny, tmp_path / "s", "--sample_features", "first", *more))
    assert "is of" in said or said in capsys.readouterr().err


def test_xlnet_has_no_first_token(tmp_path):
    def model(family):
        return types.SimpleNamespace(config=types.SimpleNamespace(model_type=family))

    args = types.SimpleNamespace(sample_features="first")
    checks.check_first_tokens(args, model("bert"), model("bert"))
    with pytest.raises(UserError, match="no first token"):
        checks.check_first_tokens(args, model("xlnet"), model("xlnet"))
