"""Vector arithmetic on pytrees that optax.tree does not have."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import PyTree


# Compiled as a function of its own, because an outer step takes 65 norms, which are then traced once for each shape.
@jax.jit
def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm of all leaves, safe against under- and overflow of the squares."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
    if not leaves:
        return jnp.zeros(())
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    tiny = jnp.finfo(jnp.result_type(largest, float)).tiny
    usable = (largest > 0) & jnp.isfinite(largest)  # else XLA turns zeros into 0 * (1 / scale)^2, which is NaN
    scale = jnp.where(usable, jnp.clip(largest, tiny, 0.25 / tiny), 1.0)
    inverse = 1 / scale  # a multiplication, five times faster than a division; neither factor is subnormal
    return scale * jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf * inverse))) for leaf in leaves))


def dot(x: PyTree, y: PyTree) -> jax.Array:
    """The inner product of two pytrees of one structure."""
    return total(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y))


def total(terms: PyTree) -> jax.Array:
    """The sum of the scalars of a pytree, in their own dtype: starting from a float64 zero would promote float32."""
    return jnp.asarray(sum(jax.tree.leaves(terms), 0.0))


def axpy(scale: float | jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """scale * x + y, in the dtype of y."""
    return jax.tree.map(lambda a, b: (scale * a + b).astype(b.dtype), x, y)


def subtract(x: PyTree, y: PyTree) -> PyTree:
    """x - y."""
    return jax.tree.map(jnp.subtract, x, y)


def select(condition: jax.Array, chosen: PyTree, otherwise: PyTree) -> PyTree:
    """``chosen`` where the scalar condition holds, else ``otherwise``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)


def strong(tree: PyTree) -> PyTree:
    """The leaves as arrays with a dtype of their own. A Python number, or ``jnp.full`` of one, has a weak dtype; the
    first arithmetic changes it, and the program would be compiled again for the new dtype."""

    def own(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.aval.weak_type:
            return leaf  # because a conversion would copy it
        return jax.lax.convert_element_type(leaf, jnp.result_type(leaf))

    return jax.tree.map(own, tree)


def differentiable(tree: PyTree, name: str) -> PyTree:
    """`strong` of floating-point leaves; ValueError for integers and complex numbers, which calls the tree ``name``."""
    tree = strong(tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is of type {leaf.dtype}, in which nothing has a derivative: "
                "give floating-point numbers, as in jnp.array(1.0)."
            )
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is of type {leaf.dtype}, but minimisation and hypergradients are "
                "those of real vectors: give the real and imaginary parts as two arrays."
            )
    return tree


def not_finite(tree: PyTree) -> PyTree:
    """A flag for each leaf: whether an entry is NaN or infinite."""
    return jax.tree.map(lambda leaf: ~jnp.all(jnp.isfinite(leaf)), tree)


def zeros(tree: PyTree) -> jax.Array:
    """How many entries are exactly zero."""
    return zeros_changed(tree, jax.tree.map(jnp.ones_like, tree))


def zeros_changed(x: PyTree, y: PyTree) -> jax.Array:
    """How many entries are exactly zero in one of two pytrees of one structure and nonzero in the other."""
    changed = jax.tree.map(lambda a, b: jnp.sum((a == 0) != (b == 0), dtype=jnp.int32), x, y)
    return sum(jax.tree.leaves(changed), jnp.zeros((), jnp.int32))


def epsilon(tree: PyTree) -> float:
    """The machine epsilon of the coarsest floating-point leaf; float64's where there is no such leaf."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]
    found = [float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return max(found, default=float(jnp.finfo(jnp.float64).eps))
