"""Public functions that compile once for their settings and the shapes of their data, also when called eagerly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

KEPT = 64  # compiled calls of all functions together, because each holds dozens of the process's memory maps

Call = TypeVar("Call", bound=Callable[..., Any])


@jax.tree_util.register_static
@dataclass(frozen=True)
class Setting:
    """An argument that is compared by value and never traced, whatever leaves it has: `Setting(solver).value`."""

    value: Any


def compiles_once(function: Call) -> Call:
    """``function(*args)``, compiled once for a structure, its settings and the shapes of its arrays.

    Arrays and numbers among the leaves of ``args`` are data. All other leaves are settings and are compared by value,
    and so is everything in a `Setting`. The last `KEPT` compiled calls are kept, because a loop over many shapes would
    otherwise run out of memory maps. Works under `jax.jit`, `jax.vmap`, `jax.jvp` and `jax.grad`, eager or not. The
    function may close over nothing that changes. A call whose settings cannot be hashed runs, and is not kept.

    >>> import jax.numpy as jnp
    >>> traces = []
    >>> double = compiles_once(lambda x: (traces.append(1), 2 * x)[1])
    >>> float(double(jnp.ones(()))), float(jax.grad(double)(jnp.ones(()))), len(traces)
    (2.0, 2.0, 1)
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        data = [leaf for leaf in leaves if _is_data(leaf)]
        settings = tuple(None if _is_data(leaf) else Setting(leaf) for leaf in leaves)
        shapes = tuple(jax.typeof(leaf) for leaf in data)
        try:
            compiled = _compiled(function, structure, settings, shapes)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return function(*args)
        return compiled(data)

    return call  # type: ignore[return-value]  # of the type that is wrapped


@functools.lru_cache(maxsize=KEPT)
def _compiled(function: Callable, structure: Any, settings: tuple, shapes: tuple) -> Callable:
    """A `jax.jit` of its own for each key, so that dropping it frees what it has compiled."""

    def run(data: list) -> Any:
        rest = iter(data)
        leaves = [next(rest) if setting is None else setting.value for setting in settings]
        return function(*jax.tree.unflatten(structure, leaves))

    return jax.jit(run)


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
