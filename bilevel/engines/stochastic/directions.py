"""The minibatch directions of single-loop bilevel methods, in the form that variance reduction needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.batches import Minibatch
from bilevel.engines.base import Engine, Point, refuse_training
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Params, PyTree, Scalar
from bilevel.task import Task


class Iterate(NamedTuple):
    """The point of the directions: inner unknown, adjoint, hyperparameters."""

    params: Params
    adjoint: PyTree
    hparams: HParams


class Inner(NamedTuple):
    """The contribution of an inner batch: averages over its samples."""

    gradient: PyTree  # F, the gradient of the inner loss
    product: PyTree  # H u
    cross: HParams  # B'u


class Outer(NamedTuple):
    """The contribution of an outer batch."""

    value: Scalar
    cotangent: PyTree  # dg/dw
    direct: HParams  # dg/dh


class Directions(NamedTuple):
    """D_w = F, D_u = H u - dg/dw and the hypergradient D_h = dg/dh - B'u."""

    params: PyTree
    adjoint: PyTree
    hparams: HParams


def inner_part(task: Task, at: Iterate, batch: Batch) -> Inner:
    """The cost of one gradient, one product with the Hessian and one with the cross derivative."""

    def gradient(w: Params, h: HParams) -> PyTree:
        return jax.grad(task.inner.loss)(w, h, batch)

    value, pull = jax.vjp(gradient, at.params, at.hparams)
    return Inner(value, *pull(at.adjoint))


def outer_part(task: Task, at: Iterate, batch: Batch) -> Outer:
    """The contribution of an outer batch: one gradient of the outer loss."""
    value, slopes = jax.value_and_grad(task.outer, argnums=(0, 1))(at.params, at.hparams, batch)
    return Outer(value, *slopes)


def combine(inner: Inner, outer: Outer) -> Directions:
    """The three directions."""
    return Directions(
        inner.gradient,
        trees.subtract(inner.product, outer.cotangent),
        trees.subtract(outer.direct, inner.cross),
    )


def samples(batch: Batch) -> tuple[Batch, jax.Array]:
    """The samples of a minibatch as minibatches of one, stacked, and their weights in its average."""
    each = jax.tree.map(lambda leaf: leaf[:, None], batch.data)
    ones = jnp.ones_like(batch.weight)[:, None]
    return Minibatch(each, batch.index[:, None], ones), batch.weight


def average(weights: jax.Array, stacked: PyTree) -> PyTree:
    """mean(weight * value) over the samples of a minibatch."""
    return jax.tree.map(lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, 1) / weights.size, stacked)


def refuse_problem(engine: Engine, task: Task) -> None:
    """Raises ValueError for inner problems that do not minimise a smooth loss, or that change from step to step."""
    refuse_new_problems(engine, task)
    refuse_training(engine, task)
    refuse_nonsmooth(engine, task)


def refuse_new_problems(engine: Engine, task: Task) -> None:
    """Raises ValueError for inner problems that change from step to step."""
    if not task.warm_start:
        raise ValueError(
            f"bl.{type(engine).__name__} carries the inner unknown from one outer step to the next, and this task "
            "draws a new inner problem at each (warm_start=False). Use bl.Implicit() or bl.Unrolled()."
        )


def refuse_nonsmooth(engine: Engine, task: Task) -> None:
    """Raises ValueError for inner problems that are not the minimisation of a smooth loss."""
    if not task.inner.mapping.stationary:
        raise ValueError(
            f"bl.{type(engine).__name__} needs a smooth inner loss without constraints, and {task.inner.mapping} is "
            "not the condition of one. Use bl.Implicit()."
        )


def refuse_whole(engine: Engine, point: Point) -> None:
    """Raises ValueError where the batches do not name their samples."""
    if not all(isinstance(batch, Minibatch) for batch in (point.inner_batch, point.outer_batch)):
        raise ValueError(
            f"bl.{type(engine).__name__} remembers samples, and these batches do not say which they hold: use "
            "bl.minibatches(train, validation, batch_size), or bl.SOBA() on full batches."
        )


def over_epoch(task: Task, point: Point, inner: Any, outer: Any) -> tuple[PyTree, PyTree]:
    """The averages of ``inner(batch)`` and ``outer(batch)`` over all inner and all outer samples."""

    def total(which: int, function: Any, batch: Minibatch) -> PyTree:
        def add(step: jax.Array, so_far: PyTree) -> PyTree:
            value = function(task.batches(jax.random.key(0), step)[which])
            return jax.tree.map(lambda mean, one: mean + one / batch.blocks, so_far, value)

        shapes = jax.eval_shape(lambda: function(task.batches(jax.random.key(0), jnp.int32(0))[which]))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, batch.blocks, add, zeros)

    return total(0, inner, point.inner_batch), total(1, outer, point.outer_batch)
