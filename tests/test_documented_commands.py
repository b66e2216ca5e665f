"""The commands in the pages' blocks for bash, as bash reads them, are accepted by their parsers.

tests/test_docs.py looks at the names of flags. Here whole command lines are parsed: positional
arguments, numbers of values, choices. Nothing is run.
"""

import argparse
import re
import subprocess

import pytest
from conftest import ROOT
from pages import IDS, PAGES, module_of, read

from common import UserError
from scripts import sweep
from scripts.command_line import Parser

# a command that bash does not find writes down its words, and bash finds none
PRELUDE = """
PATH=/nowhere; LOG=$1
note() { printf '%s\\n' "$@" '' >> "$LOG"; }
command_not_found_handle() { note "$@"; }
.() { :; }; source() { :; }; cd() { :; }; exit() { :; }
"""
OURS = [path.name for path in (ROOT / "scripts").iterdir() if path.suffix in ("", ".sh")]


class Accepted(Exception):
    """A parser has taken its command line."""


def commands_of(block, folder):
    """The commands of a block for bash, each a list of words, as bash reads them."""
    text = PRELUDE + "".join(f'scripts/{name}() {{ note scripts/{name} "$@"; }}\n' for name in OURS)
    log = folder / "log"
    log.write_text("")
    bash = ["bash", "-c", text + block, "bash", str(log)]
    done = subprocess.run(
        bash, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert not done.stderr, done.stderr
    return [words.split("\n") for words in log.read_text().split("\n\n") if words]


def script_of(words):
    """(the script of ours that a command runs, its words); (None, []) if it runs none."""
    for at, word in enumerate(words):
        word = word.removeprefix("./")
        if word.startswith("scripts/") and "." not in word:
            word += ".py"
        if word == "scripts/demo.sh":
            word = "scripts/demo.py"
        if word.endswith(".py") and (ROOT / word).is_file():
            return word, words[at + 1 :]
    return None, []


def check(script, words, monkeypatch):
    """Let the parser of a script take these words; of a sweep also those of each of its runs."""
    if script == "scripts/sweep.py":
        found, _ = sweep.make_sweep(words)
        for run in found.mine:
            check(*script_of(run.words), monkeypatch)
        return
    whole, known, own = (
        argparse.ArgumentParser.parse_args,
        argparse.ArgumentParser.parse_known_args,
        Parser.read,
    )
    with monkeypatch.context() as patch, pytest.raises(Accepted):

        def stop_after(parse):
            def take(*args):
                patch.setattr(argparse.ArgumentParser, "parse_known_args", known)
                parse(*args)
                raise Accepted

            return take

        patch.setattr(argparse.ArgumentParser, "parse_args", stop_after(whole))
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after(known))
        patch.setattr(Parser, "read", stop_after(own))
        module_of(script).main(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_parsers_take_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    for block in re.findall(r"^```bash\n(.*?)^```$", read(page), flags=re.M | re.S):
        for words in commands_of(block, tmp_path):
            script, rest = script_of(words)
            if script is None or script.startswith("tests/") or "…" in rest:
                continue
            try:
                check(script, rest, monkeypatch)
            except (SystemExit, UserError) as error:
                pytest.fail(f"{script} {rest}: {error} {capsys.readouterr().err}")


def test_a_command_is_read_as_bash_reads_it(tmp_path):
    block = (
        'A="--x 1"\nfor name in b c; do scripts/sweep runs $name seed=1,2 -- a.py $A; done\n'
        "pip install x && python cka.py 'two words'  # a remark\n"
    )
    found = commands_of(block, tmp_path)
    sweep_words = ["seed=1,2", "--", "a.py", "--x", "1"]
    assert found == [
        ["scripts/sweep", "runs", "b", *sweep_words],
        ["scripts/sweep", "runs", "c", *sweep_words],
        ["pip", "install", "x"],
        ["python", "cka.py", "two words"],
    ]
    assert script_of(found[0])[0] == "scripts/sweep.py" and script_of(found[2]) == (None, [])


def test_what_a_parser_does_not_take_is_found(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        check("scripts/study_weights.py", ["e5", "minilm", "--output_dir", "w"], monkeypatch)
    check("scripts/study_weights.py", ["e5", "--output_dir", "w"], monkeypatch)
