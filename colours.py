"""The colours of all pictures, of Okabe and Ito (2008): the colour-blind tell them apart, too."""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#000000", "#56B4E9", "#E69F00")
