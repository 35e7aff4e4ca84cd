"""Semismooth Newton for nonsmooth and constrained problems, globalised by proximal gradient steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.first_order.proximal_gradient import ProximalGradient
from bilevel.solvers.first_order.spectral_proximal_gradient import SpectralProximalGradient
from bilevel.solvers.first_order.step_size import BACKTRACKING, first_step_size
from bilevel.solvers.instance import Instance
from bilevel.solvers.loop import advance
from bilevel.solvers.second_order.coordinate_scales import PROBES, ROUNDS, equilibrium, scaled, scales, times

SHRINKAGE = 0.5  # a Newton step is taken if it reduces the smallest residual so far by this factor
DENSE = 512  # up to so many unknowns a Newton step costs about two gradients for each unknown
SPECTRAL = 64  # spectral proximal gradient steps in its place
BURST = (64, 256)  # accelerated steps after those: the least number, and the number for larger problems
LOOSE = 0.1  # relative tolerance of the linear solves far from the solution
NEAR = 2e-2  # a start is good enough for a Newton step if a proximal step moves it by this share of its size
DAMPING = 1e-3  # the largest damping, relative to the largest curvature


class Memory(NamedTuple):
    gradient: PyTree
    scale: jax.Array
    step_size: jax.Array  # for the scaled coordinates; 0: scale and step size are not known yet
    start: jax.Array  # the residual at the start
    best: jax.Array  # the smallest one so far
    damps: jax.Array  # whether Newton steps are damped; from a start near a solution they are not, until one fails


class Point(NamedTuple):
    params: Params
    gradient: PyTree
    residual: jax.Array
    step_size: jax.Array
    counts: Counts  # the cost of the way there


@settings
@dataclass(frozen=True)
class ActiveSetNewton(Solver):
    """Newton's method on F(w) = prox(w - s grad loss(w), s) - w, with D the Jacobian of the prox and H the Hessian:

        (D (I - D) + s D H D + delta I) y = D (I - s H) F,      w <- w + F + D y.

    One step finds the minimiser on the face that the prox points at, because D knows that face. The system is the
    adjoint's system, damped by delta = O(||F||). A step is taken if it halves the residual and met no negative
    curvature. Otherwise, and at a start far from a solution, proximal gradient steps are taken instead, first spectral,
    then accelerated ones, for about the cost of one Newton step. So the method converges from anywhere as proximal
    gradient does, and superlinearly near the solution, from a warm start too. ``linear_solve`` solves the system. For
    every penalty and set with a prox; if it is separable, on one array, badly scaled coordinates are scaled so that the
    rows of the Hessian have one length. Source: Qi and Sun, 1993; Li, Sun and Toh, 2018.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), penalty=bl.L1(weight=jnp.exp),
    ...                         init=lambda key, h: jnp.zeros(2), solver=bl.ActiveSetNewton(tol=1e-5))
    >>> inner.solve(0.0, jnp.array([3.0, 0.5])).params.round(4).tolist()
    [2.0, 0.0]
    """

    max_steps: int = 500
    tol: float | jax.Array = 1e-10
    linear_solve: LinearSolver = AutoLinear()
    patience = 20
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        residual = instance.residual_given(params, gradient)
        scale = jax.tree.map(jnp.ones_like, params)
        memory = Memory(gradient, scale, jnp.zeros_like(residual), residual, residual, jnp.bool_(False))
        return State(params, residual, Counts(gradients=1, proxes=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        known = state.memory.step_size > 0
        memory = jax.lax.cond(known, lambda: state.memory, lambda: _prepared(instance, state))
        inner = scaled(instance, memory.scale)
        far = jnp.full_like(state.residual, jnp.inf)
        nothing = Point(state.params, state.memory.gradient, far, memory.step_size, Counts().as_arrays())
        near = known | (_moves(inner, state, memory) <= NEAR)
        newton = jax.lax.cond(near, lambda: self._newton(instance, inner, state, memory), lambda: nothing)
        succeeds = newton.residual <= SHRINKAGE * memory.best
        point = jax.lax.cond(
            succeeds,
            lambda: newton,
            lambda: _burst(instance, inner, state, memory, self.tol, newton.counts),
        )
        scaling = ROUNDS * PROBES if scales(instance, state.params) else 0
        first = Counts(gradients=1, hessian_products=scaling)  # the cost of the scale and the step size
        prepared = jax.tree.map(lambda number: jnp.where(known, 0, number), first)
        counts = state.counts.add(point.counts).add(prepared).plus(proxes=1)
        best = jnp.minimum(memory.best, point.residual)
        damps = memory.damps | ~succeeds
        memory = memory._replace(gradient=point.gradient, step_size=point.step_size, best=best, damps=damps)
        return State(point.params, point.residual, counts, memory)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def _newton(self, instance: Instance, inner: Instance, state: State, memory: Memory) -> Point:
        """The point after a Newton step."""
        params = times(state.params, memory.scale, inverse=True)
        mapping = replace(inner.mapping, step_size=memory.step_size)  # type: ignore[call-arg]  # a prox has one
        residual = _move(inner, state, memory, params)
        system = mapping.system(params, inner.hparams, inner.batch)
        length = trees.norm(residual) / (1 + trees.norm(params))
        unknowns = sum(leaf.size for leaf in jax.tree.leaves(params))
        least = 10 * (10 + unknowns) * trees.epsilon(params)
        damping = jnp.where(memory.damps, jnp.clip(0.1 * length, least, DAMPING), least)
        damped = lambda y: trees.axpy(damping, y, system.operator(y))
        operator = replace(system.operator, matvec=damped, singular=False)
        rhs = jax.tree.map(jnp.negative, residual)
        linear_solve = self.linear_solve.with_tol(jnp.clip(length, 1e-10, LOOSE))
        solution = linear_solve(operator, system.restrict(rhs))
        newton = times(trees.axpy(1.0, system.extend(rhs, solution.value), params), memory.scale)
        gradient = instance.gradient(newton)
        after = instance.residual_given(newton, gradient)
        upwards = solution.status.code == Code.indefinite  # no minimum: the face is curved downwards
        after = jnp.where(upwards, jnp.inf, after)
        products = system.products + solution.products
        counts = Counts(2, products, proxes=2, factorizations=solution.factorizations).as_arrays()
        return Point(newton, gradient, after, memory.step_size, counts)


def _prepared(instance: Instance, state: State) -> Memory:
    """The memory with the scale of the coordinates and a step size in them."""
    scale = equilibrium(instance, state.params)
    start, gradient = times(state.params, scale, inverse=True), times(state.memory.gradient, scale)
    step_size = first_step_size(BACKTRACKING, scaled(instance, scale), start, gradient)
    return state.memory._replace(scale=scale, step_size=step_size)


def _moves(inner: Instance, state: State, memory: Memory) -> jax.Array:
    """How far a proximal gradient step goes, relative to the point."""
    params = times(state.params, memory.scale, inverse=True)
    move = trees.norm(_move(inner, state, memory, params))
    return move / jnp.maximum(trees.norm(params), jnp.finfo(move.dtype).tiny)


def _move(inner: Instance, state: State, memory: Memory, params: Params) -> Params:
    """F at the scaled ``params``, by the gradient that is known."""
    point = trees.axpy(-memory.step_size, times(state.memory.gradient, memory.scale), params)
    return trees.subtract(inner.prox(point, memory.step_size), params)


def _burst(
    instance: Instance, inner: Instance, state: State, memory: Memory, tol: float | jax.Array, before: Counts
) -> Point:
    """The point after proximal gradient steps in the scaled coordinates; it may be the solution if they converge fast.
    Spectral steps come first, because they are fewest where the condition is moderate, then accelerated ones."""
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    length = max(2 * size, BURST[0]) if size <= DENSE else BURST[1]
    goal = 0.5 * tol * memory.start / jnp.where(state.residual > 0, state.residual, 1)
    goal = jnp.minimum(goal, SHRINKAGE)  # beside a huge residual at the start any point seems solved, and none is taken
    start, gradient = times(state.params, memory.scale, inverse=True), times(state.memory.gradient, memory.scale)
    residual = inner.residual_given(start, gradient)
    spectral = SpectralProximalGradient(SPECTRAL, goal)
    begun = spectral.begin(start, gradient, residual, memory.step_size, before.plus(proxes=1))
    middle = advance(spectral, inner, begun, residual).state
    # Anew, because after a start far away the curvature may be smaller by many powers of ten.
    step_size = first_step_size(BACKTRACKING, inner, middle.params, middle.memory.gradient)
    middle = middle._replace(counts=middle.counts.plus(gradients=1))
    left = goal * residual / jnp.where(middle.residual > 0, middle.residual, 1)
    accelerated = ProximalGradient(length, left)

    def further() -> tuple:
        begun = accelerated.begin(middle.params, middle.residual, step_size, middle.counts)
        end = advance(accelerated, inner, begun, middle.residual).state
        return end.params, inner.gradient(end.params), end.memory.step_size, end.counts.plus(gradients=1)

    enough = lambda: (middle.params, middle.memory.gradient, step_size, middle.counts)
    params, gradient, step_size, counts = jax.lax.cond(left >= 1, enough, further)
    after, gradient = times(params, memory.scale), times(gradient, memory.scale, inverse=True)
    return Point(after, gradient, instance.residual_given(after, gradient), step_size, counts.plus(proxes=1))
