"""scripts/ladder: commands that parse, what is refused, and a ladder of tiny students from the
command to its figure.
"""

import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, save_models, shell
from own_data import own

import glue_with_cka_i
from baselines import glue_with_baseline
from common import UserError, write_json
from scripts import ladder, ladder_earlier

PARSERS = {
    "glue_with_cka_i.py": glue_with_cka_i.make_parser,
    "glue_with_baseline.py": glue_with_baseline.make_parser,
}


def words_of(tiny, *more, teacher="teacher"):
    task = ["--data_dir", tiny, "--task_name", "rte"]
    return [str(word) for word in (tiny / teacher, *task, "--model", tiny / "pretrained", *more)]


@pytest.fixture
def planned(monkeypatch, capsys):
    """A function: the commands of a plan, {name of the run: (script, arguments by its parser)}."""
    monkeypatch.setenv("ESTIMATE", "off")
    monkeypatch.setenv("PYTHON", sys.executable)

    def plan(words):
        assert ladder.main([*words, "--plan"] if "--" not in words else words) == 0
        found = {}
        for line in capsys.readouterr().out.splitlines():
            script, *rest = shlex.split(line)[1:]
            args = PARSERS[Path(script).name]().parse_args(rest)
            found[Path(args.output_dir).name] = Path(script).name, args
        return found

    return plan


# ---- the plan ------------------------------------------------------------------------------------


def test_a_seed_after_the_other_and_each_size_once(tiny, tmp_path, planned):
    sizes = ["--layers", "1", "3", "--student_layers", "0,2", "--method", "none", "fsd_i"]
    found = planned(
        words_of(tiny, *sizes, "--seeds", 7, 8, "--runs", tmp_path / "r/", "--plan", "--", "--bf16",
                 "--learning_rate", "3e-4", "--max_seq_length", "24")
    )  # fmt: skip
    rungs = [f"{m}-{size}" for m in ("none", "fsd_i") for size in ("depth1", "depth3", "layers0+2")]
    assert list(found) == [f"{rung},seed={seed}" for seed in (7, 8) for rung in rungs]
    for name, (script, args) in found.items():
        assert script == f"glue_with_{'baseline' if name.startswith('none') else 'cka_i'}.py"
        assert (args.learning_rate, args.bf16, args.max_seq_length) == (3e-4, True, 24)
        assert args.model_name_or_path == str(tiny / "teacher")
        assert args.model_name_or_path_for_copy == str(tiny / "pretrained")
        assert args.copy_teacher and args.do_train and args.do_eval and args.seed in (7, 8)
        assert args.teacher_cache == str(tmp_path / "r/cache")
        depth, picked = args.student_num_hidden_layers, args.student_layers
        assert ("depth1" in name, "depth3" in name) == (depth == 1, depth == 3)
        assert ("0+2" in name) == (picked == "0,2")
    assert {args.beta for _, args in found.values() if hasattr(args, "internal")} == {16}
    assert not (tmp_path / "r").exists()


def test_by_default_sizes_that_the_model_has_and_the_teachers_length(tiny, tmp_path, planned):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny / "teacher", teacher)
    write_json(teacher / "run.json", {"arguments": {"task_name": "RTE", "max_seq_length": 40}})
    task = ["--data_dir", str(tiny), "--task_name", "rte", "--seeds", "1"]
    found = planned([str(teacher), *task])
    assert [args.student_num_hidden_layers for _, args in found.values()] == [1, 2, 3, 4]
    for _, args in found.values():
        assert args.max_seq_length == 40 and args.model_name_or_path_for_copy == str(teacher)
        assert args.output_dir.startswith("runs/rte-ladder/fsd_i-depth")
    only = planned([str(teacher), *task, "--student_layers", "0,3"])
    assert [args.student_layers for _, args in only.values()] == ["0,3"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layers", "2", "5"], r"--layers is numbers of layers, from 1 to 4, .* found 5"),
        (["--layers", "0"], "from 1 to 4"),
        (["--layers", "2", "3", "2"], "--layers has 2 twice"),
        (["--student_layers", "0,4"], "asks for layer 4, but .* has 4 layers, 0 to 3"),
        (["--student_layers", "3,1"], "--student_layers: .* pass 1,3"),
        (["--layers", "2", "--student_layers", "0,1"], "0,1 and --layers 2 copy the same layers"),
        (["--student_layers", "0,3", "0,3"], "they are one student"),
        (["--task_name", "rted"], "a task name"),
        (["--task_name", "ax"], "has no training set"),
        (["--task_name", "MRPC"], "MRPC"),
        (["--method", "fsd"], "--method takes none vkd"),
        (["--method", "fsd_ilg"], "needs a memory of the teacher"),
        (["--seeds", "1", "1"], "--seeds has 1 twice"),
        (["--jobs", "0"], "--jobs is a whole number"),
        (["--depths", "1"], "--depths is no flag of scripts/ladder"),
        (["--", "--student_num_hidden_layers", "1"], "after -- would override what"),
        (["--train_file", "x.csv"], "--task_name rte is GLUE's, and your own files would stand"),
        (["--plan", "--", "--train_file", "x.csv"], "--train_file after -- would override"),
        (["--", "--bf16", "--validation_file=x.csv"], "--validation_file after -- would override"),
    ],
)
def test_mistakes_are_one_sentence(tiny, more, said):
    with pytest.raises(UserError, match=said):
        ladder.check(ladder.parse(words_of(tiny, *more)))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--task_name", "rte"], "the rows of RTE are not told: pass --data_dir"),
        (["--task_name", "mood", "--train_file", "TRAIN"], "pass both --train_file and"),
        (
            ["--task_name", "mood", "--train_file", "none.csv"],
            "none.csv does not exist",
        ),
        (["--task_name", "m", "--train_file", "TRAIN", "--data_dir", "g"], "is a folder of GLUE's"),
    ],
)
def test_rows_that_are_not_told_are_refused(words, said, tiny, tmp_path):
    own(tmp_path)
    words = [str(tmp_path / "train.csv") if word == "TRAIN" else word for word in words]
    with pytest.raises(UserError, match=said):
        ladder.check(ladder.parse([str(tiny / "teacher"), *words]))


def test_no_teacher_is_refused(tiny, tmp_path):
    task = ["--data_dir", str(tiny), "--task_name", "rte"]
    for teacher, said in (
        (tmp_path / "none", "there is no folder"),
        ("./none", "there is no folder"),
        (tiny / "RTE", "has no model, as it has no"),
    ):
        with pytest.raises(UserError, match=said):
            ladder.check(ladder.parse([str(teacher), *task]))
    unfinished = tmp_path / "checkpoint-3"
    shutil.copytree(tiny / "teacher", unfinished)
    with pytest.raises(UserError, match="only checkpoint-3 of a training that has not ended"):
        ladder.check(ladder.parse([str(tmp_path), *task]))
    write_json(unfinished / "run.json", {"arguments": {"task_name": "MRPC"}})
    with pytest.raises(UserError, match="was trained on MRPC, not on RTE"):
        ladder.check(ladder.parse([str(unfinished), *task]))


def test_a_teacher_that_knows_nothing_is_refused_and_a_weak_one_said(tiny, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny / "teacher", teacher)
    args = ladder.parse(words_of(tiny))
    args.teacher = str(teacher)
    ladder.check(args)
    labels = pd.read_csv(tiny / "RTE/dev.tsv", sep="\t").label
    constant = (labels == labels.mode()[0]).mean()
    ladder.check_teaches(args)  # its score is not known
    for score in (constant + 0.06, constant + 0.04):
        write_json(teacher / "eval_results.json", {"acc": score})
        ladder.check_teaches(args)
        assert ("has little to teach" in capsys.readouterr().err) == (score < constant + 0.05)
    write_json(teacher / "eval_results.json", {"acc": constant})
    with pytest.raises(UserError, match="so it teaches nothing"):
        ladder.check_teaches(args)


# ---- beside finished runs ------------------------------------------------------------------------


@pytest.fixture
def finished(tiny, tmp_path):
    """A function that writes the record of a finished run of a ladder, as of these flags."""

    def write(*extra, **changes):
        words = words_of(tiny, "--layers", 1, "--seeds", 3, "--runs", tmp_path / "r", "--", *extra)
        args = ladder.parse(words)
        ladder.check(args)
        (run,) = ladder.make_sweep(args).runs.values()
        (tmp_path / "r" / run.name).mkdir(parents=True)
        record = {"finished": True, "arguments": ladder_earlier.read_arguments(run) | changes}
        write_json(tmp_path / "r" / run.name / "run.json", record)

    return write


def more_of(tiny, tmp_path, *more):
    return words_of(tiny, "--layers", 1, 2, "--seeds", 3, "--runs", tmp_path / "r", *more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--", "--learning_rate", "1e-3"], "--learning_rate 5e-05, but .* --learning_rate 0.001"),
        (["--", "--bf16"], "no --bf16, but the new runs have --bf16"),
        (["--", "--max_seq_length", "16"], "--max_seq_length 128, but .* --max_seq_length 16"),
        (["--", "--beta", "4"], "--beta 16.0, but the new runs have --beta 4.0"),
        (["--", "--max_eval_samples", "4"], "no --max_eval_samples"),
        (["--method", "vkd", "--", "--max_steps", "9"], "--max_steps -1, but .* --max_steps 9"),
        (["--model", "TEACHER"], "--model_name_or_path_for_copy .*pretrained, but .*teacher"),
    ],
)
def test_other_flags_than_those_of_finished_runs_train_nothing(
    tiny, tmp_path, finished, planned, more, said
):
    """Of a size that is new, whose table would be refused at the end."""
    finished()
    more = [str(tiny / "teacher") if word == "TEACHER" else word for word in more]
    where = r"the finished run .*r/fsd_i-depth1,seed=3 has .*"
    with pytest.raises(
        UserError, match=where + said + ".*so give those of the finished run, or another"
    ):
        planned(more_of(tiny, tmp_path, *more))
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["fsd_i-depth1,seed=3"]


def test_sizes_methods_and_forms_are_added_to_finished_runs(tiny, tmp_path, finished, planned):
    """Of the same setting, by another path to the same models, and as an older version wrote it."""
    shutil.copytree(tiny / "teacher", tmp_path / "moved")
    finished(
        model_name_or_path=str(tmp_path / "moved"),
        model_name_or_path_for_copy="/another/machine/pretrained",
        compile=False,
    )
    for more in (["--plan"], ["--method", "vkd", "rkd", "--plan"]):
        assert planned(more_of(tiny, tmp_path, *more))
    form = ["--plan", "--", "--cka_estimator", "debiased", "--beta", "4"]
    assert planned(more_of(tiny, tmp_path, *form))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "vkd", "fsd_i", "rkd", "minilm"])
def test_a_run_that_has_ended_takes_more_beside_it(tiny, tmp_path, planned, method):
    """What its script makes of the flags, as a rival's defaults, is the same for the next run."""
    short = ["--method", method, "--", "--max_seq_length", "24", "--max_steps", "1"]
    words = words_of(tiny, "--layers", 2, "--seeds", 3, "--runs", tmp_path / "r", *short)
    args = ladder.parse(words)
    ladder.check(args)
    (run,) = ladder.make_sweep(args).runs.values()
    script = glue_with_cka_i if "cka_i" in run.words[1] else glue_with_baseline
    assert script.main(run.words[2:]) == 0
    assert len(planned(more_of(tiny, tmp_path, "--plan", *short))) == 2
    with pytest.raises(UserError, match="has --learning_rate 5e-05"):
        planned(more_of(tiny, tmp_path, "--plan", *short, "--learning_rate", "1e-3"))


def test_another_teacher_is_not_added_to_finished_runs(tiny, tmp_path, finished, planned):
    finished(model_name_or_path=str(save_models(tmp_path, seed=1) / "teacher"))
    with pytest.raises(UserError, match=r"has --model_name_or_path .*teacher, but the"):
        planned(more_of(tiny, tmp_path, "--plan"))


# ---- a whole ladder ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ladder_from_the_command_to_the_figure(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    words = words_of(
        tiny, "--layers", 1, 2, "--seeds", 3, "--runs", tmp_path / "runs", "--",
        "--max_seq_length", 24, "--max_steps", 1, "--no_cuda",
    )  # fmt: skip
    done = shell("scripts/ladder.py", *words)
    assert done.returncode == 0, done.stderr
    assert "2 done now" in done.stderr and "| FSD_I, 2 layers" in done.stdout
    made = {path.name for path in (tmp_path / "runs").glob("ladder.*")}
    assert made == {"ladder.csv", "ladder.md", "ladder.svg"}
    assert (tmp_path / "runs/ladder.md").read_text() == done.stdout
    again = shell("scripts/ladder.py", *words)
    assert again.returncode == 0 and "2 skipped as finished" in again.stderr
    assert ROOT.name not in (tmp_path / "runs/ladder.csv").read_text()
