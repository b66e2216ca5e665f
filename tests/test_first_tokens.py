"""--sample_features first: L between the features of first tokens."""

import pytest
import torch
from conftest import draw, flags, refusal, save_models, write_task
from families import shape_of

import cka
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
from common import UserError
from terms import local_term
from training.batches import Outputs


def test_l_between_first_tokens():
    """Rows padded on the left begin at their first token; other tokens do not matter."""
    h_s, h_t = draw(0, 6, 5, 4), draw(1, 6, 5, 7)
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
        (glue_with_cka_i.main, ["--internal"], "is for the structure L"),
        (glue_with_cka_i.main, ["--beta", 0], "is for the structure L"),
        (glue_with_cka_ilg.main, ["--gamma_l", 0, "--gamma_g", 0], "is for the structure L"),
        (glue_with_cka_g.main, [], "unrecognized arguments"),
    ],
)
def test_where_there_is_no_l_its_form_is_refused(main, more, said, tiny, tmp_path, capsys):
    with pytest.raises((UserError, SystemExit), match=said if "is for" in said else None):
        main(flags(tiny, tmp_path / "s", "--sample_features", "first", *more))
    assert "is for" in said or said in capsys.readouterr().err


@pytest.mark.parametrize(
    "main, more",
    [
        (glue_with_cka_i.main, []),
        (glue_with_cka_i.main, ["--internal", "--beta", 0]),
        (glue_with_cka_ilg.main, ["--gamma_i", 0, "--gamma_g", 0]),
    ],
)
def test_where_there_is_no_i_its_form_is_refused(main, more, tiny, tmp_path):
    with pytest.raises(UserError, match="log_mean is for the structure I, which this loss does"):
        main(flags(tiny, tmp_path / "s", "--intra_reduction", "log_mean", *more))


def test_xlnet_has_no_first_token(tiny, tmp_path, capsys):
    folder = save_models(tmp_path, "xlnet", **shape_of("xlnet"))
    write_task(folder)
    first = ["--sample_features", "first", "--max_steps", 1]
    assert "no first token" in refusal(capsys, flags(folder, tmp_path / "s", *first))
    glue_with_cka_i.main(flags(tiny, tmp_path / "t", *first))
