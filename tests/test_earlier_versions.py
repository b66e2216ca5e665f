"""Results and checkpoints of earlier versions, which lack flags of today, stay what they were."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, change_json, flags, memory_flags, read_log
from made_up_runs import of, runs_csv, write_run
from stopped_runs import Stop, stopped_at

import glue_with_cka_i
import train_memory
from analysis import best, report_cost, tables
from analysis.runs import name_variants, read_runs, with_names
from common import UserError
from loop import Loop
from training import memory_file, results_csv
from training.flags import as_of_today


def test_published_rows_without_padding_were_grouped_too():
    for name, others in (
        ("mrpc", {"FSD_G, memory_init normal", "FSD_L, debiased"}),
        ("stsb", set()),
    ):
        found, _ = tables.read_sources([str(ROOT / f"results/study_{name}.csv")], [], [])
        methods = set(with_names(found).method)
        assert {
            "FSD_I",
            "FSD_I, mask_padding, group_by_length",
            "FSD_G",
            "FSD_ILG",
        } | others <= methods
        assert "FSD_I, mask_padding" not in methods and not any(
            "matched" in method for method in methods
        )
        had = found["--gamma_m"].notna()
        assert (found["--student_memory_init"][had] == "matched").all()
        assert found["--student_memory_init"][~had].isna().all()


def test_flags_that_came_later_are_filled_in_once():
    fill = as_of_today
    assert fill({"mask_padding": True}) == {"mask_padding": True, "group_by_length": True}
    assert fill({"mask_padding": "True"})["group_by_length"] is True  # of a table read as text
    assert fill({"mask_padding": False}) == {"mask_padding": False, "group_by_length": False}
    assert fill({"gamma_m": 0.1}) == {
        "gamma_m": 0.1,
        "group_by_length": False,
        "student_memory_init": "matched",
    }
    known = {
        "mask_padding": True,
        "group_by_length": False,
        "gamma_m": 1,
        "student_memory_init": "released",
    }
    assert fill(known) == known and list(fill(known)) == list(known)
    assert (
        fill({"mask_padding": True, "num_centroid": 4})["group_by_length"] is False
    )  # a memory's never were


def test_old_and_new_rows_share_a_table(tmp_path):
    """A table that an earlier version began: its rows keep what they were when a row of today is
    appended.
    """
    path = runs_csv(
        tmp_path / "r.csv", *of("FSD_I", (0.8, 0.9), **{"--mask_padding": True, "started": "2025"})
    )
    for seed, grouped in ((1, False), (2, False), (3, True)):
        write_run(
            tmp_path / "run", "FSD_I", 0.7, mask_padding=True, group_by_length=grouped, seed=seed
        )
        row = results_csv.result_row(json.loads((tmp_path / "run/run.json").read_text()))
        assert row["--group_by_length"] is grouped
        results_csv.append_result(path, row | {"--output_dir": f"/x/{seed}"})
    written = pd.read_csv(path)
    assert written["--group_by_length"].tolist() == [True, True, False, False, True]
    named = with_names(name_variants(read_runs(path))).method
    assert named.tolist() == [
        f"FSD_I, mask_padding{more}"
        for more in (", group_by_length", ", group_by_length", "", "", ", group_by_length")
    ]


def test_an_old_runs_folder_is_read_like_its_row(tmp_path):
    write_run(tmp_path / "runs/old", "FSD_I", 0.7, mask_padding=True)
    write_run(tmp_path / "runs/new", "FSD_I", 0.7, mask_padding=True, group_by_length=False)
    write_run(tmp_path / "runs/plain", "FSD_I", 0.7, mask_padding=False)
    found = with_names(name_variants(read_runs(tmp_path / "runs")))
    methods = dict(
        zip((Path(folder).name for folder in found["--output_dir"]), found.method, strict=True)
    )
    assert methods == {
        "old": "FSD_I, mask_padding, group_by_length",
        "new": "FSD_I, mask_padding",
        "plain": "FSD_I",
    }
    record = {"arguments": {"mask_padding": True}}
    old, new = (
        type("Student", (), {"record": {"arguments": record["arguments"] | more}})
        for more in ({}, {"group_by_length": False})
    )
    assert report_cost.conditions_of(old) != report_cost.conditions_of(new)


def test_the_best_setting_names_both_flags(tmp_path, capsys):
    rows = [
        {"method": "VKD", "seed": 1, "acc": acc, "--mask_padding": masked}
        for acc, masked in ((0.7, None), (0.8, True))
    ]
    path = str(runs_csv(tmp_path / "r.csv", *rows))
    best.main([path, "--flags", "mask_padding", "group_by_length"])
    assert capsys.readouterr().out == "--mask_padding --group_by_length\n"
    with pytest.raises(UserError, match=r"differ in --group_by_length"):
        best.main([path, "--flags", "mask_padding"])


# ---- checkpoints ---------------------------------------------------------------------------------


def forget(path, *names):
    """Take flags out of the settings in a JSON file, as an earlier version wrote it."""
    content = json.loads(path.read_text())
    for name in names:
        content["settings"].pop(name, None)
        content.get("arguments", {}).pop(name, None)
    path.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, wanted", [([], []), (["--mask_padding"], ["--mask_padding", "--group_by_length"])]
)
def test_an_old_checkpoint_goes_on_as_what_it_was(more, wanted, tiny, tmp_path, monkeypatch):
    stopped_at(tiny, tmp_path / "s", *wanted)
    for path in (tmp_path / "s/checkpoint-2/progress.json", tmp_path / "s/run.json"):
        forget(path, "group_by_length", "student_memory_init")
    if more:
        with pytest.raises(UserError, match=r"\(group_by_length was True and is False\)"):
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    else:
        with pytest.raises(UserError, match=r"\(group_by_length was False and is True\)"):
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--group_by_length"))
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *wanted))
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]
    content = json.loads((tmp_path / "s/run.json").read_text())
    forget(tmp_path / "s/run.json", "group_by_length")
    change_json(tmp_path / "s/run.json", finished=False)  # cut off after its training
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", None)
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *wanted))
    again = json.loads((tmp_path / "s/run.json").read_text())
    assert again["finished"] and again["results"] == content["results"]


def test_an_old_unfinished_clustering_goes_on(tiny, tmp_path, monkeypatch):
    """Also without padding, where its rows never were grouped."""
    real = memory_file.save_state

    def save_and_stop(path, state, metadata):
        progress = json.loads(metadata["progress"])
        progress["settings"].pop("group_by_length", None)
        real(path, state, {"progress": json.dumps(progress)})
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(memory_file, "save_state", save_and_stop)
        train_memory.main(memory_flags(tiny, tmp_path / "m", "--mask_padding", "--save_steps", 1))
    train_memory.main(
        memory_flags(tiny, tmp_path / "m", "--mask_padding", "--resume_from_checkpoint")
    )
    assert (tmp_path / "m" / memory_file.FILE).exists()
