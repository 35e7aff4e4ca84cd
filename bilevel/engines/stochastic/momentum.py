"""Recursive momentum on both directions: STORM for inner gradient and hypergradient."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report
from bilevel.engines.stochastic.directions import Directions, refuse_problem
from bilevel.engines.stochastic.double_loop import Adjoint
from bilevel.engines.stochastic.neumann import Draw, Product, own_batches, products
from bilevel.engines.stochastic.single_loop import start, stochastic_report
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, Counts, HParams, Params, PyTree, Scalar
from bilevel.task import Task


class Place(NamedTuple):
    """An inner unknown and hyperparameters."""

    params: Params
    hparams: HParams


class Pair(NamedTuple):
    """The directions of a method without a carried adjoint: on w, and on h."""

    params: PyTree
    hparams: HParams


class Recursive(NamedTuple):
    reference: Scalar
    step: jax.Array
    before: Place  # where the last directions were computed
    directions: Pair


AdjointSolve: TypeAlias = Callable[[Product, PyTree], Adjoint]  # (products, cotangent)


class Approached(NamedTuple):
    """Both directions at a place, by an approached adjoint, on given minibatches."""

    value: Scalar
    cotangent: PyTree
    adjoint: PyTree
    directions: Pair
    products: jax.Array | int


def approached(task: Task, at: Place, batches: tuple[Batch, Batch], draw: Draw, solve: AdjointSolve) -> Approached:
    """F and dg/dh - B'u with u = solve(products, dg/dw): two gradients, and one product with B."""
    value, (cotangent, direct) = jax.value_and_grad(task.outer, argnums=(0, 1))(at.params, at.hparams, batches[1])
    adjoint, number = solve(products(task, *at, draw), cotangent)
    slope, pull = jax.vjp(lambda h: jax.grad(task.inner.loss)(at.params, h, batches[0]), at.hparams)
    return Approached(value, cotangent, adjoint, Pair(slope, trees.subtract(direct, *pull(adjoint))), number)


def corrected(new: PyTree, old: PyTree, estimate: PyTree, share: jax.Array | float) -> PyTree:
    """new + (1 - share) (estimate - old), the recursion of STORM (Cutkosky and Orabona, 2019)."""
    return jax.tree.map(lambda n, o, e: (n + (1 - share) * (e - o)).astype(e.dtype), new, old, estimate)


class DoubleMomentum(Stepping):
    """d <- D + (1 - share) (d - D_before) for inner gradient and hypergradient, D and D_before on one minibatch at this
    iterate and at the one before; w <- w - a d_w, grad = d_h. Abstract: the methods differ in the adjoint."""

    step_size: StepSize
    adjoint_step: StepSize
    share: StepSize
    adjoint_steps: int
    biased = True

    @abc.abstractmethod
    def approach(self, product: Product, cotangent: PyTree, point: Point, step: jax.Array) -> Adjoint:
        """The adjoint of an outer step, by at most ``adjoint_steps`` products."""

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        zeros = jax.tree.map(jnp.zeros_like, Pair(at.params, at.hparams))
        return Carry(at.params, at.adjoint, Recursive(reference, jnp.int32(0), Place(at.params, at.hparams), zeros))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step, before, directions = carry.memory
        draw = own_batches(task, point, step * self.adjoint_steps)
        batches, here = (point.inner_batch, point.outer_batch), Place(carry.params, point.hparams)
        solve = lambda product, cotangent: self.approach(product, cotangent, point, step)
        new, old = (approached(task, place, batches, draw, solve) for place in (here, before))
        share = jnp.where(step == 0, 1, size_at(self.share, step))
        directions = corrected(new.directions, old.directions, directions, share)

        params = trees.axpy(-size_at(self.step_size, step), directions.params, carry.params)
        after = Carry(params, new.adjoint, Recursive(reference, step + 1, here, directions))
        told = Directions(directions.params, jax.tree.map(jnp.zeros_like, new.adjoint), directions.hparams)
        counts = Counts(gradients=4, hessian_products=new.products + old.products, jacobian_products=2)
        report = stochastic_report(task, told, new.cotangent, reference, after, counts)
        return new.value, directions.hparams, replace(report, adjoint_steps=jnp.int32(new.products))
