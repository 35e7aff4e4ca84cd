"""A linear map that takes zero to zero even where it holds NaN."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import PyTree


def silent(linear: Callable[[PyTree], PyTree], tangents: PyTree, lost: jax.Array, of: PyTree = 0.0) -> PyTree:
    """``linear(tangents)``, NaN where ``lost``; its transpose maps a cotangent that is exactly zero to exactly zero.

    A lane of a batch whose solve failed has a derivative of NaN. Where its result is masked its cotangent is zero, and
    then it must not spoil a gradient that it shares with other lanes. Differentiable to any order, in both modes.
    Stated as the solution of the triangular system (t, r) = (t, linear(t)), because JAX's linear solve is the only rule
    that takes a transpose, is batched, and can be differentiated again.

    >>> gone = lambda t: silent(lambda t: 2 * t, t, jnp.array(True))
    >>> jax.vjp(gone, 1.0)[1](0.0)[0].tolist(), jax.vjp(gone, 1.0)[1](1.0)[0].tolist()
    (0.0, nan)
    """
    tangents = jax.tree.map(jnp.asarray, tangents)  # a tangent may be a Python float
    shapes = jax.eval_shape(linear, tangents)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    given = coupled((tangents, none), tangents)

    def matvec(pair: tuple) -> tuple:
        return coupled((pair[0], jax.tree.map(jnp.subtract, pair[1], linear(pair[0]))), pair, of)

    def solve(_: Callable, pair: tuple) -> tuple:
        return pair[0], jax.tree.map(
            lambda known, leaf: jnp.where(lost, jnp.nan, known + leaf), pair[1], linear(pair[0])
        )

    def transposed(_: Callable, pair: tuple) -> tuple:
        (back,) = jax.linear_transpose(linear, tangents)(pair[1])
        zero = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(pair[1])]))
        heard = jax.tree.map(lambda leaf: jnp.where(zero, 0, jnp.where(lost, jnp.nan, leaf)), back)
        return jax.tree.map(jnp.add, pair[0], heard), pair[1]

    same, moved = jax.lax.custom_linear_solve(matvec, given, solve, transposed)
    return coupled(moved, same)


def coupled(tree: PyTree, unknown: PyTree, of: PyTree = 1.0) -> PyTree:
    """The tree plus a zero that JAX takes to be linear in all of ``unknown``, and to depend on ``of``.

    JAX transposes a linear solve only where all parts of its right-hand side are unknown, or none. Of a second
    derivative they are what the map makes of the movement of the values ``of`` that it closes over: a part that the map
    leaves alone would be a known zero. The compiler removes what is added here.
    """
    total = lambda tree: sum(
        jnp.sum(jnp.real(leaf)) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
    # A product of zeros, because the derivative of a zero times a NaN among the values would be NaN.
    zero = jnp.where(False, total(unknown), 0) * jnp.where(False, total(of), 0)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
