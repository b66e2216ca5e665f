"""What is there already in --output_dir, who else uses it, and a disk without room for it."""

import json

import pytest
from conftest import flags

import common
import glue_with_cka_i
from common import UserError


@pytest.mark.slow
def test_an_overwritten_run_leaves_no_old_files(tiny, tmp_path):
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--do_predict", "--save_steps", 2))
    arguments = [
        flag
        for flag in flags(tiny, tmp_path / "s", "--overwrite_output_dir")
        if flag != "--do_eval"
    ]
    glue_with_cka_i.main(arguments)
    assert not {"submission", "checkpoint-4", "dev_predictions.tsv"} & {
        p.name for p in (tmp_path / "s").iterdir()
    }


@pytest.mark.slow
def test_a_finished_run_is_not_overwritten_unasked(tiny, tmp_path):
    glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    with pytest.raises(UserError, match="finished run"):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))
    only_eval = [flag for flag in flags(tiny, tmp_path / "s") if flag != "--do_train"]
    assert glue_with_cka_i.main(only_eval) == 0
    assert json.loads((tmp_path / "s/run.json").read_text())["finished"]
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--overwrite_output_dir"))


def test_an_output_folder_in_use_is_refused(tiny, tmp_path):
    with (
        common.lock_output_dir(tmp_path / "s"),
        pytest.raises(UserError, match="in use by another run"),
    ):
        glue_with_cka_i.main(flags(tiny, tmp_path / "s"))


def test_a_full_disk_leaves_nothing_half_written(tiny, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoints.save_file", full)
    assert common.cli(glue_with_cka_i.main, flags(tiny, tmp_path / "s", "--save_steps", 2)) == 1
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("*checkpoint*")) and not list(
        (tmp_path / "s").glob(".checkpoint*")
    )
