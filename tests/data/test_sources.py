"""Folders, files and checksums: each failure is one sentence with the remedy."""

import hashlib

import numpy as np
import pytest

from bilevel.data.sources import DataError, DataSet, File, Size, Source, available, checksum, data_folder, verified

CONTENT = b"as published"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)


@pytest.fixture
def source():
    read = lambda path: DataSet(np.zeros((1, 1)), np.zeros(1))
    return Source("toy", "a toy", Size(1, 1, 0), read, (File("toy.bin", DIGEST),), "example.org/toy")


def one_sentence(problem) -> str:
    text = str(problem.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_no_folder(source):
    with pytest.raises(DataError) as problem:
        verified(source)
    assert "BILEVEL_DATA" in one_sentence(problem) and "toy.bin" in str(problem.value)
    with pytest.raises(DataError, match=r"data\.root=DIR"):
        data_folder()


def test_missing_folder(source, tmp_path):
    with pytest.raises(DataError) as problem:
        verified(source, str(tmp_path / "nowhere"))
    assert "does not exist" in one_sentence(problem)


def test_missing_file(source, tmp_path):
    with pytest.raises(DataError) as problem:
        verified(source, str(tmp_path))
    assert "toy.bin" in one_sentence(problem) and "example.org/toy" in str(problem.value)


def test_wrong_checksum(source, tmp_path):
    (tmp_path / "toy.bin").write_bytes(b"something else")
    with pytest.raises(DataError) as problem:
        verified(source, str(tmp_path))
    assert "not the published one" in one_sentence(problem)


def test_root_and_environment(source, tmp_path, monkeypatch):
    (tmp_path / "toy.bin").write_bytes(CONTENT)
    assert checksum(tmp_path / "toy.bin") == DIGEST
    assert verified(source, str(tmp_path)) == [tmp_path / "toy.bin"]
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    assert verified(source) == [tmp_path / "toy.bin"]
    assert data_folder(str(tmp_path.parent)) == tmp_path.parent  # what is given wins


def test_available_says_where_or_what_is_missing(source, tmp_path):
    assert available(source).startswith("missing: ")
    (tmp_path / "toy.bin").write_bytes(CONTENT)
    assert available(source, str(tmp_path)) == str(tmp_path)
    absent = Source("absent", "", source.size, source.read, package="no_such_package_here")
    assert available(absent) == "missing: pip install no_such_package_here"


def test_take_keeps_order():
    data = DataSet(np.arange(4.0)[:, None], np.arange(4.0), features=("x",))
    taken = data.take(np.array([2, 0]))
    assert taken.inputs.ravel().tolist() == [2.0, 0.0] and taken.features == ("x",)
