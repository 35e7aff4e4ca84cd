"""VRBO: double loop with directions that are corrected recursively between passes over the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, settings, traced
from bilevel.engines.stochastic.directions import Directions, over_epoch, refuse_problem, refuse_whole
from bilevel.engines.stochastic.double_loop import Adjoint
from bilevel.engines.stochastic.momentum import AdjointSolve, Pair, Place, Recursive, approached, corrected
from bilevel.engines.stochastic.neumann import Product, own_batches, series
from bilevel.engines.stochastic.single_loop import start, stochastic_report
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.task import Task


class Run(NamedTuple):
    """The state of the inner loop."""

    params: Params
    before: Place
    directions: Pair
    value: Scalar
    adjoint: PyTree


@settings
@dataclass(frozen=True)
class VRBO(Stepping):
    """``inner_steps`` times  d <- d + D - D_before,  w <- w - a d_w,  then grad = d_h: SPIDER on both directions.

        D = (F, dg/dh - B'u),      u the Neumann series of `MRBO` with ``adjoint_steps`` products

    D and D_before on the same minibatches, at this iterate and at the one before. The first correction of an outer step
    accounts for the step in h. Every ``period`` outer steps d is computed anew by a pass over all data (for each
    product of the series too). Needs `bl.minibatches`. Source: Yang, Ji and Liang, 2021; Fang et al., 2018.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    inner_steps: int = 3
    adjoint_steps: int = 10
    period: int = 16
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < 1:
            raise ValueError(
                f"VRBO(period={self.period}): a pass over the data is needed at least every so many steps."
            )

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        refuse_whole(self, point)
        at, reference = start(task, point)
        zeros = jax.tree.map(jnp.zeros_like, Pair(at.params, at.hparams))
        return Carry(at.params, at.adjoint, Recursive(reference, jnp.int32(0), Place(at.params, at.hparams), zeros))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step, before, directions = carry.memory
        value = jnp.zeros_like(task.outer(carry.params, point.hparams, point.outer_batch))
        run = Run(carry.params, before, directions, value, carry.adjoint)
        begun, due = step > 0, step % self.period == 0
        run = jax.lax.cond(begun, lambda run: self._loop(task, point, step, run), lambda run: run, run)
        run = jax.lax.cond(due, lambda run: self._whole(task, point, step, run), lambda run: run, run)

        after = Carry(run.params, run.adjoint, Recursive(reference, step + 1, run.before, run.directions))
        told = Directions(run.directions.params, jax.tree.map(jnp.zeros_like, run.adjoint), run.directions.hparams)
        report = stochastic_report(task, told, run.adjoint, reference, after, self._counts(point, begun, due))
        return run.value, run.directions.hparams, replace(report, inner_steps=jnp.where(begun, self.inner_steps, 0))

    def _loop(self, task: Task, point: Point, step: jax.Array, run: Run) -> Run:
        """The inner loop from the iterate and the hyperparameters before."""
        width = self.adjoint_steps + 1
        size, first = size_at(self.step_size, step), step * self.inner_steps * width
        solve = self._solve(step)

        def turn(number: jax.Array, run: Run) -> Run:
            draw = own_batches(task, point, first + number * width)
            here = Place(run.params, point.hparams)
            batches, later = draw(0), lambda number: draw(1 + number)
            new, old = (approached(task, place, batches, later, solve) for place in (here, run.before))
            directions = corrected(new.directions, old.directions, run.directions, 0.0)
            params = trees.axpy(-size, directions.params, run.params)
            return Run(params, here, directions, new.value, new.adjoint)

        return jax.lax.fori_loop(0, self.inner_steps, turn, run)

    def _whole(self, task: Task, point: Point, step: jax.Array, run: Run) -> Run:
        """Both directions from all data."""
        params, hparams = run.params, point.hparams
        nothing = lambda batch: ()
        slopes = jax.value_and_grad(task.outer, argnums=(0, 1))
        gradient = jax.grad(task.inner.loss)
        _, (value, (cotangent, direct)) = over_epoch(task, point, nothing, lambda batch: slopes(params, hparams, batch))

        def product(number: jax.Array | int, vector: PyTree) -> PyTree:
            one = lambda batch: jax.vjp(lambda w: gradient(w, hparams, batch), params)[1](vector)[0]
            return over_epoch(task, point, one, nothing)[0]

        adjoint, _ = self._solve(step)(product, cotangent)

        def both(batch: PyTree) -> tuple[PyTree, PyTree]:
            slope, pull = jax.vjp(lambda h: gradient(params, h, batch), hparams)
            return slope, pull(adjoint)[0]

        (slope, cross), _ = over_epoch(task, point, both, nothing)
        directions = Pair(slope, trees.subtract(direct, cross))
        return Run(params, Place(params, hparams), directions, value.astype(run.value.dtype), adjoint)

    def _solve(self, step: jax.Array) -> AdjointSolve:
        size = size_at(self.adjoint_step, step)

        def solve(product: Product, cotangent: PyTree) -> Adjoint:
            return Adjoint(series(product, cotangent, self.adjoint_steps, size), self.adjoint_steps)

        return solve

    def _counts(self, point: Point, begun: jax.Array, due: jax.Array) -> Counts:
        loops = jnp.where(begun, self.inner_steps, 0)
        inner, outer = (jnp.where(due, batch.blocks, 0) for batch in (point.inner_batch, point.outer_batch))
        return Counts(4 * loops + inner + outer, self.adjoint_steps * (2 * loops + inner), 2 * loops + inner)
