"""Engines that differentiate all of the solver's own steps: unrolled, forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.engines.base import Carry, Engine, Point, Report, check_policy, cold_start, settings
from bilevel.engines.implicit_function.active_face import face_within
from bilevel.engines.implicit_function.linearization import Nearness, evaluation_counts, localized, slope_change
from bilevel.engines.unrolling.forward_over_reverse import forward_over_reverse
from bilevel.engines.unrolling.left_over import Derivative, inspection, left_over, relative, unexplained
from bilevel.engines.unrolling.refined_comparison import audited, check_accuracy
from bilevel.foundation import trees
from bilevel.foundation.closures import depends
from bilevel.foundation.parts import ESTIMATE, INNER, part
from bilevel.foundation.refusals import forward_only
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.solvers import Instance, Outcome, Solver, iterate, take_steps, unroll
from bilevel.task import Task

TWICE = (
    "bl.Forward takes the gradient in forward mode, through a loop that reverse mode cannot go back over. "
    "Differentiate the gradient in forward mode too: jax.jacfwd or jax.jvp in place of jax.jacrev, jax.vjp or jax.grad."
)


def refuse_unrolling(engine: Engine, solver: Solver) -> None:
    if not solver.unrolls:
        raise ValueError(
            f"bl.{type(engine).__name__} differentiates the steps of the solver, which bl.{type(solver).__name__} "
            "does not allow. Use bl.Implicit(), or a first-order solver."
        )


def as_stated(instance: Instance, solver: Solver) -> Instance:
    """The instance itself."""
    return instance


def for_reverse_mode(instance: Instance, solver: Solver) -> Instance:
    """The instance with a loss whose gradients are cheap to differentiate in reverse mode, unless the solver reads the
    parts of the loss and differentiates them itself. The optimality condition stays as stated, because solvers
    linearise it."""
    if solver.structured:
        return instance
    return replace(instance, loss=forward_over_reverse(instance.loss), stated=instance.loss)


def through_steps(
    loop: Callable,
    engine: Engine,
    task: Task,
    point: Point,
    carry: Carry | None = None,
    form: Callable = as_stated,
    nudged: bool = False,
) -> Callable[[HParams, Params], Outcome]:
    """(hparams, nudge) -> outcome by the solver's steps on ``form(instance, solver)``, with its derivatives.

    The steps start cold unless there is a ``carry``, because from a start near the solution few steps or none depend on
    the hyperparameters. ``nudge`` is added to the start; where it is ``nudged`` it is differentiated too.
    """

    def first(hparams: HParams) -> Params:
        """The point that the solver begins from.

        Where it moves with the hyperparameters, the derivative of the gradient there takes a product with the Hessian.
        """
        instance = task.inner.at(hparams, point.inner_batch, key=point.key)
        start = task.inner.cold_start(point.key, hparams, point.inner_batch)
        return task.inner.solver.choose(instance, start)[0].init(instance, start).params

    @part(INNER)
    def solve(hparams: HParams, nudge: Params) -> Outcome:
        cold = task.inner.cold_start(point.key, hparams, point.inner_batch)
        start = trees.axpy(1.0, nudge, cold) if carry is None else carry.params
        instance = task.inner.at(hparams, point.inner_batch, key=point.key, differentiable=True)
        solver, _ = task.inner.solver.choose(instance, start)
        refuse_unrolling(engine, solver)
        outcome = loop(solver, form(instance, solver), start, cold)
        if carry is None and solver.keeps_gradient and (nudged or depends(first, hparams)):
            outcome = outcome._replace(derivative=outcome.derivative.plus(hessian_products=1))
        return outcome

    return solve


def no_nudge(task: Task, point: Point) -> Params:
    """Zeros of the shapes of the start."""
    shapes = jax.eval_shape(lambda: cold_start(task, point))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def reported(
    accuracy: str, task: Task, point: Point, outcome: Outcome, grad: HParams, derivative: Derivative
) -> Report:
    """The report, with the error estimate that was asked for."""
    report = report_of(task, outcome, grad, derivative)
    with part(ESTIMATE):
        if accuracy == "estimate":
            return audited(task, point, outcome, grad, report)
        return report if derivative.truncated else looked_around(task, point, outcome, grad, report)


def looked_around(task: Task, point: Point, outcome: Outcome, grad: HParams, report: Report) -> Report:
    """The report with what two gradients of the outer loss and one look at the face say of the way to the solution.

    Where the solution may lie on another face, its derivative is another one, and only the order of magnitude of the
    error is known: that of the gradient. It is not known (infinite) where the gradient on this face is zero.
    """
    frozen: Outcome
    frozen, hparams, size = jax.lax.stop_gradient((outcome, point.hparams, trees.norm(grad)))
    params, point = frozen.params, point._replace(hparams=hparams)
    mapping, counts = localized(task, point, params)
    residual = mapping(params, hparams, point.inner_batch)
    reach = jnp.maximum(trees.norm(residual), frozen.distance * trees.norm(params))
    cotangent = jax.grad(task.outer)(params, hparams, point.outer_batch)
    slope = slope_change(task, point, params, cotangent, residual, reach)
    inner = Nearness(frozen.distance, slope, size, size).error()
    face = face_within(mapping, point, params, reach)
    error = inner + report.error_adjoint
    unknown = jnp.where(size > 0, jnp.maximum(error, size), jnp.inf)
    looks = counts.add(evaluation_counts(mapping)).add(mapping.inspection).plus(gradients=2)
    return replace(
        report,
        error_estimate=jnp.where(face.weakly_active > 0, unknown, error),
        error_inner=inner,
        margin=face.margin,
        weakly_active=face.weakly_active,
        counts=report.counts.add(looks),
    )


def report_of(task: Task, outcome: Outcome, grad: HParams, derivative: Derivative) -> Report:
    """The report of an engine without an adjoint solve. Its error is judged by the inner residual and by the
    convergence of the derivative through the steps; it is not known (infinite) where steps were left out by design."""
    size = trees.norm(grad)
    frozen: Outcome = jax.lax.stop_gradient(outcome)
    left = jnp.asarray(jax.lax.stop_gradient(derivative.residual), size.dtype)
    error = jnp.inf if derivative.truncated else jax.lax.stop_gradient(derivative.error)
    error = jnp.asarray(error, size.dtype)
    code = Code.truncated if derivative.truncated else Code.converged
    return Report(
        inner_residual=frozen.residual,
        inner_steps=frozen.steps,
        inner_status=frozen.status,
        curvature=jnp.asarray(frozen.curvature),
        adjoint_residual=left,
        adjoint_steps=jnp.int32(0),
        adjoint_status=Status(jnp.where(jnp.isfinite(size), code, jnp.int32(Code.nonfinite))),
        error_estimate=frozen.distance * size + error,
        error_inner=frozen.distance * size,
        error_adjoint=error,
        grade=jnp.int32(0),
        counts=frozen.counts.add(outcome.derivative),
        params=task.inner.primal(frozen.params),
        carry=Carry(frozen.params, jnp.zeros_like(size)),
    )


class StepEngine(Engine):
    """The common part of the engines that differentiate steps. Abstract."""

    accuracy: str
    through_steps = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        check_accuracy(self.accuracy)

    def first_carry(self, task: Task, point: Point) -> Carry:
        return Carry(cold_start(task, point), jnp.zeros((), jnp.result_type(float)))


class WholeEngine(StepEngine):
    """The common part of the engines that differentiate all steps. Abstract."""

    steps: int
    differentiable = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise ValueError(
                f"bl.{type(self).__name__}(steps={self.steps}): take 1, 2, ... steps; 0: as many as the solver needs."
            )

    def taken(self, task: Task) -> int:
        """The number of steps, by this engine's budget or else the solver's; 0: as many as the solver needs."""
        return self.steps or task.inner.solver.budget

    def advice(self, code: Code) -> str:
        if code != Code.max_steps or self.steps:
            return ""
        name = f"bl.{type(self).__name__}"
        return (
            f"if so many steps are meant (a training budget), say so by {name}(steps=...), whose gradient is that of "
            "the loss after those steps; else raise max_steps of the solver, or loosen its tol"
        )


@settings
@dataclass(frozen=True)
class Unrolled(WholeEngine):
    """The gradient of the loss after the solver's steps, by reverse mode through them.

    The states of about sqrt(max_steps) steps are kept and the others recomputed. Nothing else of a step is stored,
    because its gradient is differentiated forward over reverse. It also differentiates the initialisation and learned
    step sizes, which only the steps depend on. Every solve starts cold, because from a warm start there may be no step
    to differentiate.

    ``steps`` is a budget: exactly so many steps are taken, and the solver's ``max_steps`` and ``tol`` are ignored. The
    status is then ``truncated``. The gradient is exact for the loss after those steps; its distance from the gradient
    at the inner solution is not known. With 0 the solver runs until it stops, and it has to stop at a solution.

    ``accuracy`` "residual" judges the error by the inner residual and by r (``adjoint_residual``), the part of the
    cotangent that is left when the reverse pass reaches the start. At r = 0 the start has no influence and the
    derivative is the derivative of the solution; else r / (1 - r) of the gradient is missing. "estimate" measures the
    distance from a refined implicit gradient, for two adjoint solves. Source: Domke, 2012; Maclaurin et al., 2015;
    Kemaev et al., 2025.
    """

    on_failure: str = "raise"
    accuracy: str = "residual"
    steps: int = 0

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        steps = self.taken(task)
        loop = partial(take_steps, steps=steps, reverse=True) if steps else unroll
        solve = through_steps(loop, self, task, point, form=for_reverse_mode, nudged=True)
        nudge = no_nudge(task, point)

        def outer(inside: HParams, outside: HParams, start: Params, end: Params) -> tuple[Scalar, Outcome]:
            outcome = solve(inside, start)
            return task.outer(trees.axpy(1.0, end, outcome.params), outside, point.outer_batch), outcome

        (value, outcome), slopes = jax.value_and_grad(outer, argnums=(0, 1, 2, 3), has_aux=True)(
            point.hparams, point.hparams, nudge, nudge
        )
        through, direct, at_start, at_end = slopes
        grad = jax.tree.map(jnp.add, through, direct)
        outcome = outcome._replace(derivative=outcome.derivative.plus(gradients=1))
        ratio = relative(trees.norm(at_start), trees.norm(at_end))
        derivative = Derivative(ratio, left_over(ratio, trees.norm(through)), steps > 0)
        return value, grad, reported(self.accuracy, task, point, outcome, grad, derivative)


@settings
@dataclass(frozen=True)
class Forward(WholeEngine):
    """The gradient through the solver's steps by forward mode: one tangent for each hyperparameter, memory free of the
    number of steps. For few hyperparameters. ``accuracy``, ``steps`` and starts as for `Unrolled`; "residual" measures
    A J + B relative to B, with one product by each for a hyperparameter. Source: Franceschi et al., 2017."""

    on_failure: str = "raise"
    accuracy: str = "residual"
    steps: int = 0

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        steps = self.taken(task)
        loop = partial(take_steps, steps=steps, reverse=False) if steps else iterate
        # A loop until convergence carries a tangent of the start, and so the derivative of the gradient there.
        solve = through_steps(loop, self, task, point, nudged=not steps)
        nudge, trains = no_nudge(task, point), task.inner.solver.budget > 0
        flat, unravel = ravel_pytree(point.hparams)

        def params(hparams: HParams) -> tuple[Params, Outcome]:
            outcome = solve(hparams, nudge)
            return outcome.params, outcome

        def along(direction: jax.Array) -> tuple[Scalar, jax.Array, jax.Array, jax.Array, Outcome]:
            tangent = unravel(direction)
            end, moved, outcome = jax.jvp(params, (point.hparams,), (tangent,), has_aux=True)
            at = lambda w, h: task.outer(w, h, point.outer_batch)
            value, through = jax.jvp(lambda w: at(w, point.hparams), (end,), (moved,))
            _, direct = jax.jvp(lambda h: at(end, h), (point.hparams,), (tangent,))
            ratio = jnp.full_like(value, jnp.nan)  # the end of a training solves no equation
            if not trains:
                ratio = unexplained(task, point, jax.lax.stop_gradient(end), moved, tangent)
            return value, through + direct, ratio, left_over(ratio, jnp.abs(through)), outcome

        value, slopes, ratios, errors, outcome = jax.vmap(along)(jnp.eye(flat.size, dtype=flat.dtype))
        value, slopes = forward_only((value, slopes), TWICE)
        value, outcome = jax.tree.map(lambda leaf: leaf[0], (value, outcome))
        grad = unravel(slopes)
        counts = Counts(*(flat.size * number for number in outcome.derivative))._replace(gradients=2)
        counts = counts if trains else counts.add(inspection(task.inner.mapping, flat.size))
        outcome = outcome._replace(derivative=counts)
        derivative = Derivative(jnp.max(ratios), trees.norm(errors), steps > 0)
        return value, grad, reported(self.accuracy, task, point, outcome, grad, derivative)
