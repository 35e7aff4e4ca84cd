"""Compilation: once for a structure and shapes, with closed-over data hoisted out of the program."""

from __future__ import annotations

import functools
import hashlib
import operator
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import Literal

OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        # The elementwise loops of our steps compile faster through XLA's older emitters, and run faster by a tenth.
        # JAX 0.11 has them no more.
        "xla_cpu_use_fusion_emitters": False,
        # The pass makes three loops of each sum over 32 to 4095 numbers, a quarter of all loops of an outer step. Such
        # sums are as accurate without it, in float32 too: `tests/foundation/test_compilation.py`.
        "xla_disable_hlo_passes": "tree_reduction_rewriter",
    }
}


@functools.cache
def compiler_options(backend: str) -> dict[str, Any]:
    """Those of our options that the compiler of this backend knows."""
    options = OPTIONS.get(backend, {})
    if _are_known(options):
        return options
    return {name: value for name, value in options.items() if _are_known({name: value})}


def _are_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except jax.errors.JaxRuntimeError:
        return False
    return True


# JAX adds its settings to `jax.config` while it is imported, so that checkers do not know the attributes.
TRACED_SETTINGS = operator.attrgetter("jax_enable_x64", "jax_default_matmul_precision", "jax_default_device")


def surroundings() -> Hashable:
    """JAX's settings that a trace reads: a program that was traced under others would answer for them."""
    return TRACED_SETTINGS(jax.config)


COPIES = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "stop_gradient")
SHARED = 32  # compiled programs kept for other tasks
_COMPILED: OrderedDict[Hashable, jax.stages.Compiled] = OrderedDict()


def compile_or_find(
    lowered: jax.stages.Lowered, arguments: tuple[list[Any], list[Any]], options: dict[str, Any]
) -> tuple[jax.stages.Compiled, bool]:
    """The compiled program, and whether it had to be compiled. Programs with the same text are compiled once, because
    tasks of the same shapes often have the same text. A program that calls the host is not shared, because its text
    does not say which function is called.
    """
    text = lowered.as_text()
    if "callback" in text:
        return lowered.compile(options), True
    places = jax.tree.map(lambda leaf: leaf.sharding, arguments)
    key = (hashlib.sha256(text.encode()).digest(), *map(tuple, places), *options.items())
    compiles = key not in _COMPILED
    if compiles:
        _COMPILED[key] = lowered.compile(options)
    _COMPILED.move_to_end(key)
    if len(_COMPILED) > SHARED:
        _COMPILED.popitem(last=False)
    return _COMPILED[key], compiles


def _number(leaf: Any) -> Any:
    """A float64 of NumPy as a Python float, because JAX types both alike: else the same program is compiled twice."""
    return float(leaf) if isinstance(leaf, float) else leaf


def not_a_number(traced: Any) -> dict[int, np.ndarray]:
    """The results of a traced function that are the constant NaN, by their places: a figure that was not asked for is
    one. They stay out of the program because ``jax_debug_nans`` would stop it for returning them."""
    constants = dict(zip(map(id, traced.jaxpr.constvars), traced.constants, strict=True))
    made = {id(one): step for step in traced.jaxpr.eqns if step.primitive.name in COPIES for one in step.outvars}
    found = {}
    for place, variable in enumerate(traced.jaxpr.outvars):
        source = variable
        while id(source) in made:
            source = made[id(source)].invars[0]
        value = source.val if isinstance(source, Literal) else constants.get(id(source))
        if value is not None and np.ndim(value) == 0 and np.asarray(value).dtype.kind == "f" and np.isnan(value):
            # NumPy's, because JAX would check an array on a device too.
            found[place] = np.full(variable.aval.shape, value, variable.aval.dtype)
    return found


class Executable(NamedTuple):
    """A compiled program with the constants it takes as arguments and the structure of what it returns."""

    compiled: jax.stages.Compiled
    constants: list[Any]
    structure: Any
    unknown: dict[int, np.ndarray]  # results that are NaN by construction, by their places

    def results(self, leaves: list[Any]) -> list[Any]:
        """The leaves of what the function returns for arguments with these leaves."""
        results = iter(self.compiled(self.constants, leaves))
        places = range(self.structure.num_leaves)
        return [self.unknown[place] if place in self.unknown else next(results) for place in places]

    def takes(self, leaves: list[Any]) -> bool:
        """Whether every argument lies on the devices that the program was compiled for, or may be moved there."""
        places = self.compiled.input_shardings[0][1]
        return all(
            leaf.sharding.is_equivalent_to(place, leaf.ndim) or not leaf.committed
            for leaf, place in zip(leaves, places, strict=True)
        )


class Seconds(NamedTuple):
    """The seconds of a compilation: tracing the function in Python, translating it for the compiler, compiling it."""

    tracing: float = 0.0
    lowering: float = 0.0
    compiling: float = 0.0

    def add(self, other: Seconds) -> Seconds:
        return Seconds(*(one + more for one, more in zip(self, other, strict=True)))

    def since(self, before: Seconds) -> Seconds:
        return Seconds(*(now - then for now, then in zip(self, before, strict=True)))

    def named(self) -> dict[str, float]:
        """The seconds by the names that the record and the summary of a run give them."""
        return {f"seconds_{part}": spent for part, spent in self._asdict().items()}


class Traced(NamedTuple):
    """A function as a program: its jaxpr, the values that it closes over, and the structure of what it returns."""

    jaxpr: Any
    constants: list[Any]
    structure: Any

    def __call__(self, leaves: list[Any]) -> list[Any]:
        """The leaves of the result."""
        return eval_jaxpr(self.jaxpr, self.constants, *leaves)


def trace(function: Callable[[list[Any]], Any], leaves: list[Any]) -> Traced:
    """function(leaves) for leaves of these types."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(leaves)
    return Traced(closed.jaxpr, closed.consts, jax.tree.structure(shapes))


def executable_of(traced: Traced, leaves: list[Any], options: dict[str, Any]) -> tuple[Executable, bool, Seconds]:
    """The compiled program for arguments with these leaves, whether it had to be compiled, and the time it took."""
    began = time.perf_counter()
    # Put, because `jnp.asarray` compiles a program for each shape.
    constants = [one if isinstance(one, jax.Array) else jax.device_put(one) for one in traced.constants]
    unknown = not_a_number(traced)

    def run(constants: list[Any], leaves: list[Any]) -> list[Any]:
        results = eval_jaxpr(traced.jaxpr, constants, *leaves)
        return [result for place, result in enumerate(results) if place not in unknown]

    lowered = jax.jit(run, keep_unused=True).lower(constants, leaves)
    translated = time.perf_counter()
    compiled, compiles = compile_or_find(lowered, (constants, leaves), options)
    spent = Seconds(0.0, translated - began, time.perf_counter() - translated)
    return Executable(compiled, constants, traced.structure, unknown), compiles, spent


class Program:
    """A function of pytrees of arrays, compiled on first use. It is compiled again only when structures, shapes or
    dtypes change, or the devices that hold the arrays.

    Arrays that the function closes over become arguments of the compiled program, because the compiler would fold and
    copy constants. ``traces`` counts how often the function was traced. ``compilations`` counts how often it was
    compiled, which a program with the same text saves. ``seconds`` adds up the time of both.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.traces = self.compilations = 0
        self.seconds = Seconds()
        self._executables: dict[Any, list[Executable]] = {}  # by structure, shapes and dtypes
        self._found: dict[Any, Executable] = {}  # by all of that and the devices of the arguments
        self._read: Hashable = None
        self._last: Executable | None = None

    def reading(self, read: Hashable) -> Program:
        """The program, without what was compiled when the function read other values from outside than ``read``."""
        if read != self._read:
            self._read = read
            self._executables.clear()
            self._found.clear()
        return self

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        leaves = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(_number(leaf)) for leaf in leaves]
        signature = (structure, surroundings(), *(leaf.aval for leaf in leaves))
        placed = (*signature, *(leaf.sharding for leaf in leaves))
        executable = self._found.get(placed)
        if executable is None:
            executable = self._found[placed] = self._find(signature, leaves, structure)
        self._last = executable
        return jax.tree.unflatten(executable.structure, executable.results(leaves))

    def text(self) -> str:
        """The compiled program that was called last, in XLA's words; "" where none was."""
        return self._last.compiled.as_text() or "" if self._last else ""

    def _find(self, signature: tuple[Any, ...], leaves: list[Any], structure: Any) -> Executable:
        """A program for these shapes and the devices of these arguments, compiled if there is none."""
        known = self._executables.setdefault(signature, [])
        for executable in known:
            if executable.takes(leaves):
                return executable
        known.append(self._compile(leaves, structure))
        return known[-1]

    def _compile(self, leaves: list[Any], structure: Any) -> Executable:
        self.traces += 1
        began = time.perf_counter()
        traced = trace(lambda leaves: self.function(*jax.tree.unflatten(structure, leaves)), leaves)
        options = compiler_options(jax.default_backend())
        executable, compiles, spent = executable_of(traced, leaves, options)
        self.compilations += compiles
        tracing = time.perf_counter() - began - sum(spent)
        self.seconds = self.seconds.add(spent._replace(tracing=tracing))
        return executable
