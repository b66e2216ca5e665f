"""What commands print, on outputs of any encoding."""

import importlib
import io
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import common
from analysis.means import PUBLISHED

SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "analysis", "baselines", "benchmarks", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_can_be_printed_in_any_encoding(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    text = (ROOT / script).read_text(encoding="utf-8")
    assert re.search(
        r"sys\.exit\(\s*(common\.)?cli\(\s*main[,)]", text
    )  # its main goes through cli
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    for encoding, errors in (
        ("ascii", "strict"),
        ("ascii", "surrogateescape"),
        ("latin-1", "strict"),
    ):
        streams = [
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)
        ]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as stopped:
                common.cli(main, ["--help"])
        assert not stopped.value.code
        streams[0].flush()
        assert b"usage" in streams[0].buffer.getvalue()


@pytest.mark.slow
def test_tables_can_be_printed_in_any_encoding(tmp_path, monkeypatch):
    done = subprocess.run(
        [sys.executable, ROOT / "analysis/tables.py", PUBLISHED],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and not done.stderr
    assert rb"**55.49 \xb1 1.61**" in done.stdout
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", utf8)
    assert common.cli(lambda argv: print("α \udcff")) == 0  # a file's name that is no UTF-8
    assert utf8.buffer.getvalue() == "α \\udcff\n".encode()
    raw = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdout", raw)
    assert common.cli(lambda argv: print("α \udcff")) == 0
    assert raw.buffer.getvalue() == "α ".encode() + b"\xff\n"


def test_output_that_is_no_text_stream(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert common.cli(lambda argv: print("α")) == 0
    assert sys.stdout.getvalue() == "α\n"
