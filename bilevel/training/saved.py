"""A result as one file of arrays and text: reading it runs no code, because nothing in it is pickled."""

from __future__ import annotations

import collections
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree
from bilevel.loggers.base import plain
from bilevel.loggers.strict_json import dumps, loads

META, FORMAT = "meta", "bilevel result 1"


def write(
    path: Path | str, trees: Mapping[str, PyTree], metrics: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    """Writes the parts of a result as one .npz, which appears only when it is complete. TypeError for a tree of other
    than dicts, lists, tuples, named tuples and arrays."""
    arrays: dict[str, np.ndarray] = {}
    text = {
        "format": FORMAT,
        "trees": {name: _packed(tree, arrays, name) for name, tree in trees.items()},
        "metrics": [plain(line) for line in metrics],
        "summary": plain(summary),
    }
    target = Path(path)
    beside = target.with_name(f"{target.name}.part.npz")
    meta = np.frombuffer(dumps(text).encode(), np.uint8)
    np.savez(beside, **{META: meta}, **arrays)  # pyright: ignore[reportArgumentType]  # numpy types **kwds as flags
    os.replace(beside, target)


def read(path: Path | str) -> tuple[dict[str, PyTree], list[dict[str, Any]], dict[str, Any]]:
    """The parts that `write` wrote: trees, metrics, summary. ValueError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            text: Any = loads(bytes(file[META]).decode())
            arrays = {name: file[name] for name in file.files if name != META}
    except IsADirectoryError as error:
        raise ValueError(
            f"{path}: it is a folder, and Result.save(path) writes a file. The folder of a run has its arrays in "
            "result.npz, for numpy.load, and its figures in summary.json."
        ) from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: no result is stored there; Result.save(path) writes one.") from error
    if text.get("format") != FORMAT:
        raise ValueError(f"{path}: it is of the format {text.get('format')!r}, and {FORMAT!r} is needed.")
    trees = {name: _unpacked(tree, arrays) for name, tree in text["trees"].items()}
    return trees, text["metrics"], text["summary"]


def _packed(tree: PyTree, arrays: dict[str, np.ndarray], place: str) -> Any:
    """The structure of a tree as JSON; its arrays go into ``arrays`` by their places."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        if wrong := [name for name in tree if not isinstance(name, str)]:
            raise TypeError(f"{place} has the key {wrong[0]!r}: a result is saved with keys that are strings.")
        return {"dict": {name: _packed(entry, arrays, f"{place}.{name}") for name, entry in tree.items()}}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        packed = {kind: [_packed(entry, arrays, f"{place}.{number}") for number, entry in enumerate(tree)]}
        fields = getattr(tree, "_fields", None)
        return packed if fields is None else {**packed, "name": type(tree).__name__, "fields": list(fields)}
    array = np.asarray(tree)
    if array.dtype.hasobject or (not np.isscalar(tree) and not hasattr(tree, "dtype")):
        raise TypeError(
            f"{place} is a {type(tree).__name__}: a result is saved where its trees are dicts, lists, tuples, arrays."
        )
    native = array.dtype.kind in "biufcSU"
    arrays[place] = array if native else array.view(np.dtype((np.void, array.dtype.itemsize)))  # bfloat16 and siblings
    return {"array": place, "dtype": array.dtype.name}


def _unpacked(packed: Any, arrays: dict[str, np.ndarray]) -> PyTree:
    if not isinstance(packed, dict):
        return None
    if "array" in packed:
        array = arrays[packed["array"]]
        return array if array.dtype.kind != "V" else array.view(jnp.dtype(packed["dtype"]))
    if "dict" in packed:
        return {name: _unpacked(entry, arrays) for name, entry in packed["dict"].items()}
    entries = [_unpacked(entry, arrays) for entry in packed["list" if "list" in packed else "tuple"]]
    if "list" in packed:
        return entries
    if "fields" in packed:
        return collections.namedtuple(packed["name"], packed["fields"])(*entries)
    return tuple(entries)
