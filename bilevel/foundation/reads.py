"""What a user's functions read from outside: the globals and closures whose change must not go unnoticed."""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

DEPTH = 6  # functions within objects within functions; beyond it only identity counts
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Same:
    """A value that equals itself alone, whatever its own ``==`` says. Holding it keeps its identity its own."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def reads(value: Any) -> Hashable:
    """The values that ``value``, a function or an object with functions among its fields, would read now.

    Two results are equal where no global, closure, default or attribute that the functions name was rebound between
    them. A list or an array that is changed in place goes unnoticed, as it does under `jax.jit`. A function that
    rebinds what it reads (a counter of its calls) is never the same.

    >>> scale = [2.0]
    >>> def loss(w): return factor * w
    >>> loss.__globals__["factor"] = 2.0
    >>> before = reads(loss)
    >>> loss.__globals__["factor"] = 3.0
    >>> reads(loss) == before
    False
    """
    seen: set[int] = set()
    return tuple(_walk(value, seen, DEPTH))


def _walk(value: Any, seen: set[int], depth: int) -> Iterator[Hashable]:
    if isinstance(value, PLAIN):
        yield type(value), value
        return
    if isinstance(value, Same):
        yield value
        return
    yield Same(value)
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _walk(part, seen, depth - 1)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield value.__func__
        yield from vars(value.__self__).values() if hasattr(value.__self__, "__dict__") else (value.__self__,)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, tuple):  # not a list: a loss that notes its calls in one would never be the same
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, one.name) for one in fields(value))


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    """Defaults, cells and globals; of functions from other modules the identity is enough."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in _names(function.__code__):
        found = function.__globals__.get(name)
        foreign = isinstance(found, types.FunctionType) and found.__globals__ is not function.__globals__
        if found is not None:
            yield Same(found) if foreign or isinstance(found, (types.ModuleType, type)) else found


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The global names of a function and of the functions written within it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple(dict.fromkeys([*code.co_names, *(name for names in inner for name in names)]))
