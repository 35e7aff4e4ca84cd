"""The implicit hypergradient: one adjoint solve at the inner solution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bilevel.engines.base import (
    GRADES,
    Carry,
    Engine,
    Point,
    Report,
    check_policy,
    cold_start,
    inner_solution,
    refuse_training,
    settings,
    traced,
)
from bilevel.engines.implicit_function.accuracy import Correction, Solved, correction
from bilevel.engines.implicit_function.active_face import Face, face_within, of_any_face
from bilevel.engines.implicit_function.bound import Constants, error_bound, refuse_bound
from bilevel.engines.implicit_function.linearization import (
    Linearization,
    Nearness,
    adjoint_gradient,
    distance_of,
    evaluation_counts,
    linearize,
    localized,
    prepared_system,
    reach_of,
    slope_change,
)
from bilevel.engines.implicit_function.reused_preconditioner import joined, nothing_known, of_inner_solver, recycling
from bilevel.engines.implicit_function.support import has_support, on_support
from bilevel.foundation import trees
from bilevel.foundation.parts import ESTIMATE, part
from bilevel.foundation.status import Code
from bilevel.foundation.typing import HParams, PyTree, Scalar
from bilevel.implicit import Solve
from bilevel.linear_solve import (
    GMRES,
    AutoLinear,
    Damped,
    Dense,
    LBFGSPairs,
    LinearSolver,
    Preconditioner,
)
from bilevel.solvers import Outcome
from bilevel.task import Task


@settings
@dataclass(frozen=True)
class Implicit(Engine):
    """grad = dg/dh - B' u with A' u = dg/dw, A = dF/dw and B = dF/dh at the inner solution.

    ``linear_solve`` solves the adjoint system, in the reduced symmetric form of the mapping where there is one.
    ``warm_start`` begins it from the last adjoint. ``reuse`` preconditions CG by the inner solver's approximate inverse
    of A: the factor of Newton's last step, the pairs of L-BFGS, or the directions of its `CG` (``memory``). A
    warm-started solve that takes no step hands on the inverse of the last one. ``recycle`` keeps so many directions of
    the adjoint's own CG as a preconditioner of the next solve. Both pay for losses whose products are expensive:
    docs/speed.md. ``accuracy`` is the grade of the error estimate asked for: "residual" (no further solve), "estimate"
    (a Newton correction, about one more linear solve) or "bound" (a theorem, with the ``constants`` that it needs).
    ``refine`` returns the corrected gradient, whose error is quadratic in the error of the inner solution, for about
    one more linear solve; the estimate is for the gradient that is returned. ``on_failure``: "raise", "warn", "retry"
    or "skip". Source: Blondel et al., 2021; Pedregosa, 2016.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> task = bl.Task(
    ...     inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
    ...                           init=lambda key, h: jnp.zeros(())),
    ...     outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2, init_hparams=lambda key: jnp.zeros(()),
    ...     batches=bl.full_batch(4.0, 1.0))
    >>> value, grad, report = bl.hypergradient(task, jnp.array(0.0), bl.Implicit(linear_solve=bl.CG()))
    >>> round(float(grad), 4), report.error_grade
    (-1.0, 'estimate')
    """

    linear_solve: LinearSolver = traced(AutoLinear())
    warm_start: bool = True
    reuse: bool = False
    recycle: int = 0
    on_failure: str = "raise"
    refine: bool = False
    accuracy: str = "estimate"
    constants: Constants = Constants()

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        if self.accuracy not in GRADES:
            raise ValueError(f"accuracy={self.accuracy!r} is not one of {', '.join(GRADES)}.")
        if self.recycle < 0 or (self.recycle and self.reuse):
            raise ValueError(
                f"bl.Implicit(recycle={self.recycle}, reuse={self.reuse}): keep 1, 2, ... directions of the adjoint "
                "solve (0: none), or take over what the inner solver knows, not both: there is one preconditioner."
            )

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_training(self, task)
        cold = cold_start(task, point)

        def reduced(w: HParams) -> HParams:
            return task.inner.at(point.hparams, point.inner_batch).system(w).restrict(w)

        adjoint = jax.tree.map(jnp.zeros_like, jax.eval_shape(reduced, cold))
        if self.recycle:
            return Carry(cold, adjoint, (), LBFGSPairs.empty(adjoint, self.recycle))
        return Carry(cold, adjoint, (), nothing_known(task, point, cold) if self.reuse else None)

    def harder(self) -> Iterator[tuple[str, Engine]]:
        yield "the adjoint damped", replace(self, reuse=False, recycle=0, linear_solve=Damped(self.linear_solve))
        yield "the adjoint by bl.GMRES", replace(self, reuse=False, recycle=0, linear_solve=GMRES())
        yield "the adjoint by bl.Dense", replace(self, reuse=False, recycle=0, linear_solve=Dense())

    def longer(self, factor: int) -> Engine:
        return replace(self, linear_solve=self.linear_solve.longer(factor))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        outcome = inner_solution(task, point, carry)
        start = carry.adjoint if self.warm_start and task.warm_start else None
        known = carry.inverse if task.warm_start else jax.tree.map(jnp.zeros_like, carry.inverse)
        return self.at_solution(task, point, outcome, start, known)

    def at_solution(
        self,
        task: Task,
        point: Point,
        outcome: Outcome,
        start: PyTree = None,
        known: Preconditioner | None = None,
    ) -> tuple[Scalar, HParams, Report]:
        """The hypergradient at the end of an inner solve. The adjoint solve begins at ``start`` with ``known``, an
        approximate inverse of the system. For a sparse solution it works in the rows of the support, without start and
        inverse."""
        if self.accuracy == "bound":
            refuse_bound(task, self.constants, self.refine)
        # Before all else, because a gathered system has its own size, for which no start or inverse fits.
        if has_support(task, point, outcome.params):
            value, grad, report = on_support(self._at_solution, task, point, outcome, start)
            return value, grad, replace(report, carry=report.carry._replace(inverse=known))
        solver = self.linear_solve
        if self.reuse:
            known = of_inner_solver(task, point, outcome, known)
            solver = solver if known is None else solver.reusing(known)
        solver = recycling(solver, known, self.recycle) if self.recycle else solver
        value, grad, report = replace(self, linear_solve=solver)._at_solution(task, point, outcome, start)
        known = joined(known, report.carry.inverse) if self.recycle else known
        return value, grad, replace(report, carry=report.carry._replace(inverse=known))

    def _at_solution(self, task: Task, point: Point, outcome: Outcome, start: PyTree) -> tuple[Scalar, HParams, Report]:
        corrects = self.accuracy == "estimate" or self.refine
        mapping, counts = localized(task, point, outcome.params)
        at = linearize(task, point, outcome.params, mapping)
        system, preparation = prepared_system(point, outcome.params, mapping, self.linear_solve, corrects)
        adjoint = system.solve_adjoint(at.cotangent, start)
        pulled = at.pull(adjoint.value)
        grad = adjoint_gradient(at, pulled[1])
        counts = outcome.counts.add(counts).add(preparation).add(evaluation_counts(mapping)).plus(gradients=1)
        report = Report(
            inner_residual=outcome.residual,
            inner_steps=outcome.steps,
            inner_status=outcome.status,
            curvature=outcome.curvature,
            adjoint_residual=adjoint.solution.residual,
            adjoint_steps=adjoint.solution.products,
            adjoint_status=adjoint.solution.status,
            **_residual_grade(at, adjoint, grad, outcome.residual),
            counts=counts.plus(
                hessian_products=adjoint.solution.products,
                jacobian_products=1,
                factorizations=adjoint.solution.factorizations,
            ),
            inner_tol=as_float(task.inner.solver.tol),
            adjoint_tol=as_float(self.linear_solve.tol),
            params=task.inner.primal(outcome.params),
            carry=Carry(outcome.params, adjoint.reduced, (), adjoint.solution.inverse),
        )
        solved = Solved(mapping, at, system, adjoint, pulled, grad)
        near = None
        if self.accuracy == "residual":
            near, report = _looked_around(task, point, solved, report)
        if self.accuracy == "bound":
            with part(ESTIMATE):
                claim = error_bound(self.constants, point, at, adjoint.value, pulled)
            report = replace(report, **claim, counts=report.counts.plus(hessian_products=1))
        if not corrects:
            return at.value, grad, report
        return self._corrected(task, point, solved, report, near)

    @part(ESTIMATE)
    def _corrected(
        self, task: Task, point: Point, solved: Solved, report: Report, near: Nearness | None
    ) -> tuple[Scalar, HParams, Report]:
        """The result with its error estimate, for the gradient or the refined gradient.

        A linear solver that stops by design cannot measure its error, so a solver with a tolerance measures it.
        """
        counts = report.counts.plus(hessian_products=1)
        sound, before = jnp.bool_(True), solved
        if self.linear_solve.truncates:
            judge, preparation = prepared_system(point, solved.at.params, solved.mapping, AutoLinear(), True)
            solved, counts = solved._replace(system=judge), counts.add(preparation)
        if self.refine:
            refined = correction(task, point, solved, tol=None)
            # No reported figure then needs B'u of the first gradient, or A'du of the corrected adjoint.
            unread = {"jacobian_products" if self.accuracy == "estimate" else "hessian_products": -1}
            solved, sound, counts = refined.after, refined.solved, counts.add(refined.counts).plus(**unread)
        if near is not None:
            left = jnp.where(sound, trees.norm(solved.at.residual) / trees.norm(before.at.residual), jnp.nan)
            left = jnp.minimum(left, 2)  # a Newton step is as long as the way to the solution, and may go the other way
            estimate = near.error(left) + left * report.adjoint_residual * near.size
            face = Face(report.margin, report.weakly_active)
            estimate = of_any_face(face, estimate, before.adjoint, before.at.cotangent, before.pulled[1])
            return solved.at.value, solved.grad, replace(report, error_estimate=estimate, counts=counts)
        measured = correction(task, point, solved)
        counts = counts.add(measured.counts).add(measured.inspection)
        report = replace(report, **_claim(measured, sound), counts=counts)
        return solved.at.value, solved.grad, report


def as_float(number: float | jax.Array) -> jax.Array:
    return jnp.asarray(number, jnp.result_type(float))


def _residual_grade(at: Linearization, adjoint: Solve, grad: HParams, inner: jax.Array) -> dict:
    """The error figures that cost nothing: relative errors of both solves times the size of the gradient. The error of
    an adjoint that was truncated by design is not known, because truncation leaves out small eigenvalues, and along
    those the residual is small too."""
    size, distance = trees.norm(grad), distance_of(at, adjoint.amplification, inner)
    solution = adjoint.solution
    error_adjoint = jnp.where(solution.status.code == Code.truncated, jnp.inf, solution.residual * size)
    return {
        "error_estimate": distance * size + error_adjoint,
        "error_inner": distance * size,
        "error_adjoint": error_adjoint,
        "grade": jnp.int32(GRADES.index("residual")),
    }


@part(ESTIMATE)
def _looked_around(task: Task, point: Point, solved: Solved, report: Report) -> tuple[Nearness, Report]:
    """The report with what one more gradient of the outer loss and one look at the face say of the way to the
    solution."""
    at, adjoint, through = solved.at, solved.adjoint, solved.pulled[1]
    distance = distance_of(at, adjoint.amplification, report.inner_residual)
    reach = reach_of(at, adjoint.amplification, report.inner_residual)
    slope = slope_change(task, point, at.params, at.cotangent, at.residual, reach)
    near = Nearness(distance, slope, trees.norm(solved.grad), trees.norm(through))
    face = face_within(solved.mapping, point, at.params, reach)
    return near, replace(
        report,
        error_estimate=of_any_face(face, near.error() + report.error_adjoint, adjoint, at.cotangent, through),
        error_inner=near.error(),
        margin=face.margin,
        weakly_active=face.weakly_active,
        counts=report.counts.add(solved.mapping.inspection).plus(gradients=1),
    )


def _claim(corrected: Correction, sound: jax.Array) -> dict:
    return {
        "error_estimate": corrected.error,
        "error_inner": corrected.error_inner,
        "error_adjoint": corrected.error_adjoint,
        "grade": jnp.where(sound, corrected.grade, GRADES.index("residual")).astype(jnp.int32),
        "theta": corrected.theta,
        "margin": corrected.face.margin,
        "weakly_active": corrected.face.weakly_active,
        "condition": corrected.condition,
    }
