"""What methods cost, by a report: of a benchmark's table, of the runs' records, and timed."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from reports import read, report_flags

from analysis import report, report_cost, report_topics
from analysis.report_measures import RELATIONS
from analysis.report_readings import Reading
from analysis.report_subjects import Subjects
from common import UserError


def benchmark(path, **more):
    table = pd.DataFrame(
        {
            "form": ["VKD", "FSD_I"],
            "x VKD": [1.0, 0.8],
            "peak MiB": [900, 950],
            "model": "minilm",
            "precision": "bf16",
            "B": 8,
            "W": 24,
            "device": "cpu",
            "machine": "M",
        }
        | more
    )
    table.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_cost_from_a_benchmark(tiny, report_runs, tmp_path):
    path = benchmark(tmp_path / "step.csv")
    students = [report_runs / "fsd_i", f"mine={report_runs / 'vkd,seed=1'}"]
    report.main(
        report_flags(tiny, tmp_path / "r", students, "--cost", path, "--reference", "FSD_I")
    )
    found = read(tmp_path / "r", "cost").set_index("name")
    assert found.loc["FSD_I", ["training", "inference", "peak_memory_mib"]].tolist() == [1, 1, 950]
    size = (report_runs / "fsd_i/model.safetensors").stat().st_size  # the memory of none is in it
    assert found.loc["FSD_I", "megabytes"] == pytest.approx(size / 1e6)
    assert (found[["ms_alone", "ms_batch"]] > 0).all(axis=None)
    html, text = ((tmp_path / "r" / name).read_text() for name in ("report.html", "tables.md"))
    assert "No training throughput of mine: no row of that name." in html
    assert "minilm, precision bf16, 8 samples of 24 tokens, no teacher cache, M" in text
    assert "relative to FSD_I" in text
    with pytest.raises(
        UserError, match=r"has no row of the form none, .* name one of VKD, FSD_I with --reference"
    ):
        report.main(
            report_flags(tiny, tmp_path / "r2", students, "--cost", path, "--reference", "none")
        )
    benchmark(path, form=["VKD", "VKD"])
    with pytest.raises(UserError, match="has several rows of the form VKD"):
        report.main(report_flags(tiny, tmp_path / "r2", students, "--cost", path))


def test_relative_throughput_of_records_and_benchmarks(tmp_path):
    def student(name, rate, peak=None, machine="M"):
        record = {"examples_per_second": rate, "machine": machine, "arguments": {}} | (
            {"peak_memory_mib": peak} if peak else {}
        )
        return SimpleNamespace(name=name, record=record)

    vkd = [student("VKD", 10, 500), student("VKD", 30, 700)]
    own = [student("FSD_I", 5, 800), student("FSD_I", 15, 600)]
    assert report_cost.recorded_cost(own, vkd + own, "VKD") == {
        "training": 0.5,
        "peak_memory_mib": 800,
    }
    assert report_cost.recorded_cost(vkd, vkd + own, "FSD_I") == {
        "training": 2,
        "peak_memory_mib": 700,
    }
    other = [student("FSD_L", 5, 100, machine="another")]
    assert report_cost.recorded_cost(other, vkd + other, "VKD") == {}
    assert report_cost.recorded_cost([SimpleNamespace(name="theirs", record={})], vkd, "VKD") == {}
    found = report_cost.read_cost(benchmark(tmp_path / "step.csv"), "FSD_I")
    assert report_cost.measured_cost(found, "VKD", "FSD_I", "FSD_I") == {
        "training": 1.25,
        "peak_memory_mib": 900,
    }


def test_inference_and_ranks_by_hand():
    model = torch.nn.Linear(1, 1)
    students = [
        SimpleNamespace(name=name, method=name, run=0, record={}, folder=Path(name), model=model)
        for name in "ab"
    ]
    subjects = SimpleNamespace(
        students=students,
        cost=None,
        batch_size=6,
        args=SimpleNamespace(reference="a"),
        times={"a": [2.0, 3.0, 4.0], "b": [4.0, 6.0, 8.0]},
        times_alone={"a": [6.0, 9.0, 6.0], "b": [12.0, 13.0, 60.0]},
        curves=pd.DataFrame(),
    )
    found = report_cost.cost_topic(subjects).data["cost"].set_index("name")
    assert found.loc["b", ["inference", "examples_per_second", "parameters"]].tolist() == [
        0.5,
        1,
        2,
    ]
    assert found.ms_alone.to_dict() == {"a": 1000, "b": pytest.approx(13000 / 6)}
    assert found.ms_batch.to_dict() == {"a": 500, "b": 1000}
    assert found.megabytes.isna().all()  # no weights are stored there
    differences = [
        dict(zip(RELATIONS, values, strict=True)) for values in ((1, 1, 1, 9), (2, 2, 2, 2))
    ]
    subjects.comparisons = [
        SimpleNamespace(relation_differences=lambda d=d: d) for d in differences
    ]
    ranks = report_topics.relation_topic(subjects).shown["7"][0].set_index("model")["mean rank"]
    assert ranks.to_dict() == {"a": "1.25", "b": "1.75"}  # the lowest difference is the first


def test_a_variant_is_the_reference_where_there_is_no_other():
    def student(method, word):
        return SimpleNamespace(name=f"{method}, {word}", method=method)

    students = [student("VKD", "mask_padding"), student("FSD_I", "mask_padding")]
    subjects = SimpleNamespace(students=students, args=SimpleNamespace(reference="VKD"))
    assert report_cost.reference_of(subjects) == "VKD, mask_padding"
    students.append(student("VKD", "debiased"))
    assert report_cost.reference_of(subjects) == "VKD"


def test_every_model_is_timed_on_the_rows_as_it_reads_them():
    def read_as(first, length):
        ids = torch.arange(first, first + 3 * length).view(3, length)
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0]}
        return Reading(tensors, "", 99, length)

    teacher, own = read_as(10, 5), read_as(70, 4)
    students = [SimpleNamespace(name=name, reading=r) for name, r in (("a", teacher), ("b", own))]
    accelerator = SimpleNamespace(device="cpu")
    subjects = SimpleNamespace(reading=teacher, students=students, accelerator=accelerator)
    for size, parts in ((1, 2), (2, 1)):
        found = Subjects.timed_batches(subjects, 2, size)
        assert {name: len(batches) for name, batches in found.items()} == dict.fromkeys(
            ("teacher", "a", "b"), parts
        )
        for name, reading in (("teacher", teacher), ("a", teacher), ("b", own)):
            ids = torch.cat([batch.inputs["input_ids"] for batch in found[name]])
            assert ids.equal(reading.tensors["input_ids"][:2])
