"""scripts/sweep: the runs that it makes, names, skips, keeps and plans, and mistakes in words."""

import re
import shlex
import subprocess
import sys

import pytest
from commands_of_sweeps import ALL, LISTS, counts, planned, rows, sweep
from conftest import ROOT

KEPT = {
    "run.json",
    "eval_results.json",
    "train_log.jsonl",
    "dev_predictions.tsv",
    "tensorboard",
    "seen.json",
    "pid",
}
MODEL = {
    "model.safetensors",
    "student_memory.safetensors",
    "tokenizer.json",
    "vocab.txt",
    "config.json",
}


# ---- the runs ------------------------------------------------------------------------------------


def test_product_names_folders_and_logs(tmp_path):
    done = sweep(
        tmp_path,
        "my runs",
        "vkd",
        "alpha=0.2,a/b",
        "internal=on,off",
        "seed=1,2",
        "--",
        "fake.py",
        "--fail",
        3,
    )
    assert done.returncode == 0 and counts(done) == (8, 8, 0, 0) and done.stdout == ""
    names = [
        f"vkd,alpha={a},internal={i},seed={s}"
        for a in ("0.2", "a_b")
        for i in ("on", "off")
        for s in (1, 2)
    ]
    assert rows(tmp_path, "my runs") == names
    for name in names:
        first, last = (tmp_path / "my runs" / f"{name}.log").read_text().splitlines()
        assert last.startswith("VKD on RTE")
        words = shlex.split(first)
        alpha, internal, seed = (part.split("=")[1] for part in name.split(",")[1:])
        assert words == [
            "$",
            sys.executable,
            "fake.py",
            "--fail",
            "3",
            "--alpha",
            alpha.replace("_", "/"),
            *(["--internal"] if internal == "on" else []),
            "--seed",
            seed,
            "--output_dir",
            f"my runs/{name}",
            "--results_csv",
            "my runs/results.csv",
        ]
    assert "[1/8] vkd,alpha=0.2,internal=on,seed=1: started" in done.stderr
    assert re.search(
        r"\[8/8\] vkd,alpha=a_b,internal=off,seed=2: done in [\d.]+ min; VKD on RTE: acc 0.5\n",
        done.stderr,
    )


def test_runs_from_a_file(tmp_path):
    lines = """# teachers

teacher seed=1,2 -- fake.py --alpha 'two words; $(touch x)'
  vkd -- fake.py --alpha "#1"
"""
    assert counts(sweep(tmp_path, "runs", lines=lines)) == (3, 3, 0, 0)
    assert (
        rows(tmp_path) == ["teacher,seed=1", "teacher,seed=2", "vkd"]
        and not (tmp_path / "x").exists()
    )
    first = (tmp_path / "runs" / "teacher,seed=1.log").read_text().splitlines()[0]
    assert shlex.split(first)[4] == "two words; $(touch x)"


def test_repository_scripts_are_found_and_a_memory_has_no_row(tmp_path):
    lines = "m seed=1 -- train_memory.py --do_train\nv -- fake.py\nw -- glue_with_cka_i.py"
    done = sweep(tmp_path, "r", "--plan", lines=lines, ESTIMATE="off")
    memory, fake, vkd = map(shlex.split, done.stdout.splitlines())
    assert memory[1:] == [
        str(ROOT / "train_memory.py"),
        "--do_train",
        "--seed",
        "1",
        "--output_dir",
        "r/m,seed=1",
    ]
    assert fake[1:] == ["fake.py", "--output_dir", "r/v", "--results_csv", "r/results.csv"]
    assert vkd[1] == str(ROOT / "glue_with_cka_i.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "keep, left",
    [
        ("all", KEPT | MODEL | {"checkpoint-5"}),
        ("model", KEPT | MODEL),
        ("results", KEPT),
        (None, KEPT | MODEL),
    ],
)
def test_keep(tmp_path, keep, left):
    done, fails = tmp_path / "runs" / "a,seed=1", tmp_path / "runs" / "a,seed=2"
    (fails / "checkpoint-3").mkdir(parents=True)
    words = ["runs", *(["--keep", keep] if keep else []), "a"]
    sweep(tmp_path, *words, "seed=1,2", "--", "fake.py", "--fail", 2)
    assert {path.name for path in done.iterdir()} == left
    assert (fails / "checkpoint-3").exists()
    # of a sweep that was killed before it tidied up
    (done / "checkpoint-9").mkdir()
    again = sweep(tmp_path, *words, "seed=1", "--", "fake.py", "--fail", 2)
    assert counts(again) == (1, 0, 1, 0)
    assert (done / "checkpoint-9").exists() == (keep == "all")


# ---- what is skipped -----------------------------------------------------------------------------


def test_finished_runs_are_skipped_and_other_flags_refused(tmp_path):
    sweep(tmp_path, "runs", "a", "seed=1,2", "--", "fake.py", "--alpha", 1)
    again = sweep(tmp_path, "runs/", "a", "seed=1,2,3", "--", "fake.py", "--alpha", 1)
    assert again.returncode == 0 and counts(again) == (3, 1, 2, 0)
    assert rows(tmp_path) == ["a,seed=1", "a,seed=2", "a,seed=3"]
    (tmp_path / "runs" / "a,seed=3.log").unlink()
    changed = sweep(
        tmp_path, "runs", "--keep", "results", "a", "seed=1,2,3", "--", "fake.py", "--alpha", 2
    )
    assert changed.returncode == 1 and counts(changed) == (3, 0, 1, 2)
    assert (
        "a,seed=1 failed: finished with other flags; delete runs/a,seed=1 or name the sweep "
        "otherwise" in changed.stderr
    )
    assert (tmp_path / "runs" / "a,seed=1" / "model.safetensors").exists() and len(
        rows(tmp_path)
    ) == 3


def test_the_order_of_flags_is_no_difference_but_the_last_of_equal_ones_wins(tmp_path):
    sweep(tmp_path, "runs", "a", "seed=1", "--", "fake.py", "--alpha", 1, "--fail", 3, "--alpha", 2)
    again = sweep(
        tmp_path, "runs", "a", "seed=1", "--", "fake.py", "--fail", 3, "--alpha", 1, "--alpha", 2
    )
    assert again.returncode == 0 and counts(again) == (1, 0, 1, 0)
    other = sweep(
        tmp_path, "runs", "a", "seed=1", "--", "fake.py", "--fail", 3, "--alpha", 2, "--alpha", 1
    )
    assert other.returncode == 1 and "finished with other flags" in other.stderr


def test_the_folder_may_lie_elsewhere_when_a_sweep_is_repeated(tmp_path):
    sweep(tmp_path, "runs", "a", "seed=1", "--", "fake.py", "--alpha", "runs/teacher")
    (tmp_path / "moved here").mkdir()
    (tmp_path / "runs").rename(tmp_path / "moved here" / "r")
    place = tmp_path / "moved here" / "r"
    again = sweep(
        tmp_path,
        place,
        "a",
        "seed=1",
        "--",
        tmp_path / "fake.py",
        "--alpha",
        place / "teacher",
        PYTHON="python3",
    )
    assert again.returncode == 0 and counts(again) == (1, 0, 1, 0)
    assert (
        sweep(
            tmp_path, place, "a", "seed=1", "--", "fake.py", "--alpha", "other/teacher"
        ).returncode
        == 1
    )


def test_runs_of_a_sweep_in_bash_are_known(tmp_path):
    """Before the sweep was Python, its logs began with the command in bash's own quoting."""
    sweep(tmp_path, "my runs", "a", "seed=1,2", "--", "fake.py", "--alpha", "two; words")
    for name in ("a,seed=1", "a,seed=2"):
        log = tmp_path / "my runs" / f"{name}.log"
        before = log.read_text().splitlines()[1:]
        quoted = name.replace(",", "\\,")
        first = (
            f"$ python3 /old/fake.py --alpha two\\;\\ words --seed {name[-1]} --output_dir "
            f"my\\ runs/{quoted} --results_csv my\\ runs/results.csv"
        )
        log.write_text("\n".join([first, *before]))
    again = ["my runs", "a", "seed=1,2", "--", "fake.py", "--alpha"]
    assert counts(sweep(tmp_path, *again, "two; words")) == (2, 0, 2, 0)
    assert counts(sweep(tmp_path, *again, "other")) == (2, 0, 0, 2)


# ---- plans ---------------------------------------------------------------------------------------


def test_plan_prints_commands_and_starts_nothing(tmp_path):
    done = sweep(tmp_path, "runs", "--plan", *LISTS)
    assert planned(done) == ALL and not (tmp_path / "runs").exists()
    assert "6 runs, 0 of them finished" in done.stderr
    (tmp_path / "runs").mkdir()
    one = subprocess.run(["bash", "-c", done.stdout.splitlines()[0]], cwd=tmp_path)
    assert one.returncode == 0 and rows(tmp_path) == ALL[:1]
    assert "6 runs, 1 of them finished" in sweep(tmp_path, "runs", "--plan", *LISTS).stderr


def test_plan_ends_with_an_estimate(tmp_path):
    words = ["--plan", "--jobs", 3, "--shard", "0/2", "vkd", "seed=1,2,3,4,5,6", "--"]
    words += ["glue_with_cka_i.py", "--task_name", "RTE", "--beta", 0]
    done = sweep(tmp_path, "runs", *words)
    assert len(done.stdout.splitlines()) == 3 and "3 runs, 0 of them finished" in done.stderr
    assert re.search(r"^total +3 .*\n\nHours: .* 3 runs, each at the full rate", done.stderr, re.M)
    kept = [
        float(re.search(r"^total .* ([\d.]+)$", told, re.M)[1])
        for keep in ("results", "model")
        for told in [sweep(tmp_path, "runs", "--keep", keep, *words).stderr]
    ]
    assert kept[0] == 0 < kept[1]
    off = sweep(tmp_path, "runs", *words, ESTIMATE="off")
    assert off.stdout == done.stdout and off.stderr == "3 runs, 0 of them finished\n"


def test_off_takes_a_flag_away_from_those_of_all_runs(tmp_path):
    words = ["--plan", "a", "bf16=on,off", "cache_dir=off", "--", "fake.py", "--bf16", "--x", 1]
    done = sweep(tmp_path, "runs", *words, "--cache_dir", "here", "there", "--y")
    on, off = (shlex.split(line) for line in done.stdout.splitlines())
    own = ["--x", "1", "--y"]
    assert [word for word in off if word in ("--bf16", "here", "there", "--cache_dir", *own)] == own
    assert on.count("--bf16") == 2 and "--cache_dir" not in on  # given twice, the last one counts


def test_a_plan_counts_what_is_still_to_do(tmp_path):
    words = ["--plan", "vkd", "seed=1,2,3", "--", "glue_with_cka_i.py", "--task_name", "RTE"]
    (tmp_path / "runs/vkd,seed=2").mkdir(parents=True)
    (tmp_path / "runs/vkd,seed=2/run.json").write_text('{"finished": true}')
    done = sweep(tmp_path, "runs", *words)
    assert len(done.stdout.splitlines()) == 3 and "3 runs, 1 of them finished" in done.stderr
    assert re.search(r"^total +2 ", done.stderr, re.M)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "expected RUNS_DIR"),
        (["runs"], "no runs"),
        (["runs", "--what", "a", "--", "fake.py"], "unknown option --what"),
        (["runs", "a", "--plan", "--", "fake.py"], "found '--plan' in a"),
        (["runs", "a", "seed=1"], "no SCRIPT after -- in a"),
        (["runs", "a", "seed=1", "--"], "no SCRIPT after --"),
        (["runs", "a", "--", "missing.py"], "missing.py is no Python script"),
        (["runs", "a/b", "--", "fake.py"], "found 'a/b'"),
        (["runs", "a", "seed=", "--", "fake.py"], "found 'seed='"),
        (["runs", "a", "seed=1,,2", "--", "fake.py"], "found 'seed=1,,2'"),
        (["runs", "a", "seed=1 2", "--", "fake.py"], "found 'seed=1 2'"),
        (["runs", "a", "seed", "--", "fake.py"], "found 'seed'"),
        (["runs", "a", "alpha=a/b,a_b", "--", "fake.py"], "a,alpha=a_b is taken"),
        (["runs", "--shard", "2/2", "a", "--", "fake.py"], "found 2/2"),
        (["runs", "--shard", "1", "a", "--", "fake.py"], "found 1"),
        (["runs", "--jobs", "0", "a", "--", "fake.py"], "found 0"),
        (["runs", "--jobs"], "--jobs needs a value"),
        (["runs", "--keep", "some", "a", "--", "fake.py"], "found some"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, words, message):
    done = sweep(tmp_path, *words)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "lines, message",
    [
        ("a -- fake.py\nb -- 'fake.py\n", "line 2 of the runs"),
        ("a -- fake.py\na -- fake.py\n", "name a is taken"),
        ("# nothing\n", "no runs"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, lines, message):
    done = sweep(tmp_path, "runs", lines=lines)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_other_mistakes(tmp_path):
    # the last of --array=1,2,7
    array = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_ID": "7"}
    assert "found 6/3" in sweep(tmp_path, "runs", *LISTS, **array).stderr
    assert (
        "no nowhere/python here" in sweep(tmp_path, "runs", *LISTS, PYTHON="nowhere/python").stderr
    )


def test_help(tmp_path):
    done = sweep(tmp_path, "--help")
    assert done.returncode == 0 and done.stderr == "" and "set -e" not in done.stdout
    for option in ("--jobs N", "--shard I/N", "--keep WHAT", "--plan", "cannot have a comma"):
        assert option in done.stdout
