"""Lines in a training's log that are none of ours are left out, and told."""

import json
from types import SimpleNamespace

import pytest

from analysis import report_topics
from analysis.report_measures import RELATIONS
from training import logs

FOREIGN = [
    b"[1]",
    b"5",
    b"{}",
    b'{"epoch": 1}',
    b'{"step": "2"}',
    b'{"step": null}',
    b'{"step": true}',
    b'{"step": NaN}',
    b"{no",
    b"\xff\xfe",
    b"\x00\x00\x00",
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_is_left_out_of_a_resumed_log(line, tmp_path, capsys):
    path = tmp_path / "train_log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n\n{"step": 2}\n{"step": 3}\n')
    logs.JsonLines(path, step=2).write({"step": 3, "again": True})
    assert (
        path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'
    )
    assert capsys.readouterr().err == (
        f"note: left out of {path}, as no JSON object with a number as step: line 2.\n"
    )
    path.write_bytes(b'{"step": 1}\n' + line)  # cut, as by a kill: nothing to be said
    logs.JsonLines(path, step=2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n' and not capsys.readouterr().err


def test_many_foreign_lines_are_one_note(tmp_path, capsys):
    (tmp_path / "log").write_text("no\n" * 12 + '{"step": 1}\n', encoding="utf-8")
    assert logs.read_log(tmp_path / "log") == [('{"step": 1}', {"step": 1})]
    assert "line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more.\n" in capsys.readouterr().err


def test_the_report_leaves_foreign_lines_out(tmp_path, capsys):
    entry = {"step": 1, "epoch": 0.5, **dict.fromkeys(RELATIONS, 0.25)}
    other = json.dumps(entry | {RELATIONS[0]: "far"}).encode()
    path, notes = tmp_path / "train_log.jsonl", []
    one, two = (json.dumps(entry | {"step": step}).encode() for step in (1, 2))
    lines = [one, b'{"step": 1, "loss": 2}', *FOREIGN, other, two]
    path.write_bytes(b"\n".join(lines) + b'\n{"step": 9')
    student = SimpleNamespace(folder=tmp_path, name="x", run=0)
    curves = report_topics.training_curves([student], notes.append)
    assert curves.step.tolist() == [1, 2] and curves[RELATIONS[0]].tolist() == [0.25, 0.25]
    assert notes == [
        f"left out of {path}, as no JSON object with a number as step: line 3, 4, 5, 6, 7, 8, 9, "
        "10, 11, 12 and 2 more."
    ]
    assert not capsys.readouterr().err
    del entry["epoch"]
    for text in ("", "{no\n{}\n", '{"step": 1}\n', json.dumps(entry) + "\n"):
        path.write_text(text, encoding="utf-8")
        assert report_topics.training_curves([student]).empty
