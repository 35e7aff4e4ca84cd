"""Splits, standardisation and corruption: exact, disjoint, and the same for the same seed."""

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

from bilevel import data
from bilevel.tasks import regression

NUMBERS = data.DataSet(np.arange(40.0).reshape(20, 2), np.arange(20.0))


def test_parts_are_disjoint_and_complete():
    splits = data.split(NUMBERS, train=8, validation=5, stop=3, seed=1)
    assert [len(part.targets) for part in splits] == [8, 5, 3, 4]
    assert_array_equal(np.sort(np.concatenate([part.targets for part in splits])), np.arange(20))
    for part in splits:
        assert_array_equal(part.inputs[:, 0], 2 * part.targets)


def test_the_seed_decides():
    first, again, other = (data.split(NUMBERS, train=8, validation=5, seed=seed).train.targets for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"train": 18, "validation": 2}, "leave none for the test set"),
        ({"train": 0, "validation": 2}, "at least 1 sample"),
        ({"train": 5, "validation": 5, "stop": -1}, "stop at least 0"),
    ],
)
def test_refuses_impossible_sizes(sizes, match):
    with pytest.raises(data.DataError, match=match):
        data.split(NUMBERS, **sizes)


def test_refuses_too_few_classes():
    with pytest.raises(data.DataError, match=r"of the 10 classes occur .* raise train"):
        data.split(data.load("digits"), train=5, validation=5)


def test_standardise_uses_training_statistics_only():
    random = np.random.default_rng(0)
    inputs = np.hstack([random.normal(3.0, 2.0, (60, 2)), np.full((60, 1), 7.0)])
    inputs[:, 2][50:] = 8.0  # may be constant in the training set: then only centred
    splits = data.split(data.DataSet(inputs, random.normal(5.0, 3.0, 60)), train=30, validation=20, seed=0)
    scaled = data.standardise(splits, targets=True)
    assert_allclose(scaled.train.inputs[:, :2].mean(axis=0), 0.0, atol=1e-14)
    assert_allclose(scaled.train.inputs[:, :2].std(axis=0), 1.0, rtol=1e-14)
    mean, deviation = splits.train.inputs.mean(axis=0), splits.train.inputs.std(axis=0)
    assert_allclose(scaled.test.inputs[:, :2] * deviation[:2] + mean[:2], splits.test.inputs[:, :2], rtol=1e-13)
    assert_allclose(
        scaled.test.targets * splits.train.targets.std() + splits.train.targets.mean(), splits.test.targets, rtol=1e-13
    )


def test_constant_columns_are_only_centred():
    constant = data.Splits(*(data.DataSet(np.full((3, 1), value), np.zeros(3)) for value in (7.0, 8.0, 7.0, 9.0)))
    scaled = data.standardise(constant)
    assert [part.inputs[0, 0] for part in scaled] == [0.0, 1.0, 0.0, 2.0]


@pytest.mark.parametrize("samples", [3, 7, 569])
@pytest.mark.parametrize("value", [0.1, -0.7, 1e5 + 0.1])
@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_constant_columns_of_an_inexact_mean_are_only_centred(samples, value, field):
    """Their deviation is of rounding size, by which a test sample would be divided."""
    varied = np.arange(float(samples))
    train = data.DataSet(np.stack([varied, np.full(samples, value)], axis=1), varied)
    if field == "targets":
        train = data.DataSet(varied[:, None], np.full(samples, value))
    test = train._replace(**{field: getattr(train, field) + 1.0})
    found = getattr(data.standardise(data.Splits(train, train, train, test), targets=True).test, field)
    assert_allclose(found[..., 1] if field == "inputs" else found, 1.0, atol=1e-9)


@pytest.mark.parametrize("size", [1e300, -1e300, 1e-300, np.inf, np.nan])
@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_columns_whose_deviation_cannot_be_computed_are_refused_by_name(size, field):
    """Their deviation is infinite or 0 in double precision: the column would become zeros."""
    inputs, targets = np.arange(6.0).reshape(3, 2), np.arange(1.0, 4.0)
    if field == "inputs":
        inputs[:, 1] *= size
    else:
        targets = targets * size
    part = data.DataSet(inputs, targets, features=("age", "mass"))
    name = "mass of the inputs" if field == "inputs" else "0 of the targets"
    with pytest.raises(data.DataError, match=f"Column {name} holds numbers of size .* cannot be standardised"):
        data.standardise(data.Splits(part, part, part, part), targets=True)


@pytest.mark.parametrize("part", data.Splits._fields)
@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_a_gap_in_any_part_is_refused_before_any_work(part, field):
    """No step looks at a test set: its NaN would be seen at the end only, as a loss of NaN."""
    whole = data.DataSet(np.arange(6.0).reshape(3, 2), np.arange(1.0, 4.0), features=("age", "mass"))
    wrong = whole._replace(**{field: np.array(getattr(whole, field))})
    getattr(wrong, field)[1] = np.nan
    splits = data.Splits(*4 * [whole])._replace(**{part: wrong})
    with pytest.raises(
        data.DataError, match="cannot be standardised" if part == "train" else f"part '{part}' hold NaN"
    ):
        data.standardise(splits, targets=True)
    with pytest.raises(data.DataError, match=f"numbers of the {field}, first in sample 1"):
        regression.samples(wrong)


def test_a_gap_in_a_sparse_matrix_is_refused():
    sparse = scipy.sparse.csr_array(np.array([[0.0, np.inf], [1.0, 0.0]]))
    assert data.without_gaps(data.DataSet(sparse[1:], np.zeros(1))).inputs.shape == (1, 2)
    with pytest.raises(data.DataError, match="1 of 2 numbers of the inputs"):
        data.without_gaps(data.DataSet(sparse, np.zeros(2)))


def test_a_sparse_matrix_is_divided_by_the_deviations_and_stays_sparse():
    random = np.random.default_rng(0)
    inputs = random.normal(3.0, 2.0, (60, 4)) * (random.uniform(size=(60, 4)) < 0.2)
    inputs[:, 2], inputs[:, 3] = 0.0, 0.1  # never stored, and constant
    dense = data.DataSet(inputs, np.zeros(60))
    before = data.split(dense, train=40, validation=10)
    sparse = data.split(dense._replace(inputs=scipy.sparse.csr_array(inputs)), train=40, validation=10)
    deviation = [*before.train.inputs[:, :2].std(axis=0), 1.0, 1.0]
    for ours, own in zip(data.standardise(sparse), before, strict=True):
        assert scipy.sparse.issparse(ours.inputs)
        assert_allclose(ours.inputs.toarray(), own.inputs / deviation, rtol=1e-13)


def test_a_sparse_column_of_huge_numbers_is_refused():
    part = data.DataSet(scipy.sparse.csr_array(np.diag([1.0, 1e200])), np.arange(2.0))
    with pytest.raises(data.DataError, match=r"Column 1 of the inputs holds numbers of size 1e\+200"):
        data.standardise(data.Splits(part, part, part, part))


@pytest.mark.parametrize("size", [1e100, 1e-100])
def test_large_and_small_columns_are_standardised(size):
    part = data.DataSet(np.arange(6.0).reshape(3, 2) * size, np.arange(3.0))
    assert_allclose(data.standardise(data.Splits(part, part, part, part)).train.inputs.std(axis=0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("stored", [np.asarray, scipy.sparse.csr_array])
def test_numbers_in_single_precision_are_standardised(stored):
    """The squares of 1e30 are infinite in single precision."""
    inputs = np.array([[0.0, 1e30], [2.0, 0.0], [4.0, 2e30]], np.float32)
    part = data.DataSet(stored(inputs), np.arange(3.0))
    found = data.standardise(data.Splits(part, part, part, part)).train.inputs
    found = found if stored is np.asarray else found.toarray()
    assert_allclose(found.std(axis=0), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("label", "said"), [(3, "3"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan")])
def test_a_label_that_is_no_class_is_refused_by_name(label, said):
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, label])
    found = data.DataSet(np.zeros((10, 1)), labels, classes=3)
    with pytest.raises(data.DataError, match=rf"The label {said} of sample 9 is not one of the classes 0 to 2"):
        data.split(found, train=6, validation=2)


@pytest.mark.parametrize("shape", [(10, 1), (9,), (1, 10)])
def test_targets_that_are_not_one_a_sample_are_refused(shape):
    found = data.DataSet(np.zeros((10, 1)), np.zeros(shape))
    with pytest.raises(data.DataError, match="one number a sample"):
        data.split(found, train=6, validation=2)
    with pytest.raises(data.DataError, match="one number a sample"):
        regression.samples(found)


def test_noise_features():
    wider = data.add_noise_features(data.load("diabetes"), 5, seed=3)
    assert wider.inputs.shape == (442, 15) and wider.features[-1] == "noise 4"
    assert_array_equal(wider.inputs[:, :10], data.load("diabetes").inputs)


@pytest.mark.parametrize("samples", [10, 900, 901])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_exact_wrong_is_exact(samples, fraction):
    labels = np.random.default_rng(0).integers(0, 10, samples)
    noisy, corrupted = data.exact_wrong(labels, 10, fraction, seed=4)
    assert corrupted.sum() == round(fraction * samples)
    assert_array_equal(noisy != labels, corrupted)
    assert noisy.min() >= 0 and noisy.max() <= 9


def test_exact_wrong_reaches_every_other_class_evenly():
    noisy, _ = data.exact_wrong(np.zeros(90000, int), 10, 1.0, seed=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    assert np.sum((counts[1:] - 10000.0) ** 2) / 10000.0 < 26.1  # the 0.999 quantile for 8 degrees of freedom


def test_uniform_replacement_keeps_a_tenth():
    labels = np.random.default_rng(0).integers(0, 10, 100000)
    noisy, corrupted = data.uniform_replacement(labels, 10, 0.5, seed=1)
    assert_array_equal(noisy != labels, corrupted)
    assert_allclose(corrupted.mean(), 0.45, atol=0.005)


def test_corruption_by_name():
    labels = np.arange(10)
    assert_array_equal(
        data.corrupt("exact_wrong", labels, 10, 0.5, 7).labels, data.exact_wrong(labels, 10, 0.5, 7).labels
    )
    with pytest.raises(data.DataError, match="no corruption rule 'half'"):
        data.corrupt("half", labels, 10)


@pytest.mark.parametrize(("classes", "fraction"), [(1, 0.5), (10, 1.5), (10, float("nan"))])
def test_refuses_impossible_corruptions(classes, fraction):
    with pytest.raises(data.DataError):
        data.exact_wrong(np.zeros(4, int), classes, fraction)


def test_inputs_are_divided_by_the_largest_of_the_training_set_alone():
    parts = [data.DataSet(np.array([[value, -value / 2]]), np.array([value])) for value in (2.0, 8.0, 4.0, 1.0)]
    scaled = data.divided_by_largest(data.Splits(*parts))
    assert [part.inputs.tolist() for part in scaled] == [[[1.0, -0.5]], [[4.0, -2.0]], [[2.0, -1.0]], [[0.5, -0.25]]]
    assert [float(part.targets[0]) for part in scaled] == [2.0, 8.0, 4.0, 1.0]
