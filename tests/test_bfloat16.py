"""bf16 on a device without instructions for it: a note says so, and the demo leaves it out."""

from types import SimpleNamespace

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from commands_of_plans import run_study, study_commands
from conftest import flags

import glue_with_cka_i
from precision import computes_bfloat16
from scripts import demo
from training import session

AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    "found, computes",
    [
        (AVX2, False),
        (AVX2 | {"avx512_f": True}, False),
        (AVX2 | {"avx512_f": True, "avx512_bf16": True}, True),
        (AVX2 | {"amx_bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_a_cpu_computes_bfloat16_if_it_has_instructions_for_it(found, computes):
    assert computes_bfloat16("cpu", found) == computes


def test_of_other_devices_nothing_is_said():
    assert computes_bfloat16(torch.device("mps"), {})


def test_the_capabilities_of_this_machine_name_the_instructions():
    """torch renames a key: then every CPU would look as if it had no bfloat16."""
    found = torch.cpu.get_capabilities()
    wanted = ("avx512_bf16", "amx_bf16") if found["architecture"] == "x86_64" else ("bf16",)
    assert set(wanted) <= set(found)


@pytest.mark.parametrize("asked", [[], ["--bf16"]])
def test_a_run_in_bf16_says_if_the_cpu_is_slow_at_it(tiny, tmp_path, capsys, monkeypatch, asked):
    for can in (True, False):
        found = {"avx512_bf16": can}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        glue_with_cka_i.main(flags(tiny, tmp_path / str(can), "--max_steps", "1", *asked))
        said = "has no instructions for bfloat16" in capsys.readouterr().err
        assert said == (bool(asked) and not can)


def test_the_demo_asks_for_bf16_only_where_it_saves_time(monkeypatch):
    for can, words in ((True, ["--bf16"]), (False, [])):
        found = {"avx512_bf16": can}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert demo.precision() == words


def test_a_study_in_float32(tmp_path):
    """--float32 changes the precision of every run, and nothing else."""
    half = run_study(tmp_path, "--tasks", "MRPC", "--plan").stdout
    whole = run_study(tmp_path, "--tasks", "MRPC", "--plan", "--float32").stdout
    assert whole == half.replace(" --bf16", "") != half
    assert all("--bf16" in words for *_, words in study_commands(half))


def test_a_graphics_chip_without_float64_is_not_taken(monkeypatch):
    """As on a Mac, where accelerate would choose it; sums over a training are in float64."""
    monkeypatch.setattr(accelerate.state, "is_mps_available", lambda *_: True)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert accelerate.Accelerator().device.type == "mps"
    AcceleratorState._reset_state(reset_partial_state=True)
    found = session.make_accelerator(SimpleNamespace(fp16=False, bf16=False, no_cuda=False))
    assert found.device.type == "cpu"
