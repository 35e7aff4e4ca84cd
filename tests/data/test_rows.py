"""Rows that are read when they are asked for are those of the array, and no more than they are in memory."""

import gzip
import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from bilevel import data
from bilevel.data.published import idx, idx_blocks
from bilevel.data.rows import Rows, in_memory

WHOLE = np.random.default_rng(0).normal(size=(23, 4))
PLACES = [slice(None), slice(3, 9), slice(0, 0), np.array([22, 0, 5, 5, 1]), np.arange(23) % 2 == 0]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_they_are_indexed_as_the_array_is(kind, place):
    blocks = lambda: (kind(block) for block in np.array_split(WHOLE, 5))
    order = np.random.default_rng(1).permutation(23)
    rows = Rows(blocks, np.arange(23), 4).take(order)
    np.testing.assert_array_equal(rows[place], WHOLE[order][place])
    np.testing.assert_array_equal(
        rows.take(order).with_ones()[place], np.column_stack([WHOLE[order][order], np.ones(23)])[place]
    )
    assert rows.with_ones().shape == (23, 5) and len(rows) == 23
    np.testing.assert_array_equal(in_memory((rows, 1))[0], WHOLE[order])


def test_nothing_behind_the_last_row_is_read():
    def blocks():
        yield WHOLE[:6]
        raise AssertionError("the second block was read")

    np.testing.assert_array_equal(Rows(blocks, np.arange(23), 4)[2:6], WHOLE[2:6])


def test_a_block_of_an_idx_file_is_the_array_there(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 2), np.uint8)
    header = b"\x00\x00\x08\x03" + np.array(pixels.shape, ">i4").tobytes()
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    parts = list(idx_blocks(tmp_path / "images.gz", rows=3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), pixels)
    np.testing.assert_array_equal(idx(tmp_path / "images.gz"), pixels)


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_a_shipped_data_set_by_rows(name):
    check_same(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "a9a", "a9a_test", "ijcnn1", "ijcnn1_test", "leukemia", "omniglot_runs"])
def test_a_published_data_set_by_rows(name, data_root):
    check_same(name, str(data_root))


def check_same(name, root=""):
    whole, rows = data.classification(name, root), data.in_rows(name, root)
    np.testing.assert_array_equal(rows.targets, whole.targets)
    assert rows._replace(inputs=None, targets=None) == whole._replace(inputs=None, targets=None)
    order = np.random.default_rng(0).permutation(len(whole.targets))
    half = len(order) // 2
    np.testing.assert_array_equal(rows.take(order).inputs[:half], whole.inputs[order[:half]])
    np.testing.assert_array_equal(rows.whole().inputs, whole.inputs)


@pytest.mark.slow
def test_half_of_the_rows_take_half_of_the_memory(data_root):
    rows = data.in_rows("mnist", str(data_root)).inputs
    rows[:1]
    tracemalloc.start()
    half = rows[: len(rows) // 2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert half.nbytes <= peak <= half.nbytes + 0.25 * half.nbytes
