"""Engines that differentiate all of the solver's own steps: unrolled, forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.engines.base import Bilevel, Carry, Engine, Point, Report, check_policy, cold_start, settings
from bilevel.engines.unrolling.forward_over_reverse import forward_over_reverse
from bilevel.engines.unrolling.refined_comparison import audited, check_accuracy
from bilevel.foundation.refusals import forward_only
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.solvers import Instance, Outcome, Solver, iterate, unroll
from bilevel.solvers.second_order.quadratic_model import depends

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
    """The instance with a loss whose gradients reverse mode differentiates cheaply, unless the solver takes the loss
    apart and differentiates the pieces itself. The optimality condition stays as stated: solvers linearise it."""
    if solver.structured:
        return instance
    return replace(instance, loss=forward_over_reverse(instance.loss), stated=instance.loss)


def through_steps(
    loop: Callable,
    engine: Engine,
    bilevel: Bilevel,
    point: Point,
    carry: Carry | None = None,
    form: Callable = as_stated,
) -> Callable:
    """hparams -> (outer loss, outcome) by the solver's steps on ``form(instance, solver)``, with its derivatives.

    From the cold start, unless there is a ``carry``: a start that is near the solution already leaves few steps, or
    none, through which the hyperparameters could be seen.
    """

    def first(hparams: HParams) -> Params:
        """The point that the solver begins from, whose gradient has a product with the Hessian if it moves."""
        instance = bilevel.inner.at(hparams, point.inner_batch)
        start = bilevel.inner.cold_start(point.key, hparams, point.inner_batch)
        return bilevel.inner.solver.choose(instance, start)[0].init(instance, start).params

    def outer(hparams: HParams) -> tuple[Scalar, Outcome]:
        cold = bilevel.inner.cold_start(point.key, hparams, point.inner_batch)
        start = cold if carry is None else carry.params
        instance = bilevel.inner.at(hparams, point.inner_batch, differentiable=True)
        solver, _ = bilevel.inner.solver.choose(instance, start)
        refuse_unrolling(engine, solver)
        outcome = loop(solver, form(instance, solver), start, cold)
        if carry is None and solver.keeps_gradient and depends(first, hparams):
            outcome = outcome._replace(derivative=outcome.derivative.plus(hessian_products=1))
        return bilevel.outer(outcome.params, hparams, point.outer_batch), outcome

    return outer


def reported(
    accuracy: str, bilevel: Bilevel, point: Point, outcome: Outcome, grad: HParams, code: Code, counts: Counts
) -> Report:
    """The report, with the error estimate that was asked for."""
    report = report_of(bilevel, outcome, grad, Status.of(code), counts)
    return audited(bilevel, point, outcome, grad, report) if accuracy == "estimate" else report


def report_of(bilevel: Bilevel, outcome: Outcome, grad: HParams, status: Status, counts: Counts) -> Report:
    """The report of an engine without an adjoint solve: its error is judged by the inner residual alone, and is not
    known (infinite) where steps were left out by design, or none were taken."""
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad)))
    zero = jnp.zeros_like(size)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grad)]))
    frozen: Outcome = jax.lax.stop_gradient(outcome)
    known = (status.code != Code.truncated) & (frozen.steps > 0)
    left_out = jnp.where(known, zero, jnp.inf)
    return Report(
        inner_residual=frozen.residual,
        inner_steps=frozen.steps,
        inner_status=frozen.status,
        curvature=frozen.curvature,
        adjoint_residual=zero,
        adjoint_steps=jnp.int32(0),
        adjoint_status=Status(jnp.where(finite, status.code, jnp.int32(Code.nonfinite))),
        error_estimate=frozen.residual * size + left_out,
        error_inner=frozen.residual * size,
        error_adjoint=left_out,
        grade=jnp.int32(0),
        counts=frozen.counts.add(counts),
        params=bilevel.inner.primal(frozen.params),
        carry=Carry(frozen.params, zero),
    )


class StepEngine(Engine):
    """What the engines that differentiate steps have in common. Abstract."""

    accuracy: str

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        check_accuracy(self.accuracy)

    def first_carry(self, bilevel: Bilevel, point: Point) -> Carry:
        return Carry(cold_start(bilevel, point), jnp.zeros((), jnp.result_type(float)))


@settings
@dataclass(frozen=True)
class Unrolled(StepEngine):
    """The gradient of the loss after the solver's steps, by reverse mode through them.

    The states of about sqrt(max_steps) steps are kept and the others recomputed; of a step nothing else is stored, and
    its gradient is differentiated forward over reverse. Can differentiate what only the steps know: the initialisation
    and learned step sizes. Every solve starts cold: from a warm start there may be no step left to differentiate.

    ``accuracy`` "residual" judges the error by the inner residual, free of charge; "estimate" measures the distance
    from a refined implicit gradient, for two adjoint solves.
    Source: Domke, 2012; Maclaurin et al., 2015; Kemaev et al., 2025.
    """

    on_failure: str = "raise"
    accuracy: str = "residual"
    differentiable = True

    def hypergradient(self, bilevel: Bilevel, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        outer = through_steps(unroll, self, bilevel, point, form=for_reverse_mode)
        (value, outcome), grad = jax.value_and_grad(outer, has_aux=True)(point.hparams)
        counts = outcome.derivative.plus(gradients=1)
        return value, grad, reported(self.accuracy, bilevel, point, outcome, grad, Code.converged, counts)


@settings
@dataclass(frozen=True)
class Forward(StepEngine):
    """The gradient through the solver's steps by forward mode: one tangent for each hyperparameter, memory free of the
    number of steps. For few hyperparameters. ``accuracy`` and starts as for `Unrolled`.
    Source: Franceschi et al., 2017."""

    on_failure: str = "raise"
    accuracy: str = "residual"
    differentiable = True

    def hypergradient(self, bilevel: Bilevel, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        outer = through_steps(iterate, self, bilevel, point)
        flat, unravel = ravel_pytree(point.hparams)

        def along(direction: jax.Array) -> tuple[Scalar, jax.Array, Outcome]:
            value, slope, outcome = jax.jvp(outer, (point.hparams,), (unravel(direction),), has_aux=True)
            return value, slope, outcome

        value, slopes, outcome = jax.vmap(along)(jnp.eye(flat.size, dtype=flat.dtype))
        value, slopes = forward_only((value, slopes), TWICE)
        value, outcome = jax.tree.map(lambda leaf: leaf[0], (value, outcome))
        grad = unravel(slopes)
        counts = Counts(*(flat.size * number for number in outcome.derivative))._replace(gradients=1)
        return value, grad, reported(self.accuracy, bilevel, point, outcome, grad, Code.converged, counts)
