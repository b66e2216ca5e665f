"""--run_file: several runs with one of them have a folder each for their curves."""

import multiprocessing
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from conftest import flags

import glue_with_cka_i
from training import logs


def curves(folder):
    """The folders below with curves in them."""
    return sorted(
        {str(path.parent.relative_to(folder)) for path in folder.rglob("events.out.tfevents.*")}
    )


def test_runs_with_one_run_file_have_a_folder_each(tmp_path, capsys):
    board, opened = tmp_path / "tb", []
    for output in ("a/s", "b/s", "c/s"):
        opened.append(logs.Log(tmp_path / output, str(board), 0))
    assert [Path(log.folder).relative_to(board).as_posix() for log in opened] == [".", "s", "s-2"]
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 2 and str(tmp_path / "a/s") in said[0] and said[0].endswith(str(board / "s"))
    )
    for output, log in zip(("a/s", "b/s", "c/s"), opened, strict=True):
        for step in (0, 5):  # overwritten, resumed
            assert logs.curves_folder(tmp_path / output, str(board), step) == log.folder


@pytest.mark.slow
def test_a_single_run_writes_into_its_very_run_file(tiny, tmp_path):
    for _ in range(2):
        AcceleratorState._reset_state(reset_partial_state=True)
        glue_with_cka_i.main(
            flags(
                tiny,
                tmp_path / "s",
                "--run_file",
                tmp_path / "tb",
                "--max_steps",
                1,
                "--overwrite_output_dir",
            )
        )
    assert curves(tmp_path / "tb") == ["."]
    glue_with_cka_i.main(
        flags(tiny, tmp_path / "t", "--run_file", tmp_path / "t", "--max_steps", 1)
    )
    assert curves(tmp_path / "t") == ["."]  # the output folder itself


def test_curves_of_an_earlier_version_are_of_the_run_that_is_resumed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.out.tfevents.1").touch()
    assert logs.curves_folder(tmp_path / "s", str(tmp_path / "one"), 4) == str(tmp_path / "one")
    assert logs.curves_folder(tmp_path / "s", str(tmp_path / "two"), 0) == str(tmp_path / "two/s")


def claim(output, board, start, found):
    start.wait()
    found.put(logs.curves_folder(output, board, 0))


def test_runs_that_start_at_once_do_not_share_a_folder(tmp_path):
    fork = multiprocessing.get_context("fork")
    start, found = fork.Event(), fork.Queue()
    processes = [
        fork.Process(
            target=claim, args=(tmp_path / str(k) / "s", str(tmp_path / "tb"), start, found)
        )
        for k in range(6)
    ]
    for process in processes:
        process.start()
    start.set()
    assert len({found.get(timeout=60) for _ in processes}) == 6
    for process in processes:
        process.join()
