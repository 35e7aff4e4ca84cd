"""Double-loop stochastic methods: several minibatch steps of inner unknown and adjoint an outer step."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report
from bilevel.engines.stochastic.directions import Iterate, combine, inner_part, outer_part, refuse_problem
from bilevel.engines.stochastic.neumann import Product, own_batches, products
from bilevel.engines.stochastic.single_loop import Begun, start, stochastic_report
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.parts import INNER, part
from bilevel.foundation.typing import Counts, HParams, PyTree, Scalar
from bilevel.task import Task


class Adjoint(NamedTuple):
    """The adjoint of an outer step and the products that it took."""

    adjoint: PyTree
    products: jax.Array | int


class System(NamedTuple):
    """The system H u = v of an outer step, with products on minibatches, and the adjoint ``u`` of the step before."""

    product: Product
    cotangent: PyTree
    before: PyTree
    point: Point
    step: jax.Array
    size: Any  # the step size for the adjoint


class TwoLoops(Stepping):
    """``inner_steps`` gradient steps on w, then ``adjoint_steps`` on u, then the hypergradient there. Abstract: the
    methods differ in how they approach the adjoint."""

    step_size: StepSize
    adjoint_step: StepSize
    inner_steps: int
    adjoint_steps: int

    @abc.abstractmethod
    def approach(self, system: System) -> Adjoint:
        """The adjoint, by at most ``adjoint_steps`` products."""

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, Begun(reference, jnp.int32(0)))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step = carry.memory
        width = self.inner_steps + self.adjoint_steps
        draw = own_batches(task, point, step * width)
        size, adjoint_size = size_at(self.step_size, step), size_at(self.adjoint_step, step)

        def descend(number: jax.Array, params: PyTree) -> PyTree:
            batch, _ = draw(number)
            return trees.axpy(-size, jax.grad(task.inner.loss)(params, point.hparams, batch), params)

        with part(INNER):
            params = jax.lax.fori_loop(0, self.inner_steps, descend, carry.params)
        outer = outer_part(task, Iterate(params, carry.adjoint, point.hparams), point.outer_batch)
        product = products(task, params, point.hparams, lambda number: draw(self.inner_steps + number))
        found = self.approach(System(product, outer.cotangent, carry.adjoint, point, step, adjoint_size))

        inner = inner_part(task, Iterate(params, found.adjoint, point.hparams), point.inner_batch)
        directions = combine(inner, outer)
        after = Carry(params, found.adjoint, Begun(reference, step + 1))
        counts = Counts(self.inner_steps + 2, found.products + 1, 1)
        report = stochastic_report(task, directions, outer.cotangent, reference, after, counts)
        taken = {"inner_steps": jnp.int32(self.inner_steps), "adjoint_steps": jnp.int32(found.products)}
        return outer.value, directions.hparams, replace(report, **taken)


def descended(system: System, start: PyTree, steps: int) -> Adjoint:
    """Gradient steps on 1/2 u'H u - u'v."""

    def improve(number: jax.Array, adjoint: PyTree) -> PyTree:
        rest = trees.subtract(system.product(number, adjoint), system.cotangent)
        return trees.axpy(-system.size, rest, adjoint)

    return Adjoint(jax.lax.fori_loop(0, steps, improve, start), steps)
