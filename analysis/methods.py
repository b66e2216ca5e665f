"""Methods and their variants: names, the order in which they are shown, and their colours.

A method may be run in variants: with options that its published form does not have. Both are data,
a method's name and a tuple of its variant's words, () for the published form. "FSD_L, debiased" is
how a table prints Name("FSD_L", ("debiased",)).
"""

import functools
from typing import NamedTuple

from colours import BLUE, ORANGE
from training.methods import read_methods

STUDIED = ("none", "VKD", "PKD", "RKD", "MiniLM", "Gram", "Procrustes")
FORMS = ("FSD_I", "FSD_L", "FSD_G", "FSD_IL", "FSD_IG", "FSD_LG", "FSD_ILG")

FSD_COLOUR, OTHER_COLOUR = ORANGE, BLUE


@functools.cache
def rivals():
    """What FSD is compared with: the student alone, the rivals studied here, then those that
    another file of baselines/ declares.
    """
    declared = [method.name for method in read_methods().values()]
    return tuple(dict.fromkeys([*STUDIED, *declared]))


@functools.cache
def order():
    """All methods in the order in which they are shown."""
    return ("teacher", *rivals(), *FORMS)


class Name(NamedTuple):
    """A method and its variant; as text they are what a table prints."""

    method: str
    variant: tuple = ()

    def __str__(self):
        return ", ".join([self.method, *self.variant])

    def in_a_sentence(self):
        """The name as a sentence has it, "FSD_L with debiased + group_by_length"."""
        method = "the student alone" if self.method == "none" else self.method
        return f"{method} with {' + '.join(self.variant)}" if self.variant else method

    def published_form(self):
        """The Name of the method without options."""
        return Name(self.method)

    def rank(self):
        """The key that sorts names: methods in order() and others last, variants behind them."""
        place = order().index(self.method) if self.method in order() else len(order())
        return place, self.variant != ()


def read_name(text):
    """The Name that a table prints as `text`: only for what people wrote, in a file or a flag."""
    method, *variant = text.split(", ")
    return Name(method, tuple(variant))


def is_fsd(method):
    """True for the forms of FSD; the name of a variant will do as well."""
    return str(method).startswith("FSD")


def colour_of(method):
    """The colour of a method, of two: FSD's forms have one, all others the other."""
    return FSD_COLOUR if is_fsd(method) else OTHER_COLOUR
