"""Tables go between two lines of a page; where those are unclear, the page stays as it is."""

import importlib

import pytest
from conftest import ROOT
from table_files import CLEAN, STEP, written

from analysis import table, tables
from analysis.means import PUBLISHED
from analysis.report_files import find_all_markers
from common import UserError

MARKERS = {
    "start twice": (
        "{start}\na\n{start}\n{end}\n",
        r"<!-- table {name} --> more than once, in the lines 3, 5",
    ),
    "end twice": (
        "{start}\n{end}\n\n{end}\n",
        r"<!-- end {name} --> more than once, in the lines 4, 6",
    ),
    "both twice": (
        "{start}\n{end}\n{start}\n{end}\n",
        r"<!-- table {name} --> more than once, in the lines 3, 5",
    ),
    "end before start": (
        "{end}\n{start}\n",
        r"<!-- end {name} --> in line 3, before <!-- table {name} --> in line 4",
    ),
    "another's within": (
        "{start}\n<!-- table x -->\n{end}\n",
        r"<!-- table x --> between .* line 3 and .* line 5",
    ),
    "no end": ("{start}\n", r"no lines? "),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MARKERS)
def test_unclear_markers_leave_the_file_as_it_is(case, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmarks = importlib.import_module("benchmarks.report")
    source, step = written(tmp_path, CLEAN), written(tmp_path, STEP, "step.csv")
    means = PUBLISHED
    text, words = MARKERS[case]
    for name, command in (
        ("RTE", lambda readme: table.main([str(source), "--insert", readme])),
        ("3", lambda readme: tables.main([str(means), "--insert", readme])),
        ("step", lambda readme: benchmarks.main([str(step), "--insert", readme])),
        ("7", find_all_markers),
    ):
        other = "6" if name == "7" else "2"  # that one is fine, and is not written either
        before = f"before <!-- table {other} -->\n<!-- end {other} -->\n" + text.format(
            start=f"<!-- table {name} -->", end=f"<!-- end {name} -->"
        )
        readme = written(tmp_path, before, "README.md")
        if name == "7" and case == "no end":
            continue  # the places with both lines count
        with pytest.raises(UserError, match=rf"README\.md has .*{words.format(name=name)}"):
            command(str(readme))
        assert readme.read_text(encoding="utf-8") == before


def test_tables_cannot_go_into_a_file_that_is_none(tmp_path):
    source = written(tmp_path, CLEAN)
    with pytest.raises(UserError, match="has no lines <!-- table RTE -->"):
        table.main([str(source), "--insert", str(tmp_path / "absent.md")])
    content = "é<!-- table RTE --><!-- end RTE -->".encode("latin-1")
    readme = written(tmp_path, content, "README.md")
    with pytest.raises(UserError, match=r"README\.md is not text in UTF-8"):
        table.main([str(source), "--insert", str(readme)])


def test_a_file_may_hold_several_tables_of_a_task(tmp_path):
    source = written(tmp_path, CLEAN)
    marked = "<!-- table {0} -->\n<!-- end {0} -->\n"
    page = written(tmp_path, marked.format("one") + marked.format("RTE"), "page.md")
    table.main([str(source), "--insert", str(page), "--marker", "one"])
    found = page.read_text(encoding="utf-8")
    assert "| method |" in found.split("<!-- end one -->")[0]
    assert found.endswith(marked.format("RTE"))
    with pytest.raises(UserError, match="--marker names the place of the table in --insert"):
        table.main([str(source), "--marker", "one"])
