"""Vectors that are pytrees: the few operations that a Krylov method needs, leaf by leaf.

No leaf is ravelled, so sharded leaves stay on their devices. Scalars have the widest dtype of the leaves; each leaf
keeps its own.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import LinearMap, PyTree, Scalar


def as_vector(tree: PyTree) -> PyTree:
    """The tree with floating-point arrays as leaves (Python numbers and integers are converted)."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), tree)


def dtype(tree: PyTree) -> jnp.dtype:
    """The dtype in which scalars are computed: the widest of the leaves."""
    leaves = jax.tree.leaves(tree)
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)


def epsilon(tree: PyTree) -> float:
    """The unit roundoff of the coarsest leaf."""
    return max((float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree)), default=2.3e-16)


def size(tree: PyTree) -> int:
    """The number of unknowns."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def dot(left: PyTree, right: PyTree) -> Scalar:
    """The inner product <left, right>."""
    scalar = dtype(left)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b, dtype=scalar), left, right)
    return functools.reduce(operator.add, jax.tree.leaves(products), jnp.zeros((), scalar))


def norm(tree: PyTree) -> Scalar:
    """The Euclidean norm, where the squares of the entries neither over- nor underflow; see `normalized` where they
    do."""
    return jnp.sqrt(dot(tree, tree))


def scaled(factor: Scalar, tree: PyTree) -> PyTree:
    """factor * tree."""
    return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, tree)


def plus(tree: PyTree, factor: Scalar | float, other: PyTree) -> PyTree:
    """tree + factor * other."""
    return jax.tree.map(lambda a, b: a + jnp.asarray(factor, a.dtype) * b, tree, other)


def minus(left: PyTree, right: PyTree) -> PyTree:
    """left - right."""
    return jax.tree.map(jnp.subtract, left, right)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the same structure."""
    return jax.tree.map(jnp.zeros_like, tree)


def where(condition: jax.Array, left: PyTree, right: PyTree) -> PyTree:
    """``left`` where the scalar condition holds, ``right`` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), left, right)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no leaf holds NaN or infinity."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, finite, jnp.asarray(True))


def normalized(tree: PyTree) -> tuple[PyTree, tuple[Scalar, Scalar]]:
    """A vector of norm 1 and the two factors that give the vector back; zeros stay zeros, with factors of 1.

    The largest entry is divided out before anything is squared: entries of 1e-25 or 1e25 are safe in float32.
    """
    scalar = dtype(tree)
    entries = [jnp.max(jnp.abs(leaf), initial=0).astype(scalar) for leaf in jax.tree.leaves(tree)]
    largest = functools.reduce(jnp.maximum, entries, jnp.zeros((), scalar))
    largest = jnp.where(largest == 0, 1, largest)
    # Compilers divide by multiplying with the reciprocal, which underflows at the upper end of the range.
    shrink = jnp.where(largest > 1, 2.0**-32, 1.0).astype(scalar)
    tree = jax.tree.map(lambda leaf: leaf * shrink.astype(leaf.dtype) / (largest * shrink).astype(leaf.dtype), tree)
    length = norm(tree)
    length = jnp.where(length == 0, 1, length)
    return jax.tree.map(lambda leaf: leaf / length.astype(leaf.dtype), tree), (largest, length)


def apply(linear_map: LinearMap, x: PyTree, owner: str = "the system") -> PyTree:
    """A x, in the dtypes of x; raises ValueError where A x does not have the shapes of x."""
    product = linear_map(x)
    expected, got = jax.tree.map(jnp.shape, x), jax.tree.map(jnp.shape, product)
    if expected != got:
        raise ValueError(
            f"A linear solve needs a square system, but {owner} maps shapes {expected} to {got}: "
            "return a residual of the structure and shapes of the unknown."
        )
    return jax.tree.map(lambda leaf, out: jnp.asarray(out, leaf.dtype), x, product)
