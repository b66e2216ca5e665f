"""Flags of HuggingFace's 2020 GLUE script that users still paste: they do what they say, nothing,
or are refused.
"""

import argparse
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, flags, memory_flags, read_log

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from baselines import glue_with_baseline
from common import UserError, cli
from training.flags import as_of_today

PASTED = "--local_rank -1 --fp16_opt_level O1 --server_ip '' --server_port ''".replace(
    "''", ""
).split(" ")
NAMES = {"local_rank", "fp16_opt_level", "server_ip", "server_port"}
PARSERS = {
    module.__name__: module.make_parser
    for module in (
        glue_with_cka_i,
        glue_with_cka_g,
        glue_with_cka_ilg,
        train_teacher,
        glue_with_baseline,
    )
}
PARSERS["train_memory"] = lambda: argparse.Namespace(
    parse_args=lambda words: train_memory.parse(words)[0]
)


def parse(*words, name="glue_with_cka_i"):
    needed = "--model_name_or_path t --data_dir d --output_dir o --task_name rte".split()
    more = ["--method", "vkd"] if "baseline" in name else []
    return PARSERS[name]().parse_args([*needed, *more, *words])


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize("name", PARSERS)
def test_every_training_script_takes_them_and_forgets_them(name):
    assert vars(parse(*PASTED, name=name)) == vars(parse(name=name))
    assert parse("--logging_dir", "board", name=name).run_file == "board"


@pytest.mark.slow
def test_a_run_has_no_trace_of_them(tiny, tmp_path):
    """Neither its settings, so that the same run without them goes on from it, nor its record and
    row.
    """
    assert (
        glue_with_cka_i.main(
            flags(
                tiny,
                tmp_path / "s",
                *PASTED,
                "--logging_dir",
                tmp_path / "board",
                "--results_csv",
                tmp_path / "r.csv",
                "--save_steps",
                2,
            )
        )
        == 0
    )
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert not NAMES & {*run["arguments"], *run["settings"]} and list(
        (tmp_path / "board").iterdir()
    )
    assert not {f"--{name}" for name in NAMES} & {*pd.read_csv(tmp_path / "r.csv").columns}
    checkpoint = tmp_path / "s/checkpoint-4"
    assert (
        glue_with_cka_i.main(flags(tiny, tmp_path / "t", "--resume_from_checkpoint", checkpoint))
        == 0
    )
    assert train_memory.main(memory_flags(tiny, tmp_path / "m", *PASTED)) == 0


def test_fp16_opt_level_chooses_between_what_there_is():
    assert (
        parse("--fp16", "--fp16_opt_level", "O1").fp16
        and parse("--fp16_opt_level", "O1", "--fp16").fp16
    )
    assert not parse("--fp16", "--fp16_opt_level", "O0").fp16
    assert not parse("--fp16_opt_level", "O2").fp16  # without --fp16 it says nothing
    for level in ("O2", "O3"):
        with pytest.raises(UserError, match=f"--fp16_opt_level {level} keeps the weights"):
            parse("--fp16", "--fp16_opt_level", level)


def test_float32_by_its_old_name_trains_without_a_gpu(tiny, tmp_path):
    assert (
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--fp16", "--fp16_opt_level", "O0")) == 0
    )
    assert json.loads((tmp_path / "s/run.json").read_text())["precision"] == "no"


def test_a_launchers_rank_is_its_environments(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    for words in (["--local_rank", "1"], ["--local-rank=1"], ["--local_rank", "-1"], []):
        assert "local_rank" not in parse(*words)
    with pytest.raises(UserError, match="--local_rank is 0, but the launcher's LOCAL_RANK is 1"):
        parse("--local-rank=0")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--local_rank", "0"], "--local_rank 0 is a flag that a launcher passes"),
        (["--local_rank", "-2"], "--local_rank must be at least -1, got -2"),
        (["--server_ip", "10.0.0.1"], "--server_ip 10.0.0.1 is for a remote debugger"),
        (["--server_port", "5678"], "--server_port 5678 is for a remote debugger"),
        (["--compile"], "--compile is gone"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(words, sentence, capsys):
    assert cli(lambda argv: parse(*argv), words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}") and said.count("\n") == 1


def test_a_run_that_did_not_compile_goes_on():
    settings = {"learning_rate": 1.0, "warmup_steps": 0, "compile": False}
    assert "compile" not in as_of_today(settings)
    assert as_of_today(settings | {"compile": True})["compile"] is True


@pytest.mark.slow
def test_the_old_launcher(tiny, tmp_path):
    """It passes --local-rank=N to each process, and the run is that of two."""
    arguments = flags(tiny, tmp_path / "s", "--per_gpu_train_batch_size", 4)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.launch",
            "--nproc_per_node",
            "2",
            "--master_port",
            "0",
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "localhost:0",
            "glue_with_cka_i.py",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s/run.json").read_text())["processes"] == 2 and read_log(
        tmp_path / "s"
    )


def test_the_help_names_them(capsys):
    with pytest.raises(SystemExit):
        train_teacher.make_parser().parse_args(["--help"])
    assert "old spellings:" in capsys.readouterr().out
