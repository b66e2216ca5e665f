"""The held-out part of a training set, and the study's plan: the same number of trials for every
method.
"""

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
from baselines import glue_with_baseline
from common import UserError
from scripts import hold_out, study, study_protocol
from tasks.glue import get_task
from tasks.reading import read_examples


def test_every_row_is_in_one_of_the_two_parts(tmp_path):
    data = write_task(tmp_path / "glue", rows=(40, 12, 5))
    done = shell(
        "scripts/hold_out.py",
        "--data_dir",
        data,
        "--tasks",
        "rte",
        "--fraction",
        0.2,
        "--output_dir",
        tmp_path / "held",
    )
    assert done.returncode == 0 and "32 rows to train on, 8 held out" in done.stderr
    lines = (data / "RTE/train.tsv").read_bytes().splitlines(keepends=True)
    parts = {
        name: (tmp_path / f"held/RTE/{name}.tsv").read_bytes().splitlines(keepends=True)
        for name in ("train", "dev")
    }
    assert parts["train"][0] == parts["dev"][0] == lines[0]
    assert Counter(parts["train"][1:] + parts["dev"][1:]) == Counter(lines[1:])
    assert parts["train"][1:] == [line for line in lines[1:] if line in set(parts["train"])]
    assert len(read_examples(get_task("rte"), tmp_path / "held", "dev")) == 8
    before = parts["dev"]
    for seed in (0, 1):  # the seed decides
        hold_out.main(
            [
                "--data_dir",
                str(data),
                "--tasks",
                "rte",
                "--fraction",
                "0.2",
                "--seed",
                str(seed),
                "--output_dir",
                str(tmp_path / f"seed{seed}"),
            ]
        )
        again = (tmp_path / f"seed{seed}/RTE/dev.tsv").read_bytes().splitlines(keepends=True)
        assert (again == before) == (seed == 0)


def test_files_without_header_bom_and_two_dev_sets(tmp_path):
    """CoLA's files have no header, MRPC's begin with a byte-order mark in the wild, MNLI has two
    dev sets.
    """
    for task, text in (
        ("CoLA", "".join(f"s\t{i % 2}\t\tsentence {i}\n" for i in range(10))),
        (
            "MRPC",
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
            + "".join(f"{i % 2}\t1\t2\ta {i}\tb\r\n" for i in range(10)),
        ),
        (
            "MNLI",
            "index\tgenre\tsentence1\tsentence2\tgold_label\n"
            + "".join(f"{i}\tg\ta {i}\tb\tneutral\n" for i in range(10)),
        ),
    ):
        (tmp_path / task).mkdir()
        (tmp_path / task / "train.tsv").write_bytes(text.encode())
        hold_out.main(
            [
                "--data_dir",
                str(tmp_path),
                "--tasks",
                task,
                "--fraction",
                "0.25",
                "--output_dir",
                str(tmp_path / "held"),
            ]
        )
        found = get_task(task)
        for split, rows in ("train", 7), ("dev", 3):
            assert len(read_examples(found, tmp_path / "held", split)) == rows
    assert (tmp_path / "held/MNLI/dev_matched.tsv").read_bytes() == (
        tmp_path / "held/MNLI/dev_mismatched.tsv"
    ).read_bytes()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--fraction", "1"], "between 0 and 1"),
        (["--fraction", "0.99"], "too few"),
        (["--tasks", "rted"], "a task name"),
        (["--output_dir", "DATA"], "would be overwritten"),
    ],
)
def test_refusals(tmp_path, more, said):
    data = write_task(tmp_path / "glue")
    more = [str(data) if word == "DATA" else word for word in more]
    with pytest.raises(UserError, match=said):
        hold_out.main(
            [
                "--data_dir",
                str(data),
                "--tasks",
                "rte",
                "--output_dir",
                str(tmp_path / "held"),
                *more,
            ]
        )


METHODS = study_protocol.METHODS
PARSERS = {
    "glue_with_cka_i.py": glue_with_cka_i.make_parser,
    "glue_with_cka_g.py": glue_with_cka_g.make_parser,
    "glue_with_cka_ilg.py": glue_with_cka_ilg.make_parser,
    "glue_with_baseline.py": glue_with_baseline.make_parser,
}
OF_I = {
    "fsd_i_masked",
    "fsd_i_grouped",
    "fsd_i_masked_grouped",
    "fsd_i_debiased",
    "fsd_i_other_layers",
}


def run_study(tmp_path, *flags, **more):
    """scripts/study, with a space in the runs' path and in a Slurm array, whose shards it is not
    made of.
    """
    environment = {
        "PYTHON": sys.executable,
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_ARRAY_TASK_MIN": "0",
        "ESTIMATE": "off",
    } | more
    return subprocess.run(
        [
            "bash",
            str(ROOT / "scripts/study"),
            "org/model",
            str(tmp_path),
            str(tmp_path / "my runs"),
            *flags,
        ],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize(
    "flags, said",
    [
        (
            ["--until", "finals"],
            "--until is of memory schedule trials final variants claims; found finals",
        ),
        (["--tasks", "mrpcs"], "--tasks is of"),
        (["--methods", "vkd fitnet"], "found fitnet"),
        (["--seed", "1"], "unrecognized arguments: --seed 1"),
        (["--jobs", "two"], "--jobs is a number from 1 on; found two"),
        (["--seeds", "-1"], "--seeds is whole numbers from 0 on; found -1"),
        (["--epochs", "0"], "--epochs is a number above 0"),
        (["--warmup_ratio", "1"], "from 0 to below 1"),
        (["--more_seeds", "a"], "--more_seeds is whole numbers"),
        (["--warmup_ratio", "nan"], "found nan"),
        (["--warmup_ratio", "-0.5"], "found -0.5"),
        (["--epochs", "inf"], "found inf"),
        (["--rates", "nan"], "found nan"),
        (["--rates", "1e-4 0.0001"], "--rates has 0.0001 twice"),
        (["--seeds", "2 2"], "--seeds has 2 twice"),
        (["--methods", "vkd vkd"], "--methods has vkd twice"),
        (["--learning_rate", "abc"], "--learning_rate is a learning rate, as 1e-4; found abc"),
        (["--rates", "2e-5,5e-5"], "found 2e-5,5e-5"),
        (["--rates", ""], "--rates is learning rates, as 1e-4; found none"),
        (["--teacher_rate", "abc"], "found abc"),
        (["--relation_heads", "0"], "--relation_heads is a number from 1 on"),
        (["--tasks", "MRPC RTE", "--searched", "x.csv"], "--searched is of one task"),
        (["--tasks", "MRPC", "--searched", "x.csv"], "x.csv: give a search's results.csv"),
    ],
)
def test_what_the_study_refuses(tmp_path, flags, said):
    done = run_study(tmp_path, *flags, "--plan")
    assert done.returncode and said in done.stderr and len(done.stderr.splitlines()) == 1


def commands(done):
    """Of a plan: (part, name, script, words) of each command."""
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        _, script, *words = shlex.split(line)
        folder = Path(words[words.index("--output_dir") + 1])
        yield folder.parts[-3], folder.name, Path(script).name, words


@pytest.mark.parametrize(
    "methods, variants",
    [
        ("vkd none", {"vkd_other_layers", "none_other_layers"}),
        ("vkd fsd_i", OF_I | {"vkd_other_layers"}),
        ("fsd_g", {"fsd_g_released_6", "fsd_g_released_7", "memory_released"}),
    ],
)
def test_the_variants_are_those_of_the_named_methods(tmp_path, methods, variants):
    found = commands(run_study(tmp_path, "--tasks", "MRPC", "--methods", methods, "--plan"))
    names = {name.split(",")[0] for part, name, *_ in found if part == "final"}
    assert names - {"teacher", "memory", *methods.split()} == variants
    found = commands(
        run_study(tmp_path, "--tasks", "MRPC", "--methods", methods, "--plan", "--variants")
    )
    names = {name.split(",")[0] for part, name, *_ in found if part == "final"}
    assert (
        names - {"teacher", "memory", "fsd_i_masked", *methods.split()} == set()
    )  # that one is of the claims


def test_rates_and_a_search_of_another_machine(tmp_path):
    """Three rates by default, others by name; what was searched elsewhere is not searched again."""

    def rates(*flags):
        found = {}
        for part, name, _, words in commands(
            run_study(tmp_path, "--tasks", "MRPC", "--methods", "minilm", "--plan", *flags)
        ):
            if "minilm" in words:
                assert ("--relation_heads" in words) == ("--relation_heads" in flags)
            rate = [words[i + 1] for i, word in enumerate(words) if word == "--learning_rate"]
            found.setdefault((part, name.split(",")[0].split("-")[0]), []).extend(rate[-1:])
        return found

    for method in ("none", "vkd", "fsd_i"):
        assert sorted(rates()["search", f"rate_{method}"]) == sorted(2 * ["5e-5", "1e-4", "2e-4"])
    found = rates("--rates", "2e-5 5e-5", "--teacher_rate", "3e-5", "--relation_heads", "12")
    assert set(found["search", "rate_vkd"]) == {"2e-5", "5e-5"} and found["final", "teacher"] == [
        "3e-5"
    ]
    found = rates("--searched", str(write_search(tmp_path / "search.csv", "MRPC")))
    assert {part for part, _ in found} == {"final"} and found["final", "minilm"] == ["0.0002"] * 3
    found = rates("--learning_rate", "7e-5")
    assert (
        not any("rate_" in name for _, name in found) and found["final", "minilm"] == ["7e-5"] * 3
    )


def write_search(path, task, methods=("minilm",)):
    """What a search leaves: four rates, of which 2e-4 is best and not at the edge, and three trials
    of a method.
    """
    rows = []
    for rate, score in ((5e-5, 0.6), (1e-4, 0.7), (2e-4, 0.75), (4e-4, 0.65)):
        for method in ("none", "VKD", "FSD_I"):
            for seed in (0, 1):
                name = f"rate_{method.lower()},learning_rate={rate},seed={seed}"
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "acc": score + seed / 100,
                        "--learning_rate": rate,
                        "--output_dir": f"there/{name}",
                    }
                )
    for method in methods:
        for number, beta in enumerate((0.1, 1, 10), start=1):
            rows.append(
                {
                    "method": "MiniLM",
                    "seed": 1,
                    "acc": 0.7 + number / 100,
                    "--learning_rate": 2e-4,
                    "--beta": beta,
                    "--output_dir": f"there/trial_{method}-{number},seed=1",
                }
            )
    rows = [{"task": task, "f1": 0.8, "started": str(i)} | row for i, row in enumerate(rows)]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--methods", "minilm", "--tasks", "RTE"], "0 finished runs of RTE"),
        (
            ["--methods", "minilm rkd", "--tasks", "MRPC"],
            "0 finished runs of MRPC and named trial_rkd-*",
        ),
    ],
)
def test_a_search_that_does_not_fit_is_refused_before_anything_runs(flags, said, tmp_path):
    done = run_study(
        tmp_path, *flags, "--searched", str(write_search(tmp_path / "search.csv", "MRPC"))
    )
    assert done.returncode and said in done.stderr and not (tmp_path / "my runs").exists()


def scores(none, vkd, fsd_i):
    """Of rates 1, 2, 4 times 1e-4: the means of two seeds one point apart."""
    return {
        method: {1e-4 * 2**k: [mean - 0.5, mean + 0.5] for k, mean in enumerate(means)}
        for method, means in (("none", none), ("vkd", vkd), ("fsd_i", fsd_i))
    }


def test_the_learning_rate_by_its_rule():
    inside = scores((60, 70, 65), (60, 80, 70), (60, 70, 69))
    assert study_protocol.choose_rate(inside) == (2e-4, None)
    assert study_protocol.choose_rate(scores((60, 70, 65), (60, 70, 80), (60, 70, 69))) == (
        None,
        8e-4,
    )  # one at an edge
    assert study_protocol.choose_rate(scores((60, 70, 65), (60, 80, 70), (71, 70, 69))) == (
        None,
        5e-5,
    )
    flat = scores(
        (70, 70, 60), (70, 70, 70), (60, 70, 70)
    )  # no edge is better than what lies inside
    assert study_protocol.choose_rate(flat) == (2e-4, None)
    inside["none"][2e-4] = [
        60,
        80,
    ]  # unstable there; next best is 4e-4: 65 + 70 + 69 beside 60 + 60 + 60
    assert study_protocol.choose_rate(inside) == (4e-4, None)
    inside["none"][2e-4] = [67.6, 72.5]
    assert study_protocol.choose_rate(inside) == (2e-4, None)
    # at 2e-4 the student alone and VKD are what answers alike to everything: no rate for a study
    collapsed = scores((60, 76.1, 65), (60, 76.1, 70), (60, 90, 69))
    assert study_protocol.choose_rate(collapsed) == (2e-4, None)
    with pytest.raises(UserError, match="all methods above the best constant answer"):
        study_protocol.choose_rate(collapsed, constant=76.1)
    assert study_protocol.choose_rate(collapsed, constant=64) == (2e-4, None)
    for rate in inside["none"]:
        inside["none"][rate] = [60 + 10 * (rate == 2e-4), 65 + 10 * (rate == 2e-4)]
    with pytest.raises(UserError, match=r"at no rate of 0\.0001, 0\.0002, 0\.0004"):
        study_protocol.choose_rate(inside)


def args_of(tmp_path, *flags):
    args = study.parse(
        ["org/model", str(tmp_path), str(tmp_path / "runs"), "--tasks", "RTE", *flags]
    )
    study.check(args)
    return args


def test_a_search_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    """Rates beyond the grid that an earlier call began are its, too; a rate that lacks a seed is no
    rate yet.
    """
    folder = tmp_path / "runs/search/RTE"
    for name in ("rate_none,learning_rate=0.0004,seed=0", "rate_none,learning_rate=1e-4,seed=1"):
        (folder / name).mkdir(parents=True)
    (folder / "rate_vkd,learning_rate=0.0004,seed=0.log").touch()
    one = study.Study(args_of(tmp_path))
    assert one.rates_begun("RTE") == ["5e-5", "1e-4", "2e-4", "0.0004"]
    tried = []
    monkeypatch.setattr(
        study.Study,
        "sweep",
        lambda self, part, task, lines: tried.extend(" ".join(line[:4]) for line in lines),
    )
    monkeypatch.setattr(
        study.Study, "scores", lambda self, task: scores((60, 70, 65), (60, 80, 70), (60, 70, 69))
    )
    one.schedule()
    assert tried == [
        f"rate_{method} learning_rate=5e-5,1e-4,2e-4,0.0004 seed=0,1 --"
        for method in study_protocol.RATE_METHODS
    ]


@pytest.mark.parametrize("lacking", [None, ("fsd_i", 1e-4, 1), ("none", 2e-4, 0)])
def test_a_rate_counts_with_all_of_its_seeds(lacking, tmp_path):
    rows = [
        {
            "method": method,
            "task": "RTE",
            "seed": seed,
            "acc": 0.5,
            "--learning_rate": rate,
            "started": str(i),
            "--output_dir": f"rate_{method},learning_rate={rate},seed={seed}",
        }
        for i, (method, rate, seed) in enumerate(
            (m, r, s) for m in study_protocol.RATE_METHODS for r in (1e-4, 2e-4) for s in (0, 1)
        )
        if (method, rate, seed) != lacking
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "s.csv", index=False)
    one = study.Study(args_of(tmp_path, "--searched", str(tmp_path / "s.csv")))
    if lacking:
        with pytest.raises(UserError, match="or seeds of a rate, of one of none, vkd, fsd_i"):
            one.scores("RTE")
    else:
        assert one.scores("RTE")["fsd_i"] == {1e-4: [50, 50], 2e-4: [50, 50]}


def test_what_was_searched_at_another_rate_is_not_taken(tmp_path):
    search = write_search(tmp_path / "search.csv", "RTE")
    done = run_study(
        tmp_path,
        "--tasks",
        "rte",
        "--methods",
        "minilm",
        "--searched",
        str(search),
        "--learning_rate",
        "1e-3",
        "--plan",
    )
    assert done.returncode and "are of the learning rate 0.0002, not 0.001" in done.stderr
    rows = pd.read_csv(search)
    rows[rows["--learning_rate"] != 4e-4].to_csv(
        search, index=False
    )  # 2e-4, the best, is at the edge
    done = run_study(
        tmp_path, "--tasks", "rte", "--methods", "minilm", "--searched", str(search), "--plan"
    )
    assert done.returncode and "its rule asks for 0.0004 next" in done.stderr


def test_the_claims_have_all_seeds_of_i_without_padding(tmp_path):
    found = commands(
        run_study(tmp_path, "--tasks", "RTE", "--methods", "none vkd fsd_i", "--variants", "--plan")
    )
    seeds = [name for _, name, *_ in found if name.startswith("fsd_i_masked")]
    assert seeds == [f"fsd_i_masked,seed={seed}" for seed in range(2, 8)]


def test_a_teacher_must_be_above_the_constant_answer(tmp_path, monkeypatch, capsys):
    """Five points on dev: of 12 rows the commonest class is the constant answer's score."""
    data = write_task(tmp_path / "glue", rows=(8, 12, 4))
    labels = [row.split("\t")[-1] for row in (data / "RTE/dev.tsv").read_text().splitlines()[1:]]
    constant = 100 * max(Counter(labels).values()) / len(labels)
    assert study_protocol.constant_score("RTE", data) == pytest.approx(constant)
    assert study_protocol.constant_score("STS-B", data) == 0
    args = args_of(tmp_path)
    args.data_dir = str(data)
    for above, good in ((4.9, False), (5.1, True)):
        frame = pd.DataFrame(
            [
                {
                    "method": "teacher",
                    "task": "RTE",
                    "seed": 1,
                    "acc": (constant + above) / 100,
                    "--output_dir": "x/teacher",
                }
            ]
        )
        folder = tmp_path / "runs/final"
        folder.mkdir(parents=True, exist_ok=True)
        frame.to_csv(folder / "RTE", index=False)
        assert study.Study(args).teaches("RTE") == good
        assert ("teaches nothing and the task is left out" in capsys.readouterr().err) != good
    monkeypatch.setattr(study.Study, "prepare_all", lambda self, parts: None)
    monkeypatch.setattr(study.Study, "teaches", lambda self, task: False)
    args.searched = "x"
    with pytest.raises(UserError, match="no task has a teacher that can teach"):
        study.Study(args).memory()


def test_the_plan_of_the_study(tmp_path):
    """Three trials of each method on the held-out rows, the final runs on the dev set; every
    command is one its script takes; nothing is started."""
    done = run_study(tmp_path, "--tasks", "MRPC", "--plan")
    trials, rates, final = Counter(), Counter(), Counter()
    for _, name, script, words in commands(done):
        words = [re.sub("^BEST_.*", "1", word) for word in words]
        if script in PARSERS:
            args = PARSERS[script]().parse_args(words)
            held_out = "/held_out" in args.data_dir
            assert (
                held_out
                == ("/search/" in args.output_dir)
                == ("/search/" in args.model_name_or_path)
            )
            if name.startswith("trial_"):
                trials[name.removeprefix("trial_").split("-")[0]] += held_out
            elif name.startswith("rate_"):
                rates[name.split(",")[0]] += held_out
            else:
                final[name.split(",")[0]] += not held_out
        else:
            parse = (
                train_memory.parse if "memory" in script else train_teacher.make_parser().parse_args
            )
            parse(words)
    assert not (tmp_path / "my runs").exists()
    assert f"{len(done.stdout.splitlines())} runs to do, 0 finished" in done.stderr
    assert trials == {method: 3 for method in METHODS if method != "none"}
    assert rates == {"rate_none": 6, "rate_vkd": 6, "rate_fsd_i": 6}
    twice = {"vkd", "fsd_i", "fsd_ilg", "fsd_i_masked"}  # three seeds more
    assert final == {
        name: 6 if name in twice else 3 for name in [*METHODS, *study_protocol.VARIANTS]
    }


def test_docs_study_has_the_trials_of_the_command():
    """Numbers of the protocol: every weight that is tried is there, method by method."""
    page = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    rows = {
        name.strip(): cell
        for line in page.splitlines()
        if line.startswith("| ") and "trials" not in line
        for names, cell in [line.strip("| ").split(" | ", 1)]
        if not names.startswith("---")
        for name in names.split(",")
    }
    wanted = {
        "VKD": "vkd",
        "FSD_I": "fsd_i",
        "FSD_L": "fsd_l",
        "FSD_ILG": "fsd_ilg",
        "FSD_IL": "fsd_il",
        "FSD_G": "fsd_g",
        "MiniLM": "minilm",
        "RKD": "rkd",
        "PKD": "pkd",
        "Procrustes": "procrustes",
        "Gram": "gram",
    }
    assert set(rows) == set(wanted)
    for name, method in wanted.items():
        told = {float(number) for number in re.findall(r"(?<![_\w])\d[\d.e-]*\b", rows[name])}
        tried = {
            float(word)
            for trial in METHODS[method].trials
            for word in trial.split()
            if not word.startswith("--")
        }
        assert tried <= told, name
