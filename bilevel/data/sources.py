"""The sources of the data sets: the published files that each needs, and how to get them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.data.rows import Rows

ENVIRONMENT = "BILEVEL_DATA"


class DataError(ValueError):
    """A data set cannot be loaded as asked; the message is one sentence with the remedy."""


class DataSet(NamedTuple):
    """Samples as NumPy arrays: no device and no precision is chosen here.

    ``inputs`` is (n, d) float64, a SciPy CSR matrix, or `Rows` of which each process reads its own; ``targets`` is
    (n,), float64 for regression and integers 0..classes-1 otherwise; ``features`` names the columns, where names are
    published.
    """

    inputs: Any
    targets: np.ndarray
    classes: int = 0  # 0 for regression
    features: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()

    def take(self, index: np.ndarray) -> DataSet:
        """The samples at ``index``, in that order."""
        inputs = self.inputs.take(index) if isinstance(self.inputs, Rows) else self.inputs[index]
        return self._replace(inputs=inputs, targets=self.targets[index])

    def whole(self) -> DataSet:
        """The data set with all of its inputs in memory."""
        return self._replace(inputs=self.inputs[:]) if isinstance(self.inputs, Rows) else self


def checked(data: DataSet) -> DataSet:
    """The data set, if each sample has one target and each label is a class.

    Raises `DataError` in one sentence: targets of shape (n, 1) would be broadcast against (n,) predictions to (n, n)
    errors, and a label outside 0..classes-1 belongs to no class.
    """
    targets = np.asarray(data.targets)
    if targets.shape != (data.inputs.shape[0],):
        raise DataError(
            f"The targets have the shape {targets.shape}, and there are {data.inputs.shape[0]} samples: give one "
            "number a sample, as targets.ravel() does for a single column."
        )
    wrong = np.flatnonzero(~np.isin(targets, np.arange(data.classes)))
    if data.classes and len(wrong):
        raise DataError(
            f"The label {targets[wrong[0]]} of sample {wrong[0]} is not one of the classes 0 to {data.classes - 1}: "
            "number the classes from 0, as np.unique(labels, return_inverse=True)[1] does."
        )
    return data


def is_sparse(values: Any) -> bool:
    """Whether this is a sparse matrix of SciPy, which is not imported for the question."""
    return hasattr(values, "tocsr")


def without_gaps(data: DataSet, part: str = "data") -> DataSet:
    """The data set, if it holds no NaN and no infinity.

    Raises `DataError` in one sentence, because no step looks at a test set: a NaN there would be seen at the end only.
    Inputs that lie in files as published are not read for it, because their checksums say what they hold.
    """
    for name, values in (("inputs", data.inputs), ("targets", data.targets)):
        if isinstance(values, Rows):
            continue
        sparse = is_sparse(values)
        stored: Any = values.data if sparse else np.asarray(values)  # the zeros of a sparse matrix are finite
        if not np.issubdtype(stored.dtype, np.inexact) or np.all(finite := np.isfinite(stored)):
            continue
        where = f"{finite.size - finite.sum()} of {finite.size} numbers of the {name}"
        if not sparse:
            sample, *column = (int(index[0]) for index in np.nonzero(~finite))
            named = [data.features[i] if name == "inputs" and i < len(data.features) else str(i) for i in column]
            where += f", first in sample {sample}" + (f", column {', '.join(named)}" if named else "")
        raise DataError(
            f"The {part} hold NaN or infinity ({where}): leave these samples out, or fill the gaps with numbers of the "
            "training set."
        )
    return data


class File(NamedTuple):
    """A published file and its checksum."""

    name: str
    sha256: str


class Size(NamedTuple):
    """The facts of a data set before it is read. They cannot change, because every release has a checksum."""

    samples: int
    features: int
    classes: int  # 0 for regression
    sparse: bool = False


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: scikit-learn's package, another package, or a folder of published files."""

    name: str
    description: str
    size: Size
    read: Callable[..., DataSet]  # () where a package ships or downloads the data; else (path, ...) of `files`
    files: tuple[File, ...] = ()
    address: str = "scikit-learn ships it"
    package: str = "sklearn"  # the module that must be installed
    download: bool = False  # fetched over the network when first used
    blocks: Callable[..., Iterator[DataSet]] | None = None  # (path, ...): the same in parts, some rows at a time


def data_folder(root: str = "") -> Path:
    """The folder of published files: ``root``, or else the environment variable BILEVEL_DATA.

    Raises `DataError` when neither names an existing folder.
    """
    named = root or os.environ.get(ENVIRONMENT, "")
    if not named:
        raise DataError(f"No data folder was given: set data.root=DIR or the environment variable {ENVIRONMENT}.")
    if not Path(named).is_dir():
        raise DataError(
            f"The data folder {named} does not exist: correct data.root=DIR or the environment variable {ENVIRONMENT}."
        )
    return Path(named)


def checksum(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified(source: Source, root: str = "") -> list[Path]:
    """The paths of a source's files, each present and with the checksum as published.

    Raises `DataError` naming the first folder or file that is missing or differs, and the published address.
    """
    paths = present(source, root)
    for path, file in zip(paths, source.files, strict=True):
        if (found := checksum(path)) != file.sha256:
            raise DataError(
                f"The file {path} is not the published one (sha256 {found[:12]}..., expected {file.sha256[:12]}...): "
                f"get it again from {source.address}."
            )
    return paths


def present(source: Source, root: str = "") -> list[Path]:
    """The paths of a source's files, each there; `DataError` as in `verified`, without a look into them."""
    if source.files and not (root or os.environ.get(ENVIRONMENT)):
        raise DataError(
            f"The data set {source.name} is read from a folder of published files: set data.root=DIR or {ENVIRONMENT} "
            f"to a folder with {' and '.join(file.name for file in source.files)} (from {source.address})."
        )
    paths = []
    for file in source.files:
        path = data_folder(root) / file.name
        if not path.is_file():
            raise DataError(
                f"The data set {source.name} needs the file {file.name}, which is not in {path.parent}: "
                f"get it from {source.address}."
            )
        paths.append(path)
    return paths


def available(source: Source, root: str = "") -> str:
    """Where a source is found, in words: ``"shipped"``, a folder, or what is missing (starting with ``"missing"``)."""
    if importlib.util.find_spec(source.package) is None:
        return f"missing: pip install {source.package}"
    if source.download:
        return "downloaded when first used"
    if not source.files:
        return f"shipped with {source.package}"
    try:
        return str(verified(source, root)[0].parent)
    except DataError as problem:
        return f"missing: {problem}"
