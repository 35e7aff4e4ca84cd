"""The hypergradient of a sparse solution in the rows of its support, at a cost that follows the support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.implicit import System
from bilevel.linear_solve import Operator
from bilevel.losses.linear import Linear, design_of, is_sparse, stays_on_host
from bilevel.optimality import ProximalGradient
from bilevel.penalties import Penalty
from bilevel.problem import InnerProblem
from bilevel.solvers import Outcome
from bilevel.solvers.first_order.ranking import (
    any_in_row,
    first_with_room,
    foremost,
    short_step,
    sizes_for,
    sizes_on_host,
)
from bilevel.solvers.first_order.rows import (
    Held,
    OnRows,
    gradient_of_linear,
    has_rows,
    multiplies_on_host,
    restricted_loss,
)
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.proximal_newton import hessian_matrix
from bilevel.task import Task

LEAST = 512  # gathering does not pay for fewer rows
ROOM = 8  # so many rows are taken beside the support, the nearest to it first

Result = tuple[Scalar, HParams, Report]


def sizes_of(task: Task, point: Point, params: jax.Array) -> list[int]:
    """The sizes of the systems that the support may be gathered into."""
    loss, batch, rows = task.inner.loss, point.inner_batch, params.shape[0]
    if multiplies_on_host(loss, batch):
        return [*sizes_on_host(rows), rows]
    samples = design_of(loss, batch).shape[0]
    return sizes_for(samples, rows) + ([rows] if stays_on_host(loss, batch) else [])


def has_support(task: Task, point: Point, params: Params) -> bool:
    """Whether columns can be gathered: a `bl.Linear` loss, a penalty or set by rows that may vanish, and many."""
    inner, part = task.inner, task.inner.nonsmooth
    if not isinstance(inner.loss, Linear) or inner.optimality is not None or part.smooth or not part.zero_rows:
        return False
    return (
        has_rows(inner.at(point.hparams, point.inner_batch), params)
        and params.shape[0] >= LEAST
        and bool(sizes_of(task, point, params))
    )


def on_support(
    solve: Callable[[Task, Point, Outcome, PyTree], Result],
    task: Task,
    point: Point,
    outcome: Outcome,
    start: PyTree,
) -> Result:
    """``solve`` on the rows that the solution uses, gathered into the first of `sizes_of` that holds them; on all rows
    where none does. A design on the host with many samples, or a support that fits no size, multiplies with the columns
    of these rows without gathering. Exact, because a row is left out only if it is zero and its prox does not move with
    the point or the hyperparameters."""
    params = outcome.params
    used, priority = used_rows(task, point, params)
    sizes, number = sizes_of(task, point, params), jnp.sum(used)
    multiplies = multiplies_on_host(task.inner.loss, point.inner_batch)

    def on(size: int) -> Result:
        indices = foremost(priority, size)
        gathers = size < params.shape[0] and not multiplies
        part = _restricted(task, point, params, indices, None if gathers else number)
        begin = None if start is None else start[indices]
        value, grad, report = solve(part, point, outcome._replace(params=params[indices]), begin)
        adjoint = jnp.zeros_like(params).at[indices].set(report.carry.adjoint)
        return value, grad, replace(report, params=params, carry=Carry(params, adjoint)).uniform()

    def on_all() -> Result:
        value, grad, report = solve(task, point, outcome, start)
        return value, grad, report.uniform()

    chosen = first_with_room(sizes, number, ROOM, last=0)
    branches = [lambda size=size: on(size) for size in sizes]
    return jax.lax.switch(chosen, branches if sizes[-1] == params.shape[0] else [*branches, on_all])


def used_rows(task: Task, point: Point, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rows that are not zero, or whose prox moves with its point or the hyperparameters; and the order in which
    rows are taken: these first, then by their distance from a kink."""
    instance = task.inner.at(point.hparams, point.inner_batch)
    gradient = instance.gradient(params)
    step = short_step(params, gradient)
    forward = params - step * gradient

    def prox(point: jax.Array, hparams: HParams) -> jax.Array:
        return instance.penalty.prox(point, step, hparams)

    random = [jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(point.hparams)]
    direction = jax.tree.unflatten(jax.tree.structure(point.hparams), random)
    moves = jax.jvp(prox, (forward, point.hparams), (jnp.ones_like(params), jax.tree.map(jnp.zeros_like, direction)))[1]
    shifts = jax.jvp(prox, (forward, point.hparams), (jnp.zeros_like(params), direction))[1]
    used = any_in_row((params != 0) | (moves != 0) | (shifts != 0))
    distance = instance.penalty.kinks(forward, step, point.hparams)
    nearest = jnp.min(jnp.broadcast_to(distance, params.shape).reshape(len(params), -1), axis=1)
    return used, jnp.where(used, jnp.inf, -jnp.where(jnp.isnan(nearest), jnp.inf, nearest))


def _restricted(task: Task, point: Point, params: jax.Array, indices: jax.Array, number: jax.Array | None) -> Task:
    """Both levels as functions of the rows ``indices``, or of the first ``number`` of them; the others zero."""
    inner = task.inner
    loss, columns, offset = restricted_loss(inner.loss, point.inner_batch, params, indices, number)
    outer, *_ = restricted_loss(task.outer_loss, point.outer_batch, params, indices, number)
    penalty: Penalty = OnRows(inner.nonsmooth, params, indices)
    penalty = penalty if number is None else Held(penalty, number)
    whole = inner.at(point.hparams, point.inner_batch)

    def everywhere(rows: jax.Array, step: jax.Array) -> PyTree:
        """The distances to the kinks of all rows: one product with X'."""
        assert columns is not None and offset is not None
        moved = params.at[indices].set(rows)
        gradient = gradient_of_linear(whole, moved, offset + columns @ rows)
        return whole.penalty.kinks(moved - step * gradient, step, point.hparams)

    mapping = Gathered(
        loss, lambda at, step, h, batch: penalty.prox(at, step, h), penalty=penalty, everywhere=everywhere
    )
    part = InnerProblem(loss, lambda key, hparams: params[indices], penalty=penalty, optimality=mapping)
    return replace(task, inner=part, outer_loss=outer)


@dataclass(frozen=True, eq=False)
class Gathered(ProximalGradient):
    """The proximal gradient condition on gathered rows. Where the penalty is separable, with D = diag(d) the derivative
    of the prox, the reduced system has a matrix, made by one product of matrices:

        K = diag(d (1 - d)) + step diag(d) H diag(d) + diag(d == 0),

    definite also off the face, where its solutions are zero."""

    penalty: Any = None
    everywhere: Callable[..., PyTree] | None = None

    inspection: ClassVar[Counts] = Counts(gradients=1)

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        assert self.everywhere is not None
        return self.everywhere(params, self.step_size)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        hparams, batch = args
        if not self.penalty.separable or params.ndim > 1 or is_sparse(design_of(self.loss, batch)):
            return super().system(params, *args, **kwargs)
        hessian = hessian_matrix(Instance(self.loss, self.penalty, self, hparams, batch), params)
        point = params - self.step_size * jax.grad(self.loss)(params, *args)
        prox = lambda at: self.prox(at, self.step_size, *args)
        _, derivative = jax.jvp(prox, (point,), (jnp.ones_like(point),))
        off = (derivative == 0).astype(params.dtype)
        matrix = self.step_size * derivative[:, None] * hessian * derivative
        matrix = matrix + jnp.diag(derivative * (1 - derivative) + off)
        operator = Operator(lambda y: matrix @ y, symmetric=True, definite=True, owner=str(self), matrix=matrix)
        return System(
            operator,
            lambda rhs: -derivative * (rhs - self.step_size * (hessian @ rhs)),
            lambda rhs, y: derivative * y - rhs,
            1,
        )
