"""run.json of a run that goes on: it is whole or refused, and says what its parts came from."""

import json

import pytest
from accelerate.state import AcceleratorState
from conftest import flags

import glue_with_cka_i
from common import UserError
from training import records, results_csv


def change_record(folder, **changes):
    """A run.json as a cut off run leaves it, with these fields changed, or "gone"."""
    path = folder / "run.json"
    run = json.loads(path.read_text()) | {"finished": False} | changes
    path.write_text(json.dumps({name: value for name, value in run.items() if value != "gone"}))


def train(tiny, output, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    more = "--beta", 0, "--max_steps", 3, "--save_steps", 2, *more
    return glue_with_cka_i.main(flags(tiny, output, *more))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["train_seconds", "steps", "parameters", "versions"])
def test_a_run_that_cannot_be_ended_is_said_to_be_one(field, tiny, tmp_path):
    """Before its evaluation, where its run.json was cut after the training."""
    train(tiny, tmp_path / "s")
    change_record(tmp_path / "s", **{field: "gone"})
    (tmp_path / "s/eval_results.json").unlink()
    with pytest.raises(UserError, match=rf"s/run\.json is .*\(it has no {field}\): repeat the run"):
        train(tiny, tmp_path / "s")
    assert not (tmp_path / "s/eval_results.json").exists()


@pytest.mark.slow
def test_a_resumed_run_says_what_its_parts_came_from(tiny, tmp_path, monkeypatch):
    """It is known by its first start; its commit and libraries are those of all its parts."""
    monkeypatch.setenv("FSD_COMMIT", "a" * 40)
    train(tiny, tmp_path / "s")
    versions = json.loads((tmp_path / "s/run.json").read_text())["versions"]
    older = versions | {"torch": "2.0.0"}
    change_record(tmp_path / "s", trained=False, started="2025", versions=older)
    monkeypatch.setenv("FSD_COMMIT", "b" * 40)
    train(tiny, tmp_path / "s", "--results_csv", tmp_path / "r.csv")
    (row,) = results_csv.read_results(tmp_path / "r.csv").to_dict("records")
    assert (row["started"], row["commit"]) == ("2025", f"{'a' * 12} then {'b' * 12}")
    assert row["torch"] == f"2.0.0 then {versions['torch']}"
    assert (row["transformers"], row["device"]) == (versions["transformers"], "cpu")
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["commit"] == "b" * 40 and [part["commit"] for part in run["earlier"]] == ["a" * 40]
    # of another folder's checkpoint as well, but for the start
    more = "--resume_from_checkpoint", tmp_path / "s/checkpoint-2"
    train(tiny, tmp_path / "t", *more)
    other = json.loads((tmp_path / "t/run.json").read_text())
    assert other["earlier"] == run["earlier"] and other["started"] > "2025"


def test_a_run_that_went_on_as_it_began_says_nothing_of_it():
    part = {"commit": "a", "uncommitted_changes": False, "machine": "M", "device": "cpu"}
    part |= {"versions": {"torch": "2"}}
    other = part | {"commit": "b"}

    def follow(before, now=part):
        record = records.Record(**now)
        record.follow(before)
        return record.earlier

    assert follow(part) is None and follow({}) is None and follow({"commit": "b"}) is None
    assert follow(other) == [other]
    assert follow(part | {"earlier": [other]}) == [other]
    assert follow(other | {"earlier": [part, other]}) == [other]
    third = part | {"commit": "c"}
    assert follow(part | {"earlier": [other]}, third) == [other, part]
