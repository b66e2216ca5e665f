"""--warmup_ratio: a share of the steps in which the learning rate rises."""

import pytest
from conftest import flags, same_weights

import glue_with_cka_i
import train_teacher
from common import UserError, read_json


def test_a_share_of_the_steps_warms_up(tiny, tmp_path):
    """Rounded up; 0 is none; every script that trains has it."""
    for name, more in {
        "share": ["--warmup_ratio", 0.4],
        "steps": ["--warmup_steps", 3],
        "fewer": ["--warmup_steps", 2],
        "none": [],
        "zero": ["--warmup_ratio", 0],
    }.items():
        train_teacher.main(flags(tiny, tmp_path / name, "--max_steps", 7, *more, teacher=True))
    share, steps, fewer, none, zero = (
        tmp_path / name for name in ("share", "steps", "fewer", "none", "zero")
    )
    assert same_weights(share, steps)  # 2.8 of 7
    assert not same_weights(share, fewer)
    assert same_weights(none, zero) and not same_weights(none, share)
    assert read_json(share / "run.json")["arguments"]["warmup_ratio"] == 0.4


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
