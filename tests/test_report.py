"""analysis/report.py as a user runs it: on runs of this project, on a stranger's folder, and on
what does not fit.
"""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, SHAPE, flags, memory_flags, save_models, shell, wordpiece, write_task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import glue_with_cka_g
import glue_with_cka_i
import train_memory
from analysis import report, report_cost, report_measures, report_subjects, report_topics
from analysis.report_measures import RELATIONS
from common import UserError, read_json, write_json
from tasks.features import load_features
from tasks.glue import get_task
from training.memory_file import load_memory

TABLES = {
    "restoration",
    "classes",
    "heat_maps",
    "heat_map_pixels",
    "layers",
    "relation_differences",
    "relation_training",
    "global",
    "occupancy",
    "cost",
}
FIGURES = {
    "restoration",
    "heat_maps_biased",
    "heat_maps_debiased",
    "layers_tokens",
    "layers_samples",
    "relation_differences",
    "relation_training",
    "occupancy",
    "projection",
    "cost",
}


def report_flags(folder, output, students, *more):
    return [
        str(x)
        for x in (
            "--model_name_or_path",
            folder / "teacher",
            "--task_name",
            "rte",
            "--data_dir",
            folder,
            "--output_dir",
            output,
            "--per_gpu_eval_batch_size",
            5,
            "--no_cuda",
            "--students",
            *students,
            *more,
        )
    ]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Folder with a memory, two VKD runs, one of FSD_I and one of FSD_G, of the tiny teacher; dev
    has 12 rows.
    """
    folder = tmp_path_factory.mktemp("runs")
    train_memory.main(memory_flags(tiny, folder / "memory"))
    for seed in (1, 2):
        glue_with_cka_i.main(flags(tiny, folder / f"vkd,seed={seed}", "--beta", 0, "--seed", seed))
    glue_with_cka_i.main(flags(tiny, folder / "fsd_i", "--internal"))
    glue_with_cka_g.main(flags(tiny, folder / "fsd_g", "--teacher_memory_path", folder / "memory"))
    return folder


@pytest.fixture(scope="module")
def written(tiny, runs, tmp_path_factory):
    """A report of all of them and of the teacher's own folder, made by the command."""
    output = tmp_path_factory.mktemp("report") / "mrpc"
    readme = output.parent / "README.md"
    readme.write_text("before\n<!-- table 6 -->\nold\n<!-- end 6 -->\nafter\n")
    students = [
        runs / "fsd_g",
        *sorted(runs.glob("vkd,*")),
        f"mine={runs / 'fsd_i'}",
        f"itself={tiny / 'teacher'}",
    ]
    done = shell(
        "analysis/report.py",
        *report_flags(
            tiny,
            output,
            students,
            "--teacher_memory_path",
            runs / "memory",
            "--run_file",
            output.parent / "tb",
            "--insert",
            readme,
        ),
    )
    assert done.returncode == 0, done.stderr
    return output


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


@pytest.mark.slow
def test_everything_is_there(written):
    names = {path.name for path in written.iterdir()}
    assert names == {"report.html", "report.json", "tables.md"} | {
        f"{name}.csv" for name in TABLES
    } | {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    html = (written / "report.html").read_text()
    assert html.count('src="data:image/svg+xml;base64,') == len(FIGURES)
    assert not re.search(
        r"""(src|href)=["'](?!data:image|#)""", html
    )  # nothing from outside the file
    record = json.loads((written / "report.json").read_text())
    assert [s["name"] for s in record["students"]] == [
        "VKD",
        "VKD",
        "FSD_G",
        "mine",
        "itself",
    ]  # the tables' order
    assert record["arguments"]["max_seq_length"] == 24  # that of the runs
    assert 0 < record["minutes"] < 60 and 50 < record["peak_memory_mib"] < 50_000


def test_the_teacher_beside_itself(written):
    maps = read(written, "heat_maps").set_index("name")
    for name in ("teacher", "itself"):
        assert (maps.loc[name, ["diagonal_biased", "diagonal_debiased"]] == 1).all()
    assert (maps.loc[["VKD", "mine", "FSD_G"], "diagonal_biased"] < 1).all()
    differences = read(written, "relation_differences").set_index("name")
    assert (differences.loc["itself", RELATIONS] == 0).all()
    assert (differences.loc[["VKD", "mine"], RELATIONS] > 0).all(axis=None)
    layers = read(written, "layers").query("name == 'itself' and teacher_layer == layer")
    assert (
        len(layers) == 4 * 5
    )  # two rows of things and two estimators; 4 layers and the embeddings
    assert (layers.cka == 1).all()
    assert (
        read(written, "restoration").set_index("name").loc["itself", ["f1", "accuracy"]] == 1
    ).all()
    clusters = read(written, "global").set_index("name")
    assert clusters.loc["itself", ["same", "rand"]].tolist() == [1, 1]


def test_numbers_agree_with_what_the_runs_left(runs, written):
    restored = read(written, "restoration")
    for folder in ("fsd_i", "fsd_g", "vkd,seed=1", "vkd,seed=2"):
        row = restored[restored.folder == folder].iloc[0]
        assert row.score_acc == pytest.approx(read_json(runs / folder / "eval_results.json")["acc"])
    curves = read(written, "relation_training").query("name == 'mine'")
    logged = [
        json.loads(line) for line in (runs / "fsd_i/train_log.jsonl").read_text().splitlines()
    ]
    assert curves.rd_intra_cosine.tolist() == pytest.approx(
        [entry["rd_intra_cosine"] for entry in logged]
    )
    memories = read(written, "global")
    assert set(memories.name[memories.memory_biased.notna()]) == {"FSD_G"}
    found = read(written, "cost").set_index("name")
    assert found.loc["VKD", ["training", "inference"]].tolist() == [1, 1]
    assert found.loc["FSD_G", "peak_memory_mib"] > 50
    assert found.loc["itself", "parameters"] > found.loc["VKD", "parameters"]  # 4 layers and 2


def test_the_layers_that_are_named(written):
    layers = read(written, "layers").query(
        "name == 'mine' and run == 0 and layer == 1"
    )  # of 2, the penultimate
    text = (written / "tables.md").read_text()
    for between in ("tokens", "samples"):
        found = (
            layers.query(f"between == '{between}' and estimator == 'debiased'")
            .set_index("teacher_layer")
            .cka
        )
        row = re.search(r"^\| mine .*\| ([\d, ]+?) +\| ([\d, ]+?) +\|$", text, re.M)
        assert row.group(1 + (between == "samples")) == str(found.idxmax())
        assert f"{found[3]:.3f}" in row.group(0)  # the teacher's penultimate layer


def test_clusters_beside_transformers_alone(tiny, runs, written):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "teacher")
    rows = load_features(get_task("rte"), tiny, "dev", tokenizer, 24).tensors

    def nearest(folder, memory):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = {key: value.long() for key, value in rows.items() if key != "labels"}
        with torch.no_grad():
            h = model(**inputs, output_hidden_states=True).hidden_states
        return torch.cdist(h[-2].flatten(1), load_memory(memory)[0]).argmin(1)

    student, memories = (
        runs / "fsd_g",
        [runs / "memory/memory.safetensors", runs / "fsd_g/student_memory.safetensors"],
    )
    theirs, own = nearest(tiny / "teacher", memories[0]), nearest(student, memories[1])
    there = nearest(student, memories[0])
    assert own.tolist() != there.tolist()  # else the test says nothing
    found = read(written, "global").set_index("name").loc["FSD_G"]
    assert (found.occupied, found.own_occupied) == (len(there.unique()), len(own.unique()))
    assert (found.same, found.own_same) == pytest.approx(
        [(clusters == theirs).float().mean().item() for clusters in (there, own)]
    )


def test_several_runs_are_a_mean_beside_the_papers_number(written):
    text = (written / "tables.md").read_text()
    maps = read(written, "heat_maps").query("name == 'VKD'").diagonal_biased
    assert f"{maps.mean():.3f} ± {maps.std():.3f}" in text
    assert re.search(r"\| VKD .*\| 0\.934 +\|", text)
    inserted = (written.parent / "README.md").read_text()
    assert inserted.startswith("before\n<!-- table 6 -->\n| model")
    assert inserted.endswith("<!-- end 6 -->\nafter\n")
    assert "old" not in inserted


def test_tensorboard_has_the_figures(written):
    events = EventAccumulator(str(written.parent / "tb"))
    events.Reload()
    assert {tag.split("/")[1] for tag in events.Tags()["images"]} == FIGURES


@pytest.mark.slow
def test_masked_padding_counts_for_less(tiny, runs, tmp_path):
    report.main(report_flags(tiny, tmp_path / "plain", [runs / "fsd_i"]))
    report.main(report_flags(tiny, tmp_path / "masked", [runs / "fsd_i"], "--mask_padding"))
    plain, masked = (
        read(tmp_path / name, "relation_differences")[RELATIONS] for name in ("plain", "masked")
    )
    assert (plain != masked).all(axis=None)
    assert not (tmp_path / "plain/global.csv").exists()  # no memory was given, which the page says
    assert "No --teacher_memory_path was given" in (tmp_path / "plain/report.html").read_text()


@pytest.mark.slow
def test_a_strangers_student_of_another_width(tiny, tmp_path):
    """As plain transformers leave one: no run.json, no log, another width and depth; a memory
    cannot place it.
    """
    train_memory.main(memory_flags(tiny, tmp_path / "memory"))
    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=len(wordpiece(tmp_path)),
        max_position_embeddings=64,
        num_labels=2,
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    wordpiece(tmp_path).save_pretrained(tmp_path / "theirs")
    report.main(
        report_flags(
            tiny,
            tmp_path / "r",
            [tmp_path / "theirs"],
            "--max_seq_length",
            24,
            "--teacher_memory_path",
            tmp_path / "memory",
        )
    )
    assert set(read(tmp_path / "r", "restoration").name) == {"theirs"}
    layers = read(tmp_path / "r", "layers")
    assert (layers.teacher_layer.max(), layers.layer.max()) == (4, 3)
    html = (tmp_path / "r/report.html").read_text()
    assert "theirs: not of the teacher&#x27;s width" in html
    assert "No relation differences were logged along the training of theirs" in html
    assert "No student is named VKD" in html


@pytest.mark.slow
def test_a_regression_has_correlations(tmp_path, capsys):
    folder = save_models(tmp_path / "m")
    data = tmp_path / "STS-B"
    data.mkdir()
    lines = [
        f"{i}\tthe cat sees a dog\tthe {word} sees a dog\t{i % 6}"
        for i, word in enumerate("cat dog bird horse child man woman old".split())
    ]
    (data / "dev.tsv").write_text("index\tsentence1\tsentence2\tscore\n" + "\n".join(lines) + "\n")
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        transformers.AutoModelForSequenceClassification.from_pretrained(
            folder / "pretrained", num_labels=1
        ).save_pretrained(tmp_path / name)
        wordpiece(tmp_path).save_pretrained(tmp_path / name)
    report.main(
        [
            str(x)
            for x in (
                "--model_name_or_path",
                tmp_path / "teacher",
                "--task_name",
                "STS-B",
                "--data_dir",
                tmp_path,
                "--output_dir",
                tmp_path / "r",
                "--max_seq_length",
                20,
                "--no_cuda",
                "--students",
                tmp_path / "student",
                f"itself={tmp_path / 'teacher'}",
            )
        ]
    )
    found = read(tmp_path / "r", "restoration").set_index("name")
    assert found.loc["itself", ["pearson", "spearmanr", "loyalty_wrong"]].tolist() == pytest.approx(
        [1, 1, 1]
    )
    assert abs(found.loc["student", "pearson"]) < 1
    assert not (tmp_path / "r/classes.csv").exists()


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
def test_cost_from_a_benchmark(tiny, runs, tmp_path):
    path = benchmark(tmp_path / "step.csv")
    students = [runs / "fsd_i", f"mine={runs / 'vkd,seed=1'}"]
    report.main(
        report_flags(tiny, tmp_path / "r", students, "--cost", path, "--reference", "FSD_I")
    )
    found = read(tmp_path / "r", "cost").set_index("name")
    assert found.loc["FSD_I", ["training", "inference", "peak_memory_mib"]].tolist() == [1, 1, 950]
    size = (runs / "fsd_i/model.safetensors").stat().st_size  # the memory of none is in it
    assert found.loc["FSD_I", "megabytes"] == pytest.approx(size / 1e6)
    assert (found[["ms_alone", "ms_batch"]] > 0).all(axis=None)
    html, text = ((tmp_path / "r" / name).read_text() for name in ("report.html", "tables.md"))
    assert "No training throughput of mine: no row of that name." in html
    assert "minilm, precision bf16, 8 samples of 24 tokens, no teacher cache, M" in text
    assert "relative to FSD_I" in text
    with pytest.raises(
        UserError, match=r"has no row none, .* name one of VKD, FSD_I with --reference"
    ):
        report.main(
            report_flags(tiny, tmp_path / "r2", students, "--cost", path, "--reference", "none")
        )
    benchmark(path, form=["VKD", "VKD"])
    with pytest.raises(UserError, match="has VKD twice"):
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


# ---- refusals ------------------------------------------------------------------------------------


def changed(folder, to, **facts):
    """A copy of a run with other facts in its run.json."""
    shutil.copytree(folder, to)
    record = read_json(to / "run.json")
    record["arguments"] |= facts
    write_json(to / "run.json", record)
    return to


def test_refused_folders(tiny, runs, tmp_path):
    other_words = tmp_path / "words"
    shutil.copytree(runs / "fsd_i", other_words)
    tokenizer = json.loads((other_words / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]
    (other_words / "tokenizer.json").write_text(json.dumps(tokenizer))
    three = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "teacher", num_labels=3, ignore_mismatched_sizes=True
    )
    three.save_pretrained(tmp_path / "three")
    shutil.copy(runs / "fsd_i/run.json", tmp_path / "three")
    for name in ("x", "y"):
        shutil.copytree(runs / "fsd_i", tmp_path / name / "same")
        (tmp_path / name / "same/run.json").unlink()
    large = transformers.BertConfig(**SHAPE, vocab_size=9, num_labels=2)
    transformers.BertForSequenceClassification(large).save_pretrained(tmp_path / "few_words")
    longer = changed(runs / "fsd_i", tmp_path / "longer", max_seq_length=32)
    for students, words in {
        (
            changed(runs / "fsd_i", tmp_path / "other", task_name="MRPC"),
        ): "trained on MRPC, but this report is of RTE",
        (
            other_words,
        ): "reads 9 of 12 rows as other tokens than the teacher's, the first at index 0",
        (tmp_path / "three",): "has 3 labels, but RTE has 2",
        (
            runs / "fsd_i",
            tiny / "pretrained",
        ): "pretrained is not fine-tuned, or not stored whole: it lacks 2 weights",
        (
            runs / "fsd_i",
            tmp_path / "few_words",
        ): "few_words takes 9 tokens and 64 positions, but the rows have tokens",
        (
            runs / "vkd,seed=1",
            tmp_path / "x/same",
            tmp_path / "y/same",
        ): "are named same, .* name them, NAME=",
        (runs / "fsd_i", longer): r"different lengths \(24, 32\)",
        (tmp_path / "nowhere",): "no trained model in .*nowhere",
        (f"FSD={tmp_path / 'nowhere'}",): "no trained model in .*nowhere",
        (runs / "memory",): "no trained model in .*memory",
        (runs / "fsd_i", f"again={runs}/../{runs.name}/fsd_i"): "fsd_i twice",
        (f"teacher={runs / 'fsd_i'}",): "another name, NAME=",
    }.items():
        with pytest.raises(UserError, match=words):
            report.main(report_flags(tiny, tmp_path / "r", students))
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_refused_memories(tiny, runs, tmp_path):
    save_models(tmp_path / "m", seed=5)
    write_task(tmp_path / "m")
    train_memory.main(memory_flags(tmp_path / "m", tmp_path / "other"))
    with pytest.raises(UserError, match="does not belong to this run: its teacher is"):
        report.main(
            report_flags(
                tiny, tmp_path / "r", [runs / "fsd_g"], "--teacher_memory_path", tmp_path / "other"
            )
        )
    train_memory.main(memory_flags(tiny, tmp_path / "second", "--memory_init", "random"))
    report.main(
        report_flags(
            tiny, tmp_path / "r", [runs / "fsd_g"], "--teacher_memory_path", tmp_path / "second"
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
def test_refused_flags(more, words, tiny, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        report_subjects.Subjects, "measure", None
    )  # all of these are said before it
    (tmp_path / "afile").write_text("")
    with pytest.raises(UserError, match=words):
        report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_i"], *more))


def test_few_rows_and_faulty_logs_are_said_before_measuring(
    tiny, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(report_subjects.Subjects, "measure", None)
    (tmp_path / "RTE").mkdir()
    lines = (tiny / "RTE/dev.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "RTE/dev.tsv").write_text("".join(lines[:4]))
    with pytest.raises(UserError, match="has 3 rows, but relations between samples need 4 or more"):
        report.main(
            [*report_flags(tiny, tmp_path / "r", [runs / "fsd_i"]), "--data_dir", str(tmp_path)]
        )
    shutil.copytree(runs / "fsd_i", tmp_path / "log")
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


@pytest.mark.slow
def test_other_padding_is_said(tiny, runs, tmp_path, capsys):
    report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_i"], "--mask_padding"))
    said = "FSD_I counted padding in training, and this report leaves it out (--mask_padding)."
    assert said in capsys.readouterr().err
    assert said in (tmp_path / "r/report.html").read_text()


@pytest.mark.slow
def test_more_mini_batches_than_are_drawn(tiny, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(report_measures, "MAP", 1)
    monkeypatch.setattr(report_topics, "MAP", 1)
    report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_i"]))
    text = (tmp_path / "r/tables.md").read_text()
    assert "over 2 mini-batches of 5 samples" in text
    assert "(of the first 1)" in text
    pixels = read(tmp_path / "r", "heat_map_pixels").query(
        "name == 'FSD_I' and estimator == 'biased'"
    )
    assert len(pixels) == 1
    drawn = read(tmp_path / "r", "heat_maps").query("name == 'FSD_I'").diagonal_biased.iloc[0]
    assert drawn != pixels.cka.iloc[0]
    assert f"diagonal {drawn:.3f}" in "".join(
        re.findall(r"<!-- (diagonal [\d.]+) -->", (tmp_path / "r/heat_maps_biased.svg").read_text())
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
def test_an_earlier_report_and_a_foreign_folder_are_kept(tiny, runs, tmp_path):
    arguments = report_flags(tiny, tmp_path / "r", [runs / "fsd_i"])
    report.main(arguments)
    with pytest.raises(UserError, match="holds a report: pass --overwrite_output_dir"):
        report.main(arguments)
    report.main([*arguments, "--overwrite_output_dir", "--max_eval_samples", "6"])
    assert read(tmp_path / "r", "classes").teacher.sum() == 6
    done = shell(
        "analysis/report.py", *report_flags(tiny, runs, [runs / "fsd_i"], "--overwrite_output_dir")
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "is no report: name a new folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (runs / "fsd_i").is_dir()


def test_the_help_names_every_table():
    done = shell("analysis/report.py", "--help", cwd=ROOT)
    assert done.returncode == 0
    for words in ("Fig. 3", "Table 6", "Eq. 12-13", "Table 8"):
        assert words in done.stdout
