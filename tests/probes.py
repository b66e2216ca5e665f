"""What analysis/probe.py measured, for its tests."""

import pandas as pd

from analysis import probe


def probed(script, words, *more, probes=3):
    """Run the command on a script with these words."""
    return probe.main(["--probes", str(probes), *map(str, more), "--", script, *words])


def numbers(path):
    """{(step, quantity, term, other): value}."""
    table = pd.read_csv(path, keep_default_na=False)
    return table.set_index(["step", "quantity", "term", "other"]).value.to_dict()


def of(found, quantity, step):
    """{(term, other): value} of a quantity at a step."""
    return {key[2:]: value for key, value in found.items() if key[:2] == (step, quantity)}
