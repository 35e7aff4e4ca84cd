"""JAXopt's proximal operators, ``prox(x, hyperparams, scaling)``, by those of `bilevel.prox`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bilevel import prox
from bilevel.foundation.typing import PyTree


def _or_one(weight: Any) -> Any:
    return 1.0 if weight is None else weight


def prox_none(x: PyTree, hyperparams: Any = None, scaling: float = 1.0) -> PyTree:
    """x."""
    return x


def prox_lasso(x: PyTree, l1reg: Any = None, scaling: float = 1.0) -> PyTree:
    """The prox of l1reg ||y||_1."""
    return prox.l1(x, scaling, _or_one(l1reg))


def prox_non_negative_lasso(x: PyTree, l1reg: Any = None, scaling: float = 1.0) -> PyTree:
    """The prox of l1reg ||y||_1 over y >= 0."""
    return prox.non_negative_l1(x, scaling, _or_one(l1reg))


def prox_elastic_net(x: PyTree, hyperparams: Any = None, scaling: float = 1.0) -> PyTree:
    """The prox of hyperparams[0] (||y||_1 + hyperparams[1] / 2 ||y||^2)."""
    l1, ratio = (1.0, 1.0) if hyperparams is None else hyperparams
    return prox.elastic_net(x, scaling, l1, product(l1, ratio, x))


def product(l1: Any, ratio: Any, x: PyTree) -> Any:
    """The weight of the squares in an elastic net: one factor may be a number and the other a tree like x."""
    if jax.tree.structure(l1) == jax.tree.structure(ratio):
        return jax.tree.map(lambda a, b: a * b, l1, ratio)
    like = lambda weight: weight if not jax.tree_util.all_leaves([weight]) else jax.tree.map(lambda _: weight, x)
    return jax.tree.map(lambda a, b: a * b, like(l1), like(ratio))


def prox_group_lasso(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    """The prox of l2reg ||y||_2, for all leaves together; by `jax.vmap` for groups."""
    from jax.flatten_util import ravel_pytree

    flat, unravel = ravel_pytree(x)
    return unravel(prox.group_lasso(flat, scaling, _or_one(l2reg)))


def prox_ridge(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    """The prox of l2reg / 2 ||y||^2."""
    return prox.ridge(x, scaling, _or_one(l2reg))


def prox_non_negative_ridge(x: PyTree, l2reg: Any = 1.0, scaling: float = 1.0) -> PyTree:
    """The prox of l2reg / 2 ||y||^2 over y >= 0."""
    return prox.non_negative_ridge(x, scaling, _or_one(l2reg))


class _FromProjection:
    """A projection as a prox; equal for equal projections, so that a solve is compiled once for both."""

    def __init__(self, projection: Callable[..., PyTree]) -> None:
        self.projection = projection

    def __call__(self, x: PyTree, hyperparams: Any = None, scaling: float = 1.0) -> PyTree:
        return self.projection(x, hyperparams)


def make_prox_from_projection(projection: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The prox of a set, projection(x, hyperparams) for every scaling."""
    return _FromProjection(projection)
