"""Values as people read them: numbers with few digits, trees by their shapes, functions by their names."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from bilevel.foundation.typing import PyTree

MOST = 6  # leaves of a tree that are told one by one


def amount(value: Any) -> str:
    """A number with two digits. Of a batch it is the largest number; a traced value is said to be one.

    >>> amount(np.float32(1.234e-9)), amount(np.array([3, 12])), amount(7)
    ('1.2e-09', 'up to 12', '7')
    """
    if isinstance(value, Tracer):
        return "traced"
    array = np.asarray(value)
    if array.size == 0:
        return "none"
    largest = np.max(array).item()
    text = f"{largest:.2g}" if isinstance(largest, float) else str(largest)
    return text if array.ndim == 0 else f"up to {text}"


def shapes(tree: PyTree) -> str:
    """The arrays of a tree by type and shape, and their names where there are several.

    >>> shapes(np.zeros((2, 3))), shapes({"a": np.zeros(3), "b": np.float32(1)})
    ('float64[2,3]', "{['a']: float64[3], ['b']: float32[]}")
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if len(leaves) == 1 and not leaves[0][0]:
        return _shape(leaves[0][1])
    told = [f"{jax.tree_util.keystr(path)}: {_shape(leaf)}" for path, leaf in leaves[:MOST]]
    left = [f"{len(leaves) - MOST} more"] if len(leaves) > MOST else []
    return f"{{{', '.join([*told, *left])}}}"


def _shape(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", type(leaf).__name__)
    return f"{dtype}[{','.join(map(str, np.shape(leaf)))}]"


def named(function: Any) -> str:
    """The name of a function, with the function that made it; of an object of functions its kind and their names; the
    value itself where it is none.

    >>> named(np.exp), named(max), named(7)
    ('exp', 'max', '7')
    """
    if name := getattr(function, "__qualname__", None) or getattr(function, "__name__", None):
        return name.replace("<locals>.", "")
    if not dataclasses.is_dataclass(function):
        return repr(function)
    fields = [(field, getattr(function, field.name)) for field in dataclasses.fields(function) if field.repr]
    told = [f"{field.name}={named(value)}" for field, value in fields if value is not field.default]
    return f"{type(function).__name__}({', '.join(told)})"


def counted(number: Any, word: str) -> str:
    """A number with its noun, in the plural unless it is 1; of arrays and traced values as `amount` tells them.

    >>> counted(1, "unknown"), counted(3500, "unknown"), counted(np.array([3, 12]), "step")
    ('1 unknown', '3,500 unknowns', 'up to 12 steps')
    """
    told = f"{number:,}" if isinstance(number, int) else amount(number)
    return f"{told} {word}{'' if told == '1' else 's'}"
