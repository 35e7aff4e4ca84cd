"""Public functions that compile once for their settings and the shapes of their data, also when called eagerly."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer, eval_jaxpr

from bilevel.foundation.compilation import Traced, surroundings, trace
from bilevel.foundation.once import Once
from bilevel.foundation.reads import reads

KEPT = 64  # compiled calls of all functions together, because each holds dozens of the process's memory maps
KEPT_BYTES = 2**28  # of arrays that these calls close over

Call = TypeVar("Call", bound=Callable[..., Any])


@jax.tree_util.register_static
@dataclass(frozen=True)
class Setting:
    """An argument that is compared by value and never traced, even if it has leaves: `Setting(solver).value`.

    ``reads`` are values that the setting's functions read from outside, as `stated` finds them.
    """

    value: Any
    reads: Hashable = ()


def stated(value: Any) -> Setting:
    """A user's statement as a `Setting`: itself, and what its functions read when they are called now."""
    return Setting(value, reads(value))


def compiles_once(function: Call) -> Call:
    """``function(*args)``, compiled once for a structure, its settings and the shapes of its arrays.

    Arrays and numbers among the leaves of ``args`` are data. All other leaves are settings and are compared by value,
    and so is everything in a `Setting`. The last `KEPT` compiled calls are kept, because a loop over many shapes would
    otherwise run out of memory maps. Works under `jax.vmap`, `jax.jvp` and `jax.grad`. The function itself is called
    within `jax.jit`, where its settings cannot be hashed, where it closes over traced values, and where it asks for the
    values of its arguments.

    >>> import jax.numpy as jnp
    >>> traces = []
    >>> double = compiles_once(lambda x: (traces.append(1), 2 * x)[1])
    >>> float(double(jnp.ones(()))), float(jax.grad(double)(jnp.ones(()))), len(traces)
    (2.0, 2.0, 1)
    """
    return _kept(function, _Differentiable)


def solves_once(function: Call) -> Call:
    """As `compiles_once`, for a function whose result has no derivative: where it is called in an eager `jax.grad` or
    `jax.vmap` it is not part of the program that these make, so that one compiled program serves all of them.

    >>> import jax.numpy as jnp
    >>> root = solves_once(lambda x: jnp.sqrt(x))
    >>> float(jax.grad(lambda x: x * root(x))(4.0))
    2.0
    """
    return _kept(function, Once)


class _Differentiable:
    """A call as a `jax.jit` of its own, so that dropping it frees what it has compiled."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.run = jax.jit(lambda constants, data: eval_jaxpr(traced.jaxpr, constants, *data))

    def __call__(self, data: list) -> list:
        return self.run(self.traced.constants, data)


class _Kept:
    """The last compiled calls, bounded in their number and in the bytes that they close over."""

    def __init__(self) -> None:
        self.calls: OrderedDict[Hashable, Any] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self.lock:
            if key in self.calls:
                self.calls.move_to_end(key)
            return self.calls.get(key)

    def keep(self, key: Hashable, call: Any) -> None:
        with self.lock:
            self.calls[key] = call
            while len(self.calls) > KEPT or (len(self.calls) > 1 and self._bytes() > KEPT_BYTES):
                self.calls.popitem(last=False)

    def _bytes(self) -> int:
        return sum(getattr(one, "nbytes", 0) for call in self.calls.values() for one in call.traced.constants)


_KEPT = _Kept()


def prepared(kind: type, function: Callable, args: tuple, kwargs: dict | None = None) -> Callable[[], Any] | None:
    """function(*args, **kwargs) as a compiled call; None where it must be called as it is."""
    if _staging() or jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # a setting of JAX
        return None
    leaves, structure = jax.tree.flatten((args, kwargs or {}))
    is_data = [_is_data(leaf) for leaf in leaves]
    data = [leaf for leaf, moves in zip(leaves, is_data, strict=True) if moves]
    settings = tuple(None if moves else Setting(leaf) for leaf, moves in zip(leaves, is_data, strict=True))
    key = (function, kind, structure, settings, *map(_place, data), surroundings())
    try:
        compiled = _KEPT.get(key)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return None
    if compiled is None:
        traced = _traced(function, structure, settings, data)
        if any(isinstance(one, Tracer) for one in traced.constants):
            return None
        compiled = kind(traced)
        _KEPT.keep(key, compiled)
    if compiled.traced.jaxpr is None:
        return None
    return lambda: jax.tree.unflatten(compiled.traced.structure, compiled(data))


def _kept(function: Call, kind: type) -> Call:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kind is Once:
            args, kwargs = frozen((args, kwargs))
        compiled = prepared(kind, function, args, kwargs)
        return function(*args, **kwargs) if compiled is None else compiled()

    return call  # type: ignore[return-value]  # of the type that is wrapped


def frozen(tree: Any) -> Any:
    """The tree without derivatives; values that are not traced are unchanged."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf, tree)


def _traced(function: Callable, structure: Any, settings: tuple, data: list) -> Traced:
    """The call as a program of its data; an empty one where the function asks for their values."""

    def run(data: list) -> Any:
        rest = iter(data)
        leaves = [next(rest) if setting is None else setting.value for setting in settings]
        args, kwargs = jax.tree.unflatten(structure, leaves)
        return function(*args, **kwargs)

    try:
        return trace(run, [jax.typeof(leaf) for leaf in data])
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return Traced(None, [], None)


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))


def _place(leaf: Any) -> Hashable:
    """Type and shape, and the devices of an array that must stay where it is."""
    committed = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed
    return jax.typeof(leaf), leaf.sharding if committed else None


@functools.cache
def _one() -> jax.Array:
    with jax.ensure_compile_time_eval():
        return jax.numpy.ones(())


def _staging() -> bool:
    """Whether operations are recorded rather than run, as within `jax.jit`; in an eager gradient or batch they run."""
    return isinstance(jax.lax.neg(_one()), Tracer)
