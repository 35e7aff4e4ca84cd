"""A linear map that takes zero to zero even where it holds NaN."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree


def silent(
    linear: Callable[[PyTree, PyTree], PyTree], of: PyTree, tangents: PyTree, lost: jax.Array, data: PyTree
) -> PyTree:
    """``linear(of, tangents)``, NaN where ``lost``; its transpose takes a cotangent that is exactly zero to zero.

    A lane of a batch whose solve failed has a derivative of NaN. Where the result of the lane is masked, its
    cotangent is zero. Then NaN must not reach a gradient that the lane shares with others, nor a second derivative.
    Where the result is used, all derivatives of the lane are NaN. The function is differentiable to any order, in both
    modes. The map depends on the values ``of``; ``data`` are the values among them whose own tangents are finite. The
    map is stated as the solution of the triangular system (t, r) = (t, linear(t)), because JAX's linear solve is the
    only rule that takes a transpose, is batched, and can be differentiated again.

    >>> gone = lambda t: silent(lambda factor, t: factor * t, 2.0, t, jnp.array(True), 2.0)
    >>> jax.vjp(gone, 1.0)[1](0.0)[0].tolist(), jax.vjp(gone, 1.0)[1](1.0)[0].tolist()
    (0.0, nan)
    """
    tangents = jax.tree.map(jnp.asarray, tangents)  # a tangent may be a Python float
    shapes = jax.eval_shape(linear, of, tangents)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    given = coupled((tangents, none), tangents)
    quiet = lambda tree: jax.tree.map(lambda leaf: jnp.where(lost, 0, leaf), tree)

    def matvec(pair: tuple) -> tuple:
        # The system that is differentiated has no entries where the lane is lost, because a derivative multiplies them
        # by cotangents of zero.
        known = quiet(linear(_deaf(of, lost), quiet(pair[0])))
        return coupled((pair[0], jax.tree.map(jnp.subtract, pair[1], known)), pair, of)

    def solve(_: Callable, pair: tuple) -> tuple:
        moved = linear(of, pair[0])
        return pair[0], jax.tree.map(lambda known, leaf: jnp.where(lost, jnp.nan, known + leaf), pair[1], moved)

    def transposed(_: Callable, pair: tuple) -> tuple:
        (back,) = jax.linear_transpose(lambda t: linear(of, t), tangents)(pair[1])
        zero = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(pair[1])]))
        heard = jax.tree.map(lambda leaf: jnp.where(zero, 0, jnp.where(lost, jnp.nan, leaf)), back)
        return jax.tree.map(jnp.add, pair[0], heard), pair[1]

    same, moved = jax.lax.custom_linear_solve(matvec, given, solve, transposed)
    return _echoed(coupled(moved, same), tangents, lost, data)


def _echoed(moved: PyTree, tangents: PyTree, lost: jax.Array, data: PyTree) -> PyTree:
    """The same, with derivatives in the data that are NaN where the lane is lost and its result is used. The system
    above has no derivatives there. The tangents reach the result through one number that is NaN."""
    number = jnp.where(lost, _mixed(tangents) * (1 + _zero_that_moves(data)), 0)
    passed = lambda _, number: jnp.where(lost & (number != 0), jnp.nan, number)
    echo = jax.lax.custom_linear_solve(lambda number: number, number, passed, passed)
    echo = jnp.where(lost, echo, 0)
    return jax.tree.map(lambda leaf: leaf + (echo * _weights(leaf)).astype(leaf.dtype), moved)


@jax.custom_jvp
def gone(value: PyTree, data: PyTree, lost: jax.Array) -> PyTree:
    """The ``value``, whose derivatives in the data are NaN where it is ``lost``, unless its cotangent is exactly zero.

    For values that are computed from a solution. A lost solution is replaced by numbers before they are computed,
    because the derivative of a product would multiply a cotangent of zero by the NaN of the other factor.

    >>> jax.grad(lambda x: gone(jnp.ones(()), x, jnp.array(True)))(2.0).tolist()
    nan
    """
    return value


@gone.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    _, data, lost = primals
    moved = [tangent for tangent in jax.tree.leaves(tangents[1]) if _is_continuous(tangent)]
    return gone(*primals), _echoed(tangents[0], moved, lost, data)


def _deaf(tree: PyTree, lost: jax.Array) -> PyTree:
    """The tree, without derivatives where the lane is lost."""

    def one(leaf: jax.Array) -> jax.Array:
        return jnp.where(lost, jax.lax.stop_gradient(leaf), leaf) if _is_continuous(leaf) else leaf

    return jax.tree.map(one, tree)


def _zero_that_moves(data: PyTree) -> jax.Array:
    """0, with the derivative of `_mixed` in the data."""
    finite = [jnp.where(jnp.isfinite(leaf), leaf, 0) for leaf in jax.tree.leaves(data) if _is_continuous(leaf)]
    return _mixed([leaf - jax.lax.stop_gradient(leaf) for leaf in finite])


def _mixed(tree: PyTree) -> jax.Array:
    """A sum of all entries, with weights that are without a pattern so that nothing cancels."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _is_continuous(leaf)]
    return sum((jnp.sum(jnp.real(leaf) * _weights(leaf)) for leaf in leaves), jnp.zeros(()))


def _weights(leaf: jax.Array) -> jax.Array:
    """Numbers between 1/2 and 3/2: the place of each entry times 2^32 over the golden ratio, without its overflow. A
    cosine would take more time than all the rest of a small program."""
    places = jnp.arange(jnp.size(leaf), dtype=jnp.uint32) * jnp.uint32(2654435769)
    return (0.5 + places.astype(jnp.float32) * 2.0**-32).reshape(jnp.shape(leaf))


def _is_continuous(leaf: jax.Array | float) -> bool:
    """Whether it can move; the tangents of integers have a type that `jnp.result_type` does not take."""
    kind = leaf.dtype if isinstance(leaf, jax.Array | np.ndarray) else jnp.result_type(leaf)
    return kind != jax.dtypes.float0 and jnp.issubdtype(kind, jnp.inexact)


def coupled(tree: PyTree, unknown: PyTree, of: PyTree = 1.0) -> PyTree:
    """The tree plus a zero that JAX takes to be linear in all of ``unknown``, and to depend on ``of``.

    JAX transposes a linear solve only where all parts of its right-hand side are unknown, or none. In a second
    derivative the parts are the response of the map to a movement of the values ``of`` that it closes over. A part that
    the map does not touch would be a known zero, so each part gets a zero that depends on the unknown. The compiler
    removes it.
    """
    total = lambda tree: sum(jnp.sum(jnp.real(leaf)) for leaf in jax.tree.leaves(tree) if _is_continuous(leaf))
    # A product of zeros, because the derivative of a zero times a NaN among the values would be NaN.
    zero = jnp.where(False, total(unknown), 0) * jnp.where(False, total(of), 0)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
