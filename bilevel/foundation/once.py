"""A function without a derivative as one compiled program, also where an eager `jax.vmap` calls it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import batching

from bilevel.foundation.compilation import Executable, Traced, compiler_options, executable_of, trace

SMALL = 4096  # a program of up to so many inputs runs as fast unoptimised, and compiles in a quarter of the time
# One module for the code: split into several and unoptimised, XLA 0.10 got a comparison of 1e-17 with 1e-10 wrong.
UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}


class Once:
    """A traced function of a list of arrays, compiled when it is first run."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.executable: Executable | None = None
        self.lanes: dict[Any, Once] = {}  # batches of it, by their axes and size

    def __call__(self, data: list) -> list:
        """The leaves of the result."""
        if any(isinstance(leaf, Tracer) for leaf in data):
            return _ONCE.bind(*data, once=self)
        data = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in data]
        if self.executable is None:
            self.executable = executable_of(self.traced, data, _options(data))[0]
        return self.executable.results(data)

    def batched(self, data: list, axes: tuple[int | None, ...], size: int) -> Once:
        """The same for a batch of this size: ``axes`` has for each array the axis of the lanes."""
        if (axes, size) not in self.lanes:
            lanes = jax.vmap(self.traced, in_axes=(list(axes),), axis_size=size)
            self.lanes[axes, size] = Once(trace(lanes, [jax.typeof(leaf) for leaf in data]))
        return self.lanes[axes, size]


# A primitive, because only a primitive is told of the batches of `jax.vmap` without being traced.
_ONCE = Primitive("bilevel_once")
_ONCE.multiple_results = True
_ONCE.def_impl(lambda *data, once: once(list(data)))


def _lanes(axis: Any, data: tuple, axes: tuple, *, once: Once) -> tuple[list, list]:
    if all(one is None for one in axes):  # an inner `jax.vmap`, as in `jax.jacfwd`, over something else
        results = once(list(data))
        return results, [None] * len(results)
    results = once.batched(list(data), tuple(axes), axis.size)(list(data))
    return results, [0] * len(results)


batching.fancy_primitive_batchers[_ONCE] = _lanes


def _options(data: list) -> dict[str, Any]:
    backend = jax.default_backend()
    small = sum(jax.typeof(leaf).size for leaf in data) <= SMALL
    return compiler_options(backend) | (UNOPTIMISED if small and backend == "cpu" else {})
