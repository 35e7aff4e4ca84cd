"""The preparation of a data set: splits, standardisation, corruption of labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bilevel.data.sources import DataError, DataSet, checked, is_sparse, without_gaps

LARGEST = 1e150  # a deviation whose square, and whose inverse's square, double precision holds


class Splits(NamedTuple):
    """Disjoint parts of a data set, each with its purpose."""

    train: DataSet  # chooses parameters
    validation: DataSet  # chooses hyperparameters
    stop: DataSet  # chooses when to stop; may be empty
    test: DataSet  # chooses nothing


def split(data: DataSet, train: int, validation: int, stop: int = 0, seed: int = 0) -> Splits:
    """A random split into parts of the given sizes; the remaining samples are the test set. The same for the same seed.

    Raises `DataError` when no test sample would remain, a class is absent from the training set, or `checked` refuses
    the targets.

    >>> data = DataSet(np.arange(10.0)[:, None], np.arange(10.0))
    >>> [len(part.targets) for part in split(data, train=4, validation=3, stop=1)]
    [4, 3, 1, 2]
    """
    samples = len(checked(data).targets)
    check_parts(samples, data.classes, train, validation, stop)
    order = np.random.default_rng(seed).permutation(samples)
    parts = np.split(order, np.cumsum([train, validation, stop]))
    splits = Splits(*(data.take(part) for part in parts))
    present = len(np.unique(splits.train.targets))
    if present < data.classes:
        raise DataError(
            f"Only {present} of the {data.classes} classes occur among {train} training samples: raise train."
        )
    return splits


def check_parts(samples: int, classes: int, train: int, validation: int, stop: int) -> None:
    """`DataError` for a split into parts of sizes that cannot be."""
    if min(train, validation) < 1 or stop < 0:
        raise DataError(
            f"A split into train={train}, validation={validation}, stop={stop} is impossible: "
            "train and validation need at least 1 sample, stop at least 0."
        )
    if train + validation + stop >= samples:
        raise DataError(
            f"The data set has {samples} samples: train={train}, validation={validation} and stop={stop} leave none "
            "for the test set; lower one of them."
        )
    if train < classes:
        raise DataError(f"At most {train} of the {classes} classes occur among {train} training samples: raise train.")


def count(size: float, samples: int) -> int:
    """A number of samples, given as a number or as a share of all.

    >>> count(0.5, 150), count(20, 150)
    (75, 20)
    """
    return round(size * samples) if 0 < size < 1 else int(size)


def standardise(splits: Splits, targets: bool = False) -> Splits:
    """Inputs (and ``targets``, of a regression) less the mean, divided by the standard deviation, of the training set.

    A column that is constant in the training set is only centred. A sparse matrix is only divided, because less the
    mean it would be dense. Raises `DataError` for a column whose deviation cannot be computed, because the squares of
    its numbers over- or underflow, and for a part with NaN or infinity.
    """
    fields = ("inputs", "targets") if targets else ("inputs",)
    for field in fields:
        _refuse_sizes(splits.train, field)
    for name, part in zip(Splits._fields, splits, strict=True):
        without_gaps(part, f"samples of the part {name!r}")
    for field in fields:
        splits = _scaled(splits, field)
    return splits


def divided_by_largest(splits: Splits) -> Splits:
    """Inputs divided by the largest absolute value in the training set, as for grey levels.

    >>> one = DataSet(np.array([[2.0, -4.0]]), np.array([0.0]))
    >>> divided_by_largest(Splits(one, one, one, one)).test.inputs.tolist()
    [[0.5, -1.0]]
    """
    largest = max(float(np.abs(splits.train.inputs).max()), 1e-12)
    return Splits(*(part._replace(inputs=part.inputs / largest) for part in splits))


def _scaled(splits: Splits, field: str) -> Splits:
    values = getattr(splits.train, field)
    mean, deviation = _sparse_moments(values) if is_sparse(values) else _moments(values)
    scale = np.where(deviation > 0, deviation, 1.0)

    def scaled(own: Any) -> Any:
        return own.multiply(1 / scale).tocsr() if is_sparse(own) else (own - mean) / scale

    return Splits(*(part._replace(**{field: scaled(getattr(part, field))}) for part in splits))


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each column; of a constant one 0, which is of rounding size by the
    formula: NumPy's deviation of three times 0.1 is 1e-17, by which the 0.2 of a test sample would become 7e15."""
    deviation = values.std(axis=0, dtype=float)  # whose squares single precision might not hold
    return values.mean(axis=0, dtype=float), np.where(np.ptp(values, axis=0) > 0, deviation, 0.0)


def _sparse_moments(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each column of a sparse matrix."""
    from sklearn.utils.sparsefuncs import mean_variance_axis  # here, because `bilevel --help` reads the catalogue

    moments: Any = mean_variance_axis(values.astype(float, copy=False), axis=0)
    mean, variance = moments
    return mean, np.sqrt(variance)


def _refuse_sizes(data: DataSet, field: str) -> None:
    """Refuses columns whose deviation over- or underflows. Numbers of 1e300 have an infinite deviation and numbers of
    1e-300 the deviation 0, so the column would become zeros, on which every solve converges."""
    values = getattr(data, field)
    if is_sparse(values):
        sizes = abs(values).max(axis=0).toarray().ravel()
    else:
        sizes = np.abs(np.asarray(values)).reshape(len(values), -1).max(axis=0)
    sizes = sizes.astype(float)  # in single precision LARGEST is infinite
    for column in np.flatnonzero(~((sizes == 0) | ((sizes > 1 / LARGEST) & (sizes < LARGEST)))):
        name = data.features[column] if field == "inputs" and len(data.features) > column else str(column)
        raise DataError(
            f"Column {name} of the {field} holds numbers of size {sizes[column]:.0e}, which cannot be standardised in "
            "double precision: change its unit, or clean the data."
        )


def add_noise_features(data: DataSet, number: int, seed: int = 0) -> DataSet:
    """The data set with ``number`` further columns of standard normal noise, independent of the targets."""
    noise = np.random.default_rng(seed).standard_normal((len(data.inputs), number))
    names = data.features + tuple(f"noise {column}" for column in range(number))
    return data._replace(inputs=np.hstack([data.inputs, noise]), features=names)


class Corruption(NamedTuple):
    """Labels after corruption, and a mask of the wrong ones."""

    labels: np.ndarray
    corrupted: np.ndarray


def exact_wrong(labels: np.ndarray, classes: int, fraction: float = 0.5, seed: int = 0) -> Corruption:
    """The rule "exact wrong": exactly round(fraction * n) labels are replaced, each by a random *other* class.

    The other class is uniform, so these labels, and only these, are wrong (the protocol of Franceschi et al., 2017).
    Raises `DataError` when there is no other class or the fraction is no fraction.

    >>> corruption = exact_wrong(np.array([0, 1, 2, 3]), classes=4)
    >>> int(corruption.corrupted.sum()), bool((corruption.labels != np.arange(4)).sum() == 2)
    (2, True)
    """
    check_corruption(classes, fraction)
    random = np.random.default_rng(seed)
    corrupted = np.zeros(len(labels), bool)
    corrupted[random.permutation(len(labels))[: round(fraction * len(labels))]] = True
    shifts = random.integers(1, classes, len(labels))  # never a multiple of the number of classes
    return Corruption(np.where(corrupted, (labels + shifts) % classes, labels), corrupted)


def uniform_replacement(labels: np.ndarray, classes: int, fraction: float = 0.5, seed: int = 0) -> Corruption:
    """The rule "uniform replacement": each label is drawn again from all classes with probability ``fraction``.

    The new label may be the true one, so about fraction * (classes - 1) / classes of the labels are wrong (the protocol
    of Dagréou et al., 2022).
    """
    check_corruption(classes, fraction)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, classes, len(labels))
    noisy = np.where(random.random(len(labels)) < fraction, drawn, labels)
    return Corruption(noisy, noisy != labels)


CORRUPTIONS = {"exact_wrong": exact_wrong, "uniform_replacement": uniform_replacement}


def corrupt(rule: str, labels: np.ndarray, classes: int, fraction: float = 0.5, seed: int = 0) -> Corruption:
    """Labels corrupted by the named rule of ``CORRUPTIONS``."""
    check_corruption(classes, fraction, rule)
    return CORRUPTIONS[rule](labels, classes, fraction, seed)


def check_corruption(classes: int, fraction: float, rule: str = "exact_wrong") -> None:
    """`DataError` for labels that cannot be corrupted so."""
    if rule not in CORRUPTIONS:
        raise DataError(f"There is no corruption rule {rule!r}: choose one of {', '.join(CORRUPTIONS)}.")
    if classes < 2:
        raise DataError("Labels can be corrupted where there are 2 or more classes: choose a classification data set.")
    if not 0.0 <= fraction <= 1.0:
        raise DataError(f"A fraction of {fraction} of the labels cannot be corrupted: give a number from 0 to 1.")
