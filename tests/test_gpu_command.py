"""benchmarks/gpu.py: the clock, the tables, the log, refusals, and a rehearsal of the whole."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import forms
import gpu
import gpu_stages
import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT, shell, wait_until

from training.session import share_gpus


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


# ---- jobs and their tables -----------------------------------------------------------------------


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


# ---- the clock -----------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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
    said = tmp_path / "job.out"
    wait_until(lambda: said.exists() and "words" in said.read_text(), process)
    process.terminate()
    assert process.wait(30) == 143
    log = (tmp_path / "out/gpu.log").read_text()
    assert "words" in log and "long: it was told to end" in log and "0 of 1 jobs are done" in log
    assert not psutil.pid_exists(int(said.read_text().split()[0]))


# ---- what is refused -----------------------------------------------------------------------------


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
        ("profile_step.py --precisions no bf16", "name one in --models, one in --precisions"),
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


# ---- all of it -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    """Every stage on the CPU, with fewer tests and methods than a GPU gets."""
    done = shell(
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
        timeout=1800,
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
