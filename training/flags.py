"""Every flag of the scripts: declared once, with a role that decides how resumed runs and tables
treat it.

| role    | a flag that says                        | a resumed run | in a table of runs          |
| ------- | --------------------------------------- | ------------- | --------------------------- |
| weight  | how much a part of the loss counts      | shares it     | each method has its own     |
| variant | which form of a method is meant         | shares it     | part of the method's name   |
| method  | what the method's name says already     | shares it     | alike in a method's runs    |
| budget  | how long and how a student is trained   | shares it     | alike in all students' runs |
| data    | what is read, and how                   | shares it     | alike in all students' runs |
| start   | where a student starts from             | shares it     | alike in all distilled ones |
| model   | which models, in which precision        | shares it     | alike in a method's runs    |
| seed    | --seed                                  | shares it     | differs                     |
| action  | what is done beside training            | is free       | has no column               |
| place   | where something is on this machine      | is free       | is free                     |
| free    | nothing that a result depends on        | is free       | is free                     |

"Shares it": a resumed run must have the same value as before. "Alike": these runs stand in one
table only if they have the same value. A flag of type Path is free in a table whatever its role,
except "start".

TensorBoard's HPARAMS tab shows weights, variants, budget, seed and models. A flag's type decides
how argparse and results.csv read it, its limits decide what training/checks.py refuses. The
declarations are in training/glue_flags.py (HuggingFace's, of all scripts), training/loss_flags.py
(student, loss, memory) and, for the flags that one rival alone has, its file of baselines/ (see
training/methods.py). A flag that is added later says with `before` what earlier runs had.
"""

import functools
import re

from common import UserError
from training.flag import ABSENT, Parser, add_old_spellings
from training.glue_flags import GLUE
from training.loss_flags import (
    CKA,
    FEATURES,
    GAMMAS,
    GLOBAL,
    INTERNAL,
    LOSS,
    MEMORY,
    METHOD,
    STUDENT,
)
from training.methods import read_methods

GONE = {"compile": False}  # removed flags -> the value at which they did nothing
HYPERPARAMETERS = ("weight", "variant", "budget", "seed", "model")
SAID_BY_ITS_VALUE = "cka_estimator"  # in names its value stands alone, as "debiased"
# variants are named in a table in this order
SECTIONS = (CKA, LOSS, *GLUE, FEATURES, INTERNAL, METHOD, GAMMAS, MEMORY, GLOBAL, STUDENT)


# ---- what is declared ----------------------------------------------------------------------------


@functools.cache
def known():
    """All flags, {name: Flag}: those of SECTIONS, then those that only rivals declare."""
    found = {}
    for section in SECTIONS:
        for flag in section:
            found.setdefault(flag.name, flag)
    return found | flags_of_rivals(found)


def flags_of_rivals(ours):
    """The flags that only rivals declare, {name: Flag}; UserError if one is declared twice, or
    taken by a rival and declared nowhere. ours: the other flags, {name: Flag}.
    """
    found, methods = {}, read_methods()
    for file, method in methods.items():
        for flag in method.flags.values():
            if flag.name in ours or flag.name in found:
                raise UserError(
                    f"baselines/{file}.py declares --{flag.name}, which is declared elsewhere, "
                    'too: name it only under "defaults" of METHOD, or rename it'
                )
            found[flag.name] = flag
    for file, method in methods.items():
        for name in method.defaults.keys() - ours.keys() - found.keys():
            raise UserError(
                f"baselines/{file}.py takes --{name}, which is declared nowhere: "
                'declare it under "flags" of METHOD'
            )
    return found


def named(*roles):
    """The flags of these roles, as a list."""
    return [flag for flag in known().values() if flag.role in roles]


def is_shared(name):
    """Whether a resumed run must have the same value of a flag; yes, if nobody declared it."""
    return name not in known() or known()[name].shared


def hyperparameters():
    """The set of names of the flags in the HPARAMS tab: by their role, and no places."""
    return {flag.name for flag in named(*HYPERPARAMETERS) if not flag.is_place}


def variant_words(method, settings):
    """The words for a run's variants in its name, a tuple as ("debiased", "group_by_length").

    One word for each flag of the role variant that is not at its default and that is of the method.
    settings: the run's flags, name -> value.
    """
    words = []
    for flag in named("variant"):
        value = settings.get(flag.name)
        if value is None or str(value) in (str(flag.default), "False", ""):
            continue
        if re.match(flag.of, method):
            words.append(variant_word(flag, value))
    return tuple(words)


def variant_word(flag, value):
    """The word for a variant flag with this value."""
    if flag.name == SAID_BY_ITS_VALUE:
        return value
    if str(value) == "True":
        return flag.name
    return f"{flag.name} {value}" if isinstance(value, str) else f"{flag.name} {value:g}"


def find(column):
    """The Flag of a column of a results.csv, None if the column is of no flag."""
    return columns().get(column)


@functools.cache
def columns():
    """{column of a results.csv: Flag}."""
    return {flag.column: flag for flag in known().values()}


# ---- what earlier versions had -------------------------------------------------------------------


@functools.cache
def later_flags():
    """[(Flag, names)] of the flags with a `before`.

    A run without such a flag gets it if it has one of the flags `names`, or if `names` is empty.
    """
    found = {}
    for section in SECTIONS:
        for flag in section:
            beside = {other.name for other in section} if flag.beside is None else flag.beside
            if flag.before is not ABSENT:
                found.setdefault(flag.name, (flag, beside))
    return list(found.values())


def as_of_today(settings):
    """A run's flags, name -> value, from whatever version, with those added that did not exist
    then, at the values that they stood for.

    A run of train_memory.py, known by --num_centroid, gets only flags that this script takes. A run
    of a rival gets None for other rivals' flags, and for its own what `before` in its file says. A
    removed flag is left out at the value at which a run does not miss it (GONE).
    """
    clusters = {flag.name for section in (*GLUE, MEMORY) for flag in section}
    added = {}
    for flag, beside in later_flags():
        if "num_centroid" in settings and flag.name not in clusters:
            continue
        if not beside or not settings.keys().isdisjoint(beside):
            added[flag.name] = flag.before(settings) if callable(flag.before) else flag.before
    added |= lacking_of_rivals(settings)
    kept = {name: value for name, value in settings.items() if GONE.get(name, ABSENT) != value}
    return kept | {name: value for name, value in added.items() if name not in settings}


def lacking_of_rivals(settings):
    """{name: value} of the flags that only rivals declare, to add to a run that lacks them; {} for
    a run that is no rival's. settings: the run's flags, name -> value.
    """
    methods = read_methods()
    names = {name for method in methods.values() for name in method.flags}
    rivals, added = not settings.keys().isdisjoint(names), {}
    for name, method in methods.items():
        own = settings.get("method") in (name, method.name)
        for flag in method.flags.values():
            if own and flag.before is not ABSENT:
                added[flag.name] = flag.before
            elif rivals:
                added[flag.name] = None
    return added


# ---- scripts -------------------------------------------------------------------------------------


def make_parser(doc, *sections):
    """The parser of a script that trains: HuggingFace's flags and those of more sections."""
    parser = Parser(doc, *GLUE, *sections)
    add_old_spellings(parser)
    return parser


def needs_memory(args):
    """True where the loss has a global structure of weight above 0."""
    return hasattr(args, "teacher_memory_path") and args.beta * getattr(args, "gamma_g", 1.0) != 0
