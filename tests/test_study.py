"""The held-out part of a training set, and the study's plan: the same number of trials for every method."""
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, shell, write_task

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
import utils_glue
from baselines import glue_with_baseline
from scripts import hold_out
from training.records import UserError


def test_every_row_is_in_one_of_the_two_parts(tmp_path):
    data = write_task(tmp_path / "glue", rows=(40, 12, 5))
    done = shell("scripts/hold_out.py", "--data_dir", data, "--tasks", "rte", "--fraction", 0.2, "--output_dir",
                 tmp_path / "held")
    assert done.returncode == 0 and "32 rows to train on, 8 held out" in done.stderr
    lines = (data / "RTE/train.tsv").read_bytes().splitlines(keepends=True)
    parts = {name: (tmp_path / f"held/RTE/{name}.tsv").read_bytes().splitlines(keepends=True)
             for name in ("train", "dev")}
    assert parts["train"][0] == parts["dev"][0] == lines[0]
    assert Counter(parts["train"][1:] + parts["dev"][1:]) == Counter(lines[1:])
    assert parts["train"][1:] == [line for line in lines[1:] if line in set(parts["train"])]
    assert len(utils_glue.read_examples(utils_glue.get_task("rte"), tmp_path / "held", "dev")) == 8
    before = parts["dev"]
    for seed in (0, 1):  # the seed decides
        hold_out.main(["--data_dir", str(data), "--tasks", "rte", "--fraction", "0.2", "--seed", str(seed),
                       "--output_dir", str(tmp_path / f"seed{seed}")])
        again = (tmp_path / f"seed{seed}/RTE/dev.tsv").read_bytes().splitlines(keepends=True)
        assert (again == before) == (seed == 0)


def test_files_without_header_bom_and_two_dev_sets(tmp_path):
    """CoLA's files have no header, MRPC's begin with a byte-order mark in the wild, MNLI has two dev sets."""
    for task, text in (("CoLA", "".join(f"s\t{i % 2}\t\tsentence {i}\n" for i in range(10))),
                       ("MRPC", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
                        + "".join(f"{i % 2}\t1\t2\ta {i}\tb\r\n" for i in range(10))),
                       ("MNLI", "index\tgenre\tsentence1\tsentence2\tgold_label\n"
                        + "".join(f"{i}\tg\ta {i}\tb\tneutral\n" for i in range(10)))):
        (tmp_path / task).mkdir()
        (tmp_path / task / "train.tsv").write_bytes(text.encode())
        hold_out.main(["--data_dir", str(tmp_path), "--tasks", task, "--fraction", "0.25", "--output_dir",
                       str(tmp_path / "held")])
        found = utils_glue.get_task(task)
        for split, rows in ("train", 7), ("dev", 3):
            assert len(utils_glue.read_examples(found, tmp_path / "held", split)) == rows
    assert (tmp_path / "held/MNLI/dev_matched.tsv").read_bytes() == (
        tmp_path / "held/MNLI/dev_mismatched.tsv").read_bytes()


@pytest.mark.parametrize("more, said", [
    (["--fraction", "1"], "between 0 and 1"), (["--fraction", "0.99"], "too few"), (["--tasks", "rted"], "a task name"),
    (["--output_dir", "DATA"], "would be overwritten")])
def test_refusals(tmp_path, more, said):
    data = write_task(tmp_path / "glue")
    more = [str(data) if word == "DATA" else word for word in more]
    with pytest.raises(UserError, match=said):
        hold_out.main(["--data_dir", str(data), "--tasks", "rte", "--output_dir", str(tmp_path / "held"), *more])


METHODS = "none vkd fsd_ilg rkd pkd fsd_il minilm fsd_i fsd_l fsd_g gram procrustes".split()
PARSERS = {"glue_with_cka_i.py": glue_with_cka_i.make_parser, "glue_with_cka_g.py": glue_with_cka_g.make_parser,
           "glue_with_cka_ilg.py": glue_with_cka_ilg.make_parser,
           "glue_with_baseline.py": glue_with_baseline.make_parser}


def study(tmp_path, *flags):
    """scripts/study, with a space in the runs' path and in a Slurm array, whose shards it is not made of."""
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
                   "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    return subprocess.run(["bash", str(ROOT / "scripts/study"), "org/model", str(tmp_path), str(tmp_path / "my runs"),
                           *flags], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("flags, said", [
    (["--until", "finals"], "--until is of memory schedule trials final variants; found finals"),
    (["--tasks", "mrpc"], "--tasks is of"), (["--methods", "vkd fitnet"], "found fitnet"),
    (["--seed", "1"], "--seed is no flag"), (["--jobs", "two"], "--jobs is a number"),
    (["--searched", "x.csv"], "--searched is of one task"),
    (["--tasks", "MRPC", "--searched", "x.csv"], "x.csv: give a search's results.csv")])
def test_what_the_study_refuses(tmp_path, flags, said):
    done = study(tmp_path, *flags, "--plan")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("methods, variants", [
    ("none vkd", set()), ("vkd fsd_i", {"fsd_i_masked", "fsd_i_grouped", "fsd_i_masked_grouped"}),
    ("fsd_g", {"fsd_g_normal", "fsd_g_released", "fsd_g_rate", "memory_normal", "memory_released"})])
def test_the_variants_are_those_of_the_named_methods(tmp_path, methods, variants):
    done = study(tmp_path, "--tasks", "MRPC", "--methods", methods, "--plan")
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    folders = [Path(words[words.index("--output_dir") + 1]) for words in commands]
    names = {folder.name.split(",")[0] for folder in folders if "final" in folder.parts}
    assert names - {"teacher", "memory", *methods.split()} == variants


def test_rates_and_a_search_of_another_machine(tmp_path):
    """Three rates by default, others by name; what was searched elsewhere is not searched again."""
    def rates(*flags):
        done = study(tmp_path, "--tasks", "MRPC", "--methods", "minilm", "--plan", *flags)
        assert done.returncode == 0, done.stderr
        words = [shlex.split(line) for line in done.stdout.splitlines()]
        assert all("--relation_heads" in one for one in words if "minilm" in one) == ("--relation_heads" in flags)
        found = {}
        for one in words:
            part, name = Path(one[one.index("--output_dir") + 1]).parts[-3::2]
            rate = [one[i + 1] for i, word in enumerate(one) if word == "--learning_rate"]
            found.setdefault((part, name.split(",")[0].split("-")[0]), []).extend(rate[-1:])
        return found
    assert rates()["search", "vkd"] == ["1e-4", "2e-4", "4e-4"]
    found = rates("--rates", "2e-5 5e-5", "--teacher_rate", "3e-5", "--relation_heads", "12")
    assert found["search", "vkd"] == ["2e-5", "5e-5"] and found["final", "teacher"] == ["3e-5"]
    found = rates("--searched", str(write_search(tmp_path / "search.csv", "MRPC")))
    assert {part for part, _ in found} == {"final"} and found["final", "minilm"] == ["0.0002"] * 3


def write_search(path, task, methods=("minilm",)):
    """What a search leaves: three rates of VKD, of which 2e-4 is best, and two trials of each method."""
    names = [f"vkd,learning_rate={rate},seed=1" for rate in (1e-4, 2e-4, 4e-4)]
    names += [f"trial_{method}-{number},seed=1" for method in methods for number in (1, 2)]
    rows = [{"method": "MiniLM" if "trial" in name else "VKD", "task": task, "seed": 1, "acc": 0.7, "f1": 0.8,
             "--learning_rate": rate, "--beta": beta, "--output_dir": f"elsewhere/{name}", "started": str(number)}
            for number, (name, rate, beta) in enumerate(zip(
                names, (1e-4, 2e-4, 4e-4, *[2e-4] * 9), (0, 0, 0, *[0.1, 1] * 4), strict=False))]
    rows[1]["acc"] = 0.75
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("flags, said", [
    (["--methods", "minilm", "--tasks", "RTE"], "0 finished runs of RTE"),
    (["--methods", "minilm rkd", "--tasks", "MRPC"], "0 finished runs of MRPC and named trial_rkd-*"),
    (["--methods", "minilm", "--tasks", "MRPC", "--rates", "1e-4 2e-4"], "has 3 finished runs")])
def test_a_search_that_does_not_fit_is_refused_before_anything_runs(flags, said, tmp_path):
    done = study(tmp_path, *flags, "--searched", str(write_search(tmp_path / "search.csv", "MRPC")))
    assert done.returncode and said in done.stderr and not (tmp_path / "my runs").exists()


@pytest.mark.parametrize("flags, said", [
    (["--rates", "2e-5,5e-5"], "found 2e-5,5e-5"), (["--rates", ""], "--rates are numbers"),
    (["--teacher_rate", "abc"], "found abc"), (["--relation_heads", "0"], "--relation_heads is a number")])
def test_numbers_of_the_study(flags, said, tmp_path):
    done = study(tmp_path, "--tasks", "MRPC", *flags, "--plan")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_plan_of_the_study(tmp_path):
    """Two trials of each method on the held-out rows, the final runs on the dev set; every command is one its script
    takes; nothing is started."""
    done = study(tmp_path, "--tasks", "MRPC", "--plan")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "my runs").exists()
    commands = [shlex.split(line)[1:] for line in done.stdout.splitlines()]
    trials, final = Counter(), Counter()
    for script, *words in commands:
        words = [re.sub("^BEST_.*", "1", word) for word in words]
        if Path(script).name in PARSERS:
            args = PARSERS[Path(script).name]().parse_args(words)
            name = Path(args.output_dir).name
            held_out = "/held_out" in args.data_dir
            assert held_out == ("/search/" in args.output_dir) == ("/search/" in args.model_name_or_path)
            if name.startswith("trial_"):
                trials[name.removeprefix("trial_").split("-")[0]] += held_out
            elif not held_out:
                final[name.split(",")[0]] += 1
        else:
            parse = train_memory.parse if "memory" in script else train_teacher.make_parser().parse_args
            parse(words)
    assert trials == {method: 2 for method in METHODS if method != "none"}
    variants = dict.fromkeys(("fsd_i_masked", "fsd_i_grouped", "fsd_i_masked_grouped",
                              "fsd_l_debiased", "fsd_g_normal", "fsd_g_released"), 3)
    variants["fsd_g_rate"] = 6
    assert final == {method: 3 for method in METHODS} | variants
