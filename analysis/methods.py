"""Methods and their variants: names, the order in which they are shown, and their colours.

A variant of a method has options that the published form does not have. A Name holds the method's
name and a tuple of words for these options, () for the published form: tables print
Name("FSD_L", ("debiased",)) as "FSD_L, debiased".
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
    """The names of the methods that FSD is compared with, as a tuple: the student alone ("none"),
    the rivals studied here, then the other methods that files of baselines/ declare.
    """
    declared = [method.name for method in read_methods().values()]
    return tuple(dict.fromkeys([*STUDIED, *declared]))


@functools.cache
def order():
    """The names of all methods, as a tuple in the order in which they are shown."""
    return ("teacher", *rivals(), *FORMS)


class Name(NamedTuple):
    """A method and the words of its variant; str(name) is the name that tables print."""

    method: str
    variant: tuple = ()

    def __str__(self):
        return ", ".join([self.method, *self.variant])

    def in_a_sentence(self):
        """The name for use in a sentence, "FSD_L with debiased + group_by_length"."""
        method = "the student alone" if self.method == "none" else self.method
        return f"{method} with {' + '.join(self.variant)}" if self.variant else method

    def published_form(self):
        """The Name of the same method without variant words."""
        return Name(self.method)

    def rank(self):
        """A sort key: methods in the sequence of order(), methods that it lacks last, and a
        method's variants after its published form.
        """
        place = order().index(self.method) if self.method in order() else len(order())
        return place, self.variant != ()


def read_name(text):
    """The Name that tables print as `text`, for names that people wrote in a file or a flag."""
    method, *variant = text.split(", ")
    return Name(method, tuple(variant))


def is_fsd(method):
    """True for the forms of FSD and their variants. method: a method's name, or a Name."""
    return str(method).startswith("FSD")


def colour_of(method):
    """The colour of a method: FSD_COLOUR for the forms of FSD, OTHER_COLOUR for all others."""
    return FSD_COLOUR if is_fsd(method) else OTHER_COLOUR
