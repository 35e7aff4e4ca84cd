"""Data sets by name, from scikit-learn or from a folder of files as published.

>>> from bilevel import data
>>> data.load("digits").inputs.shape
(1797, 64)
"""

from __future__ import annotations

from bilevel.data.catalogue import SOURCES, classification, listing, load, regression
from bilevel.data.sources import DataError, DataSet, File, Source, checked, data_folder
from bilevel.data.splits import (
    Corruption,
    Splits,
    add_noise_features,
    corrupt,
    exact_wrong,
    split,
    standardise,
    uniform_replacement,
)

__all__ = [
    "SOURCES",
    "Corruption",
    "DataError",
    "DataSet",
    "File",
    "Source",
    "Splits",
    "add_noise_features",
    "checked",
    "classification",
    "corrupt",
    "data_folder",
    "exact_wrong",
    "listing",
    "load",
    "regression",
    "split",
    "standardise",
    "uniform_replacement",
]
