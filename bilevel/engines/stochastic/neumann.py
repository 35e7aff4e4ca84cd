"""The adjoint H u = v by minibatch Hessians: a truncated Neumann series, or one random term of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Key, Params, PyTree
from bilevel.task import Task

Draw: TypeAlias = Callable[[jax.Array | int], tuple[Batch, Batch]]  # a number in the engine's own sequence -> batches
Product: TypeAlias = Callable[[jax.Array | int, PyTree], PyTree]  # (number, vector) -> H vector, on that minibatch


class Series(NamedTuple):
    """The state of a series: its last term, and the sum of the terms so far."""

    term: PyTree
    total: PyTree


def own_key(point: Point) -> Key:
    """The key of the minibatches that an engine draws itself, independent of the minibatches of the point."""
    return jax.random.fold_in(point.key, 1)


def own_batches(task: Task, point: Point, first: jax.Array) -> Draw:
    """The engine's own minibatches of an outer step, numbered from 0; ``first`` is the number of its first one."""
    key = own_key(point)
    return lambda number: task.batches(key, first + number)


def products(task: Task, params: Params, hparams: HParams, draw: Draw) -> Product:
    """Products with the Hessians of the inner loss at one point, each on a minibatch of its own."""

    def product(number: jax.Array | int, vector: PyTree) -> PyTree:
        batch, _ = draw(number)
        return jax.jvp(lambda w: jax.grad(task.inner.loss)(w, hparams, batch), (params,), (vector,))[1]

    return product


def series(product: Product, cotangent: PyTree, terms: int, size: jax.Array | float) -> PyTree:
    """size * sum_{k <= terms} prod_{i <= k} (I - size H_i) v: ``terms`` products. Source: Ji et al., 2021."""

    def add(number: jax.Array, state: Series) -> Series:
        term = trees.axpy(-size, product(number, state.term), state.term)
        return Series(term, jax.tree.map(jnp.add, state.total, term))

    total = jax.lax.fori_loop(0, terms, add, Series(cotangent, cotangent)).total
    return jax.tree.map(lambda leaf: (size * leaf).astype(leaf.dtype), total)


def random_term(product: Product, cotangent: PyTree, chosen: jax.Array, terms: int, size: jax.Array | float) -> PyTree:
    """terms * size * prod_{i <= chosen} (I - size H_i) v: ``chosen`` products. Its mean over ``chosen`` uniform in
    0 ... terms - 1 is the series with terms - 1 products. Source: Ghadimi and Wang, 2018, algorithm 3."""

    def multiply(number: jax.Array, term: PyTree) -> PyTree:
        return trees.axpy(-size, product(number, term), term)

    term = jax.lax.fori_loop(0, chosen, multiply, cotangent)
    return jax.tree.map(lambda leaf: (terms * size * leaf).astype(leaf.dtype), term)


def chosen_term(point: Point, step: jax.Array, terms: int) -> jax.Array:
    """A random number in 0 ... terms - 1 for an outer step."""
    return jax.random.randint(jax.random.fold_in(jax.random.fold_in(point.key, 2), step), (), 0, terms)
