"""Arithmetic on pytrees, by JAX's maps."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import PyTree, Scalar

tree_map = jax.tree.map
tree_reduce = jax.tree.reduce


def tree_add(tree: PyTree, *rest: PyTree) -> PyTree:
    """tree + other."""
    return jax.tree.map(operator.add, tree, *rest)


def tree_sub(tree: PyTree, *rest: PyTree) -> PyTree:
    """tree - other."""
    return jax.tree.map(operator.sub, tree, *rest)


def tree_mul(tree: PyTree, *rest: PyTree) -> PyTree:
    """tree * other."""
    return jax.tree.map(operator.mul, tree, *rest)


def tree_div(tree: PyTree, *rest: PyTree) -> PyTree:
    """tree / other."""
    return jax.tree.map(operator.truediv, tree, *rest)


def tree_negative(tree: PyTree) -> PyTree:
    """-tree."""
    return jax.tree.map(operator.neg, tree)


def tree_scalar_mul(scalar: Any, tree_x: PyTree) -> PyTree:
    """scalar * tree."""
    return jax.tree.map(lambda x: scalar * x, tree_x)


def tree_add_scalar_mul(tree_x: PyTree, scalar: Any, tree_y: PyTree) -> PyTree:
    """tree_x + scalar * tree_y."""
    return jax.tree.map(lambda x, y: x + scalar * y, tree_x, tree_y)


def tree_vdot(tree_x: PyTree, tree_y: PyTree) -> Scalar:
    """The inner product, conjugate in the first argument."""
    return _sum(jax.tree.map(jnp.vdot, tree_x, tree_y))


def tree_vdot_real(tree_x: PyTree, tree_y: PyTree) -> Scalar:
    """The real part of the inner product."""
    return jnp.real(tree_vdot(tree_x, tree_y))


def tree_dot(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """The products leaf by leaf, jnp.dot(x, y)."""
    return jax.tree.map(jnp.dot, tree_x, tree_y)


def tree_sum(tree_x: PyTree) -> Scalar:
    """The sum of all entries."""
    return _sum(jax.tree.map(jnp.sum, tree_x))


def tree_l2_norm(tree_x: PyTree, squared: bool = False) -> Scalar:
    """The Euclidean norm, or its square."""
    square = tree_sum(jax.tree.map(lambda x: jnp.real(x) ** 2 + jnp.imag(x) ** 2, tree_x))
    return square if squared else jnp.sqrt(square)


def tree_inf_norm(tree_x: PyTree) -> Scalar:
    """The largest absolute value."""
    return jax.tree.reduce(jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x)), tree_x))


def tree_zeros_like(tree_x: PyTree) -> PyTree:
    """Zeros of the same shapes."""
    return jax.tree.map(jnp.zeros_like, tree_x)


def tree_ones_like(tree_x: PyTree) -> PyTree:
    """Ones of the same shapes."""
    return jax.tree.map(jnp.ones_like, tree_x)


def tree_where(cond: Any, a: PyTree, b: PyTree) -> PyTree:
    """a where ``cond`` holds, else b; each may be one array for all leaves."""
    cond, a, b = broadcast_pytrees(cond, a, b)
    return jax.tree.map(jnp.where, cond, a, b)


def tree_conj(tree: PyTree) -> PyTree:
    """The complex conjugate."""
    return jax.tree.map(jnp.conj, tree)


def tree_real(tree: PyTree) -> PyTree:
    """The real parts."""
    return jax.tree.map(jnp.real, tree)


def tree_imag(tree: PyTree) -> PyTree:
    """The imaginary parts."""
    return jax.tree.map(jnp.imag, tree)


def broadcast_pytrees(*trees: PyTree) -> tuple[PyTree, ...]:
    """The trees, with single arrays repeated at each leaf of the others' structure; ValueError where two differ."""
    structure = None
    for tree in trees:
        if jax.tree_util.all_leaves([tree]):
            continue
        found = jax.tree.structure(tree)
        if structure is not None and found != structure:
            raise ValueError(f"The trees have different structures, {structure} and {found}: give trees of one.")
        structure = found
    if structure is None:
        return trees
    leaves = structure.num_leaves
    return tuple(
        jax.tree.unflatten(structure, [tree] * leaves) if jax.tree_util.all_leaves([tree]) else tree for tree in trees
    )


def _sum(terms: PyTree) -> Scalar:
    return jnp.asarray(sum(jax.tree.leaves(terms)))
