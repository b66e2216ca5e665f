"""Run analysis/probe.py, and read what it measured, for its tests."""

import pandas as pd

from analysis import probe


def probed(script, words, *more, probes=3):
    """Run analysis/probe.py on the training script `script` with the flags `words`.

    more: flags of the probe itself. probes: how often it measures.
    """
    return probe.main(["--probes", str(probes), *map(str, more), "--", script, *words])


def numbers(path):
    """A table of measurements as {(step, quantity, term, other term): value}."""
    table = pd.read_csv(path, keep_default_na=False)
    return table.set_index(["step", "quantity", "term", "other"]).value.to_dict()


def of(found, quantity, step):
    """{(term, other term): value} of a quantity at a step. found: from numbers()."""
    return {key[2:]: value for key, value in found.items() if key[:2] == (step, quantity)}
