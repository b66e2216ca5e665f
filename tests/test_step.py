"""benchmarks/step.py, profile_step.py and kmeans.py: a step's FLOPs, forms, a queue's gaps."""

import random
import sys
import textwrap
from types import SimpleNamespace

import forms
import kmeans
import pandas as pd
import profile_step
import pytest
import report
import scale
import step
import step_table
import torch
import transformers
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

# ---- what a task would cost --------------------------------------------------------------------


def test_rates_of_two_batch_sizes_are_two_columns(tmp_path):
    columns = ["model", "form", "precision", "device", "machine", "B", "examples / s"]
    rows = [("bert-base", "VKD", "bf16", "cpu", "M", size, 10.0 * size) for size in (32, 128)]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(tmp_path / "step.csv", index=False)
    assert scale.read_rates([tmp_path / "step.csv"]) == {
        "M, bf16, batch 32": {"VKD": 320.0},
        "M, bf16, batch 128": {"VKD": 1280.0},
    }
    again = table.assign(**{"examples / s": [340.0, 1300.0]})
    pd.concat([table, again]).to_csv(tmp_path / "step.csv", index=False)
    found = scale.read_rates([tmp_path / "step.csv"])
    assert found["M, bf16, batch 32"] == {"VKD": 330.0}


# ---- FLOPs of a form, the peak of a card ---------------------------------------------------------


@pytest.mark.parametrize("shape", ["tiny", "minilm"])
def test_model_flops_are_those_that_torch_counts(shape):
    """By torch's own counter, which sees every matrix product; pooler, head and embeddings are
    under a per cent."""
    args = SimpleNamespace(models=[shape])
    config = forms.config_of(args)
    config._attn_implementation = "eager"
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter:
        encoder(input_ids=torch.randint(5, 30, (2, 16))).last_hidden_state.sum().backward()
    assert counter.get_total_flops() == 3 * forms.forward_flops(config, 2, 16)


@pytest.mark.parametrize(
    "form, forwards",
    [
        ("VKD", 3 * 0.5 + 1),
        ("VKD, cached", 3 * 0.5),
        ("FSD_ILG, masked", 3 * 0.5 + 1),
        ("none", 3 * 0.5),
        ("floor", 3 * 0.5),
        ("teacher, trained", 3),
        ("teacher, forward", 1),
        ("published", 3 * 0.5 + 1),
    ],
)
def test_a_forms_flops_in_the_teachers_forwards(form, forwards):
    """Six trained layers of twelve are one and a half forwards of the teacher, a teacher that is
    run one more."""
    args = SimpleNamespace(models=["bert-base"])
    assert forms.model_flops(form, args, 32, 128) == forwards * forms.forward_flops(
        forms.config_of(args), 32, 128
    )


def test_bert_bases_flops_are_known():
    """12 layers of 2 * 7,077,888 operations a token, and 4 * 128 * 768 of attention."""
    args = SimpleNamespace(models=["bert-base"])
    operations = 12 * 128 * (2 * 7_077_888 + 4 * 128 * 768)
    assert forms.forward_flops(forms.config_of(args), 1, 128) == operations


def test_the_figures_of_the_page_are_those_of_the_formula():
    args, page = SimpleNamespace(models=["bert-base"]), (ROOT / "docs/gpu.md").read_text()
    whole, cached = (forms.model_flops(form, args, 1, 128) for form in ("VKD", "VKD, cached"))
    rate = 0.4 * step_table.peak_of("NVIDIA H100 80GB HBM3") * 1e12 / whole
    for figure in (f"{whole / 1e9:.1f} GFLOP", f"and {cached / 1e9:.1f} with", f"{rate:,.0f} sam"):
        assert figure in " ".join(page.split())


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Another", None),
    ],
)
def test_the_peak_of_a_card(name, peak):
    assert step_table.peak_of(name) == peak


# ---- forms and their table -----------------------------------------------------------------------


def test_every_method_and_variant_is_a_form():
    methods = {
        "none",
        "VKD",
        "PKD",
        "RKD",
        "MiniLM",
        "Gram",
        "Procrustes",
        "FSD_I",
        "FSD_L",
        "FSD_G",
        "FSD_IL",
        "FSD_ILG",
    }
    masked = {name.removesuffix(", masked") for name in forms.GROUPS["methods, masked"]}
    assert set(forms.GROUPS["methods"]) == methods == masked
    assert set(forms.GROUPS["methods, cached"]) == {
        f"{name}, cached" for name in methods - {"none"}
    }


def test_forms_are_counted_by_the_columns_that_they_compute():
    rows = {"attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])}
    batches = torch.tensor([0, 1]), torch.tensor([1])
    widths = [step.widths_of(forms.Step(None, cut), rows, batches) for cut in (False, True)]
    assert widths == [[5, 5], [3, 2]]


def on_an_h100(monkeypatch, *words, **more):
    """The rows of benchmarks/step.py for what a measurement on an H100 would have found."""
    found = {
        "seconds": [
            {"VKD": 0.010, "FSD_I": 0.012},
            {"VKD": 0.010, "FSD_I": 0.008},
            {"VKD": 0.020, "FSD_I": 0.016},
        ],
        "peaks": {"VKD": 500, "FSD_I": 600},
        "flops": {"VKD": 1.978e12, "FSD_I": 1.978e12},
        "product": 791.2,
        "left_out": [],
        "tokens": {"VKD": 60, "FSD_I": 128},
        "samples": {"VKD": 32, "FSD_I": 32},
        "device": "NVIDIA H100 80GB HBM3",
    } | more
    monkeypatch.setattr(step, "child", lambda *arguments: found)
    seen = []
    monkeypatch.setattr(step, "report", lambda rows, csv, device: seen.extend([*rows, device]))
    code = step.main(
        ["--models", "bert-base", "--precisions", "bf16", "--forms", "VKD", "FSD_I", *words]
    )
    assert code == len(found["left_out"])
    return seen


def test_the_table_of_a_card(monkeypatch):
    """1.978 TFLOP in 10 ms are 197.8 TFLOP/s, a fifth of an H100's 989; ratios are of a round."""
    vkd, fsd, device = on_an_h100(monkeypatch)
    assert device == "NVIDIA H100 80GB HBM3"
    assert (vkd["ms"], vkd["examples / s"], vkd["peak MiB"]) == (10.0, 3200.0, 500)
    assert (vkd["model TFLOP/s"], vkd["MFU %"], vkd["8192³, % of peak"]) == (197.8, 20.0, 80.0)
    assert (fsd["ms"], fsd["x VKD"], vkd["x VKD"]) == (12.0, 1.25, 1.0)
    assert (vkd["W'"], vkd["x VKD, same W'"], fsd["x VKD, same W'"]) == (60, 1.0, "")
    assert "with" not in vkd
    vkd, *_ = on_an_h100(monkeypatch, "--unpinned", "--dataloader_num_workers", "2")
    assert vkd["with"] == "--unpinned --dataloader_num_workers 2"
    on_an_h100(monkeypatch, left_out=["FSD_L"])
    vkd, *_ = on_an_h100(monkeypatch, device="NVIDIA Unheard-of")
    assert (vkd["model TFLOP/s"], vkd["MFU %"]) == (197.8, "")


def measured(*names, **more):
    """What benchmarks/step.py finds on the smallest model, on the CPU."""
    args = {
        "models": ["tiny"],
        "precisions": ["no"],
        "forms": names,
        "rounds": 1,
        "steps": 1,
        "batches": 1,
        "seconds": None,
        "per_gpu_train_batch_size": 4,
        "max_seq_length": 8,
        "no_cuda": True,
        "data_dir": None,
        "dataloader_num_workers": 0,
    } | dict.fromkeys(("library_mask", "padded_encoder", "returned_memory", "unpinned"), False)
    return step.measure(SimpleNamespace(**args | more))


def test_no_further_round_after_so_many_seconds():
    for seconds, rounds in ((None, 4), (1000, 4), (1e-6, 1)):
        found = measured("floor", rounds=4, batches=2, seconds=seconds)
        assert len(found["seconds"]) == rounds


def test_a_form_that_cannot_be_measured_is_left_out(monkeypatch, capsys):
    def refuses(*arguments):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(forms.FORMS, "FSD_L", forms.Form(refuses, 0.5, 1))
    found = measured("FSD_L", "floor")
    assert set(found["peaks"]) == set(found["flops"]) == set(found["seconds"][0]) == {"floor"}
    assert found["left_out"] == ["FSD_L"]
    assert "error: FSD_L is left out: out of memory" in capsys.readouterr().err


# ---- the queue of a GPU --------------------------------------------------------------------------


def test_a_gpus_work_is_waited_for_before_and_after(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    report.seconds(lambda: seen.append("work"), torch.device("cuda"))
    assert seen == ["wait", "work", "wait"]


def test_busy_time_and_gaps_are_those_of_a_picture():
    """Against intervals painted on a line of points."""
    draw = random.Random(0)
    for _ in range(50):
        intervals = [
            (start, start + draw.randint(1, 9)) for start in draw.choices(range(100), k=12)
        ]
        painted = {point for start, end in intervals for point in range(start, end)}
        busy, gaps = profile_step.busy_and_gaps(intervals)
        first, last = min(painted), max(painted)
        assert busy == len(painted)
        assert sum(gaps) == last + 1 - first - len(painted)
        starts = [
            point for point in range(first, last) if point in painted and point + 1 not in painted
        ]
        assert len(gaps) == len(starts)


def test_a_queue_is_read_off_its_events():
    """Two steps: kernels from 10 to 60 and from 90 to 130, a wait in the first, one at the end."""
    kinds = torch.autograd.DeviceType

    def event(name, kind, start, end, annotation=False):
        times = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(
            name=name, device_type=kind, time_range=times, is_user_annotation=annotation
        )

    events = [
        event("step 0", kinds.CPU, 0, 40),
        event("step 1", kinds.CPU, 40, 100),
        event("step 0", kinds.CUDA, 10, 130, True),
        event("gemm", kinds.CUDA, 10, 50),
        event("gemm", kinds.CUDA, 40, 60),
        event("softmax", kinds.CUDA, 90, 130),
        event("cudaStreamSynchronize", kinds.CPU, 20, 32),
        event("cudaDeviceSynchronize", kinds.CPU, 100, 130),
    ]
    found = profile_step.queue(SimpleNamespace(events=lambda: events), profiled=2)
    assert {row["operation"]: (row["calls"], row["ms"], row["%"]) for row in found} == {
        "(busy)": ("", 0.045, 75.0),
        "(gaps over 20 µs)": (0.5, 0.015, 25.0),
        "(waits)": (0.5, 0.006, ""),
        "(host)": ("", 0.05, ""),
    }
    assert profile_step.queue(SimpleNamespace(events=lambda: events[:2]), profiled=2) == []


# ---- k-means beside another's --------------------------------------------------------------------


FLASH = """
    import torch
    def batch_kmeans_Euclid(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None):
        centroids = init_centroids[0]
        for _ in range(max_iters):
            ids = torch.cdist(x[0], centroids).argmin(1)
            centroids = torch.stack([x[0][ids == k].mean(0) for k in range(n_clusters)])
        return ids[None], centroids[None], max_iters
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, said",
    [
        (FLASH, ""),
        (None, "ModuleNotFoundError"),
        ("def batch_kmeans_Euclid(*args, **more): raise ValueError('wide')", "ValueError: wide"),
    ],
)
def test_kmeans_beside_flash_kmeans(text, said, tmp_path, monkeypatch, capsys):
    """A stand-in of it finds the same clusters; one that is not there, or fails, is left out."""
    if text:
        (tmp_path / "flash_kmeans.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "flash_kmeans", raising=False)
    monkeypatch.setattr(kmeans, "seconds", lambda function, device, *given: 6.0)
    words = (
        "--widths 12 --rows 90 --num_centroid 5 --rounds 1 --passes 2 "
        "--per_gpu_train_batch_size 32 --csv"
    )
    kmeans.main([*words.split(), str(tmp_path / "k.csv")])
    table = pd.read_csv(tmp_path / "k.csv").set_index("form")
    assert (table["ms a pass"] == 3000).all()
    assert ("flash-kmeans" in table.index) == (said == "")
    assert (table["same clusters, %"].dropna() == 100).all()
    assert (table["inertia / ours"].dropna() == 1).all()
    assert said in capsys.readouterr().err
