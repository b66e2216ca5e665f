"""What all pictures share: colours that the colour-blind can tell apart, and text with $ as it is.

The colours are those of Okabe and Ito (2008).
"""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#000000", "#56B4E9", "#E69F00")


def as_written(text):
    """The text with each $ escaped: matplotlib would read a formula between two of them."""
    return str(text).replace("$", r"\$")
