"""The house: three floors, of which none imports from above, and no circle.

Ground: what needs nothing of a run. Middle: what a run needs, training/. Top: what tells the story,
and what is built on it.
"""

import ast

import pytest
from conftest import ROOT

from training.methods import read_methods

GROUND = set("choices seeds colours kd precision relations cka memory utils_glue".split())
PACKAGES = ("common", "training", "tasks", "baselines", "analysis", "scripts", "benchmarks")


def module_name(path):
    """A file's name as others import it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {
    module_name(path): path
    for folder in (".", *PACKAGES)
    for path in sorted((ROOT / folder).glob("*.py"))
}


def floor_of(module):
    """0 for the ground floor, 1 for what a run needs, 2 for the rest."""
    package = module.split(".")[0]
    if module in GROUND or package in ("common", "tasks"):
        return 0
    return 1 if package == "training" else 2


def imports_of(module):
    """The modules of ours that one imports, anywhere in it."""
    tree, found = ast.parse(MODULES[module].read_text(encoding="utf-8")), set()
    folder = module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # a script may name another of its own folder without it
    found |= {f"{folder}.{name}" for name in found if folder in ("benchmarks", "scripts")}
    return (found & MODULES.keys()) - {module}


IMPORTS = {module: imports_of(module) for module in MODULES}


def test_every_floor_has_modules():
    floors = [floor_of(module) for module in MODULES]
    assert floors.count(0) >= len(GROUND) and floors.count(1) > 15 and floors.count(2) > 30
    assert "training.batches" in IMPORTS["loop"] and "cka" in IMPORTS["terms"]


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_up(module):
    above = {other for other in IMPORTS[module] if floor_of(other) > floor_of(module)}
    assert not above


def test_there_is_no_circle():
    left = {module: set(others) for module, others in IMPORTS.items()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_training_knows_no_method():
    """Neither a rival nor a script is named where the loop's parts are."""
    names = read_methods().keys()
    for module, path in MODULES.items():
        if floor_of(module) == 1:
            words = set(ast_strings(path))
            assert not names & words, (module, names & words)


def ast_strings(path):
    """The strings of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 30:
            yield node.value


def test_no_test_imports_another_tests_file():
    """What tests share is a module of its own, so that a file of tests can go or be renamed."""
    for path in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("test_")], path.name
