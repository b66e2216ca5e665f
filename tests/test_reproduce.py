"""scripts/reproduce: the published grids, commands that parse, and its stages in their order."""

from collections import Counter
from pathlib import Path

import pytest
from commands_of_plans import parse, read_plan, reproduce, value, values, write_stub

import common

# by hand: α τ lr epochs; β lr; γ_m with 0, without β 0; published refinements; γ_g γ_i γ_l;
# PKD + RKD + MiniLM
METHODS = "none vkd pkd rkd minilm fsd_i fsd_l fsd_g fsd_il fsd_ilg".split()
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


# ---- plans ---------------------------------------------------------------------------------------


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


@pytest.mark.slow
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


def test_final_runs_wait_for_whole_searches(tmp_path):
    python, calls = write_stub(tmp_path)
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


def test_rehearsal_runs_each_method_once_a_seed(tmp_path, monkeypatch):
    python, calls = write_stub(tmp_path)
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


def test_failed_run_stops_after_its_stage(tmp_path):
    python, calls = write_stub(tmp_path)
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
