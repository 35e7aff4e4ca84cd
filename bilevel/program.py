"""Compilation: once for a structure and shapes, with closed-over data hoisted out of the program."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

# The elementwise loops of our steps compile faster through XLA's older emitters, and run faster by a tenth.
# JAX 0.11 has them no more.
OPTIONS: dict[str, Any] = {"cpu": {"xla_cpu_use_fusion_emitters": False}}


@functools.cache
def compiler_options(backend: str) -> dict[str, Any]:
    """Our options for this backend, if its compiler knows them."""
    options = OPTIONS.get(backend, {})
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


class Executable(NamedTuple):
    """A compiled program with the constants it takes as arguments and the structure of what it returns."""

    compiled: Callable
    constants: list
    structure: Any


class Program:
    """A function of pytrees of arrays, compiled on first use and again only when structure, shapes or dtypes change.

    Arrays that the function closes over become arguments of the compiled program: as constants they would be folded
    and copied by the compiler. ``traces`` counts how often the function was traced; ``compile_seconds`` adds up the
    time of tracing and compiling.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.traces = 0
        self.compile_seconds = 0.0
        self._executables: dict[Any, Executable] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        leaves = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
        signature = (structure, bool(jax.config.read("jax_enable_x64")), *(leaf.aval for leaf in leaves))
        if signature not in self._executables:
            self._executables[signature] = self._compile(leaves, structure)
        executable = self._executables[signature]
        return jax.tree.unflatten(executable.structure, executable.compiled(executable.constants, leaves))

    def _compile(self, leaves: list, structure: Any) -> Executable:
        began = time.perf_counter()
        self.traces += 1
        closed, shapes = jax.make_jaxpr(
            lambda leaves: self.function(*jax.tree.unflatten(structure, leaves)), return_shape=True
        )(leaves)
        constants = [jnp.asarray(constant) for constant in closed.consts]

        def run(constants: list, leaves: list) -> list:
            return eval_jaxpr(closed.jaxpr, constants, *leaves)

        compiled = jax.jit(run).lower(constants, leaves).compile(compiler_options(jax.default_backend()))
        self.compile_seconds += time.perf_counter() - began
        return Executable(compiled, constants, jax.tree.structure(shapes))
