"""analysis/report.py as a user runs it: on runs of this project, and on a stranger's folder."""

import json
import re

import pytest
import torch
import transformers
from conftest import ROOT, memory_flags, save_models, shell, wordpiece
from reports import read, report_flags
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_memory
from analysis import report, report_measures, report_topics
from analysis.report_measures import RELATIONS
from common import read_json
from tasks.features import load_features
from tasks.glue import get_task
from training.memory_file import load_memory

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def written(tiny, report_runs, tmp_path_factory):
    """A report of all of them and of the teacher's own folder, made by the command."""
    output = tmp_path_factory.mktemp("report") / "mrpc"
    readme = output.parent / "README.md"
    readme.write_text("before\n<!-- table 6 -->\nold\n<!-- end 6 -->\nafter\n")
    students = [
        report_runs / "fsd_g",
        *sorted(report_runs.glob("vkd,*")),
        f"mine={report_runs / 'fsd_i'}",
        f"itself={tiny / 'teacher'}",
    ]
    done = shell(
        "analysis/report.py",
        *report_flags(
            tiny,
            output,
            students,
            "--teacher_memory_path",
            report_runs / "memory",
            "--run_file",
            output.parent / "tb",
            "--insert",
            readme,
        ),
    )
    assert done.returncode == 0, done.stderr
    return output


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


def test_numbers_agree_with_what_the_runs_left(report_runs, written):
    restored = read(written, "restoration")
    for folder in ("fsd_i", "fsd_g", "vkd,seed=1", "vkd,seed=2"):
        row = restored[restored.folder == folder].iloc[0]
        assert row.score_acc == pytest.approx(
            read_json(report_runs / folder / "eval_results.json")["acc"]
        )
    curves = read(written, "relation_training").query("name == 'mine'")
    logged = [
        json.loads(line)
        for line in (report_runs / "fsd_i/train_log.jsonl").read_text().splitlines()
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


def test_clusters_beside_transformers_alone(tiny, report_runs, written):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "teacher")
    rows = load_features(get_task("rte"), tiny, "dev", tokenizer, 24).tensors

    def nearest(folder, memory):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = {key: value.long() for key, value in rows.items() if key != "labels"}
        with torch.no_grad():
            h = model(**inputs, output_hidden_states=True).hidden_states
        return torch.cdist(h[-2].flatten(1), load_memory(memory)[0]).argmin(1)

    student, memories = (
        report_runs / "fsd_g",
        [
            report_runs / "memory/memory.safetensors",
            report_runs / "fsd_g/student_memory.safetensors",
        ],
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
def test_masked_padding_counts_for_less(tiny, report_runs, tmp_path):
    report.main(report_flags(tiny, tmp_path / "plain", [report_runs / "fsd_i"]))
    report.main(report_flags(tiny, tmp_path / "masked", [report_runs / "fsd_i"], "--mask_padding"))
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


@pytest.mark.slow
def test_other_padding_is_said(tiny, report_runs, tmp_path, capsys):
    report.main(report_flags(tiny, tmp_path / "r", [report_runs / "fsd_i"], "--mask_padding"))
    said = "FSD_I counted padding in training, and this report leaves it out (--mask_padding)."
    assert said in capsys.readouterr().err
    assert said in (tmp_path / "r/report.html").read_text()


@pytest.mark.slow
def test_more_mini_batches_than_are_drawn(tiny, report_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(report_measures, "MAP", 1)
    monkeypatch.setattr(report_topics, "MAP", 1)
    report.main(report_flags(tiny, tmp_path / "r", [report_runs / "fsd_i"]))
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


def test_the_help_names_every_table():
    done = shell("analysis/report.py", "--help", cwd=ROOT)
    assert done.returncode == 0
    for words in ("Fig. 3", "Table 6", "Eq. 12-13", "Table 8"):
        assert words in done.stdout
