"""Data sets by name, from scikit-learn or from a folder of files as published.

>>> from bilevel import data
>>> data.load("digits").inputs.shape
(1797, 64)
"""

from __future__ import annotations

from bilevel.data.catalogue import SOURCES
from bilevel.data.loading import (
    classification,
    in_rows,
    listing,
    load,
    refuse_classes,
    refuse_numbers,
    regression,
    source_of,
)
from bilevel.data.rows import Rows, in_memory
from bilevel.data.sources import DataError, DataSet, File, Size, Source, checked, data_folder, present, without_gaps
from bilevel.data.splits import (
    Corruption,
    Splits,
    add_noise_features,
    check_corruption,
    check_parts,
    corrupt,
    count,
    divided_by_largest,
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
    "Rows",
    "Size",
    "Source",
    "Splits",
    "add_noise_features",
    "check_corruption",
    "check_parts",
    "checked",
    "classification",
    "corrupt",
    "count",
    "data_folder",
    "divided_by_largest",
    "exact_wrong",
    "in_memory",
    "in_rows",
    "listing",
    "load",
    "present",
    "refuse_classes",
    "refuse_numbers",
    "regression",
    "source_of",
    "split",
    "standardise",
    "uniform_replacement",
    "without_gaps",
]
