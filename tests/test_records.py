"""Files: whole or absent, logs that resume, results.csv under concurrent writers, and the table
made of it.
"""

import json
import multiprocessing
import os
import signal
import stat
import time

import pandas as pd
import pytest
from conftest import flags, shell
from made_up_runs import record_of, runs_csv

import common
from analysis import table
from common import UserError, files
from training import logs, results_csv


def test_atomic_path_keeps_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), common.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with common.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~files.UMASK


def test_atomic_path_replaces_folders(tmp_path):
    for content in ("one", "two"):
        with common.atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["two"]


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    with (
        pytest.raises(UserError, match="is a folder"),
        common.atomic_path(tmp_path / "folder") as temporary,
    ):
        temporary.write_text("text")
    assert (tmp_path / "folder" / "precious").exists()


def test_json_lines_drop_what_was_written_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    logs.JsonLines(path, step=2).write({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]
    logs.JsonLines(path, step=0)
    assert path.read_text() == ""


def append(path, worker):
    for i in range(5):
        results_csv.append_result(
            path, {"method": f"m{worker}", "seed": i} | ({f"extra{worker}": 1} if worker else {})
        )


def test_results_of_concurrent_runs_all_arrive(tmp_path):
    workers = [
        multiprocessing.get_context("fork").Process(target=append, args=(tmp_path / "r.csv", w))
        for w in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = pd.read_csv(tmp_path / "r.csv")
    assert sorted(zip(rows.method, rows.seed, strict=True)) == [
        (f"m{w}", i) for w in range(3) for i in range(5)
    ]
    assert {"extra1", "extra2"} <= set(rows)


def test_a_repeated_run_is_not_in_the_table_twice(tmp_path):
    run = {"method": "VKD", "seed": 1, "started": "noon", "--output_dir": "a"}
    for row in (run, run | {"--output_dir": "b"}, run, run | {"started": "later"}):
        results_csv.append_result(tmp_path / "r.csv", row)
    rows = pd.read_csv(tmp_path / "r.csv")
    found = sorted(zip(rows.started, rows["--output_dir"], strict=True))
    assert found == [("later", "a"), ("noon", "a"), ("noon", "b")]
    (tmp_path / "r.csv").write_text("")
    with pytest.raises(UserError, match="not a table of results"):
        results_csv.append_result(tmp_path / "r.csv", run)


def hold(folder):
    with common.lock_output_dir(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_claim_ends_with_its_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match="in use"), common.lock_output_dir(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with common.lock_output_dir(tmp_path):
        pass


def test_user_errors_are_one_line_and_other_errors_are_not_hidden(capsys):
    def wrong(argv):
        raise UserError("x was 1, not 2: pass 2")

    def bug(argv):
        raise ZeroDivisionError

    assert common.cli(wrong) == 1
    assert capsys.readouterr().err == "error: x was 1, not 2: pass 2\n"
    with pytest.raises(ZeroDivisionError):
        common.cli(bug)


def test_table_has_mean_and_sample_deviation(tmp_path, capsys):
    source = runs_csv(
        tmp_path / "r.csv",
        {"method": "VKD", "seed": 1, "acc": 0.7},
        {"method": "FSD_G", "seed": 1, "acc": 0.75, "machine": "N, 4 cores"},
        {"method": "VKD", "seed": 2, "acc": 0.8},
        {"method": "FSD_I", "seed": 1, "acc": 0.75},
    )
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table RTE -->\nstale\n<!-- end RTE -->\nafter\n")
    assert (
        table.main([str(source), "--insert", str(readme), "--csv", str(tmp_path / "out.csv")])
        is None
    )
    printed = capsys.readouterr().out
    assert "| VKD | 75.00 ± 7.07 | 2 | 17.0 M | 2.0 |" in printed  # sqrt((5² + 5²) / 1) = 7.07
    assert "| FSD_I | 75.00 | 1 |" in printed
    assert printed.index("VKD") < printed.index("FSD_I") < printed.index("FSD_G")  # as in ORDER
    assert (
        "seeds 1, 2 (not every method has all); students: learning rate 0.0001, epochs 4, "
        "batch 32, length 80, precision bf16; M, 2 cores and N, 4 cores; 8 minutes"
    ) in printed
    text = readme.read_text()
    assert printed.strip() in text and "stale" not in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "/somewhere" not in (tmp_path / "out.csv").read_text()


def test_table_refuses_what_cannot_be_compared(tmp_path):
    mixed = runs_csv(
        tmp_path / "a.csv",
        {"method": "VKD", "seed": 1, "acc": 0.7},
        {"method": "FSD_I", "seed": 1, "acc": 0.8, "--num_train_epochs": 9},
    )
    with pytest.raises(UserError, match=r"differ in --num_train_epochs \(4, 9\)"):
        table.main([str(mixed)])
    twice = runs_csv(tmp_path / "b.csv", *[{"method": "VKD", "seed": 1, "acc": 0.7}] * 2)
    with pytest.raises(UserError, match="VKD with seed 1 is there twice"):
        table.main([str(twice)])
    seeds = runs_csv(
        tmp_path / "c.csv",
        {"method": "FSD_I", "seed": 1, "--beta": 3},
        {"method": "FSD_I", "seed": 2, "--beta": 6},
    )
    with pytest.raises(UserError, match=r"runs of FSD_I differ in --beta \(3, 6\)"):
        table.main([str(seeds)])
    teachers = runs_csv(
        tmp_path / "d.csv",
        {"method": "FSD_I", "seed": 1, "teacher": "aaa"},
        {"method": "VKD", "seed": 1, "teacher": "bbb"},
    )
    with pytest.raises(UserError, match=r"different teachers \(aaa, bbb, by checksum\)"):
        table.main([str(teachers)])
    memories = runs_csv(
        tmp_path / "f.csv",
        {"method": "FSD_G", "seed": 1, "memory": "aaa"},
        {"method": "FSD_G", "seed": 2, "memory": "bbb"},
    )
    with pytest.raises(UserError, match=r"different teacher memories \(aaa, bbb, by checksum\)"):
        table.main([str(memories)])
    fewer = runs_csv(
        tmp_path / "e.csv",
        {"method": "FSD_I", "seed": 1, "--max_train_samples": 100},
        {"method": "VKD", "seed": 1},
    )
    with pytest.raises(UserError, match="differ in --max_train_samples"):
        table.main([str(fewer)])
    with pytest.raises(UserError, match="neither a results"):
        table.main([str(tmp_path)])


RUN = record_of(
    method="FSD_G",
    arguments={"task_name": "MRPC", "seed": 1},
    teacher="t",
    teacher_memory={"sha256": "m" * 64},
)


@pytest.mark.slow
def test_a_finished_run_says_its_peak_memory(tiny, tmp_path):
    done = shell(
        "train_teacher.py",
        *flags(
            tiny,
            tmp_path / "a",
            "--results_csv",
            tmp_path / "r.csv",
            "--max_steps",
            1,
            teacher=True,
        ),
    )
    assert done.returncode == 0, done.stderr
    peak = common.read_json(tmp_path / "a/run.json")["peak_memory_mib"]
    assert (
        50 < peak < 50_000
    )  # torch alone takes more than the one; KiB or bytes would be more than the other
    assert pd.read_csv(tmp_path / "r.csv").peak_memory_mib.tolist() == [peak]


def test_runs_with_and_without_a_peak_memory_are_of_one_table(tmp_path, capsys):
    later = RUN | {"seed": 2, "arguments": RUN["arguments"] | {"seed": 2}, "peak_memory_mib": 900}
    assert (
        "peak_memory_mib" not in results_csv.result_row(RUN)
        and results_csv.result_row(later)["peak_memory_mib"] == 900
    )
    for folder, run in (
        ("a", RUN),
        ("b", later),
        (
            "c",
            later
            | {"seed": 3, "peak_memory_mib": 950, "arguments": RUN["arguments"] | {"seed": 3}},
        ),
    ):
        common.write_json(tmp_path / folder / "run.json", run)
    table.main([str(tmp_path)])
    assert "| FSD_G | 50.00 ± 0.00 | 3 |" in capsys.readouterr().out


def test_a_memory_among_the_runs_is_no_row(tmp_path, capsys):
    common.write_json(tmp_path / "a/run.json", RUN)
    common.write_json(
        tmp_path / "memory/run.json", {"finished": True, "method": "memory", "memory": {}}
    )
    table.main([str(tmp_path), "--csv", str(tmp_path / "out.csv")])
    assert "| FSD_G | 50.00 | 1 |" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out.csv").memory.tolist() == ["m" * 12]
