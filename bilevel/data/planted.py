"""A made-up set in the shape of gene expressions, whose labels hang on a code of low variance."""

from __future__ import annotations

import numpy as np

from bilevel.data.sources import DataSet

SAMPLES, GENES, ATOMS = 299, 1000, 10
LOUD, QUIET, NOISE = 4.0, 3.5, 1.0  # deviation of the loud codes, size of the quiet code, noise of a gene


def planted(seed: int = 0) -> DataSet:
    """299 samples, 1,000 genes: ten loud atoms without meaning, and a quiet atom whose presence decides the label.

    The expression is the sum of sparse codes times atoms of unit norm, plus noise in every gene. The quiet code has
    about a tenth of the variance of all codes; one label in ten is flipped.
    """
    random = np.random.default_rng(seed)
    atoms = np.linalg.qr(random.standard_normal((GENES, ATOMS + 1)))[0].T
    loud = LOUD * random.standard_normal((SAMPLES, ATOMS)) * (random.random((SAMPLES, ATOMS)) < 0.5)
    present = random.random(SAMPLES) < 1 / 3
    codes = np.column_stack([loud, QUIET * present])
    inputs = codes @ atoms + NOISE * random.standard_normal((SAMPLES, GENES))
    flipped = random.random(SAMPLES) < 0.1
    return DataSet(inputs, (present != flipped).astype(int), 2)
