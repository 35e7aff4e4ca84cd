"""The implicit hypergradient: one adjoint solve at the inner solution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bilevel.engines.accuracy import Linearization, adjoint_gradient, correction, linearize
from bilevel.engines.base import (
    GRADES,
    Bilevel,
    Carry,
    Engine,
    Point,
    Report,
    check_policy,
    cold_start,
    inner_solution,
    settings,
)
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.typing import HParams, Scalar


@settings
@dataclass(frozen=True)
class Implicit(Engine):
    """grad = dg/dh - B' u with A' u = dg/dw, A = dF/dw and B = dF/dh at the inner solution.

    ``linear_solve`` solves the adjoint system, in the reduced symmetric form of the mapping where there is one.
    ``warm_start`` begins it from the last adjoint. ``accuracy`` is the grade of the error estimate asked for:
    "residual" (free), "estimate" (a Newton correction, about one more linear solve) or "bound".
    ``refine`` returns the corrected gradient, whose error is quadratic in that of the inner solution.
    ``on_failure``: "raise", "warn", "retry" or "skip". Source: Blondel et al., 2021; Pedregosa, 2016.
    """

    linear_solve: LinearSolver = AutoLinear()
    warm_start: bool = True
    on_failure: str = "raise"
    refine: bool = False
    accuracy: str = "estimate"

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        if self.accuracy not in GRADES:
            raise ValueError(f"accuracy={self.accuracy!r} is not one of {', '.join(GRADES)}.")

    def first_carry(self, bilevel: Bilevel, point: Point) -> Carry:
        cold = cold_start(bilevel, point)

        def reduced(w: HParams) -> HParams:
            return bilevel.inner.at(point.hparams, point.inner_batch).system(w).restrict(w)

        return Carry(cold, jax.tree.map(jnp.zeros_like, jax.eval_shape(reduced, cold)))

    def hypergradient(self, bilevel: Bilevel, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        outcome = inner_solution(bilevel, point, carry)
        at: Linearization = linearize(bilevel, point, outcome.params)
        start = carry.adjoint if self.warm_start and bilevel.warm_start else jax.tree.map(jnp.zeros_like, carry.adjoint)
        adjoint = at.solve_adjoint(self.linear_solve, at.cotangent, start)
        grad = adjoint_gradient(at, adjoint.adjoint)
        report = Report(
            inner_residual=outcome.residual,
            inner_steps=outcome.steps,
            inner_status=outcome.status,
            adjoint_residual=adjoint.solution.residual,
            adjoint_steps=adjoint.solution.products,
            adjoint_status=adjoint.solution.status,
            **_no_claim(grad, outcome.residual + adjoint.solution.residual),
            counts=outcome.counts.plus(
                gradients=1,
                hessian_products=adjoint.solution.products,
                jacobian_products=1,
                factorizations=adjoint.solution.factorizations,
            ),
            params=bilevel.inner.primal(outcome.params),
            carry=Carry(outcome.params, adjoint.reduced),
        )
        if self.accuracy == "residual" and not self.refine:
            return at.value, grad, report
        corrected = correction(bilevel, point, at, adjoint, grad, self.linear_solve, self.refine)
        report = replace(
            report,
            error_estimate=corrected.error,
            error_inner=corrected.error_inner,
            error_adjoint=corrected.error_adjoint,
            grade=corrected.grade,
            counts=report.counts.add(corrected.counts),
        )
        return (corrected.value, corrected.grad, report) if self.refine else (at.value, grad, report)


def _no_claim(grad: HParams, residual: jax.Array) -> dict:
    """The free figure: the relative residuals times the size of the gradient."""
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad)))
    return {"error_estimate": residual * size, "error_inner": jnp.nan, "error_adjoint": jnp.nan, "grade": jnp.int32(0)}
