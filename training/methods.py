"""The rivals (published methods that FSD is compared with), as their files in baselines/ declare
them.

The files are read, not run, so that no --help waits for torch. A file with a METHOD = {...} at its
top is a rival. --method is the file's name without .py; the tables have the "name" that METHOD
gives it:

    METHOD = {
        "name": "RKD",                      # in tables
        "help": "...",                      # what --help and model cards say of its structure
        "defaults": {"beta": 1.0, ...},     # the flags it takes beside those of VKD, with its
                                            # defaults; others, --beta too, are refused
        "flags": {"gamma_d": {"role": "weight", "type": "float", "least": 0, "help": "..."}},
        "layers": "every",                  # the layers compared; else the penultimate ones
        "layerwise": True,                  # if --do_layerwise means something to it
        "needs": "attention",               # what it reads of the teacher; else its features
        "excluded": [{"between": "tokens", "sample_features": "first"}],  # flags refused together
    }

Under "flags" are the flags that no other file declares, by the fields of training.flag.Flag, with
the type's name in place of the type; their defaults stand under "defaults". All keys except name,
help and defaults may be missing. The file also has the function that builds the method's terms,
structure(args) -> {name: Term}, and may have a check(args, student, teacher) that refuses models:
baselines/glue_with_baseline.py calls both.
"""

import ast
import dataclasses
import functools
from pathlib import Path

from common import UserError
from training.flag import TYPES, Flag

FOLDER = Path(__file__).resolve().parent.parent / "baselines"
LAYERS = ("penultimate", "every")


@dataclasses.dataclass(frozen=True)
class Method:
    """A rival: its name in tables, and what its file declares of it."""

    name: str
    help: str
    defaults: dict
    flags: dict = dataclasses.field(default_factory=dict)
    layers: str = "penultimate"
    layerwise: bool = False
    needs: str = "features"
    excluded: tuple = ()


def read_literal(path):
    """The value of METHOD in a Python file, None without one; UserError if it is no literal."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python file ({error}): mend it") from None
    for node in tree.body:
        targets = getattr(node, "targets", [])
        if [getattr(target, "id", "") for target in targets] != ["METHOD"]:
            continue
        try:
            return ast.literal_eval(node.value)
        except (ValueError, TypeError):
            raise UserError(
                f"{path}, line {node.lineno} has a METHOD that is no literal, and it is read "
                "without running the file: write its names, numbers and texts out"
            ) from None
    return None


def read_method(path):
    """The Method of a file, None if it declares none; UserError if a field is wrong."""
    found = read_literal(path)
    if found is None:
        return None
    try:
        method = Method(**found)
        flags = {
            name: make_flag(name, method.defaults[name], dict(fields))
            for name, fields in method.flags.items()
        }
        if method.layers not in LAYERS:
            raise ValueError(f"layers is {method.layers!r}, not one of {', '.join(LAYERS)}")
    except KeyError as error:
        raise UserError(
            f"METHOD of {path} says nothing of {error}: give each flag a role, a type, a help and "
            "among the defaults its own"
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"METHOD of {path} is not as training/methods.py describes it ({error}): mend it"
        ) from None
    return dataclasses.replace(method, flags=flags)


def make_flag(name, default, fields):
    """The Flag `name` of METHOD's "flags". fields: its entry there, a dict."""
    kind = fields.pop("type")
    if kind not in TYPES:
        raise ValueError(f"the type of --{name} is {kind!r}, not one of {', '.join(TYPES)}")
    return Flag(name, type=TYPES[kind], default=default, **fields)


@functools.cache
def read_methods(folder=FOLDER):
    """{name of --method: Method} of the files of a folder, in alphabetical order."""
    found = {path.stem: read_method(path) for path in sorted(Path(folder).glob("*.py"))}
    return {name: method for name, method in found.items() if method}
