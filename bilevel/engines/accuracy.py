"""How wrong an implicit hypergradient is: one Newton correction of the solution and one of the adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel import trees
from bilevel.engines.base import GRADES, Bilevel, Point
from bilevel.implicit.attach import Adjoint, solve_adjoint
from bilevel.implicit.mapping import System
from bilevel.linear_solve import LinearSolution, LinearSolver
from bilevel.typing import Counts, HParams, Params, PyTree, Scalar

SAFETY = 1.25  # published with the measured rate of under-estimates: docs/accuracy.md
NEWTON_REGIME = 0.1  # the correction must shrink the residual this much for its size to be an estimate
LOOSE = 0.05  # relative tolerance of solves whose result is only measured
FLOOR = 1e3  # residuals below this many machine epsilons are rounding


class Linearization(NamedTuple):
    """Both levels, linearised at inner parameters."""

    params: Params
    value: Scalar  # g
    cotangent: PyTree  # dg/dw
    direct: HParams  # dg/dh
    residual: PyTree  # F
    system: System  # A
    pull_params: Callable[[PyTree], PyTree]  # u -> A'u
    pull_hparams: Callable[[PyTree], HParams]  # u -> B'u

    def solve_adjoint(self, linear_solve: LinearSolver, cotangent: PyTree, init: PyTree = None) -> Adjoint:
        return solve_adjoint(self.system, linear_solve, cotangent, init)


def linearize(bilevel: Bilevel, point: Point, params: Params) -> Linearization:
    """The outer loss and the optimality condition at ``params``, with their derivatives."""
    hparams, inner_batch, outer_batch, _ = point
    value, (cotangent, direct) = jax.value_and_grad(bilevel.outer, argnums=(0, 1))(params, hparams, outer_batch)
    mapping = bilevel.inner.mapping
    residual, pull = jax.vjp(lambda w, h: mapping(w, h, inner_batch), params, hparams)
    system = mapping.system(params, hparams, inner_batch)
    return Linearization(params, value, cotangent, direct, residual, system, lambda u: pull(u)[0], lambda u: pull(u)[1])


def adjoint_gradient(at: Linearization, adjoint: PyTree) -> HParams:
    """dg/dh - B'u."""
    return trees.subtract(at.direct, at.pull_hparams(adjoint))


class Correction(NamedTuple):
    """The corrected gradient and what its distance from the uncorrected one says."""

    value: Scalar
    grad: HParams
    error: jax.Array
    error_inner: jax.Array
    error_adjoint: jax.Array
    grade: jax.Array
    counts: Counts


def correction(
    bilevel: Bilevel, point: Point, at: Linearization, adjoint: Adjoint, grad: HParams, linear_solve: LinearSolver, refine: bool
) -> Correction:
    """One Newton step w+ = w - A^{-1} F(w), u+ = u + A^{-T} (v+ - A+'u), and the gradient there.

    ||g+ - g|| is an asymptotically exact estimate of the error of g, and g+ has an error quadratic in that of w. The
    claim is made only where the corrections behave as in the Newton regime: ||F(w+)|| <= 0.1 ||F(w)||, likewise for the
    adjoint. With ``refine`` the figure is of g+. Source: Newton-Kantorovich; dual-weighted residuals (Becker and
    Rannacher, 2001).
    """
    loose = linear_solve if refine else linear_solve.with_tol(LOOSE)
    step = solve_forward(at.system, loose, jax.tree.map(jnp.negative, at.residual))
    moved = linearize(bilevel, point, trees.axpy(1.0, step.value, at.params))
    wrong = trees.subtract(moved.cotangent, moved.pull_params(adjoint.adjoint))
    change = at.solve_adjoint(loose, wrong)
    corrected = adjoint_gradient(moved, trees.axpy(1.0, change.adjoint, adjoint.adjoint))
    left = trees.subtract(wrong, moved.pull_params(change.adjoint))

    own = at.solve_adjoint(loose, trees.subtract(at.cotangent, at.pull_params(adjoint.adjoint)))
    by_adjoint = at.pull_hparams(own.adjoint)
    distance = trees.subtract(corrected, grad)
    size = trees.norm(distance)

    rounding = FLOOR * trees.epsilon(at.params)
    theta = _shrinkage(moved.residual, at.residual, rounding * trees.norm(at.params))
    theta_adjoint = _shrinkage(left, wrong, rounding * trees.norm(at.cotangent))
    claimed = (theta <= NEWTON_REGIME) & (theta_adjoint <= NEWTON_REGIME)
    factor = theta + theta_adjoint if refine else 1.0
    floor = 10 * trees.epsilon(at.params) * trees.norm(grad)
    solves = [step, change.solution, own.solution]
    return Correction(
        value=moved.value,
        grad=corrected,
        error=SAFETY * factor * size + floor,
        error_inner=trees.norm(trees.axpy(1.0, by_adjoint, distance)),
        error_adjoint=trees.norm(by_adjoint),
        grade=jnp.where(claimed, GRADES.index("estimate"), GRADES.index("residual")).astype(jnp.int32),
        counts=Counts(
            gradients=2,
            hessian_products=sum(solve.products for solve in solves) + 3,
            jacobian_products=2,
            factorizations=sum(solve.factorizations for solve in solves),
        ),
    )


def _shrinkage(after: PyTree, before: PyTree, floor: jax.Array) -> jax.Array:
    """||after|| / ||before||, and 0 where ``before`` is rounding already."""
    size = trees.norm(before)
    ratio = trees.norm(after) / jnp.where(size > 0, size, 1.0)
    return jnp.where(size <= floor, 0.0, ratio)


def solve_forward(system: System, linear_solve: LinearSolver, rhs: PyTree) -> LinearSolution:
    """A x = rhs with its report; not differentiable itself."""
    solution = linear_solve(system.operator, system.restrict(rhs))
    return solution._replace(value=system.extend(rhs, solution.value))
