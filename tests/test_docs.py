"""The pages: README.md, docs/ and the rest are short, linked, and name commands that exist."""

import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
import yaml
from conftest import ROOT, wordpiece
from pages import IDS, PAGES, README, module_of, read

from training.methods import read_methods

pages = pytest.mark.parametrize("page", PAGES, ids=IDS)

FOLDERS = "analysis|baselines|benchmarks|common|docs|tasks|results|scripts|tests|training"
SCRIPT = re.compile(rf"^((\./)?(?:(?:{FOLDERS})/)?[\w]+\.(py|sh)|scripts/\w+)$")
OF_EVERY_RUN = "glue_with_cka_ilg.py"  # what takes the flags after "--" of scripts/reproduce
OTHERS = {"--rehearse", "--nproc_per_node"}  # flags of pytest and of torchrun
OTHERS |= {"--avx2", "--arm64", "--per_channel"}  # of optimum-cli


def without_fences(text):
    """A page's prose: without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def shell_lines(text):
    """The commands in a page's blocks for bash, those over several lines joined."""
    for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()


def code_spans(text):
    """What stands between single backticks in a page's prose."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", without_fences(text))]


def words_of(line):
    """The words of a shell command, without its comment; placeholders as … are words too."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation mark in prose
        return line.split()


def commands_of(line):
    """[(script, its words)] of a line, in which one script may be an argument of another."""
    found = []
    for word in words_of(line):
        word = word.strip("()$;")
        if SCRIPT.match(word):
            found.append((word.removeprefix("./"), []))
        elif word in ("|", "&&"):
            found.append((None, []))
        elif word == "--" and found:
            found.append((OF_EVERY_RUN, []))
        elif found:
            found[-1][1].append(word)
    return [(script, words) for script, words in found if script]


@functools.cache
def help_of(script, *words):
    """What SCRIPT WORDS --help prints; of a script in Python without another interpreter."""
    if not script.endswith(".py"):
        environment = os.environ | {"PYTHON": sys.executable}
        command = [str(ROOT / script), *words, "--help"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        ).stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main_of(script)([*words, "--help"])
    return printed.getvalue()


def main_of(script):
    """The function that a script in Python runs."""
    return module_of(script).main


@functools.cache
def flags_of(script, subcommand=None):
    """The flags that a script's --help lists; of a bash script those that it speaks of."""
    texts = [help_of(script), "  --help"]
    if subcommand and re.search(rf"{{[\w,]*\b{subcommand}\b[\w,]*}} \.\.\.", texts[0]):
        texts.append(help_of(script, subcommand))
    if script.endswith(".py"):  # a line of the list begins with its flag
        texts = [line for text in texts for line in text.splitlines() if re.match(" +-", line)]
    return {flag for text in texts for flag in re.findall(r"--[\w-]+", text)}


def has_a_parser(script):
    """Whether a file is run by users: not a module of ours, and not a file of pytest's tests."""
    if script.startswith("tests/test_"):
        return False
    return not script.endswith(".py") or '__name__ == "__main__"' in read(ROOT / script)


def anchors(page):
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_fences(read(page)), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- the README's size ---------------------------------------------------------------------------


def test_the_readme_is_short_and_narrow():
    lines = read(README).splitlines()
    assert len(lines) < 200
    assert not [line for line in lines if len(line) > 160]
    assert not [line for line in lines if line.startswith("|") and len(line) > 120]
    assert any(line.startswith("make demo") for line in lines[:60])


# ---- links ---------------------------------------------------------------------------------------


@pages
def test_links_and_images_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(read(page))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked), f"{target} has no such heading"


@pages
def test_files_that_are_named_exist(page):
    for span in code_spans(read(page)):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w/*]+\.\w+", span):
            assert span.endswith("_study.csv") or list(ROOT.glob(span)), f"{span} is not there"


# ---- commands ------------------------------------------------------------------------------------


@pages
def test_commands_exist_and_know_their_flags(page):
    text = read(page)
    for line in [*shell_lines(text), *code_spans(text)]:
        for target in re.findall(r"^make (\w+)", line):
            assert re.search(rf"^{target}:", read(ROOT / "Makefile"), re.M), line
        for script, words in commands_of(line):
            flags = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
            if "/" in script or flags:  # a bare name may be a part of a tree or of a sentence
                assert (ROOT / script).is_file(), f"{script} is not there: {line}"
            if flags and has_a_parser(script):
                unknown = flags - flags_of(script, words[0] if words[0].isalpha() else None)
                assert not unknown, f"{script} does not know {sorted(unknown)}: {line}"


def test_flags_that_are_named_alone_are_known_to_a_script():
    scripts = {
        script
        for page in PAGES
        for line in [*shell_lines(read(page)), *code_spans(read(page))]
        for script, _ in commands_of(line)
        if (ROOT / script).is_file() and has_a_parser(script)
    }
    known = OTHERS.union(*map(flags_of, scripts))
    for page in PAGES:
        for span in code_spans(read(page)):
            if span.startswith("--") and span.strip("-"):
                flag = span.split()[0].partition("=")[0]
                assert flag in known, f"{page.name}: no script has {flag}"


def test_the_checks_above_find_what_is_wrong():
    assert commands_of("python a.py --x 1 -- b.py --y | c.py") == [
        ("a.py", ["--x", "1"]),
        (OF_EVERY_RUN, []),
        ("b.py", ["--y"]),
        ("c.py", []),
    ]
    assert "--internal" in flags_of("glue_with_cka_i.py")
    assert "--internal" not in flags_of("glue_with_cka_g.py")
    assert "--base_url" in flags_of("utils_glue.py", "download") - flags_of("utils_glue.py")


# ---- tables that commands write ------------------------------------------------------------------


@pages
def test_each_marker_is_there_once(page):
    """--insert puts a table between two markers: each name has one of each, in this order."""
    found = re.findall(r"^<!-- (table|end) (\S+) -->$|^<!-- (claims) -->$", read(page), re.M)
    names = [("begin", claims) if claims else (kind, name) for kind, name, claims in found]
    assert [kind == "end" for kind, _ in names] == [False, True] * (len(names) // 2)
    begun = [name for kind, name in names if kind != "end"]
    assert begun == [name for kind, name in names if kind == "end"]
    assert len(begun) == len(set(begun))


def inserting_commands():
    """(script, words) of the commands in the pages that put tables of files in results/ there."""
    for page in PAGES:
        for line in shell_lines(read(page)):
            for script, words in commands_of(line):
                tables = [word for word in words if re.match(r"results/\w+\.csv$", word)]
                known = tables and all((ROOT / table).is_file() for table in tables)
                if "--insert" in words and known and script != "analysis/report.py":
                    yield script, words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [pytest.param(*found, id=" ".join(found[1])) for found in inserting_commands()],
)
def test_a_page_has_what_its_command_writes(script, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    place = words.index("--insert") + 1
    page, copy = ROOT / words[place], tmp_path / "page.md"
    shutil.copyfile(page, copy)
    words = [*words[:place], str(copy), *words[place + 1 :]]
    if "--figure" in words:
        at = words.index("--figure")
        del words[at : at + 2]
    main_of(script)(words)
    assert read(copy) == read(page), f"run python {script} {' '.join(words)}"


# ---- what else a stranger's tools read -----------------------------------------------------------


def test_every_rival_is_on_the_pages():
    for page in ("docs/methods.md", "docs/tokenizers.md"):
        for name, method in read_methods().items():
            assert method.name in read(ROOT / page), f"{page} does not name {method.name} ({name})"


def test_the_losses_in_your_own_loop(tmp_path):
    """The README's example trains: its total gets smaller."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", read(README), flags=re.M | re.S)
    tokenizer, shape = wordpiece(tmp_path), {"hidden_size": 16, "num_attention_heads": 2}
    torch.manual_seed(0)
    teacher, student = (
        transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=len(tokenizer), num_hidden_layers=layers, intermediate_size=24, **shape
            )
        ).eval()
        for layers in (4, 2)
    )
    words = tokenizer(["a dog", "the old cat", "no bird", "a red tree"], padding=True)
    batch = {key: torch.tensor(value) for key, value in words.items()}
    names = {
        "torch": torch,
        "teacher": teacher,
        "student": student,
        "optimizer": torch.optim.AdamW(student.parameters(), lr=1e-3),
        "loader": [dict(batch, labels=torch.tensor([0, 1, 1, 0]))],
    }
    exec(code, names)
    first = names["loss"].item()
    names["loader"] = [dict(batch, labels=torch.tensor([0, 1, 1, 0])) for _ in range(20)]
    exec(code, names)
    assert names["loss"].item() < first


def test_the_losses_need_only_the_files_that_the_readme_names(tmp_path):
    """cka.py and the files beside it, copied elsewhere, compute the losses of all structures."""
    (said,) = re.findall(
        r"^`cka.py` needs torch and, beside it, (.*?)\. ", read(README), flags=re.M
    )
    named = re.findall(r"`(\w+\.py)`", said)
    for name in ("cka.py", *named):
        shutil.copy(ROOT / name, tmp_path)
    program = (
        "import torch, cka\n"
        "h, m = torch.randn(5, 3, 4), torch.randn(2, 12)\n"
        "cka.intra_feature_loss(h, h), cka.local_inter_feature_loss(h, h)\n"
        "cka.global_inter_feature_loss(h.flatten(1), m, h.flatten(1), m, 0.5)\n"
        "print(sorted(set(sys.modules) & {path.stem for path in pathlib.Path().glob('*.py')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import pathlib, sys\n{program}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    needed = sorted(name.removesuffix(".py") for name in ("cka.py", *named))
    assert done.stdout.strip() == str(needed)


def test_the_citation_and_the_workflow_are_whole():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert paper["title"] in read(README).replace("{BERT}", "BERT")
    assert [author["family-names"] for author in paper["authors"]] == ["Jung", "Kim", "Na", "Kim"]
    workflow = yaml.safe_load(read(ROOT / ".github" / "workflows" / "check.yml"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make check"]
