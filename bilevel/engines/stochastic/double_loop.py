"""Double-loop stochastic methods: several minibatch steps of inner unknown and adjoint an outer step."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Engine, Point, Report, check_policy, settings, traced
from bilevel.engines.stochastic.directions import Directions, Iterate, combine, inner_part, outer_part, refuse_problem
from bilevel.engines.stochastic.single_loop import start, stochastic_report
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.task import Task


class Drawn(NamedTuple):
    reference: Scalar
    step: jax.Array  # the number in the engine's own sequence of minibatches


class Penalised(NamedTuple):
    reference: Scalar
    step: jax.Array
    penalised: Params  # y, the minimiser of g / lam + loss
    weight: jax.Array  # lam


def _own_key(point: Point) -> jax.Array:
    return jax.random.fold_in(point.key, 1)


def _loops(
    task: Task, point: Point, carry: Carry, adjoint: PyTree, steps: tuple[int, int], sizes: tuple[float, float]
) -> tuple[Params, PyTree]:
    """Stochastic gradient steps on the inner loss, then on 1/2 u'H u - u'dg/dw, each on a minibatch of its own."""
    key, first = _own_key(point), carry.memory.step

    def descend(number: jax.Array, params: Params) -> Params:
        batch, _ = task.batches(key, first + number)
        return trees.axpy(-sizes[0], jax.grad(task.inner.loss)(params, point.hparams, batch), params)

    params = jax.lax.fori_loop(0, steps[0], descend, carry.params)
    outer = outer_part(task, Iterate(params, adjoint, point.hparams), point.outer_batch)

    def improve(number: jax.Array, adjoint: PyTree) -> PyTree:
        batch, _ = task.batches(key, first + steps[0] + number)
        gradient = lambda w: jax.grad(task.inner.loss)(w, point.hparams, batch)
        _, product = jax.jvp(gradient, (params,), (adjoint,))
        return trees.axpy(-sizes[1], trees.subtract(product, outer.cotangent), adjoint)

    return params, jax.lax.fori_loop(0, steps[1], improve, adjoint)


class TwoLoops(Engine):
    """``inner_steps`` gradient steps on w, then ``adjoint_steps`` on u, then the hypergradient there. Abstract."""

    step_size: float
    adjoint_step: float
    inner_steps: int
    adjoint_steps: int
    stochastic = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, Drawn(reference, jnp.int32(0)))

    @abc.abstractmethod
    def begin(self, adjoint: PyTree) -> PyTree:
        """Where the adjoint of a step begins, the last one being ``adjoint``."""

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        steps, sizes = (self.inner_steps, self.adjoint_steps), (self.step_size, self.adjoint_step)
        params, adjoint = _loops(task, point, carry, self.begin(carry.adjoint), steps, sizes)
        at = Iterate(params, adjoint, point.hparams)
        inner, outer = inner_part(task, at, point.inner_batch), outer_part(task, at, point.outer_batch)
        directions = combine(inner, outer)
        after = Carry(params, adjoint, carry.memory._replace(step=carry.memory.step + sum(steps)))
        counts = Counts(gradients=steps[0] + 3, hessian_products=steps[1] + 1, jacobian_products=1)
        report = stochastic_report(task, directions, outer.cotangent, carry.memory.reference, after, counts)
        steps_taken = {"inner_steps": jnp.int32(steps[0]), "adjoint_steps": jnp.int32(steps[1])}
        return outer.value, directions.hparams, replace(report, **steps_taken)


@settings
@dataclass(frozen=True)
class AmIGO(TwoLoops):
    """``inner_steps`` gradient steps on w and ``adjoint_steps`` on u, both warm-started, then grad = dg/dh - B'u.

    Each step draws a minibatch of its own from the task. Source: Arbel and Mairal, 2022.
    """

    step_size: float = traced(0.1)
    adjoint_step: float = traced(0.1)
    inner_steps: int = 10
    adjoint_steps: int = 10
    on_failure: str = "raise"

    def begin(self, adjoint: PyTree) -> PyTree:
        return adjoint


@settings
@dataclass(frozen=True)
class StocBiO(TwoLoops):
    """As `AmIGO`, with the adjoint started at zero each time: a stochastic Neumann series of ``adjoint_steps`` terms.

    Source: Ji, Yang and Liang, 2021.
    """

    step_size: float = traced(0.1)
    adjoint_step: float = traced(0.1)
    inner_steps: int = 10
    adjoint_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def begin(self, adjoint: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, adjoint)


@settings
@dataclass(frozen=True)
class F2SA(Engine):
    """grad = dg/dh(y) + lam (dloss/dh(y) - dloss/dh(w)), w minimising the inner loss and y loss + g / lam.

    First derivatives only; the bias is O(1 / lam). ``weight`` is the first lam, ``increase`` is added to it each outer
    step; ``inner_steps`` gradient steps on each of the two unknowns, on minibatches of their own.
    Source: Kwon et al., 2023.
    """

    step_size: float = traced(0.1)
    weight: float = traced(1.0)
    increase: float = traced(0.1)
    inner_steps: int = 10
    on_failure: str = "raise"
    stochastic: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        weight = jnp.asarray(self.weight, reference.dtype)
        return Carry(at.params, at.adjoint, Penalised(reference, jnp.int32(0), at.params, weight))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        memory, hparams, key = carry.memory, point.hparams, _own_key(point)
        gradient, outer_gradient = jax.grad(task.inner.loss), jax.grad(task.outer)

        def descend(number: jax.Array, state: tuple[Params, Params]) -> tuple[Params, Params]:
            params, penalised = state
            inner_batch, outer_batch = task.batches(key, memory.step + number)
            slope = gradient(penalised, hparams, inner_batch)
            slope = trees.axpy(1 / memory.weight, outer_gradient(penalised, hparams, outer_batch), slope)
            params = trees.axpy(-self.step_size, gradient(params, hparams, inner_batch), params)
            return params, trees.axpy(-self.step_size, slope, penalised)

        params, penalised = jax.lax.fori_loop(0, self.inner_steps, descend, (carry.params, memory.penalised))
        value = task.outer(params, hparams, point.outer_batch)
        direct = jax.grad(task.outer, argnums=1)(penalised, hparams, point.outer_batch)
        slope = jax.grad(task.inner.loss, argnums=1)
        difference = trees.subtract(
            slope(penalised, hparams, point.inner_batch), slope(params, hparams, point.inner_batch)
        )
        grad = trees.axpy(memory.weight, difference, direct)
        rest = jax.grad(task.inner.loss)(params, hparams, point.inner_batch)
        step = memory.step + self.inner_steps
        after = Penalised(memory.reference, step, penalised, memory.weight + self.increase)
        directions = combine_first_order(rest, grad)
        counts = Counts(gradients=3 * self.inner_steps + 4)
        report = stochastic_report(
            task, directions, rest, memory.reference, Carry(params, carry.adjoint, after), counts
        )
        steps = {"inner_steps": jnp.int32(self.inner_steps), "adjoint_steps": jnp.int32(0)}
        return value, grad, replace(report, **steps)


def combine_first_order(rest: PyTree, grad: HParams) -> Directions:
    """Directions of a method that has no adjoint."""
    return Directions(rest, jax.tree.map(jnp.zeros_like, rest), grad)
