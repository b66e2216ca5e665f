"""The colours of all pictures: those of Okabe and Ito, told apart by the colour-blind too."""

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#000000", "#56B4E9", "#E69F00")
