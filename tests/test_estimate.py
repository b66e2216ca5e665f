"""scripts/estimate.py: a plan's hours and disk, from rates of runs or of results/step.csv."""

import contextlib
import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROOT

import common
from scripts import estimate
from training import cache_entries

VKD = (
    "python glue_with_cka_i.py --task_name RTE --data_dir nowhere --beta 0 --num_train_epochs 3 "
    "--per_gpu_train_batch_size 32"
)
# weights of 6 layers of BERT-base
STUDENT = (30522 + 512 + 2 + 2) * 768 + 6 * 7087872 + 768 * 769 + 2 * 769


def estimated(monkeypatch, capsys, text, *arguments):
    """{stage: (commands, hours, GB)} of scripts/estimate.py, and all that it prints."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    estimate.main([*map(str, arguments)])
    out = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d,]+) +([\d.,]+) +([\d.,]+)$", out, re.M)
    return {name: tuple(float(x.replace(",", "")) for x in numbers) for name, *numbers in rows}, out


# ---- hours and disk ------------------------------------------------------------------------------


def test_hours_and_disk_by_hand(monkeypatch, capsys):
    found, out = estimated(monkeypatch, capsys, f"{VKD}\n{VKD}\n", "--examples_per_second", 10)
    assert (
        found["all"]
        == found["total"]
        == (2, round(2 * 3 * 2490 / 10 / 3600, 2), round(2 * 4 * STUDENT / 1e9, 2))
    )
    assert "2,490 training rows" in out and "67.0 M" in out
    several, _ = estimated(
        monkeypatch,
        capsys,
        f"{VKD}\n{VKD}\n",
        "--examples_per_second",
        1,
        "--jobs",
        2,
        "--keep",
        "results",
    )
    assert several["total"] == (2, round(3 * 2490 / 3600, 2), 0)


def test_stages_epochs_to_choose_and_steps(monkeypatch, capsys):
    text = (
        "## one: a title\n## 1 command, --keep "
        f"results\n{VKD.replace(' 3 ', ' BEST_NUM_TRAIN_EPOCHS ')}\n\n## two: a title\n# a "
        f"remark\n{VKD} --max_steps 100\npython scripts/hold_out.py --tasks RTE\n"
    )
    found, out = estimated(monkeypatch, capsys, text, "--examples_per_second", 1, "--keep", "all")
    assert found["one"] == (1, round(10 * 2490 / 3600, 2), 0)
    assert found["two"] == (2, round(32 * 100 / 3600, 2), round(4 * STUDENT / 1e9, 2))
    assert found["total"][0] == 3 and "upper bound" in out


def test_a_memory_with_a_cache_takes_one_pass_and_its_features_disk(monkeypatch, capsys):
    """And a second memory from the same cache takes nothing but its own file."""
    line = "python train_memory.py --task_name RTE --data_dir nowhere --memory_num_train_epochs 3"
    cached = f"{line} --teacher_cache c"
    for text, passes, features in ((line, 3, 0), (cached, 1, 1), (f"{cached}\n{cached}", 1, 1)):
        found, _ = estimated(monkeypatch, capsys, f"{text}\n", "--examples_per_second", 1)
        commands, hours, disk = found["total"]
        assert hours == round(passes * 2490 / 3600, 2)
        memories = commands * 100 * 128 * 768 * 4
        assert disk == round((memories + features * 2490 * 128 * 768 * 2) / 1e9, 2)


def test_rows_of_the_file_and_checkpoints(monkeypatch, capsys, tiny):
    """21 rows, batch 1, 50 epochs: 1050 steps, so that a checkpoint with both moments of Adam is
    there.
    """
    text = VKD.replace("nowhere", str(tiny)).replace(" 3 ", " 50 ").replace(" 32", " 1")
    found, out = estimated(monkeypatch, capsys, text, "--examples_per_second", 1, "--keep", "all")
    assert found["total"] == (1, round(21 * 50 / 3600, 2), round(16 * STUDENT / 1e9, 2))
    assert f"{16 * STUDENT / 1e9:.2f} GB more" in out and "21 training rows" in out


def test_memory_and_shared_cache(monkeypatch, capsys):
    memory = (
        "python train_memory.py --task_name RTE --num_centroid 50 --output_dir m "
        "--memory_num_train_epochs 2"
    )
    shared = (
        f"{VKD.replace('--beta 0', '--beta 4 --internal')} --teacher_cache c --model_name_or_path t"
    )
    text = f"## m: x\n{memory}\n## c: x --keep results\n{shared}\n{shared}\n"
    found, _ = estimated(monkeypatch, capsys, text, "--examples_per_second", 1)
    assert found["m"] == (1, round(2 * 2490 / 3600, 2), round(50 * 128 * 768 * 4 / 1e9, 2))
    passes = 2 * 3 + 1  # and the teacher's, once
    assert found["c"] == (
        2,
        round(passes * 2490 / 3600, 2),
        round(2490 * (2 * 4 + 2 * 128 * 128) / 1e9, 2),
    )


def test_rates_come_from_finished_runs_or_from_step_csv(monkeypatch, capsys, tmp_path):
    for i, rate in enumerate((10, 20, 90, 7)):  # one unfinished, one a rehearsal
        common.write_json(
            tmp_path / f"run{i}" / "run.json",
            {
                "finished": rate != 90,
                "command": "glue_with_cka_i.py --beta 0",
                "device": "a GPU",
                "machine": "",
                "arguments": {"beta": 0.0, "bf16": False, "max_steps": 1 if rate == 7 else -1},
                "examples_per_second": rate,
                "train_seconds": 100,
                "wall_seconds": 136,
            },
        )
    found, out = estimated(monkeypatch, capsys, VKD, "--runs", tmp_path)
    assert found["total"][1] == round((3 * 2490 / 15 + 36) / 3600, 2)
    assert "a GPU" in out and "glue_with_cka_i.py, VKD 15" in out
    step, machine = estimate.step_rates()
    found, out = estimated(monkeypatch, capsys, f"{VKD} --bf16", "--runs", tmp_path)
    assert found["total"][1] == round(3 * 2490 / step["VKD", "bf16"] / 3600, 2)
    assert "results/step.csv" in out and machine in out
    # the table's machine has no float16
    half, out = estimated(monkeypatch, capsys, f"{VKD} --fp16", "--runs", tmp_path)
    assert half["total"] == found["total"] and "precision bf16" in out


def test_a_resumed_run_makes_no_command_shorter(monkeypatch, capsys, tmp_path):
    """Its wall-clock seconds are those of its last part alone, fewer than those of its training."""
    run = {"finished": True, "command": "glue_with_cka_i.py --beta 0", "device": "a GPU"}
    run |= {"machine": "", "arguments": {"beta": 0.0}, "examples_per_second": 10}
    run |= {"train_seconds": 3600, "wall_seconds": 90}
    common.write_json(tmp_path / "run" / "run.json", run)
    found, _ = estimated(monkeypatch, capsys, VKD, "--runs", tmp_path)
    assert found["total"][1] == round(3 * 2490 / 10 / 3600, 2)


# ---- sizes ---------------------------------------------------------------------------------------


def test_parameters_are_those_of_transformers():
    shape = {
        **estimate.BERT_BASE,
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    config = transformers.BertConfig(
        **shape | {"num_hidden_layers": 3}, num_attention_heads=2, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    assert estimate.parameters(shape, 3, 3) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("command", "needs", "layers"),
    [
        ("glue_with_cka_i.py --beta 0", {"logits"}, [11]),
        ("glue_with_cka_i.py --internal", {"logits", "tokens"}, [11]),
        ("glue_with_cka_i.py", {"logits", "features"}, [11]),
        ("glue_with_cka_g.py --teacher_memory_path m", {"logits", "relations"}, [11]),
        ("glue_with_cka_ilg.py --gamma_g 0", {"logits", "features", "tokens"}, [11]),
        (
            "glue_with_cka_ilg.py --gamma_l 0 --teacher_memory_path m",
            {"logits", "tokens", "relations"},
            [11],
        ),
        ("baselines/glue_with_baseline.py --method rkd", {"logits", "features"}, [11]),
        ("baselines/glue_with_baseline.py --method pkd", {"logits", "features"}, [2, 4, 6, 8, 10]),
        ("baselines/glue_with_baseline.py --method minilm", {"logits", "attention"}, [11]),
        ("train_memory.py", {"features"}, [11]),
        ("glue_with_cka_i.py --do_layerwise", {"logits", "features"}, [2, 4, 6, 8, 10]),
        ("glue_with_cka_i.py --do_layerwise --internal", {"logits", "tokens"}, [2, 4, 6, 8, 10]),
    ],
)
def test_cache_has_the_bytes_that_a_run_writes(command, needs, layers):
    args = SimpleNamespace(max_seq_length=128, cka_estimator="biased")
    memories = SimpleNamespace(student=torch.empty(100, 1))
    written = cache_entries.entries(
        needs, layers, transformers.BertConfig(num_labels=2), args, False, memories
    )
    written = [entry.bytes for kind in written.values() for entry in kind.values()]
    line = estimate.read_command(f"python {command} --teacher_cache c", 1)
    assert sorted(estimate.cache_entries(line, estimate.BERT_BASE, 2, 100).values()) == sorted(
        written
    )


# ---- what it does not know -----------------------------------------------------------------------


def test_estimate_refuses_what_it_does_not_know(monkeypatch, capsys):
    for text, message in (
        ("ls -l", "line 1"),
        ("", "no command"),
        (VKD.replace("RTE", "AX"), "AX"),
        (f"{VKD} --max_steps many", "max_steps"),
    ):
        with pytest.raises(common.UserError, match=message):
            estimated(monkeypatch, capsys, text)


def test_estimate_can_be_switched_off(tmp_path):
    with contextlib.suppress(BrokenPipeError):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "estimate.py")],
            input=f"{VKD}\n" * 2000,
            capture_output=True,
            text=True,
            env=os.environ | {"ESTIMATE": "off"},
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
