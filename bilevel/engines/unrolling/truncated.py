"""Engines that differentiate the last steps of the solver only: truncated, one-step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, cold_start, settings
from bilevel.engines.unrolling.iterative import StepEngine, for_reverse_mode, no_nudge, reported, through_steps
from bilevel.engines.unrolling.left_over import LEFT_OUT, relative
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.solvers import Instance, Outcome, Solver, State, iterate, take_steps
from bilevel.task import Task


@settings
@dataclass(frozen=True)
class Truncated(StepEngine):
    """The gradient through the last ``steps`` steps of the solver, by reverse mode; earlier steps count as constant.

    Biased by (contraction factor)^steps for a solution that the solver has reached; memory of ``steps`` states. The
    last steps are plain: they use the solver's last step sizes and curvature, without a search. The bias is not known
    (an infinite ``error_estimate``), unless ``accuracy="estimate"`` pays two adjoint solves to measure it. Source:
    Shaban et al., 2019.
    """

    steps: int = 20
    on_failure: str = "raise"
    accuracy: str = "residual"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"Truncated(steps={self.steps}): at least one step must be differentiated.")

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        return last_steps(self, task, point, carry, self.steps)


@settings
@dataclass(frozen=True)
class OneStep(StepEngine):
    """The gradient through the last step of the solver only; biased by its contraction factor, exact for Newton.

    The bias is not known (an infinite ``error_estimate``), unless ``accuracy="estimate"`` pays two adjoint solves to
    measure it. Source: Bolte, Pauwels and Vaiter, 2023; Fung et al., 2022 (Jacobian-free backpropagation).
    """

    on_failure: str = "raise"
    accuracy: str = "residual"

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        return last_steps(self, task, point, carry, 1)


def last_steps(
    engine: Truncated | OneStep, task: Task, point: Point, carry: Carry, steps: int
) -> tuple[Scalar, HParams, Report]:
    """Solves, takes ``steps`` further plain steps, and differentiates only these steps in reverse mode.

    Of a training the last of its own steps are differentiated, and no further ones are taken.
    """
    frozen = jax.lax.stop_gradient(point.hparams)
    budget = task.inner.solver.budget
    steps = min(steps, budget) if budget else steps
    loop = partial(take_steps, steps=budget - steps, reverse=False) if budget else iterate
    warm = carry if task.warm_start and not budget else None
    solve = through_steps(loop, engine, task, point._replace(hparams=frozen), warm)
    outcome = solve(frozen, no_nudge(task, point))

    def ending(hparams: HParams) -> tuple[Scalar, tuple[Params, Counts]]:
        instance = task.inner.at(hparams, point.inner_batch, key=point.key, differentiable=True, searches=False)
        solver, _ = task.inner.solver.choose(instance, outcome.params)
        instance = for_reverse_mode(instance, solver)
        solved = jax.lax.stop_gradient(outcome.state)._replace(counts=Counts().as_arrays())
        start = solver.refresh(instance, solved)
        end, counts = _one_step(solver, instance, start) if steps == 1 else _several(solver, instance, start, steps)
        return task.outer(end, hparams, point.outer_batch), (end, start.counts.add(counts))

    (value, (end, counts)), grad = jax.value_and_grad(ending, has_aux=True)(point.hparams)
    if budget:
        outcome = trained(task, point, outcome, end, steps)
    outcome = outcome._replace(derivative=counts.plus(gradients=1))
    return value, grad, reported(engine.accuracy, task, point, outcome, grad, LEFT_OUT)


def trained(task: Task, point: Point, outcome: Outcome, end: Params, steps: int) -> Outcome:
    """The outcome of a training at its end, ``steps`` steps after ``outcome``."""
    instance = task.inner.at(point.hparams, point.inner_batch)
    left, at_start = instance.residual_norm(end), instance.residual_norm(cold_start(task, point))
    code = jnp.where(jnp.isfinite(left) | ~outcome.status.ok, outcome.status.code, jnp.int32(Code.nonfinite))
    ratio = relative(left, at_start).astype(outcome.residual.dtype)
    counts = outcome.counts.plus(gradients=2)
    judged = {"residual": ratio, "distance": ratio, "status": Status(code)}
    return outcome._replace(params=end, steps=outcome.steps + steps, counts=counts, **judged)


def _several(solver: Solver, instance: Instance, start: State, steps: int) -> tuple[Params, Counts]:
    """The params after some steps, and the cost of the steps and of a reverse pass that takes each of them again."""

    @jax.checkpoint
    def step(state: State, _: None) -> tuple[State, Counts]:
        after = solver.step(instance, state)
        taken = jax.tree.map(jnp.subtract, after.counts, state.counts)
        again = taken.add(after.derivative)
        return after._replace(counts=state.counts, code=state.code, derivative=state.derivative), taken.add(again)

    end, counts = jax.lax.scan(step, start, length=steps)
    counts = jax.tree.map(jnp.sum, counts)
    return end.params, counts.plus(jacobian_products=int(solver.keeps_gradient))


def _one_step(solver: Solver, instance: Instance, start: State) -> tuple[Params, Counts]:
    """The params after one step from a fixed point, and the cost of the step and of a reverse pass. The gradient at the
    end of the step and the derivative of the start are not needed, so they cost nothing."""
    end = solver.step(instance, start)
    taken = jax.tree.map(jnp.subtract, end.counts, start.counts)
    gradients = taken.gradients - int(solver.keeps_gradient)
    counts = taken.add(end.derivative).plus(hessian_products=-1)
    return end.params, counts._replace(gradients=gradients, jacobian_products=1)
