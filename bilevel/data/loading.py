"""Data sets by name: their facts before they are read, and reading them."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from typing import NamedTuple

import numpy as np

from bilevel.data.catalogue import EITHER, SOURCES
from bilevel.data.rows import Rows
from bilevel.data.sources import ENVIRONMENT, DataError, DataSet, Source, available, verified

DENSE = 3e7  # a sparse matrix is made dense up to so many numbers (240 MB)


def source_of(name: str, root: str = "") -> Source:
    """The facts of the data set of that name before it is read.

    Raises `DataError` in one sentence: an unknown name, a package that is not installed.

    >>> source_of("mnist").size.samples
    10000
    """
    published, embedded = EITHER.get(name, (name, name))
    name = published if root or os.environ.get(ENVIRONMENT) else embedded
    if name not in SOURCES:
        raise DataError(f"There is no data set {name!r}: choose one of {', '.join([*SOURCES, *EITHER])}.")
    source = SOURCES[name]
    if importlib.util.find_spec(source.package) is None:
        raise DataError(
            f"The data set {name} needs the package {source.package}, which is not installed: "
            f"pip install {source.package}."
        )
    return source


def load(name: str, root: str = "") -> DataSet:
    """The data set of that name; published files are read from ``root`` or the folder in BILEVEL_DATA.
    "mnist_or_digits" is MNIST where such a folder is named, and digits else.

    Raises `DataError` in one sentence: what `source_of` raises, no folder, a missing file, a wrong checksum.

    >>> load("iris").classes
    3
    """
    source = source_of(name, root)
    return source.read(*verified(source, root))


def regression(name: str, root: str = "") -> DataSet:
    """`load`, refusing a data set whose targets are classes."""
    refuse_classes(source_of(name, root))
    return load(name, root)


def classification(name: str, root: str = "", by_rows: bool = False, sparse: bool = False) -> DataSet:
    """`load` with dense inputs, refusing a data set whose targets are numbers or that is too large to be dense. With
    ``by_rows`` each of several processes reads the rows that it needs, when it needs them (`in_rows`). With ``sparse``
    a data set that is too large to be dense is not refused: its inputs stay a CSR matrix."""
    source = source_of(name, root)
    refuse_numbers(source, sparse)
    if by_rows and _in_processes():
        return in_rows(name, root)
    data = load(name, root)
    return data._replace(inputs=data.inputs.toarray()) if source.size.sparse and not too_large(source) else data


def _in_processes() -> bool:
    from jax import process_count  # here, because the command line lists data sets without JAX

    return process_count() > 1


def in_rows(name: str, root: str = "") -> DataSet:
    """`classification` with the labels in memory, and inputs that are `Rows`. Published files are read some rows at a
    time; what a package ships is read whole, and only the rows that are asked for are kept.

    >>> iris = in_rows("iris")
    >>> iris.inputs.shape, iris.take(np.array([149])).whole().inputs.tolist()
    ((150, 4), [[5.9, 3.0, 5.1, 1.8]])
    """
    source = source_of(name, root)
    paths = verified(source, root)
    blocks = partial(source.blocks, *paths) if source.blocks else lambda: iter([source.read(*paths)])
    facts, targets = next(iter(blocks())), np.concatenate([block.targets for block in blocks()])
    rows = Rows(lambda: (block.inputs for block in blocks()), np.arange(len(targets)), facts.inputs.shape[1])
    return facts._replace(inputs=rows, targets=targets)


def refuse_classes(source: Source) -> None:
    """DataError where the targets are no numbers, which a regression needs."""
    if source.size.classes:
        raise DataError(
            f"The data set {source.name} has {source.size.classes} classes, not numbers, as targets: choose diabetes."
        )


def too_large(source: Source) -> bool:
    """Whether the inputs are sparse, and too many numbers for a dense array."""
    return source.size.sparse and source.size.samples * source.size.features > DENSE


def refuse_numbers(source: Source, sparse: bool = False) -> None:
    """DataError where the targets are no classes, or the inputs no dense array, which a classification needs unless it
    takes ``sparse`` ones."""
    size = source.size
    if not size.classes:
        raise DataError(
            f"The data set {source.name} has numbers, not classes, as targets: choose digits, for instance."
        )
    if too_large(source) and not sparse:
        raise DataError(
            f"The data set {source.name} is sparse, and too large as a dense array ({size.samples:,} x "
            f"{size.features:,}) for this task: choose a9a, for instance."
        )


class Row(NamedTuple):
    """The entry of `listing` for a data set."""

    name: str
    description: str
    where: str  # "shipped with ...", a folder, or "missing: ..." with the remedy
    address: str


def listing(root: str = "") -> list[Row]:
    """Every data set: what it is, where it was found (checksums verified), and where it is published.

    >>> listing()[0].where
    'shipped with sklearn'
    """
    return [
        Row(source.name, source.description, available(source, root), source.address) for source in SOURCES.values()
    ]
