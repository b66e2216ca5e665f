"""On a GPU: losses and k-means have the CPU's numbers, every precision trains and resumes, no step
waits, two are one.

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
from conftest import ROOT, flags, read_log, two_processes
from safetensors.torch import load_file

VISIBLE = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
PRECISIONS = [
    pytest.param([], id="float32"),
    pytest.param(["--bf16"], id="bf16"),
    pytest.param(["--fp16"], id="fp16", marks=pytest.mark.gpu_alone),
]


def has_gpu():
    """Asked of the driver, as the other tests hide the GPU from torch."""
    return (
        bool(shutil.which("nvidia-smi"))
        and "GPU 0" in subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    )


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
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (
            f"{script} {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        )

    return start


@pytest.mark.parametrize("check", ["losses", "kmeans", "waits"])
def test_numbers_and_waits(check, run, device):
    run("tests/on_device.py", check, device)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "structure", [pytest.param([], id="L"), pytest.param(["--internal"], id="I")]
)
def test_trains_and_resumes(precision, structure, run, tiny, tmp_path):
    for name, more in (
        ("s", []),
        ("again", ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4"]),
    ):
        run(
            "glue_with_cka_i.py",
            *flags(tiny, tmp_path / name, *precision, *structure, "--save_steps", 4, *more),
        )
    straight, resumed = read_log(tmp_path / "s"), read_log(tmp_path / "again")
    assert [entry["step"] for entry in resumed] == [5, 6]
    totals = [entry["total"] for entry in straight[4:]]
    assert [entry["total"] for entry in resumed] == pytest.approx(totals, rel=1e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_memory_and_the_integrated_method(precision, run, tiny, tmp_path):
    """Two clusterings have the same bits, and the CPU's centroids but for rounding; FSD_ILG trains
    on it."""
    shared = [
        "--model_name_or_path",
        tiny / "teacher",
        "--data_dir",
        tiny,
        "--task_name",
        "RTE",
        "--max_seq_length",
        24,
        "--do_train",
        "--num_centroid",
        4,
        *precision,
    ]
    for name, more in (("a", []), ("b", []), ("cpu", ["--no_cuda"])):
        if name != "cpu" or "--fp16" not in precision:  # the CPU has no fp16
            run("train_memory.py", *shared, *more, "--output_dir", tmp_path / name)
    a, b = (load_file(tmp_path / name / "memory.safetensors")["centroids"] for name in "ab")
    assert torch.equal(a, b)
    if not precision:
        cpu = load_file(tmp_path / "cpu/memory.safetensors")["centroids"]
        torch.testing.assert_close(a, cpu, rtol=1e-3, atol=1e-3)
    run(
        "glue_with_cka_ilg.py",
        *flags(
            tiny,
            tmp_path / "s",
            *precision,
            "--teacher_memory_path",
            tmp_path / "a",
            "--gamma_m",
            1e-3,
        ),
    )
    assert {"intra", "local", "F_MM", "F_E", "F_C"} <= read_log(tmp_path / "s")[-1].keys()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["pkd", "rkd", "minilm", "gram", "procrustes"])
def test_the_rivals_train(method, precision, run, tiny, tmp_path):
    run(
        "baselines/glue_with_baseline.py",
        *flags(tiny, tmp_path / "s", "--method", method, *precision),
    )
    assert all(entry["total"] < float("inf") for entry in read_log(tmp_path / "s"))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--bf16"], id="bf16"),
        pytest.param(["--fp16"], id="fp16", marks=pytest.mark.gpu_alone),
        pytest.param(["--mask_padding"], id="masked"),
        pytest.param(["--compile", "--bf16"], id="compiled", marks=pytest.mark.gpu_alone),
    ],
)
def test_cached_and_prepared_ahead(more, run, trained, tiny_without_dropout, tmp_path):
    """FSD_ILG with a teacher cache and loader workers has the losses of FSD_ILG without, to half
    precision."""
    arguments = (
        ["--gamma_g", 0]
        if "--mask_padding" in more
        else ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    )
    cache = ["--teacher_cache", tmp_path / "teachers", "--dataloader_num_workers", 2]
    for name, extra in (("plain", []), ("first", cache), ("second", cache)):
        run(
            "glue_with_cka_ilg.py",
            *flags(tiny_without_dropout, tmp_path / name, *arguments, *more, *extra),
        )
    plain, first, second = (
        [entry["total"] for entry in read_log(tmp_path / name)]
        for name in ("plain", "first", "second")
    )
    assert first == pytest.approx(plain, rel=3e-2)
    assert second == pytest.approx(first, rel=1e-3)


def test_a_report_measures_what_the_cpu_measures(run, tiny, tmp_path):
    shared = [
        "--model_name_or_path",
        tiny / "teacher",
        "--task_name",
        "RTE",
        "--data_dir",
        tiny,
        "--max_seq_length",
        24,
        "--students",
        f"mine={tiny / 'teacher'}",
    ]
    for name, more in (("gpu", []), ("cpu", ["--no_cuda"]), ("half", ["--bf16"])):
        run("analysis/report.py", *shared, *more, "--output_dir", tmp_path / name)
    for name in ("heat_maps", "layers", "relation_differences"):
        gpu, cpu = (
            pd.read_csv(tmp_path / place / f"{name}.csv").select_dtypes("float")
            for place in ("gpu", "cpu")
        )
        pd.testing.assert_frame_equal(gpu, cpu, rtol=1e-3, atol=1e-3)
    half = pd.read_csv(tmp_path / "half/heat_maps.csv")
    assert (half.diagonal_biased == 1).all()


def test_two_processes_on_one_gpu_are_one(run, device, trained, tiny_without_dropout, tmp_path):
    """Two processes of 4 rows against one of 8, over gloo, as NCCL takes no two processes on one
    GPU."""
    arguments = ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    run("glue_with_cka_ilg.py", *flags(tiny_without_dropout, tmp_path / "one", *arguments))
    pair = flags(
        tiny_without_dropout, tmp_path / "two", *arguments, "--per_gpu_train_batch_size", 4
    )
    environment = os.environ if device == "cpu" else VISIBLE | {"CUDA_VISIBLE_DEVICES": "0"}
    two_processes("glue_with_cka_ilg.py", pair, environment)
    one, two = ([entry["total"] for entry in read_log(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)


def test_two_processes_on_one_gpu_make_the_same_memory(run, device, tiny_without_dropout, tmp_path):
    shared = [
        "--model_name_or_path",
        tiny_without_dropout / "teacher",
        "--data_dir",
        tiny_without_dropout,
        "--task_name",
        "RTE",
        "--max_seq_length",
        24,
        "--do_train",
        "--num_centroid",
        4,
    ]
    run(
        "train_memory.py",
        *shared,
        "--per_gpu_train_batch_size",
        8,
        "--output_dir",
        tmp_path / "one",
    )
    environment = os.environ if device == "cpu" else VISIBLE | {"CUDA_VISIBLE_DEVICES": "0"}
    two_processes(
        "train_memory.py",
        [*shared, "--per_gpu_train_batch_size", 4, "--output_dir", tmp_path / "two"],
        environment,
    )
    one, two = (
        load_file(tmp_path / name / "memory.safetensors")["centroids"] for name in ("one", "two")
    )
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3)
