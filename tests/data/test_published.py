"""Readers of published formats, on files written here byte by byte."""

import bz2
import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.io import savemat

from bilevel.data import published
from bilevel.data.sources import DataError


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return path


def test_idx(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 2))
    images, labels = write_idx(tmp_path / "images.gz", pixels), write_idx(tmp_path / "labels.gz", np.arange(5))
    assert_array_equal(published.idx(images), pixels)
    data = published.mnist(images, labels)
    assert_allclose(data.inputs * 255.0, pixels.reshape(5, 6), rtol=1e-15)
    assert data.image_shape == (3, 2) and data.targets.tolist() == [0, 1, 2, 3, 4]


def test_idx_refuses_another_type(tmp_path):
    (tmp_path / "floats.gz").write_bytes(gzip.compress(struct.pack(">BBBBi", 0, 0, 13, 1, 0)))
    with pytest.raises(DataError, match="not an IDX file of unsigned bytes"):
        published.idx(tmp_path / "floats.gz")


def test_libsvm(tmp_path):
    path = tmp_path / "small.bz2"
    path.write_bytes(bz2.compress(b"+1 1:0.5 3:2\n-1 2:1\n+1 3:-1\n"))
    data = published.libsvm(path)
    assert_array_equal(data.inputs.toarray(), [[0.5, 0, 2], [0, 1, 0], [0, 0, -1]])
    assert data.targets.tolist() == [1, 0, 1] and data.classes == 2
    assert data.take(np.array([1])).inputs.shape == (1, 3)


@pytest.mark.parametrize("labels", [[[1], [2], [1]], [[-1], [1], [-1]]])
def test_matlab(tmp_path, labels):
    savemat(tmp_path / "small.mat", {"X": np.arange(6, dtype=np.int16).reshape(3, 2), "Y": np.array(labels)})
    data = published.matlab(tmp_path / "small.mat")
    assert data.inputs.dtype == np.float64 and data.inputs.shape == (3, 2)
    assert data.targets.tolist() == [0, 1, 0]


def drawing(seed):
    pixels = np.random.default_rng(seed).random((8, 8)) < 0.5
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue(), pixels


def test_omniglot_keeps_shared_characters_once(tmp_path):
    for archive, alphabets in (("one.zip", {"Greek": 0, "Korean": 10}), ("two.zip", {"Greek": 0, "Tagalog": 20})):
        with zipfile.ZipFile(tmp_path / archive, "w") as content:
            for alphabet, first in alphabets.items():
                for number in range(3):
                    content.writestr(
                        f"{archive[:3]}/{alphabet}/character01/{archive[0]}_{number}.png", drawing(first + number)[0]
                    )
    data = published.omniglot(tmp_path / "one.zip", tmp_path / "two.zip", size=8)
    assert data.features == ("Greek/character01", "Korean/character01", "Tagalog/character01")
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert_array_equal(data.inputs[3].reshape(8, 8), 1.0 - drawing(10)[1])


def test_omniglot_runs_pair_training_and_test(tmp_path):
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as content:
        for run in range(1, 21):
            folder = f"run{run:02d}"
            lines = [
                f"{folder}/test/item{item:02d}.png {folder}/training/class{21 - item:02d}.png" for item in range(1, 21)
            ]
            content.writestr(f"{folder}/class_labels.txt", "\n".join(lines) + "\n")
            for item in range(1, 21):
                content.writestr(f"{folder}/test/item{item:02d}.png", drawing(item)[0])
                content.writestr(f"{folder}/training/class{21 - item:02d}.png", drawing(item)[0])
    data = published.omniglot_runs(tmp_path / "runs.zip", size=8)
    inputs, targets = data.inputs.reshape(20, 2, 20, 64), data.targets.reshape(20, 2, 20)
    assert_array_equal(targets[3, 0], np.arange(60, 80))
    for item in range(20):  # the same drawing was written for training and test of a character
        assert_array_equal(inputs[3, 1, item], inputs[3, 0, targets[3, 1, item] - 60])
