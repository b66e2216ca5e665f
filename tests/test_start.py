"""What a script imports before it knows its flags, and what a run imports before it needs it."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from import_times import SLOW, imported

RUNS = (
    "glue_with_cka_i.py",
    "glue_with_cka_g.py",
    "glue_with_cka_ilg.py",
    "baselines/glue_with_baseline.py",
    "train_teacher.py",
    "train_memory.py",
)
TABLES = (
    "analysis/best.py",
    "analysis/ladder.py",
    "analysis/predictions.py",
    "analysis/probe.py",
    "analysis/report.py",
    "analysis/table.py",
    "analysis/tables.py",
    "scripts/carry.py",
    "scripts/check_kmeans.py",
    "scripts/demo.py",
    "scripts/estimate.py",
    "scripts/hold_out.py",
    "scripts/ladder.py",
    "scripts/one_task.py",
    "scripts/reproduce.py",
    "scripts/study.py",
    "scripts/study_weights.py",
    "scripts/sweep.py",
    "scripts/toy_entailment.py",
    "utils_glue.py",
    "benchmarks/end_to_end.py",
    "benchmarks/gpu.py",
    "benchmarks/onnx_int8.py",
    "benchmarks/peak_memory.py",
    "benchmarks/report.py",
    "benchmarks/scale.py",
)
MODEL = ("--model_name_or_path", "m", "--data_dir", "d", "--output_dir", "o")


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS + TABLES)
def test_help_waits_for_no_library(script):
    assert not SLOW & imported(script, "--help", code=0)[0]


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS)
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--no_such_flag",), 2, "unrecognized arguments: --no_such_flag"),
        (("--max_seq_length", "1", "--do_train"), 1, "--max_seq_length must be at least 2"),
        (("--task_name", "nli", "--do_train"), 1, "a task name among"),
    ],
)
def test_a_wrong_flag_waits_for_no_library(script, words, code, said):
    method = ("--method", "pkd") if "baseline" in script else ()
    found, message = imported(script, *MODEL, "--task_name", "RTE", *method, *words, code=code)
    assert not SLOW & found and said in message


@pytest.mark.slow
def test_a_run_imports_late_what_some_runs_need():
    """Figures, correlations, scores, curves: the loop of every method is imported without them."""
    program = """
import importlib, sys
import distill, training.clustering
from training.methods import read_methods
for name in read_methods():
    importlib.import_module(f"baselines.{name}")
late = "matplotlib", "scipy", "sklearn", "tensorboard"
print(*(name for name in late if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert not done.stdout.split()


def test_a_training_script_is_imported_without_its_loop():
    modules = ", ".join(script.removesuffix(".py").replace("/", ".") for script in RUNS)
    assert not SLOW & imported("-c", f"import {modules}", code=0)[0]
