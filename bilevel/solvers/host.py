"""A solver that runs on the host, outside JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.typing import Counts, Params, PyTree


@settings
@dataclass(frozen=True)
class Host(Solver):
    """w <- function(w, hparams, batch), any code on NumPy arrays: the whole solver is one step.

    Each step runs ``function`` once, from the current params, through `jax.pure_callback`: under jit, and lane by lane
    under vmap. Before and after, the residual of the problem is computed here: a start that is a solution runs nothing,
    and a result that is none has the status ``max_steps``, whatever the function believes. ``max_steps`` runs are made
    at most. Derivatives are implicit (`bl.Implicit`): it has no steps to differentiate. The function has to be pure,
    and params, hparams and batch pytrees of arrays.

    >>> import jax, jax.numpy as jnp, numpy as np, bilevel as bl
    >>> solver = bl.Host(lambda w, h, batch: np.linalg.solve(batch, h), tol=1e-5)
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((batch @ w - h) ** 2),
    ...                         init=lambda key, h: jnp.zeros(2), solver=solver)
    >>> solve = lambda h: inner.solve(h, jnp.diag(jnp.array([1.0, 2.0]))).params
    >>> solve(jnp.array([3.0, 4.0])).tolist()
    [3.0, 2.0]
    >>> jnp.diagonal(jax.jacobian(solve)(jnp.array([3.0, 4.0]))).round(3).tolist()
    [1.0, 0.5]
    """

    function: Callable[[Params, PyTree, PyTree], Params]
    max_steps: int = 1
    tol: float = 1e-8
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        params = call_host(self.function, state.params, instance.hparams, instance.batch)
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=1), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state


def call_host(function: Callable[..., Params], params: Params, *args: PyTree) -> Params:
    """function(params, *args) on the host, on NumPy arrays, with a result of the shapes and dtypes of ``params``.

    JAX runs callbacks in a thread of its own, where ``jax.enable_x64`` as a context does not reach and 64-bit values
    would be rounded to 32 bits: they travel as pairs of words, and the setting is restored around the call.
    """
    double = bool(jax.config.read("jax_enable_x64"))
    leaves, structure = jax.tree.flatten((params, *args))
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    kinds = [leaf.dtype for leaf in leaves]
    rebuild = jax.tree.structure(params)
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves[: rebuild.num_leaves]]

    def on_host(*words: Any) -> list[np.ndarray]:
        arrays = [_joined(np.asarray(word), kind) for word, kind in zip(words, kinds, strict=True)]
        with jax.enable_x64(double):
            result = jax.tree.leaves(function(*jax.tree.unflatten(structure, arrays)))
            return [_fitting(leaf, expected, function) for leaf, expected in zip(result, like, strict=True)]

    shapes = [jax.eval_shape(_split, leaf) for leaf in like]
    words = jax.pure_callback(on_host, shapes, *map(_split, leaves), vmap_method="sequential")
    results = [jax.lax.bitcast_convert_type(word, leaf.dtype) for word, leaf in zip(words, like, strict=True)]
    return jax.tree.unflatten(rebuild, results)


def _is_wide(kind: np.dtype) -> bool:
    return kind.itemsize == 8 and kind.kind in "fiu"


def _split(leaf: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32) if _is_wide(leaf.dtype) else leaf


def _joined(words: np.ndarray, kind: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(words).view(kind)[..., 0] if _is_wide(kind) else words


def _fitting(leaf: Any, like: jax.ShapeDtypeStruct, function: Callable) -> np.ndarray:
    array = np.asarray(leaf, like.dtype)
    if array.shape != like.shape:
        name = getattr(function, "__name__", "the host function")
        raise ValueError(f"{name} returned shape {array.shape} where params have {like.shape}: return new params.")
    return array.reshape(*like.shape, 1).view(np.uint32) if _is_wide(like.dtype) else array
