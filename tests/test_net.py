"""What every method does on tiny models stays what it was: see tests/net.py."""

import json

import net
import pytest
from conftest import ROOT

from precision import computes_bfloat16


@pytest.mark.slow
def test_every_method_does_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # net.work sets its own
    before = json.loads((ROOT / "tests/net.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(net.work(tmp_path / "net")))
    if not computes_bfloat16("cpu"):  # it is emulated with other roundings
        before, found = (
            {name: run for name, run in runs.items() if "bf16" not in name}
            for runs in (before, found)
        )
    assert (
        list(
            net.differences(
                before,
                {
                    name: {key: one for key, one in run.items() if key != "weights"}
                    for name, run in found.items()
                },
                exact=False,
            )
        )
        == []
    )


def test_a_difference_is_told():
    one = {"run": {"numbers": {"log": [{"total": 1.0}]}, "weights": {"a": "1"}}}
    other = {"run": {"numbers": {"log": [{"total": 1.0005}]}, "weights": {"a": "2"}}}
    assert list(net.differences(one, one, exact=True)) == []
    assert list(net.differences(one, other, exact=False)) == []
    assert len(list(net.differences(one, other, exact=True))) == 2
    other["run"]["numbers"]["log"][0]["total"] = float("nan")
    assert "log/0/total: 1.0 and nan" in next(net.differences(one, other, exact=False))
    assert "is in one of the two alone" in next(net.differences(one, {}, exact=False))
