"""scripts/study: the same number of trials for every method, and commands that parse."""

import re
from collections import Counter

import pytest
from commands_of_plans import plan_study, run_study, study_commands
from conftest import ROOT

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from baselines import glue_with_baseline
from scripts import study_protocol

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


# ---- the plan ------------------------------------------------------------------------------------


def test_the_plan_of_the_study(tmp_path):
    """Three trials of each method on the held-out rows, the final runs on the dev set; every
    command is one its script takes; nothing is started."""
    done = run_study(tmp_path, "--tasks", "MRPC", "--plan")
    trials, rates, final = Counter(), Counter(), Counter()
    assert done.returncode == 0, done.stderr
    for _, name, script, words in study_commands(done.stdout):
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
    assert trials == {method: 3 for method in study_protocol.METHODS if method != "none"}
    assert rates == {"rate_none": 6, "rate_vkd": 6, "rate_fsd_i": 6}
    twice = {"vkd", "fsd_i", "fsd_ilg", "fsd_i_masked"}  # three seeds more
    assert final == {
        name: 6 if name in twice else 3
        for name in [*study_protocol.METHODS, *study_protocol.VARIANTS]
    }


@pytest.mark.parametrize(
    "methods, variants",
    [
        ("vkd none", {"vkd_other_layers", "none_other_layers"}),
        ("vkd fsd_i", OF_I | {"vkd_other_layers"}),
        ("fsd_g", {"fsd_g_released_6", "fsd_g_released_7", "memory_released"}),
    ],
)
def test_the_variants_are_those_of_the_named_methods(tmp_path, methods, variants):
    found = plan_study(tmp_path, "--tasks", "MRPC", "--methods", methods)
    names = {name.split(",")[0] for part, name, *_ in found if part == "final"}
    assert names - {"teacher", "memory", *methods.split()} == variants
    found = plan_study(tmp_path, "--tasks", "MRPC", "--methods", methods, "--variants")
    names = {name.split(",")[0] for part, name, *_ in found if part == "final"}
    # fsd_i_masked is of the claims
    assert names - {"teacher", "memory", "fsd_i_masked", *methods.split()} == set()


def test_the_claims_have_all_seeds_of_i_without_padding(tmp_path):
    found = plan_study(tmp_path, "--tasks", "RTE", "--methods", "none vkd fsd_i", "--variants")
    seeds = [name for _, name, *_ in found if name.startswith("fsd_i_masked")]
    assert seeds == [f"fsd_i_masked,seed={seed}" for seed in range(2, 8)]


def test_our_forms_have_the_trials_and_seeds_of_the_published_ones(tmp_path):
    """They run on request alone, and differ in M_s's start and in nothing else."""
    named = ("fsd_g", "fsd_g_averaged", "fsd_ilg", "fsd_ilg_averaged")
    words = ("--tasks", "MRPC", "--learning_rate", "1e-4", "--variants", "--plan", "--methods")
    done = run_study(tmp_path, *words, *named)
    assert done.returncode == 0, done.stderr
    found = {name: (script, words) for _, name, script, words in study_commands(done.stdout)}
    ours = {name: command for name, command in found.items() if "averaged" in name}
    assert len(ours) == 2 * (3 + 3) + 3  # FSD_ILG has the seeds that a claim needs
    for name, (script, words) in ours.items():
        published, its = found[name.replace("_averaged", "")]
        start = words.index("--student_memory_init")
        assert words[start + 1] == "averaged" and script == published
        plain = [word.replace("_averaged", "") for word in words[:start] + words[start + 2 :]]
        assert plain == its


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
            for trial in study_protocol.METHODS[method].trials
            for word in trial.split()
            if not word.startswith("--")
        }
        assert tried <= told, name


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, said",
    [
        (
            ["--until", "finals"],
            "--until takes memory schedule trials final variants claims; found finals",
        ),
        (["--tasks", "mrpcs"], "--tasks takes"),
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
        (["--tasks", "MRPC RTE", "--searched", "x.csv"], "--searched has the search of one task"),
        (["--tasks", "MRPC", "--searched", "x.csv"], "x.csv: give RUNS_DIR/search/TASK"),
        (["--searched_task", "mrpc"], "--searched_task MRPC names the task of a search, but no"),
        (["--searched", "x.csv", "--searched_task", "x"], "--searched_task takes CoLA"),
    ],
)
def test_what_the_study_refuses(tmp_path, flags, said):
    done = run_study(tmp_path, *flags, "--plan")
    assert done.returncode and said in done.stderr and len(done.stderr.splitlines()) == 1
