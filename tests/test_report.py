"""analysis/report.py as a user runs it: on runs of this project, on a stranger's folder, and on what does not fit."""
import json
import re
import shutil

import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, flags, memory_flags, save_models, shell, wordpiece, write_task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import glue_with_cka_g
import glue_with_cka_i
import train_memory
from analysis import report
from analysis.compare import RELATIONS
from training.records import UserError, read_json, write_json

TABLES = {"restoration", "classes", "heat_maps", "heat_map_pixels", "layers", "relation_differences",
          "relation_training", "global", "occupancy", "cost"}
FIGURES = {"restoration", "heat_maps_biased", "heat_maps_debiased", "layers_tokens", "layers_samples",
           "relation_differences", "relation_training", "occupancy", "projection", "cost"}


def report_flags(folder, output, students, *more):
    return [str(x) for x in ("--model_name_or_path", folder / "teacher", "--task_name", "rte", "--data_dir", folder,
                             "--output_dir", output, "--per_gpu_eval_batch_size", 5, "--no_cuda", "--students",
                             *students, *more)]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Folder with a memory, two VKD runs, one of FSD_I and one of FSD_G, of the tiny teacher; dev has 12 rows."""
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
    students = [runs / "fsd_g", *sorted(runs.glob("vkd,*")), f"mine={runs / 'fsd_i'}", f"itself={tiny / 'teacher'}"]
    done = shell("analysis/report.py", *report_flags(tiny, output, students, "--teacher_memory_path", runs / "memory",
                                                     "--run_file", output.parent / "tb", "--insert", readme))
    assert done.returncode == 0, done.stderr
    return output


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


def test_everything_is_there(written):
    names = {path.name for path in written.iterdir()}
    assert names == {"report.html", "report.json", "tables.md"} | {f"{name}.csv" for name in TABLES} | {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    html = (written / "report.html").read_text()
    assert html.count('src="data:image/svg+xml;base64,') == len(FIGURES)
    assert not re.search(r"""(src|href)=["'](?!data:image|#)""", html)  # nothing from outside the file
    record = json.loads((written / "report.json").read_text())
    assert [s["name"] for s in record["students"]] == ["VKD", "VKD", "FSD_G", "mine", "itself"]  # the tables' order
    assert record["arguments"]["max_seq_length"] == 24  # that of the runs


def test_the_teacher_beside_itself(written):
    maps = read(written, "heat_maps").set_index("name")
    for name in ("teacher", "itself"):
        assert (maps.loc[name, ["diagonal_biased", "diagonal_debiased"]] == 1).all()
    assert (maps.loc[["VKD", "mine", "FSD_G"], "diagonal_biased"] < 1).all()
    differences = read(written, "relation_differences").set_index("name")
    assert (differences.loc["itself", RELATIONS] == 0).all()
    assert (differences.loc[["VKD", "mine"], RELATIONS] > 0).all(axis=None)
    layers = read(written, "layers").query("name == 'itself' and teacher_layer == layer")
    assert len(layers) == 4 * 5  # two rows of things and two estimators; 4 layers and the embeddings
    assert (layers.cka == 1).all()
    assert (read(written, "restoration").set_index("name").loc["itself", ["f1", "accuracy"]] == 1).all()
    clusters = read(written, "global").set_index("name")
    assert clusters.loc["itself", ["same", "rand"]].tolist() == [1, 1]


def test_numbers_agree_with_what_the_runs_left(runs, written):
    restored = read(written, "restoration")
    for folder in ("fsd_i", "fsd_g", "vkd,seed=1", "vkd,seed=2"):
        row = restored[restored.folder == folder].iloc[0]
        assert row.score_acc == pytest.approx(read_json(runs / folder / "eval_results.json")["acc"])
    curves = read(written, "relation_training").query("name == 'mine'")
    logged = [json.loads(line) for line in (runs / "fsd_i/train_log.jsonl").read_text().splitlines()]
    assert curves.rd_intra_cosine.tolist() == pytest.approx([entry["rd_intra_cosine"] for entry in logged])
    memories = read(written, "global").set_index("name")
    assert memories.memory_biased.notna().to_dict() == {"teacher": False, "VKD": False, "mine": False, "itself": False,
                                                        "FSD_G": True} or memories.memory_biased.notna().sum() == 1
    cost = read(written, "cost").set_index("name")
    assert cost.loc["VKD", ["training", "inference"]].tolist() == [1, 1]
    assert cost.loc["FSD_G", "peak_memory_mib"] > 50
    assert cost.loc["itself", "parameters"] > cost.loc["VKD", "parameters"]  # 4 layers and 2


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


def test_masked_padding_counts_for_less(tiny, runs, tmp_path):
    report.main(report_flags(tiny, tmp_path / "plain", [runs / "fsd_i"]))
    report.main(report_flags(tiny, tmp_path / "masked", [runs / "fsd_i"], "--mask_padding"))
    plain, masked = (read(tmp_path / name, "relation_differences")[RELATIONS] for name in ("plain", "masked"))
    assert (plain != masked).all(axis=None)
    assert not (tmp_path / "plain/global.csv").exists()  # no memory was given, which the page says
    assert "No --teacher_memory_path was given" in (tmp_path / "plain/report.html").read_text()


def test_a_strangers_student_of_another_width(tiny, tmp_path):
    """As plain transformers leave one: no run.json, no log, another width and depth; a memory cannot place it."""
    train_memory.main(memory_flags(tiny, tmp_path / "memory"))
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8,
                                     vocab_size=len(wordpiece(tmp_path)), max_position_embeddings=64, num_labels=2)
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    wordpiece(tmp_path).save_pretrained(tmp_path / "theirs")
    report.main(report_flags(tiny, tmp_path / "r", [tmp_path / "theirs"], "--max_seq_length", 24,
                             "--teacher_memory_path", tmp_path / "memory"))
    assert set(read(tmp_path / "r", "restoration").name) == {"theirs"}
    layers = read(tmp_path / "r", "layers")
    assert (layers.teacher_layer.max(), layers.layer.max()) == (4, 3)
    html = (tmp_path / "r/report.html").read_text()
    assert "theirs: not of the teacher&#x27;s width" in html
    assert "No relation differences were logged along the training of theirs" in html
    assert "No student is named VKD" in html


def test_a_regression_has_correlations(tmp_path, capsys):
    folder = save_models(tmp_path / "m")
    data = tmp_path / "STS-B"
    data.mkdir()
    lines = [f"{i}\tthe cat sees a dog\tthe {word} sees a dog\t{i % 6}" for i, word in enumerate(
        "cat dog bird horse child man woman old".split())]
    (data / "dev.tsv").write_text("index\tsentence1\tsentence2\tscore\n" + "\n".join(lines) + "\n")
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        transformers.AutoModelForSequenceClassification.from_pretrained(
            folder / "pretrained", num_labels=1).save_pretrained(tmp_path / name)
        wordpiece(tmp_path).save_pretrained(tmp_path / name)
    report.main([str(x) for x in ("--model_name_or_path", tmp_path / "teacher", "--task_name", "STS-B", "--data_dir",
                                  tmp_path, "--output_dir", tmp_path / "r", "--max_seq_length", 20, "--no_cuda",
                                  "--students", tmp_path / "student", f"itself={tmp_path / 'teacher'}")])
    found = read(tmp_path / "r", "restoration").set_index("name")
    assert found.loc["itself", ["pearson", "spearmanr", "loyalty_wrong"]].tolist() == pytest.approx([1, 1, 1])
    assert abs(found.loc["student", "pearson"]) < 1
    assert not (tmp_path / "r/classes.csv").exists()


def test_cost_from_a_benchmark(tiny, runs, tmp_path):
    table = pd.DataFrame({"form": ["VKD", "FSD_I"], "x VKD": [1.0, 0.87], "peak MiB": [900, 950]})
    table.to_csv(tmp_path / "step.csv", index=False)
    students = [runs / "fsd_i", runs / "vkd,seed=1"]
    report.main(report_flags(tiny, tmp_path / "r", students, "--cost", tmp_path / "step.csv"))
    cost = read(tmp_path / "r", "cost").set_index("name")
    assert cost.loc["FSD_I", ["training", "peak_memory_mib"]].tolist() == [0.87, 950]
    pd.concat([table, table]).to_csv(tmp_path / "step.csv", index=False)
    with pytest.raises(UserError, match="has VKD twice"):
        report.main(report_flags(tiny, tmp_path / "r2", [runs / "fsd_i"], "--cost", tmp_path / "step.csv"))


# ---- refusals -----------------------------------------------------------------------------------------------------

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
    three = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "teacher", num_labels=3,
                                                                            ignore_mismatched_sizes=True)
    three.save_pretrained(tmp_path / "three")
    shutil.copy(runs / "fsd_i/run.json", tmp_path / "three")
    longer = changed(runs / "fsd_i", tmp_path / "longer", max_seq_length=32)
    for students, words in {
        (changed(runs / "fsd_i", tmp_path / "other", task_name="MRPC"),): "trained on MRPC, but this report is of RTE",
        (other_words,): "reads 9 of 12 rows as other tokens than the teacher's, the first at index 0",
        (tmp_path / "three",): "has 3 labels, but RTE has 2",
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


def test_refused_memories(tiny, runs, tmp_path):
    save_models(tmp_path / "m", seed=5)
    write_task(tmp_path / "m")
    train_memory.main(memory_flags(tmp_path / "m", tmp_path / "other"))
    with pytest.raises(UserError, match="does not belong to this run: its teacher is"):
        report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_g"], "--teacher_memory_path", tmp_path / "other"))
    train_memory.main(memory_flags(tiny, tmp_path / "second", "--memory_init", "random"))
    report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_g"], "--teacher_memory_path", tmp_path / "second"))
    assert "was trained beside another teacher memory" in (tmp_path / "r/report.html").read_text()
    assert read(tmp_path / "r", "global").memory_biased.isna().all()


@pytest.mark.parametrize("more, words", [
    (["--split", "test"], "--split is test, but RTE has labels for train and dev"),
    (["--per_gpu_eval_batch_size", "3"], "--per_gpu_eval_batch_size must be at least 4, got 3"),
    (["--max_seq_length", "100"], "takes at most 64 tokens"),
    (["--insert", "nothing.md"], "nothing.md has no line <!-- table restoration -->"),
])
def test_refused_flags(more, words, tiny, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        report.main(report_flags(tiny, tmp_path / "r", [runs / "fsd_i"], *more))


def test_an_earlier_report_and_a_foreign_folder_are_kept(tiny, runs, tmp_path):
    arguments = report_flags(tiny, tmp_path / "r", [runs / "fsd_i"])
    report.main(arguments)
    with pytest.raises(UserError, match="holds a report: pass --overwrite_output_dir"):
        report.main(arguments)
    report.main([*arguments, "--overwrite_output_dir", "--max_eval_samples", "6"])
    assert read(tmp_path / "r", "classes").teacher.sum() == 6
    done = shell("analysis/report.py", *report_flags(tiny, runs, [runs / "fsd_i"], "--overwrite_output_dir"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "is no report: name a new folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (runs / "fsd_i").is_dir()


def test_the_help_names_every_table():
    done = shell("analysis/report.py", "--help", cwd=ROOT)
    assert done.returncode == 0
    for words in ("Fig. 3", "Table 6", "Eq. 12-13", "Table 8"):
        assert words in done.stdout
