"""Named variants and their records: grouping by length, the starts of both memories, seeds, results
of before.
"""

import json
from pathlib import Path

import accelerate
import pandas as pd
import pytest
import torch
from commands_of_plans import parse, reproduce, write_stub
from conftest import (
    ROOT,
    flags,
    memory_flags,
    read_log,
    teacher_features,
    two_processes,
)
from safetensors.torch import load_file
from test_distill import stopped_at
from test_tables import of, runs_csv, write_run

import glue_with_cka_g
import glue_with_cka_i
import memory
import train_memory
import train_teacher
from analysis import best, report_cost, tables
from analysis.runs import name_variants, read_runs, with_names
from baselines import glue_with_baseline
from common import UserError
from loop import Loop
from scripts import estimate
from scripts.commands import words_for
from seeds import mix
from training import evaluation, memory_file, results_csv
from training.batches import epoch_order
from training.flags import as_of_today, hyperparameters

BOTH = ["--mask_padding", "--group_by_length"]


class Stop(Exception):
    """Ends a run where a test has seen enough."""


def loop_of(monkeypatch, main, arguments):
    """The Loop of a run, before its first step."""

    def stop(loop, *args, **kwargs):
        raise Stop(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", stop)
        with pytest.raises(Stop) as stopped:
            main(arguments)
    return stopped.value.args[0]


# ---- grouping by length --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, cut, grouped",
    [
        ([], False, False),
        (["--mask_padding"], True, False),
        (["--group_by_length"], False, True),
        (BOTH, True, True),
    ],
)
def test_each_flag_does_one_thing(more, cut, grouped, tiny, tmp_path, monkeypatch):
    loop = loop_of(monkeypatch, glue_with_cka_i.main, flags(tiny, tmp_path / "s", *more))
    assert ("mask" in loop.data.features, loop.data.cut) == (cut, cut)
    assert (loop.lengths is not None) == grouped
    (_, _, (indices,)), *_ = loop.plan()
    plain = epoch_order(21, 8, 42, 0)[0]
    assert torch.equal(indices, plain) == (not grouped)
    columns = loop.data[indices]["inputs"]["input_ids"].shape[1]
    longest = int(loop.data.features["attention_mask"][indices].sum(1).max())
    assert columns == (longest if cut else 24)


@pytest.mark.parametrize("script", [train_teacher, glue_with_baseline, glue_with_cka_g])
def test_every_script_that_trains_groups(
    script, tiny_without_dropout, trained, tmp_path, monkeypatch
):
    more = {
        glue_with_baseline: ["--method", "rkd"],
        glue_with_cka_g: ["--teacher_memory_path", trained],
    }
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        *more.get(script, []),
        "--group_by_length",
        teacher=script is train_teacher,
    )
    assert loop_of(monkeypatch, script.main, arguments).lengths is not None


def test_a_memory_has_no_use_for_groups(tiny, tmp_path):
    _, idle = train_memory.parse(memory_flags(tiny, tmp_path / "m", *BOTH))
    assert idle == ["group_by_length"]


def test_the_benchmark_and_the_estimate_know_the_pair(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import step

    _, own, _ = step.FORMS["FSD_ILG, masked"].make.args
    assert own.split() == BOTH
    rates = estimate.Rates(None, None)

    def rate(more):
        command = estimate.read_command(
            f"python glue_with_cka_ilg.py --teacher_memory_path m {more}", 1
        )
        return rates(command.kind)[0]

    assert rate("--mask_padding --group_by_length") == rates.step["FSD_ILG, masked", "no"]
    assert rate("--mask_padding") == rate("--group_by_length") == rates.step["FSD_ILG", "no"]
    cached = "--teacher_cache c --bf16"
    assert (
        rate(f"--mask_padding --group_by_length {cached}") == rates.step["FSD_ILG, cached", "bf16"]
    )


@pytest.mark.parametrize(
    "script, wanted",
    [
        ("train_teacher.py", "--group_by_length"),
        ("train_memory.py", "--mask_padding --group_by_length --memory_init normal"),
        ("glue_with_cka_i.py", "--mask_padding --group_by_length --cka_estimator debiased"),
        ("baselines/glue_with_baseline.py", "--mask_padding --group_by_length --relation_heads=4"),
        ("analysis/report.py", "--mask_padding"),
    ],
)
def test_each_script_is_given_those_flags_of_every_run_that_it_takes(script, wanted):
    """The student without a teacher, too: its script is the teacher's."""
    words = [*BOTH, *"--cka_estimator debiased --memory_init normal --relation_heads=4".split()]
    assert words_for(script, words) == wanted.split()
    assert words_for(script, ["--no_such_flag", "1"]) == ["--no_such_flag", "1"]


@pytest.mark.parametrize("script", ["one_task", "reproduce"])
def test_flags_of_every_run_may_leave_out_padding(script, tmp_path, monkeypatch):
    """All but the teacher's training have --mask_padding; all that train have --group_by_length."""
    python, calls = write_stub(tmp_path)
    (tmp_path / "glue/RTE").mkdir(parents=True)
    (tmp_path / "glue/RTE/train.tsv").write_text("")
    more = ["--stage", "teacher"] if script == "reproduce" else []
    done = reproduce(
        "rte", *more, "--", *BOTH, cwd=tmp_path, script=f"scripts/{script}", PYTHON=str(python)
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    trained = [words for words in calls() if "--do_train" in words]
    for words in trained:
        name = Path(words[0]).name
        assert ("--mask_padding" in words) == (
            name != "train_teacher.py"
        ) and "--group_by_length" in words
        if name != "train_memory.py":  # which says that it has no use for the latter
            parse(words, monkeypatch)
    assert script == "reproduce" or "--mask_padding" in calls()[-1]  # the report's


# ---- results and checkpoints of before -----------------------------------------------------------


def test_published_rows_without_padding_were_grouped_too():
    for name, others in (
        ("mrpc", {"FSD_G, memory_init normal", "FSD_L, debiased"}),
        ("stsb", set()),
    ):
        found, _ = tables.read_sources([str(ROOT / f"results/study_{name}.csv")], [], [])
        methods = set(with_names(found).method)
        assert {
            "FSD_I",
            "FSD_I, mask_padding, group_by_length",
            "FSD_G",
            "FSD_ILG",
        } | others <= methods
        assert "FSD_I, mask_padding" not in methods and not any(
            "matched" in method for method in methods
        )
        had = found["--gamma_m"].notna()
        assert (found["--student_memory_init"][had] == "matched").all()
        assert found["--student_memory_init"][~had].isna().all()


def test_flags_that_came_later_are_filled_in_once():
    fill = as_of_today
    assert fill({"mask_padding": True}) == {"mask_padding": True, "group_by_length": True}
    assert fill({"mask_padding": "True"})["group_by_length"] is True  # of a table read as text
    assert fill({"mask_padding": False}) == {"mask_padding": False, "group_by_length": False}
    assert fill({"gamma_m": 0.1}) == {
        "gamma_m": 0.1,
        "group_by_length": False,
        "student_memory_init": "matched",
    }
    known = {
        "mask_padding": True,
        "group_by_length": False,
        "gamma_m": 1,
        "student_memory_init": "released",
    }
    assert fill(known) == known and list(fill(known)) == list(known)
    assert (
        fill({"mask_padding": True, "num_centroid": 4})["group_by_length"] is False
    )  # a memory's never were


def test_old_and_new_rows_share_a_table(tmp_path):
    """A table that an earlier version began: its rows keep what they were when a row of today is
    appended.
    """
    path = runs_csv(
        tmp_path / "r.csv", *of("FSD_I", (0.8, 0.9), **{"--mask_padding": True, "started": "2025"})
    )
    for seed, grouped in ((1, False), (2, False), (3, True)):
        write_run(
            tmp_path / "run", "FSD_I", 0.7, mask_padding=True, group_by_length=grouped, seed=seed
        )
        row = results_csv.result_row(json.loads((tmp_path / "run/run.json").read_text()))
        assert row["--group_by_length"] is grouped
        results_csv.append_result(path, row | {"--output_dir": f"/x/{seed}"})
    written = pd.read_csv(path)
    assert written["--group_by_length"].tolist() == [True, True, False, False, True]
    named = with_names(name_variants(read_runs(path))).method
    assert named.tolist() == [
        f"FSD_I, mask_padding{more}"
        for more in (", group_by_length", ", group_by_length", "", "", ", group_by_length")
    ]


def test_an_old_runs_folder_is_read_like_its_row(tmp_path):
    write_run(tmp_path / "runs/old", "FSD_I", 0.7, mask_padding=True)
    write_run(tmp_path / "runs/new", "FSD_I", 0.7, mask_padding=True, group_by_length=False)
    write_run(tmp_path / "runs/plain", "FSD_I", 0.7, mask_padding=False)
    found = with_names(name_variants(read_runs(tmp_path / "runs")))
    methods = dict(
        zip((Path(folder).name for folder in found["--output_dir"]), found.method, strict=True)
    )
    assert methods == {
        "old": "FSD_I, mask_padding, group_by_length",
        "new": "FSD_I, mask_padding",
        "plain": "FSD_I",
    }
    record = {"arguments": {"mask_padding": True}}
    old, new = (
        type("Student", (), {"record": {"arguments": record["arguments"] | more}})
        for more in ({}, {"group_by_length": False})
    )
    assert report_cost.conditions_of(old) != report_cost.conditions_of(new)


def test_the_best_setting_names_both_flags(tmp_path, capsys):
    rows = [
        {"method": "VKD", "seed": 1, "acc": acc, "--mask_padding": masked}
        for acc, masked in ((0.7, None), (0.8, True))
    ]
    path = str(runs_csv(tmp_path / "r.csv", *rows))
    best.main([path, "--flags", "mask_padding", "group_by_length"])
    assert capsys.readouterr().out == "--mask_padding --group_by_length\n"
    with pytest.raises(UserError, match=r"differ in --group_by_length"):
        best.main([path, "--flags", "mask_padding"])


def forget(path, *names):
    """Take flags out of the settings in a JSON file, as an earlier version wrote it."""
    content = json.loads(path.read_text())
    for name in names:
        content["settings"].pop(name, None)
        content.get("arguments", {}).pop(name, None)
    path.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize("more, wanted", [([], []), (["--mask_padding"], BOTH)])
def test_an_old_checkpoint_goes_on_as_what_it_was(more, wanted, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stopped_at(tiny, tmp_path / "s", monkeypatch, *wanted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in (tmp_path / "s/checkpoint-2/progress.json", tmp_path / "s/run.json"):
        forget(path, "group_by_length", "student_memory_init")
    if more:
        with pytest.raises(UserError, match=r"\(group_by_length was True and is False\)"):
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", *more))
    else:
        with pytest.raises(UserError, match=r"\(group_by_length was False and is True\)"):
            glue_with_cka_i.main(flags(tiny, tmp_path / "s", "--group_by_length"))
    glue_with_cka_i.main(flags(tiny, tmp_path / "s", *wanted))
    assert [entry["step"] for entry in read_log(tmp_path / "s")] == [1, 2, 3, 4, 5, 6]
    content = json.loads((tmp_path / "s/run.json").read_text())
    forget(tmp_path / "s/run.json", "group_by_length")
    (tmp_path / "s/run.json").write_text(
        json.dumps(json.loads((tmp_path / "s/run.json").read_text()) | {"finished": False})
    )  # cut off after its training
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", None)
        glue_with_cka_i.main(flags(tiny, tmp_path / "s", *wanted))
    again = json.loads((tmp_path / "s/run.json").read_text())
    assert again["finished"] and again["results"] == content["results"]


def test_an_old_unfinished_clustering_goes_on(tiny, tmp_path, monkeypatch):
    """Also without padding, where its rows never were grouped."""
    real = memory_file.save_state

    def save_and_stop(path, state, metadata):
        progress = json.loads(metadata["progress"])
        progress["settings"].pop("group_by_length", None)
        real(path, state, {"progress": json.dumps(progress)})
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(memory_file, "save_state", save_and_stop)
        train_memory.main(memory_flags(tiny, tmp_path / "m", "--mask_padding", "--save_steps", 1))
    train_memory.main(
        memory_flags(tiny, tmp_path / "m", "--mask_padding", "--resume_from_checkpoint")
    )
    assert (tmp_path / "m" / memory_file.FILE).exists()


# ---- the teacher's memory ------------------------------------------------------------------------


def test_the_released_start_by_hand():
    last = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3 + 2
    start = memory.released_centroids(last, 7, (200, 40), seed=4)
    assert start.shape == (200, 40) and start.dtype == torch.float32
    assert start.mean().item() == pytest.approx(last.mean().item() / 7, abs=0.05)
    assert start.std().item() == pytest.approx((last.var().item() / 7) ** 0.5, rel=0.03)
    again = (memory.released_centroids(last, 7, (200, 40), seed) for seed in (4, 5))
    assert [torch.equal(start, other) for other in again] == [True, False]


def test_without_restarts_a_centroid_that_never_wins_stays():
    x = torch.tensor([[0.0], [1.0], [100.0]])
    start = torch.tensor([[0.4], [90.0], [999.0]])
    for restarts, last in ((False, 999.0), (True, 1.0)):
        kmeans = memory.KMeans(start.clone(), 3, restarts=restarts)
        kmeans.add(x, torch.arange(3))
        found = kmeans.update()
        assert found["restarted"] == int(restarts) and kmeans.centroids[2].item() == last


def starts_of(monkeypatch, arguments):
    """(centroids, restarts) that a clustering starts with."""
    seen, real = [], memory.KMeans.__init__

    def spy(kmeans, centroids, *args, **kwargs):
        real(kmeans, centroids, *args, **kwargs)
        seen.append((centroids.clone(), kmeans.restarts))

    with monkeypatch.context() as patch:
        patch.setattr(memory.KMeans, "__init__", spy)
        train_memory.main(arguments)
    return seen[0]


def test_the_released_memory(tiny_without_dropout, tmp_path, monkeypatch):
    """21 rows in mini-batches of 8: the last one has five, and its numbers make the start."""
    more = ["--memory_init", "released", "--num_centroid", 9]
    start, restarts = starts_of(
        monkeypatch, memory_flags(tiny_without_dropout, tmp_path / "m", *more)
    )
    last = teacher_features(tiny_without_dropout)[16:]
    noise = torch.randn(9, 24 * 16, generator=torch.Generator().manual_seed(mix(3, "memory")))
    torch.testing.assert_close(
        start, noise * (last.var() / 3).sqrt() + last.mean() / 3, rtol=1e-3, atol=1e-4
    )
    assert not restarts
    centroids, facts = memory_file.load_memory(tmp_path / "m" / memory_file.FILE)
    never = [size == 0 for size in facts["cluster_sizes"]]
    assert any(never) and facts["memory_init"] == "released"
    assert torch.equal((centroids == start).all(1)[never], torch.ones(sum(never), dtype=torch.bool))
    assert all(entry.get("restarted_centroids", 0) == 0 for entry in read_log(tmp_path / "m"))
    normal, restarts = starts_of(
        monkeypatch, memory_flags(tiny_without_dropout, tmp_path / "n", "--memory_init", "normal")
    )
    assert restarts and normal.std() > start.std()


def test_the_released_start_without_padding(tiny_without_dropout, tmp_path, monkeypatch):
    """24 or 48 columns: the same spread, and nothing where every row is padding."""
    deviations = []
    for length in (24, 48):
        start, _ = starts_of(
            monkeypatch,
            memory_flags(
                tiny_without_dropout,
                tmp_path / str(length),
                "--memory_init",
                "released",
                "--num_centroid",
                20,
                "--mask_padding",
                "--max_seq_length",
                length,
            ),
        )
        start = start.view(20, length, 16)
        assert (start[:, 24:] == 0).all() and (start[:, 0] != 0).all()
        deviations.append(start[:, :8].std().item())
    assert deviations[1] == pytest.approx(deviations[0], rel=0.1)


@pytest.mark.slow
def test_two_processes_start_as_one_with_their_mini_batch(tiny_without_dropout, tmp_path):
    more = ["--memory_init", "released", "--num_centroid", 9]
    train_memory.main(memory_flags(tiny_without_dropout, tmp_path / "one", *more))
    two_processes(
        "train_memory.py",
        memory_flags(
            tiny_without_dropout, tmp_path / "two", *more, "--per_gpu_train_batch_size", 4
        ),
    )
    (one, first), (two, second) = (
        memory_file.load_memory(tmp_path / name / memory_file.FILE) for name in ("one", "two")
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert first["cluster_sizes"] == second["cluster_sizes"] and 0 in first["cluster_sizes"]


# ---- the student's memory ------------------------------------------------------------------------


def test_the_students_released_start_is_standard_normal():
    m_t = 3 + 2 * torch.randn(50, 6, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(1))
    noise[:, 4:] = 0
    shape = {"width": 4, "length": 6, "seed": 1, "used": torch.arange(6) < 4}
    found = memory.Memories(m_t.flatten(1), **shape, init="released").student
    assert torch.equal(found, noise.flatten(1))
    matched = memory.Memories(m_t.flatten(1), **shape).student
    assert not torch.equal(found, matched)


def test_the_students_start_is_a_flag_a_setting_and_a_row(
    tiny_without_dropout, trained, tmp_path, monkeypatch
):
    arguments = flags(
        tiny_without_dropout,
        tmp_path / "s",
        "--teacher_memory_path",
        trained,
        "--student_memory_init",
        "released",
        "--learning_rate",
        0,
        "--max_steps",
        1,
        "--results_csv",
        tmp_path / "r.csv",
    )
    glue_with_cka_g.main(arguments)
    found = load_file(tmp_path / "s/student_memory.safetensors")["centroids"]
    assert torch.equal(found, torch.randn(4, 24 * 16, generator=torch.Generator().manual_seed(42)))
    run = json.loads((tmp_path / "s/run.json").read_text())
    assert run["settings"]["student_memory_init"] == "released"
    assert {"student_memory_init", "group_by_length"} <= hyperparameters()
    (name,) = with_names(name_variants(read_runs(tmp_path / "r.csv"))).method
    assert name == "FSD_G, student_memory_init released"


def test_a_run_without_g_has_no_use_for_the_students_start(tmp_path):
    rows = [
        *of("FSD_IL", (0.8,)),
        *of("VKD", (0.7,)),
        *of("FSD_ILG", (0.8,)),
        *of("FSD_LG", (0.6,)),
    ]
    path = runs_csv(
        tmp_path / "r.csv",
        *[row | {"--student_memory_init": "released", "--gamma_m": 1} for row in rows],
    )
    assert with_names(name_variants(read_runs(path))).method.tolist() == [
        "FSD_IL",
        "VKD",
        "FSD_ILG, student_memory_init released",
        "FSD_LG, student_memory_init released",
    ]
    teacher = runs_csv(tmp_path / "t.csv", *of("teacher", (0.8,), **{"--group_by_length": True}))
    assert with_names(name_variants(read_runs(teacher))).method.tolist() == ["teacher"]


# ---- seeds ---------------------------------------------------------------------------------------


def test_mixed_seeds_differ_by_every_part():
    keys = [
        (seed, use, number)
        for seed in range(20)
        for use in ("process", "epoch")
        for number in range(20)
    ]
    assert len({mix(*key) for key in keys}) == len({mix(*key) % 2**32 for key in keys}) == len(keys)
    assert mix(3, "process", 1) == mix(3, "process", 1) and 0 <= mix(3, "memory") < 2**64


def test_no_epoch_of_a_seed_has_the_order_of_another_seeds():
    orders = {
        (seed, epoch): epoch_order(500, 500, seed, epoch)[0]
        for seed, epoch in (
            (1, 999),
            (1, 1000),
            (1, 1001),
            (1, 2000),
            (2, 0),
            (2, 1),
            (3, 0),
            (0, 0),
            (2**29, 0),
            (2**32 - 1, 0),
        )
    }
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    for (seed, epoch), order in orders.items():
        if epoch < 1000 and seed < 9:  # as published
            published = torch.randperm(
                500, generator=torch.Generator().manual_seed(1000 * seed + epoch)
            )
            assert torch.equal(order, published)


@pytest.mark.parametrize("init", ["normal", "released"])
def test_no_memory_starts_from_the_noise_of_a_students(init):
    """Of a sample with mean 0 and variance 1, whose start is noise alone."""
    sample = torch.tensor([[1.0], [-1.0]]).repeat(20, 12)
    for seed in range(3):
        if init == "normal":
            start = memory.start_centroids(sample, 9, "normal", seed)
        else:
            start = memory.released_centroids(sample, 1, (9, 12), seed)
        for other in range(5):
            student = memory.Memories(start, 4, 3, other, init="released").student
            assert (
                torch.corrcoef(torch.stack([start.flatten(), student.flatten()]))[0, 1].abs() < 0.5
            )


def test_no_process_draws_what_another_seeds_process_draws(tiny, tmp_path, monkeypatch):
    drawn = {}
    for seed, rank in ((1, 2), (2, 1), (1, 1), (3, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(
                accelerate.Accelerator, "process_index", property(lambda self, rank=rank: rank)
            )
            patch.setattr(
                evaluation, "score_teacher", lambda *args: None
            )  # it needs the other processes
            loop_of(
                patch,
                glue_with_cka_i.main,
                flags(tiny, tmp_path / f"{seed}-{rank}", "--seed", seed),
            )
        drawn[seed, rank] = torch.initial_seed()
    assert len(set(drawn.values())) == 4
    assert drawn[3, 0] == 3  # the first process's is the run's own
