"""What analysis/report.py refuses, and says before it measures."""

import shutil
from types import SimpleNamespace

import pytest
import transformers
from conftest import SHAPE, memory_flags, save_models, shell, wordpiece, write_task
from reports import read, report_flags

import train_memory
from analysis import report, report_readings, report_subjects, report_topics
from common import UserError, read_json, write_json


def changed(folder, to, **facts):
    """A copy of a run with other facts in its run.json."""
    shutil.copytree(folder, to)
    record = read_json(to / "run.json")
    record["arguments"] |= facts
    write_json(to / "run.json", record)
    return to


def test_refused_folders(tiny, report_runs, tmp_path):
    three = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "teacher", num_labels=3, ignore_mismatched_sizes=True
    )
    three.save_pretrained(tmp_path / "three")
    shutil.copy(report_runs / "fsd_i/run.json", tmp_path / "three")
    for name in ("x", "y"):
        shutil.copytree(report_runs / "fsd_i", tmp_path / name / "same")
        (tmp_path / name / "same/run.json").unlink()
    large = transformers.BertConfig(**SHAPE, vocab_size=9, num_labels=2)
    transformers.BertForSequenceClassification(large).save_pretrained(tmp_path / "few_words")
    longer = changed(report_runs / "fsd_i", tmp_path / "longer", max_seq_length=32)
    for students, words in {
        (
            changed(report_runs / "fsd_i", tmp_path / "other", task_name="MRPC"),
        ): "trained on MRPC, but this report is of RTE",
        (tmp_path / "three",): "has 3 labels, but RTE has 2",
        (
            report_runs / "fsd_i",
            tiny / "pretrained",
        ): "pretrained is not fine-tuned, or not stored whole: it lacks 2 weights",
        (
            report_runs / "fsd_i",
            tmp_path / "few_words",
        ): "few_words has a vocabulary of 9 tokens and takes 64 positions, but the rows",
        (
            report_runs / "vkd,seed=1",
            tmp_path / "x/same",
            tmp_path / "y/same",
        ): "named same after the folder; another student has that name already.* NAME=",
        (report_runs / "fsd_i", longer): r"different lengths \(24, 32\)",
        (tmp_path / "nowhere",): "no trained model in .*nowhere",
        (f"FSD={tmp_path / 'nowhere'}",): "no trained model in .*nowhere",
        (report_runs / "memory",): "no trained model in .*memory",
        (report_runs / "fsd_i", f"again={report_runs}/../{report_runs.name}/fsd_i"): "fsd_i twice",
        (f"teacher={report_runs / 'fsd_i'}",): "another name, with --students NAME=",
    }.items():
        with pytest.raises(UserError, match=words):
            report.main(report_flags(tiny, tmp_path / "r", students))
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_refused_memories(tiny, report_runs, tmp_path):
    save_models(tmp_path / "m", seed=5)
    write_task(tmp_path / "m")
    train_memory.main(memory_flags(tmp_path / "m", tmp_path / "other"))
    with pytest.raises(UserError, match="does not belong to this run: its teacher is"):
        report.main(
            report_flags(
                tiny,
                tmp_path / "r",
                [report_runs / "fsd_g"],
                "--teacher_memory_path",
                tmp_path / "other",
            )
        )
    train_memory.main(memory_flags(tiny, tmp_path / "second", "--memory_init", "random"))
    report.main(
        report_flags(
            tiny,
            tmp_path / "r",
            [report_runs / "fsd_g"],
            "--teacher_memory_path",
            tmp_path / "second",
        )
    )
    assert "was trained beside another teacher memory" in (tmp_path / "r/report.html").read_text()
    assert read(tmp_path / "r", "global").memory_biased.isna().all()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--split", "test"], "--split is test, but RTE has labels for train and dev"),
        (["--per_gpu_eval_batch_size", "3"], "--per_gpu_eval_batch_size must be at least 4, got 3"),
        (["--max_seq_length", "100"], "takes at most 64 tokens"),
        (
            ["--insert", "nothing.md"],
            "nothing.md has no lines <!-- table NAME --> and <!-- end NAME -->",
        ),
        (["--run_file", "afile"], "--run_file afile cannot be used"),
        (["--cost", "afile"], "afile is no table of benchmarks/step.py"),
        (["--max_eval_samples", "3"], "--max_eval_samples must be at least 4"),
    ],
)
def test_refused_flags(more, words, tiny, report_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        report_subjects.Subjects, "measure", None
    )  # all of these are said before it
    (tmp_path / "afile").write_text("")
    with pytest.raises(UserError, match=words):
        report.main(report_flags(tiny, tmp_path / "r", [report_runs / "fsd_i"], *more))


def test_few_rows_and_faulty_logs_are_said_before_measuring(
    tiny, report_runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(report_subjects.Subjects, "measure", None)
    (tmp_path / "RTE").mkdir()
    lines = (tiny / "RTE/dev.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "RTE/dev.tsv").write_text("".join(lines[:4]))
    with pytest.raises(UserError, match="has 3 rows, but relations between samples need 4 or more"):
        report.main(
            [
                *report_flags(tiny, tmp_path / "r", [report_runs / "fsd_i"]),
                "--data_dir",
                str(tmp_path),
            ]
        )
    shutil.copytree(report_runs / "fsd_i", tmp_path / "log")
    with open(tmp_path / "log/train_log.jsonl", "a") as log:
        log.write('{"step": 9')  # cut, as by a kill
    curves = report_topics.training_curves(
        [SimpleNamespace(folder=tmp_path / "log", name="x", run=0)]
    )
    assert len(curves) == 6
    (tmp_path / "log/train_log.jsonl").write_text("{no\n{}\n")
    with pytest.raises(TypeError):  # it measures
        report.main(report_flags(tiny, tmp_path / "r", [tmp_path / "log"]))
    assert (
        "train_log.jsonl, as no JSON object with a number as step: line 1, 2."
        in capsys.readouterr().err
    )


def test_a_family_that_shortens_the_text_is_refused(tiny, tmp_path):
    config = transformers.FunnelConfig(
        d_model=8,
        n_head=2,
        d_head=4,
        d_inner=8,
        block_sizes=[1, 1],
        vocab_size=len(wordpiece(tmp_path)),
        num_labels=2,
    )
    transformers.FunnelForSequenceClassification(config).save_pretrained(tmp_path / "funnel")
    with pytest.raises(UserError, match="its family shortens the text"):
        report.main(
            report_flags(tiny, tmp_path / "r", [tmp_path / "funnel"], "--max_seq_length", 24)
        )


@pytest.mark.slow
def test_an_earlier_report_and_a_foreign_folder_are_kept(tiny, report_runs, tmp_path):
    arguments = report_flags(tiny, tmp_path / "r", [report_runs / "fsd_i"])
    report.main(arguments)
    with pytest.raises(UserError, match="holds a report: pass --overwrite_output_dir"):
        report.main(arguments)
    report.main([*arguments, "--overwrite_output_dir", "--max_eval_samples", "6"])
    assert read(tmp_path / "r", "classes").teacher.sum() == 6
    done = shell(
        "analysis/report.py",
        *report_flags(tiny, report_runs, [report_runs / "fsd_i"], "--overwrite_output_dir"),
    )
    assert done.returncode == 1
    assert (
        done.stderr.startswith("error: ")
        and "exists and is no report: name a new folder" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert (report_runs / "fsd_i").is_dir()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"beta": 7.0}, r"both named VKD, but --beta was [\d.]+ and 7.0: give one of them another"),
        ({"learning_rate": 0.5}, "both named VKD, but --learning_rate was"),
        ({}, "both named VKD and have the seed 1, so their mean would count it twice"),
    ],
)
def test_students_of_one_name_were_trained_alike(change, said, report_runs):
    """A sweep over weights leaves runs of one name, whose mean is of no method."""
    record = read_json(report_runs / "vkd,seed=1/run.json")
    other = record | {"arguments": record["arguments"] | change}
    reading = report_readings.Reading({}, "t", 1, 24, True)
    students = [
        SimpleNamespace(name="VKD", folder=folder, record=told, reading=reading)
        for folder, told in (("a", record), ("b", other))
    ]
    with pytest.raises(UserError, match=said):
        report_readings.check_alike(students)
    report_readings.check_alike(
        [students[0], SimpleNamespace(**vars(students[1]) | {"name": "other"})]
    )
    second = SimpleNamespace(**vars(students[0]) | {"folder": "c", "record": record | {"seed": 2}})
    report_readings.check_alike([students[0], second])


def test_students_of_one_name_began_alike(tiny, report_runs, tmp_path):
    """As in a table: a mean over two starts says nothing; under two names they are compared."""
    for seed, start in ((1, "a" * 64), (2, "b" * 64)):
        shutil.copytree(report_runs / f"vkd,seed={seed}", tmp_path / f"{seed}")
        record = read_json(tmp_path / f"{seed}/run.json")
        write_json(tmp_path / f"{seed}/run.json", record | {"initial_weights": start})
    folders = [tmp_path / "1", tmp_path / "2"]
    said = r"both named VKD, but began with different weights \(a{12} and b{12}, by checksum"
    with pytest.raises(UserError, match=said):
        report.main(report_flags(tiny, tmp_path / "r", folders))
    assert not (tmp_path / "r").exists()
    report.main(report_flags(tiny, tmp_path / "r", [folders[0], f"other={folders[1]}"]))
    assert {"VKD", "other"} <= set(read(tmp_path / "r", "heat_maps").name)
