"""On a GPU only: each precision trains, the losses agree with the CPU's float64, a run resumes."""
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT, flags, read_log
from safetensors.torch import load_file


def has_gpu():
    """Asked of the driver, as the other tests hide the GPU from torch."""
    return bool(shutil.which("nvidia-smi")) and "GPU 0" in subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True).stdout


pytestmark = pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}


@pytest.mark.parametrize("precision", [[], ["--bf16"], ["--fp16"]])
@pytest.mark.parametrize("structure", [[], ["--internal"]])
def test_trains_and_resumes(precision, structure, tiny, tmp_path):
    for name, more in (("s", []), ("again", ["--resume_from_checkpoint", tmp_path / "s/checkpoint-4"])):
        arguments = flags(tiny, tmp_path / name, *precision, *structure, "--save_steps", 4, *more)
        subprocess.run([sys.executable, str(ROOT / "glue_with_cka_i.py"), *arguments], check=True, env=ENVIRONMENT)
    straight, resumed = read_log(tmp_path / "s"), read_log(tmp_path / "again")
    assert [entry["step"] for entry in resumed] == [5, 6]
    assert [entry["total"] for entry in resumed] == pytest.approx([e["total"] for e in straight[4:]], rel=1e-2)


@pytest.mark.parametrize("precision", [[], ["--bf16"], ["--fp16"]])
def test_a_memory_and_the_integrated_method(precision, tiny, tmp_path):
    """Two clusterings on the GPU have the same bits, and the CPU's centroids but for rounding; FSD_ILG trains on it."""
    shared = [str(x) for x in ("--model_name_or_path", tiny / "teacher", "--data_dir", tiny, "--task_name", "RTE",
                               "--max_seq_length", 24, "--do_train", "--num_centroid", 4, *precision)]
    for name, more in (("a", []), ("b", []), ("cpu", ["--no_cuda"])):
        if name == "cpu" and precision == ["--fp16"]:
            continue
        subprocess.run([sys.executable, str(ROOT / "train_memory.py"), *shared, *more, "--output_dir",
                        str(tmp_path / name)], check=True, env=ENVIRONMENT)
    a, b = (load_file(tmp_path / name / "memory.safetensors")["centroids"] for name in "ab")
    assert torch.equal(a, b)
    if not precision:
        torch.testing.assert_close(a, load_file(tmp_path / "cpu/memory.safetensors")["centroids"], rtol=1e-3, atol=1e-3)
    arguments = flags(tiny, tmp_path / "s", *precision, "--teacher_memory_path", tmp_path / "a", "--gamma_m", 1e-3)
    subprocess.run([sys.executable, str(ROOT / "glue_with_cka_ilg.py"), *arguments], check=True, env=ENVIRONMENT)
    assert {"intra", "local", "F_MM", "F_E", "F_C"} <= read_log(tmp_path / "s")[-1].keys()


@pytest.mark.parametrize("precision", [[], ["--bf16"], ["--fp16"]])
@pytest.mark.parametrize("method", ["pkd", "rkd", "minilm", "gram", "procrustes"])
def test_the_rivals_train(method, precision, tiny, tmp_path):
    arguments = flags(tiny, tmp_path / "s", "--method", method, *precision)
    subprocess.run([sys.executable, str(ROOT / "baselines/glue_with_baseline.py"), *arguments], check=True,
                   env=ENVIRONMENT)
    assert all(entry["total"] < float("inf") for entry in read_log(tmp_path / "s"))


def test_losses_agree_with_the_cpu():
    code = """
import torch, cka
h_s, h_t = torch.randn(8, 16, 32, dtype=torch.float64), torch.randn(8, 16, 48, dtype=torch.float64)
m_s, m_t = torch.randn(10, 512, dtype=torch.float64), torch.randn(10, 768, dtype=torch.float64)
inputs = h_s.flatten(1), m_s, h_t.flatten(1), m_t
wanted = cka.global_inter_feature_loss(*inputs, 0.01)
found = cka.global_inter_feature_loss(*(x.float().cuda() for x in inputs), 0.01).cpu().double()
torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
for loss in (cka.intra_feature_loss, cka.local_inter_feature_loss):
    for estimator in cka.ESTIMATORS:
        wanted = loss(h_s, h_t, estimator=estimator)
        found = loss(h_s.float().cuda(), h_t.float().cuda(), estimator=estimator).cpu().double()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=ENVIRONMENT)


@pytest.mark.parametrize("more", [["--bf16"], ["--fp16"], ["--mask_padding"], ["--compile", "--bf16"]])
def test_cached_and_prepared_ahead(more, trained, tiny_without_dropout, tmp_path):
    """FSD_ILG with a teacher cache and loader workers has the losses of FSD_ILG without, to half precision."""
    arguments = ["--teacher_memory_path", trained, "--gamma_m", 0.1]
    if "--mask_padding" in more:
        arguments = ["--gamma_g", 0]
    cache = ["--teacher_cache", tmp_path / "teachers", "--dataloader_num_workers", 2]
    for name, extra in (("plain", []), ("first", cache), ("second", cache)):
        subprocess.run([sys.executable, str(ROOT / "glue_with_cka_ilg.py"),
                        *flags(tiny_without_dropout, tmp_path / name, *arguments, *more, *extra)], check=True,
                       env=ENVIRONMENT)
    plain, first, second = ([entry["total"] for entry in read_log(tmp_path / name)]
                            for name in ("plain", "first", "second"))
    assert first == pytest.approx(plain, rel=3e-2)
    assert second == pytest.approx(first, rel=1e-3)


def test_a_report_measures_what_the_cpu_measures(tiny, tmp_path):
    shared = [str(x) for x in ("--model_name_or_path", tiny / "teacher", "--task_name", "RTE", "--data_dir", tiny,
                               "--max_seq_length", 24, "--students", f"mine={tiny / 'teacher'}")]
    for name, more in (("gpu", []), ("cpu", ["--no_cuda"]), ("half", ["--bf16"])):
        subprocess.run([sys.executable, str(ROOT / "analysis/report.py"), *shared, *more, "--output_dir",
                        str(tmp_path / name)], check=True, env=ENVIRONMENT)
    for name in ("heat_maps", "layers", "relation_differences"):
        gpu, cpu = (pd.read_csv(tmp_path / place / f"{name}.csv").select_dtypes("float") for place in ("gpu", "cpu"))
        pd.testing.assert_frame_equal(gpu, cpu, rtol=1e-3, atol=1e-3)
    half = pd.read_csv(tmp_path / "half/heat_maps.csv")
    assert (half.diagonal_biased == 1).all()


def test_no_step_between_logs_waits_for_the_gpu():
    code = """
import accelerate, torch, transformers
import distill, glue_with_cka_ilg, memory
from training import models
from training.teacher import Teacher
models.mask_without_waiting()
args = glue_with_cka_ilg.make_parser().parse_args(
    ["--model_name_or_path", "-", "--task_name", "RTE", "--data_dir", "-", "--output_dir", "-"])
accelerator = accelerate.Accelerator(mixed_precision="bf16")
config = transformers.BertConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24)
teacher, student = (transformers.AutoModelForSequenceClassification.from_config(config).cuda() for _ in range(2))
memories = memory.Memories(torch.randn(5, 24 * 16, device="cuda"), 16, 24, 1)
rows = {"input_ids": torch.randint(5, 30, (8, 24)), "attention_mask": torch.ones(8, 24, dtype=torch.uint8),
        "labels": torch.randint(2, (8,))}
rows["attention_mask"][:, 15:] = 0
loop = distill.Loop(args, accelerator, student.train(), Teacher(teacher.eval(), accelerator),
                    glue_with_cka_ilg.terms(args, memories), [(3, 3)], rows)
items = iter(loop.data.loader([torch.arange(8)] * 3, 0, True))
loop.step([next(items)], observe=False)
item = next(items)
torch.cuda.set_sync_debug_mode("error")
loop.step([item], observe=False)
"""
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
