"""The pages of the repository, for tests of what they say; the scripts that their commands name."""

import importlib
import sys

from conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def read(page):
    return page.read_text(encoding="utf-8")


def module_of(script):
    """The module of a script in Python, imported."""
    sys.path[:0] = [] if str(ROOT / "benchmarks") in sys.path else [str(ROOT / "benchmarks")]
    return importlib.import_module(script.removesuffix(".py").replace("/", "."))
