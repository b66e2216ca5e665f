"""benchmarks/gpu.py and what it runs: FLOPs, the queue's gaps, the clock, what travels, and a
rehearsal of the whole."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
import transformers
from conftest import ROOT, shell
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from common import UserError
from scripts import carry
from training.session import share_gpus

sys.path.insert(0, str(ROOT / "benchmarks"))
import forms
import gpu
import gpu_stages
import kmeans
import profile_step
import report
import step
import step_table

# ---- a step's FLOPs, a card's peak, a queue's gaps -----------------------------------------------


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


def test_forms_are_counted_by_the_columns_that_they_compute():
    rows = {"attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])}
    batches = torch.tensor([0, 1]), torch.tensor([1])
    widths = [step.widths_of(forms.Step(None, cut), rows, batches) for cut in (False, True)]
    assert widths == [[5, 5], [3, 2]]


def test_no_further_round_after_so_many_seconds():
    def measured(seconds):
        return step.measure(
            SimpleNamespace(
                models=["tiny"],
                precisions=["no"],
                forms=["floor"],
                rounds=4,
                steps=1,
                seconds=seconds,
                per_gpu_train_batch_size=4,
                max_seq_length=8,
                no_cuda=True,
                library_mask=False,
                padded_encoder=False,
                returned_memory=False,
                unpinned=False,
                dataloader_num_workers=0,
                batches=2,
                data_dir=None,
            )
        )["seconds"]

    assert len(measured(None)) == len(measured(1000)) == 4
    assert len(measured(1e-6)) == 1


def test_a_gpus_work_is_waited_for_before_and_after(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    report.seconds(lambda: seen.append("work"), torch.device("cuda"))
    assert seen == ["wait", "work", "wait"]


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


def test_a_form_that_cannot_be_measured_is_left_out(monkeypatch, capsys):
    def refuses(*arguments):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(forms.FORMS, "FSD_L", forms.Form(refuses, 0.5, 1))
    args = SimpleNamespace(
        models=["tiny"],
        precisions=["no"],
        forms=["FSD_L", "floor"],
        rounds=1,
        steps=1,
        padded_encoder=False,
        returned_memory=False,
        unpinned=False,
        dataloader_num_workers=0,
        seconds=None,
        batches=1,
        data_dir=None,
        per_gpu_train_batch_size=4,
        max_seq_length=8,
        no_cuda=True,
        library_mask=False,
    )
    found = step.measure(args)
    assert set(found["peaks"]) == set(found["flops"]) == set(found["seconds"][0]) == {"floor"}
    assert found["left_out"] == ["FSD_L"]
    assert "error: FSD_L is left out: out of memory" in capsys.readouterr().err


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


# ---- the clock, the tables, the log --------------------------------------------------------------


def session(tmp_path, **more):
    given = {
        "minutes": 5,
        "output_dir": str(tmp_path / "out"),
        "work_dir": str(tmp_path / "work"),
        "commit": "abc",
        "wheels": None,
        "jobs": 2,
        "rehearse": False,
    } | more
    return gpu.Session(SimpleNamespace(**given))


def python(name, code, most=1, **more):
    """A job that is a few lines of Python."""
    return gpu_stages.Job(name, ["-c", textwrap.dedent(code)], most, **more)


def test_a_job_leaves_its_table_joined_with_others(tmp_path, capsys):
    here = session(tmp_path)
    for part, text in (("kind one", "a,b\n1,2\n"), ("kind two", "a,c\n3,x\n"), ("other", "a\n5\n")):
        here.run(
            python(
                part,
                f"""
            import os
            open({str(here.work / part) + ".csv"!r}, "w").write({text!r})
            print(os.environ["FSD_COMMIT"])""",
                part=part,
            )
        )
    assert (here.output / "gpu_kind.csv").read_text() == "a,b,c\n1,2,\n3,,x\n"
    assert (here.output / "gpu_other.csv").read_text() == "a\n5\n"
    assert not here.missed and "done in 0.0 min; abc" in capsys.readouterr().out
    here.run(python("kind two", "", part="kind two"))  # which has none any more
    assert (here.output / "gpu_kind.csv").read_text() == "a,b\n1,2\n"
    (here.work / "kind three.csv").write_text("")
    here.run(python("kind four", "", part="kind four"))
    (missed,) = here.missed
    assert "kind three.csv is no table" in missed


def test_failures_and_the_end_of_time(tmp_path, monkeypatch, capsys):
    """One job fails, one leaves something out, one hangs, for two no time is left: all is told."""
    monkeypatch.setattr(gpu, "PATIENCE", 0.1)
    monkeypatch.setattr(gpu, "LEAST", 0)
    here = session(tmp_path)
    here.run(python("fails", "print('why'); raise SystemExit(3)"))
    here.run(python("says", "raise SystemExit('error: FSD_L is left out\\nerror: FSD_G, too')"))
    here.run(python("hangs", "import time; time.sleep(99)", most=2 / 60))
    here.run(python("waits for others", ""), kept=299)
    here.deadline = time.monotonic() - 1
    here.run(python("late", ""))
    here.sum_up(5)
    assert here.missed[1].endswith("; error: FSD_L is left out; error: FSD_G, too")
    assert [text.split(" after")[0] for text in here.missed] == [
        "fails: ended with 3",
        "says: ended with 1",
        "hangs: its time was over",
        "waits for others: no time was left",
        "late: no time was left",
    ]
    assert "0 of 5 jobs are done" in capsys.readouterr().out
    assert "why" in (here.output / "gpu.log").read_text()


SLOW = """
    import pathlib, signal, sys, time
    def save(*_):
        time.sleep(1.5)
        pathlib.Path(sys.argv[1]).write_text("saved")
        sys.exit()
    signal.signal(signal.SIGTERM, save)
    pathlib.Path(sys.argv[1] + ".started").touch()
    time.sleep(99)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["its time was over", "ended with 3"])
def test_all_that_a_job_started_ends_with_it(how, tmp_path, monkeypatch):
    """Also what leads a process group of its own, as a sweep's runs, and has something to save."""
    monkeypatch.setattr(gpu, "PATIENCE", 0.1)
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW))
    started = " ".join(f"{tmp_path}/{name}.started" for name in "ab")
    script = f"""
        set -m
        for name in a b; do {sys.executable} {tmp_path}/slow.py {tmp_path}/$name & done
        until ls {started} > /dev/null 2>&1; do sleep 0.05; done
        {"exit 3" if "3" in how else "wait"}
    """
    here = session(tmp_path)
    monkeypatch.setattr(gpu, "LEAST", 0)
    lead = f"import os; os.execvp('bash', ['bash', '-c', {script!r}])"
    here.run(python("leads", lead, most=4 / 60))
    assert [text.split(" after")[0] for text in here.missed] == [f"leads: {how}"]
    assert [(tmp_path / name).read_text() for name in "ab"] == ["saved"] * 2


def test_what_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE", 0.1)
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    monkeypatch.setattr(gpu, "LEAST", 0)
    here = session(tmp_path)
    here.run(
        python(
            "stays",
            f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(99)""",
            most=2 / 60,
        )
    )
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_told_to_end_it_leaves_what_the_job_said(tmp_path):
    """SIGTERM to the command itself: the job ends, and its words and the summary are in the log."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import gpu, gpu_stages
words = "import os, time; print(os.getpid(), 'words', flush=True); time.sleep(99)"
gpu.STAGES = {{"tests": lambda args, work: [gpu_stages.Job("long", ["-c", words], 9)]}}
sys.exit(gpu.cli(gpu.main, ["--rehearse", "--output_dir", {str(tmp_path / "out")!r},
                            "--work_dir", {str(tmp_path)!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    said, until = tmp_path / "job.out", time.monotonic() + 60
    while not (said.exists() and "words" in said.read_text()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    log = (tmp_path / "out/gpu.log").read_text()
    assert "words" in log and "long: it was told to end" in log and "0 of 1 jobs are done" in log
    assert not psutil.pid_exists(int(said.read_text().split()[0]))


def test_results_of_a_study_are_copied_while_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE", 0.05)
    here, source = session(tmp_path), tmp_path / "results.csv"
    job = python(
        "study",
        f"""
        import os, pathlib, time
        pathlib.Path({str(source)!r}).write_text("row")
        until = time.monotonic() + 20
        while not pathlib.Path({str(here.output / "gpu_study.csv")!r}).exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        print("threads", os.environ["OMP_NUM_THREADS"])""",
        watched=((source, "gpu_study.csv"),),
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    here.run(job)
    assert not here.missed and (here.output / "gpu_study.csv").read_text() == "row"
    assert "threads 8" in (here.output / "gpu.log").read_text()  # of 16 for two runs at a time


@pytest.mark.slow
def test_wheels_need_no_installation(tmp_path):
    (tmp_path / "wheels").mkdir()
    shutil.make_archive(
        str(tmp_path / "wheels/x-1-py3-none-any"), "zip", ROOT / "baselines", "rkd.py"
    )
    (tmp_path / "wheels/x-1-py3-none-any.zip").rename(tmp_path / "wheels/x-1-py3-none-any.whl")
    here = session(tmp_path, wheels=str(tmp_path / "wheels"))
    here.run(python("import", "import rkd"))
    assert not here.missed


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, said",
    [
        (["--stage", "study"], "the study needs --model and --data_dir"),
        (["--stage", "study", "--model", "nowhere", "--data_dir", "."], "there is no config.json"),
        (["--stage", "study", "--rehearse", "--methods", "none fsdi"], "found fsdi"),
        (["--stage", "study", "--rehearse", "--rates", "2e-5,5e-5"], "--rates is learning rates"),
        (["--stage", "study", "--rehearse", "--searched", "nowhere.csv"], "there is no"),
        (["--minutes", "0"], "--minutes must be a number above 0"),
        (["--minutes", "nan"], "--minutes must be a number above 0"),
        (["--stage", "step"], "torch sees no GPU"),
        (["--stage", "step", "--wheels", "nowhere"], "there is no *.whl in it"),
        (["--stage", "step", "--wheels", "."], "damaged.whl is no wheel"),
        (
            ["--stage", "step", "--rehearse", "--output_dir", "damaged.whl"],
            "cannot be made a folder",
        ),
    ],
)
def test_what_it_refuses(words, said, tmp_path):
    (tmp_path / "damaged.whl").write_text("PK")
    done = shell("benchmarks/gpu.py", "--output_dir", tmp_path / "out", *words, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, said",
    [
        ("step.py --rounds 0", "from 1 on, found 0"),
        ("profile_step.py --profiled 0", "found 0"),
        ("profile_step.py --per_gpu_train_batch_size -2", "found -2"),
        ("profile_step.py --precisions no bf16", "name one of each"),
        ("profile_step.py --steps 3", "unrecognized"),
        ("step.py --dataloader_num_workers -1", "found -1"),
        ("kmeans.py --rows 5 --num_centroid 9", "pass more rows"),
        ("stand_ins.py . --rows 0", "found 0"),
        ("stand_ins.py file", "cannot be made a folder"),
    ],
)
def test_what_its_benchmarks_refuse(words, said, tmp_path):
    (tmp_path / "file").touch()
    script, *more = words.split()
    done = shell(f"benchmarks/{script}", *more, cwd=tmp_path)
    assert done.returncode and len(done.stderr.splitlines()) == 1 and said in done.stderr


@pytest.mark.parametrize(
    "processes, cards, no_cuda, rank, backends, card",
    [
        (2, 1, False, 1, ["gloo"], 0),
        (4, 2, False, 3, ["gloo"], 1),
        (4, 2, False, 0, ["gloo"], 0),
        (2, 2, False, 1, [], 1),
        (2, 0, False, 1, [], 1),
        (2, 1, True, 1, [], 1),
    ],
)
def test_processes_that_share_a_gpu(
    processes, cards, no_cuda, rank, backends, card, monkeypatch, capsys
):
    """They take turns at the GPUs, and gloo, as NCCL refuses two on one; else nothing changes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert [handler.backend for handler in share_gpus(no_cuda)] == backends
    assert os.environ["LOCAL_RANK"] == str(card)
    assert ("processes share" in capsys.readouterr().err) == (bool(backends) and rank == 0)


# ---- what travels --------------------------------------------------------------------------------


def packed(tmp_path, tiny, *more):
    """A packing of a tiny model and RTE in parts of 5 kB."""
    return shell(
        "scripts/carry.py",
        "pack",
        "--models",
        tiny / "pretrained",
        "--data_dir",
        tiny,
        "--tasks",
        "rte",
        "--part_mb",
        0.005,
        "--output_dir",
        tmp_path / "parts",
        *more,
    )


@pytest.mark.slow
def test_parts_are_joined_to_what_was_packed(tiny, tmp_path):
    done = packed(tmp_path, tiny)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "parts").glob("*/carried*"), key=lambda path: int(path.parent.name))
    assert len(parts) > 1 and all(path.stat().st_size <= 5_000 for path in parts)
    for number, path in enumerate(parts):  # each came on a trip of its own, the last one first
        (tmp_path / f"trip{-number % 7}{number}").mkdir()
        shutil.copy(path, tmp_path / f"trip{-number % 7}{number}")
        shutil.copy(path.with_name("parts.json"), tmp_path / f"trip{-number % 7}{number}")
    done = shell(
        "scripts/carry.py", "join", *tmp_path.glob("trip*"), "--output_dir", tmp_path / "there"
    )
    assert done.returncode == 0, done.stderr
    there = tmp_path / "there"
    for split in ("train", "dev"):
        assert (there / f"glue/RTE/{split}.tsv").read_bytes() == (
            tiny / f"RTE/{split}.tsv"
        ).read_bytes()
    assert not (there / "glue/RTE/test.tsv").exists()
    here, halved = (
        load_file(folder / "model.safetensors")
        for folder in (tiny / "pretrained", there / "models/pretrained")
    )
    assert here.keys() == halved.keys()
    assert all(torch.equal(halved[name], here[name].half()) for name in here)
    model = transformers.AutoModel.from_pretrained(there / "models/pretrained")
    words = transformers.AutoTokenizer.from_pretrained(there / "models/pretrained")(
        "a dog runs", return_tensors="pt"
    )
    wanted = transformers.AutoModel.from_pretrained(tiny / "pretrained")(**words).last_hidden_state
    torch.testing.assert_close(
        model.float()(**words).last_hidden_state, wanted, rtol=0.1, atol=0.05
    )
    with (
        subprocess.Popen(["cat", *map(str, parts)], stdout=subprocess.PIPE) as cat,
        tarfile.open(fileobj=cat.stdout, mode="r|xz") as archive,
    ):  # without this project, cat and tar do it
        assert "models/pretrained/model.safetensors" in archive.getnames()


@pytest.mark.slow
def test_what_packing_and_joining_refuse(tiny, tmp_path):
    def refused(said, *words):
        done = shell("scripts/carry.py", *words)
        assert (
            done.returncode == 1 and len(done.stderr.splitlines()) == 1 and said in done.stderr
        ), done.stderr

    out = ("--output_dir", tmp_path / "out")
    refused("nothing to pack", "pack", *out)
    refused("needs --data_dir", "pack", "--tasks", "rte", *out)
    refused("no config.json", "pack", "--models", tmp_path, *out)
    refused("something else", "pack", "--models", tiny / "pretrained", "--output_dir", tiny)
    for number in (0, "nan", "inf", "1e-7"):
        more = ("--models", tiny / "pretrained", "--part_mb", number)
        refused("--part_mb must", "pack", *more, *out)
    refused("no parts.json", "join", tmp_path, *out)
    assert packed(tmp_path, tiny).returncode == 0
    second = next((tmp_path / "parts/2").glob("carried*"))
    content = second.read_bytes()
    second.write_bytes(b"x" + content[1:])
    refused("is not what was packed", "join", tmp_path / "parts", *out)
    second.unlink()
    refused("1 of", "join", tmp_path / "parts", *out)
    second.write_bytes(content)
    refused("no empty folder", "join", tmp_path / "parts", "--output_dir", tiny)
    refused("no empty folder", "join", tmp_path / "parts", "--output_dir", second)
    (tmp_path / "a-copy").mkdir()
    (tmp_path / "a-copy" / second.name).write_bytes(b"damaged")  # beside a good one, does no harm
    done = shell(
        "scripts/carry.py",
        "join",
        tmp_path / "parts",
        tmp_path / "a-copy",
        "--output_dir",
        tmp_path / "whole",
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "parts/notes").touch()
    assert packed(tmp_path, tiny).returncode == 1 and (tmp_path / "parts/notes").exists()
    manifest = tmp_path / "parts/1/parts.json"
    manifest.write_text(json.dumps({"parts": [{"name": "other", "sha256": "0"}]}))
    refused("different packings", "join", tmp_path / "parts", *out)
    assert not (tmp_path / "out").exists()


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    save_file({"weight": torch.tensor([1e6])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="half precision cannot hold"):
        carry.halve(tmp_path / "model.safetensors", tmp_path / "half.safetensors")


# ---- all of it -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    """Every stage on the CPU, with fewer tests and methods than a GPU gets."""
    done = shell_for_long(
        "benchmarks/gpu.py",
        "--rehearse",
        "--minutes",
        20,
        "--output_dir",
        tmp_path / "out",
        "--work_dir",
        tmp_path / "work",
        "--jobs",
        2,
        "--methods",
        "none vkd fsd_i",
        "--tests",
        "losses or kmeans or waits or (resumes and bf16)",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    tables = {
        name: pd.read_csv(out / f"gpu_{name}.csv")
        for name in ("step", "losses", "kmeans", "clustering", "profile", "study", "study_search")
    }
    groups = ("methods", "methods, cached", "methods, masked")
    wanted = {*gpu_stages.MAIN_FORMS, *(name for group in groups for name in forms.GROUPS[group])}
    assert set(tables["step"].form) >= wanted | {"plain: VKD", "plain: teacher"}
    assert list(tables["losses"].loss) == ["I", "L", "F_MM", "G"]
    assert set(tables["clustering"].precision) == {"fp32", "bf16"}
    assert len(tables["profile"]) == 2 * (20 + 1)
    assert (out / "gpu_trace.json.gz").stat().st_size > 1000
    assert {"teacher", "none", "VKD", "FSD_I"} == set(tables["study"].method)
    # a teacher, three rates of three methods, three trials of VKD and FSD_I
    assert len(tables["study_search"]) == 1 + 3 * 3 + 2 * 3
    said = (out / "gpu_tests.txt").read_text()
    assert " passed" in said and "failed" not in said
    assert (
        "jobs are done" in done.stdout and "a rehearsal on the CPU" in (out / "gpu.log").read_text()
    )


def shell_for_long(script, *words):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_of_the_tests_the_outcomes_are_kept_and_no_path_of_the_machine():
    text = (
        "platform linux -- /opt/somewhere/python3\n[gw1] [ 50%] PASSED tests/test_b.py::two[x] \n"
        "tests/test_b.py::two[x] \n[gw0] [100%] FAILED tests/test_a.py::one \n==== 2 in 1.0s ===="
    )
    assert gpu.outcomes(text) == [
        "tests/test_a.py::one FAILED",
        "tests/test_b.py::two[x] PASSED",
        "==== 2 in 1.0s ====",
    ]
