"""Readers of data sets in their published form: IDX, LIBSVM, MATLAB and the Omniglot archives."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.data.sources import DataError, DataSet

BLOCK = 250  # rows: 1.6 MB of MNIST as numbers


def idx(path: Path) -> np.ndarray:
    """An array of bytes in IDX format, compressed by gzip: 0, 0, 8, the number of axes, their sizes, the values."""
    with gzip.open(path) as stream:
        content = stream.read()
    axes = content[3]
    if content[:3] != b"\x00\x00\x08":
        raise DataError(f"The file {path} is not an IDX file of unsigned bytes: get the published one.")
    shape = np.frombuffer(content, ">i4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def mnist(images: Path, labels: Path) -> DataSet:
    """MNIST images as published, pixels scaled to [0, 1]."""
    pixels = idx(images)
    return DataSet(pixels.reshape(len(pixels), -1) / 255.0, idx(labels).astype(int), 10, (), pixels.shape[1:])


def libsvm(path: Path) -> DataSet:
    """Binary classification in LIBSVM format, compressed by bzip2; inputs are CSR, labels -1 and 1 become 0 and 1."""
    from sklearn.datasets import load_svmlight_file

    inputs, labels = load_svmlight_file(str(path))
    classes, targets = np.unique(labels, return_inverse=True)
    return DataSet(inputs, targets, len(classes))


def idx_blocks(path: Path, rows: int = BLOCK) -> Iterator[np.ndarray]:
    """The array of `idx`, so many entries of its first axis at a time; the whole is never in memory."""
    with gzip.open(path) as stream:
        head = stream.read(4)
        shape = np.frombuffer(stream.read(4 * head[3]), ">i4")
        size = int(np.prod(shape[1:], dtype=int))
        for first in range(0, int(shape[0]), rows):
            count = min(rows, int(shape[0]) - first)
            yield np.frombuffer(stream.read(count * size), np.uint8).reshape(count, *shape[1:])


def mnist_blocks(images: Path, labels: Path) -> Iterator[DataSet]:
    """`mnist`, some images at a time."""
    for pixels, digits in zip(idx_blocks(images), idx_blocks(labels), strict=True):
        yield DataSet(pixels.reshape(len(pixels), -1) / 255.0, digits.astype(int), 10, (), pixels.shape[1:])


def libsvm_blocks(path: Path, features: int, from_zero: bool, rows: int = BLOCK) -> Iterator[DataSet]:
    """`libsvm`, some lines at a time, of a file that numbers its ``features`` from 0 or from 1."""
    from sklearn.datasets import load_svmlight_file

    with bz2.open(path) as stream:
        while lines := list(itertools.islice(stream, rows)):
            part: Any = io.BytesIO(b"".join(lines))
            numbered: Any = from_zero  # its type is given as that of its default, "auto"
            inputs, labels = load_svmlight_file(part, n_features=features, zero_based=numbered)
            yield DataSet(inputs, (labels > 0).astype(int), 2)


def matlab(path: Path) -> DataSet:
    """A matrix ``X`` (n, d) and labels ``Y`` (n, 1) of a MATLAB file; labels become 0, 1, ... in ascending order."""
    from scipy.io import loadmat

    content = loadmat(path)
    classes, targets = np.unique(content["Y"].ravel(), return_inverse=True)
    return DataSet(np.asarray(content["X"], float), targets, len(classes))


def omniglot(*archives: Path, size: int = 28) -> DataSet:
    """Handwritten characters, 20 drawings each, as ``size`` x ``size`` images with ink 1 on paper 0.

    The two small archives share two alphabets: characters whose drawings are byte for byte the same are kept once.
    ``features`` names the character of each class, as ``alphabet/character``.
    """
    characters: dict[str, str] = {}  # digest of the drawings -> name
    drawings: dict[str, list[bytes]] = {}
    for archive in archives:
        for name, contents in _characters(archive):
            digest = hashlib.sha256(b"".join(contents)).hexdigest()
            if digest not in characters:
                characters[digest] = name
                drawings[name] = contents
    names = sorted(drawings)
    images = np.stack([_drawing(content, size) for name in names for content in drawings[name]])
    targets = np.repeat(np.arange(len(names)), [len(drawings[name]) for name in names])
    return DataSet(images.reshape(len(images), -1), targets, len(names), tuple(names), (size, size))


def omniglot_runs(archive: Path, size: int = 28) -> DataSet:
    """The 20 one-shot runs: 20 training drawings, then 20 test drawings of the same characters, run after run.

    ``inputs.reshape(20, 2, 20, -1)`` is (run, training or test, drawing, pixel); ``targets`` number the 20 x 20
    characters, 20 * run + character.
    """
    images, targets = [], []
    with zipfile.ZipFile(archive) as content:
        for run in range(20):
            pairs = [line.split() for line in content.read(f"run{run + 1:02d}/class_labels.txt").decode().splitlines()]
            training = sorted(name for _, name in pairs)
            test = sorted(pairs)  # (a test drawing, the training drawing of the same character)
            images += [content.read(name) for name in training + [drawing for drawing, _ in test]]
            targets += [20 * run + training.index(name) for name in training + [same for _, same in test]]
    inputs = np.stack([_drawing(image, size).ravel() for image in images])
    return DataSet(inputs, np.asarray(targets), 400, (), (size, size))


def _characters(archive: Path) -> list[tuple[str, list[bytes]]]:
    """(alphabet/character, its drawings as PNG) of every character in an Omniglot archive."""
    with zipfile.ZipFile(archive) as content:
        groups: dict[str, list[str]] = {}
        for member in sorted(content.namelist()):
            if member.endswith(".png"):
                groups.setdefault("/".join(member.split("/")[-3:-1]), []).append(member)
        return [(name, [content.read(member) for member in members]) for name, members in groups.items()]


def _drawing(content: bytes, size: int) -> np.ndarray:
    from PIL import Image  # comes with matplotlib

    image = Image.open(io.BytesIO(content)).convert("L").resize((size, size), Image.Resampling.BOX)
    return 1.0 - np.asarray(image, float) / 255.0
