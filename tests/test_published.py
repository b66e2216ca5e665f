"""What is published in results/ fits together."""

from pathlib import Path

import pytest
from conftest import ROOT
from made_up_runs import run_folder, table_of

from analysis import predictions

ENDING = "_predictions.csv"


def wrong_predictions(folder):
    """The lines of the check of every NAME_predictions.csv in a folder against its NAME.csv."""
    found = []
    for path in sorted(Path(folder).glob(f"*{ENDING}")):
        results = path.with_name(f"{path.name.removesuffix(ENDING)}.csv")
        assert results.is_file(), f"{path.name} belongs to {results.name}, which is not there"
        lines, good = predictions.check(predictions.read([path]), [results])
        found += [] if good else [f"{path.name}: {line}" for line in lines]
    return found


def test_published_predictions_give_the_published_metrics():
    assert not wrong_predictions(ROOT / "results")


def test_the_test_above_finds_what_is_wrong(tmp_path):
    for seed in (1, 2):
        run_folder(tmp_path / "runs" / str(seed), seed=seed)
    results, file = tmp_path / "study.csv", tmp_path / f"study{ENDING}"
    predictions.main([str(tmp_path / "runs"), "--csv", str(file)])
    with pytest.raises(AssertionError, match=r"belongs to study\.csv"):
        wrong_predictions(tmp_path)
    table_of(tmp_path / "runs", results)
    assert not wrong_predictions(tmp_path)
    results.write_text("\n".join(results.read_text().splitlines()[:2]) + "\n")
    assert wrong_predictions(tmp_path)[-1].endswith("; predictions without a row: 1")
