"""On a GPU: numbers are the CPU's, every precision trains and resumes, no step waits, two are one.

Without a GPU they are left out, but for `pytest --rehearse`, which runs them on the CPU to see
whether the tests themselves work; what only a GPU has is left out there, too.
"""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT, flags, memory_flags, read_log, two_processes
from safetensors.torch import load_file

from training.methods import read_methods

# conftest hides the GPU from the other tests
VISIBLE = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
PRECISIONS = [
    pytest.param([], id="float32"),
    pytest.param(["--bf16"], id="bf16"),
    pytest.param(["--fp16"], id="fp16", marks=pytest.mark.gpu_alone),
]


def has_gpu():
    """Asked of the driver."""
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return "GPU 0" in listed.stdout


HAS_GPU = has_gpu()


@pytest.fixture(autouse=True)
def device(request):
    """ "cuda", or in a rehearsal "cpu"."""
    rehearsal = request.config.getoption("--rehearse")
    if rehearsal and request.node.get_closest_marker("gpu_alone"):
        pytest.skip("only a GPU has it")
    if not rehearsal and not HAS_GPU:
        pytest.skip("needs an NVIDIA GPU; --rehearse runs it on the CPU")
    return "cpu" if rehearsal else "cuda"


@pytest.fixture
def run(device):
    """A function that runs a script of this repository on the device."""
    environment = VISIBLE if device == "cuda" else os.environ

    def start(script, *words):
        command = [sys.executable, str(ROOT / script), *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    return start


def totals(folder):
    """The logged losses of a run."""
    return [entry["total"] for entry in read_log(folder)]


def centroids(folder):
    return load_file(folder / "memory.safetensors")["centroids"]


@pytest.mark.parametrize("check", ["losses", "kmeans", "waits"])
def test_numbers_and_waits(check, run, device):
    run("tests/on_device.py", check, device)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("structure", [[], ["--internal"]], ids=["L", "I"])
def test_trains_and_resumes(precision, structure, run, tiny, tmp_path):
    more = [*precision, *structure, "--save_steps", 4]
    resume = ["--resume_from_checkpoint", tmp_path / "straight/checkpoint-4"]
    run("glue_with_cka_i.py", *flags(tiny, tmp_path / "straight", *more))
    run("glue_with_cka_i.py", *flags(tiny, tmp_path / "resumed", *more, *resume))
    assert [entry["step"] for entry in read_log(tmp_path / "resumed")] == [5, 6]
    straight, resumed = (totals(tmp_path / name) for name in ("straight", "resumed"))
    assert resumed == pytest.approx(straight[4:], rel=1e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_memory_and_the_integrated_method(precision, run, tiny, tmp_path):
    """Two clusterings are the same to the bit, and the CPU's to rounding; FSD_ILG trains on one."""
    for name in "ab":
        run("train_memory.py", *memory_flags(tiny, tmp_path / name, *precision))
    assert torch.equal(centroids(tmp_path / "a"), centroids(tmp_path / "b"))
    if not precision:
        run("train_memory.py", *memory_flags(tiny, tmp_path / "cpu", "--no_cuda"))
        found, wanted = centroids(tmp_path / "a"), centroids(tmp_path / "cpu")
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    more = [*precision, "--teacher_memory_path", tmp_path / "a", "--gamma_m", 1e-3]
    run("glue_with_cka_ilg.py", *flags(tiny, tmp_path / "s", *more))
    assert {"intra", "local", "F_MM", "F_E", "F_C"} <= read_log(tmp_path / "s")[-1].keys()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", sorted(read_methods()))
def test_the_rivals_train(method, precision, run, tiny, tmp_path):
    more = ["--method", method, *precision]
    run("baselines/glue_with_baseline.py", *flags(tiny, tmp_path / "s", *more))
    assert all(total < float("inf") for total in totals(tmp_path / "s"))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--bf16"], id="bf16"),
        pytest.param(["--fp16"], id="fp16", marks=pytest.mark.gpu_alone),
        pytest.param(["--mask_padding"], id="masked"),
    ],
)
def test_cached_and_prepared_ahead(more, run, trained, tiny_without_dropout, tmp_path):
    """FSD_ILG with a cache and loader workers has the losses of FSD_ILG, to half precision."""
    of_g = ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    more = [*more, *(["--gamma_g", 0] if "--mask_padding" in more else of_g)]
    cache = ["--teacher_cache", tmp_path / "teachers", "--dataloader_num_workers", 2]
    for name, extra in (("plain", []), ("first", cache), ("second", cache)):
        folder = tmp_path / name
        run("glue_with_cka_ilg.py", *flags(tiny_without_dropout, folder, *more, *extra))
    plain, first, second = (totals(tmp_path / name) for name in ("plain", "first", "second"))
    assert first == pytest.approx(plain, rel=3e-2)
    assert second == pytest.approx(first, rel=1e-3)


def test_a_report_measures_what_the_cpu_measures(run, tiny, tmp_path):
    shared = [
        "--model_name_or_path",
        tiny / "teacher",
        "--students",
        f"mine={tiny / 'teacher'}",
        "--task_name",
        "RTE",
        "--data_dir",
        tiny,
        "--max_seq_length",
        24,
    ]
    for name, more in (("gpu", []), ("cpu", ["--no_cuda"]), ("half", ["--bf16"])):
        run("analysis/report.py", *shared, *more, "--output_dir", tmp_path / name)
    for name in ("heat_maps", "layers", "relation_differences"):
        found, wanted = (
            pd.read_csv(tmp_path / place / f"{name}.csv").select_dtypes("float")
            for place in ("gpu", "cpu")
        )
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-3, atol=1e-3)
    half = pd.read_csv(tmp_path / "half/heat_maps.csv")
    assert (half.diagonal_biased == 1).all()


# ---- two processes on one GPU, over gloo, as NCCL refuses that; of 4 rows each against one of 8 --


def in_two(script, words, device):
    environment = os.environ if device == "cpu" else VISIBLE | {"CUDA_VISIBLE_DEVICES": "0"}
    two_processes(script, [*words, "--per_gpu_train_batch_size", 4], environment)


def test_two_processes_on_one_gpu_are_one(run, device, trained, tiny_without_dropout, tmp_path):
    more = ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    run("glue_with_cka_ilg.py", *flags(tiny_without_dropout, tmp_path / "one", *more))
    in_two("glue_with_cka_ilg.py", flags(tiny_without_dropout, tmp_path / "two", *more), device)
    assert totals(tmp_path / "two") == pytest.approx(totals(tmp_path / "one"), rel=1e-3)


def test_two_processes_on_one_gpu_make_one_memory(run, device, tiny_without_dropout, tmp_path):
    run("train_memory.py", *memory_flags(tiny_without_dropout, tmp_path / "one"))
    in_two("train_memory.py", memory_flags(tiny_without_dropout, tmp_path / "two"), device)
    found, wanted = centroids(tmp_path / "two"), centroids(tmp_path / "one")
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
