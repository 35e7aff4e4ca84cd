"""Dataclasses of settings as pytrees: what may change without another compilation, and what may not."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import Any, TypeVar

import jax

Settings = TypeVar("Settings", bound=type)
Value = TypeVar("Value")


def settings(cls: Settings) -> Settings:
    """Registers a dataclass of settings as a pytree. Its leaves are ``tol`` and the fields marked by `traced`: changing
    them compiles nothing again. All other fields are compared by value.

    >>> from dataclasses import dataclass
    >>> @settings
    ... @dataclass(frozen=True)
    ... class Descent:
    ...     max_steps: int = 10
    ...     tol: float = 1e-3
    ...     rate: float = traced(0.1)
    >>> jax.tree.leaves(Descent())
    [0.001, 0.1]
    """
    names = [one.name for one in fields(cls)]
    leaves = [one.name for one in fields(cls) if one.name == "tol" or one.metadata.get("traced")]
    return jax.tree_util.register_dataclass(cls, leaves, [name for name in names if name not in leaves])


def traced(default: Any) -> Any:
    """A field of settings whose value is a traced leaf."""
    return field(default=default, metadata={"traced": True})


def changed(settings: Value, **values: Any) -> Value:
    """The same settings with these values. A value without a field is left out, as the tolerance of a direct solver.
    Itself where it has no field for any of them.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Descent:
    ...     max_steps: int = 10
    >>> changed(Descent(), max_steps=20, tol=1e-3)
    Descent(max_steps=20)
    """
    own: Any = settings
    known = {one.name for one in fields(own)}
    taken = {name: value for name, value in values.items() if name in known}
    return replace(own, **taken) if taken else settings
