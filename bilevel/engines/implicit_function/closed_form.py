"""The closed form of ridge-like inner problems: one factorisation gives solution and adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Engine, Point, Report, check_policy, cold_start, refuse_training, settings
from bilevel.engines.implicit_function.linearization import Linearization, adjoint_gradient, distance_of, linearize
from bilevel.engines.stochastic.directions import refuse_nonsmooth
from bilevel.foundation import trees
from bilevel.foundation.parts import INNER, part
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.linear_solve import Dense, Operator
from bilevel.losses.linear import Linear
from bilevel.losses.quadratic import Quadratic
from bilevel.solvers.verdict import Questions, Relative, limits, look, relative
from bilevel.task import Task

REFINEMENTS = 2  # passes of iterative refinement for solution and adjoint
TOLERANCE = 1e-9  # the largest relative residual of a quadratic loss, in float64


@settings
@dataclass(frozen=True)
class ClosedForm(Engine):
    """w* = w0 - H^{-1} F(w0) and H u = dg/dw by one factor of H, for an inner loss that is quadratic in its params.

    A loss stated as `bl.Linear` (z = X w) that is a sum over samples plus a separable term in w has
    H = X' M X + D with diagonal M and D. With fewer samples n than features p the n x n matrix of Woodbury's identity
    is factored instead of H,

        H^{-1} = D^{-1} - D^{-1} X' (M^{-1} + X D^{-1} X')^{-1} X D^{-1}.

    A `bl.Quadratic` is solved by a factor of its matrix, which the columns of the params share.
    Otherwise H is built and factored. All are followed by two passes of refinement with H itself, and the status comes
    from the true residual: a loss that is not quadratic (or not of that form) fails. The solver of the problem is not
    used. Source: Bertinetto et al., 2019; Woodbury, 1950.
    """

    on_failure: str = "raise"
    remedy: ClassVar[str] = (
        "bl.ClosedForm needs an inner loss that is quadratic in its params (and, with fewer samples than features, a "
        "sum over samples plus a separable regulariser); use bl.Implicit()"
    )

    def __post_init__(self) -> None:
        check_policy(self.on_failure)

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_training(self, task)
        cold = cold_start(task, point)
        return Carry(cold, jax.tree.map(jnp.zeros_like, cold))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        refuse_nonsmooth(self, task)
        mapping, cold = task.inner.mapping, cold_start(task, point)

        gradient = lambda w: mapping(w, point.hparams, point.inner_batch)
        with part(INNER):
            first, hessian = jax.linearize(gradient, cold)
            solve, products, indefinite = inverse(task, point, cold, hessian)
            params = cold
            for _ in range(1 + REFINEMENTS):
                params = trees.axpy(-1.0, solve(gradient(params)), params)
        at = linearize(task, point, params, mapping)
        adjoint = _adjoint(at, solve)
        left, pulled = at.pull(adjoint)
        tolerance = max(TOLERANCE, 1e3 * trees.epsilon(cold))
        found, inner_status, looks = _judged(task, point, params, cold, trees.norm(first), tolerance, indefinite)
        rest = _relative(trees.subtract(at.cotangent, left), at.cotangent)
        grad = adjoint_gradient(at, pulled)
        size = trees.norm(grad)
        distance = jnp.maximum(found.distance, distance_of(at, _relative(adjoint, at.cotangent), found.residual))
        pulls = 1 + REFINEMENTS
        report = Report(
            inner_residual=found.residual,
            inner_steps=jnp.int32(1),
            inner_status=inner_status,
            adjoint_residual=rest,
            adjoint_steps=jnp.int32(pulls),
            adjoint_status=_status(rest, tolerance),
            error_estimate=(distance + rest) * size,
            error_inner=distance * size,
            error_adjoint=rest * size,
            grade=jnp.int32(0),
            counts=Counts(
                gradients=REFINEMENTS + 4 + looks,
                hessian_products=products + pulls,
                jacobian_products=1,
                factorizations=1,
            ).as_arrays(),
            params=task.inner.primal(params),
            carry=Carry(params, adjoint),
        )
        return at.value, grad, report


def _adjoint(at: Linearization, solve: Callable[[PyTree], PyTree]) -> PyTree:
    adjoint = solve(at.cotangent)
    for _ in range(REFINEMENTS):
        adjoint = trees.axpy(1.0, solve(trees.subtract(at.cotangent, at.pull(adjoint)[0])), adjoint)
    return adjoint


def _judged(
    task: Task,
    point: Point,
    params: Params,
    cold: Params,
    reference: Scalar,
    tolerance: float,
    indefinite: jax.Array,
) -> tuple[Relative, Status, jax.Array]:
    """The residual at the solution, its status by the scales that the solvers are judged by, and the gradients that
    these cost. A closed form solves quadratic losses only, so the gradient at the start is a scale for the residual,
    unless the start is the solution."""
    asked = Questions(lambda residual, _: residual == 0, lambda residual, _: jnp.zeros_like(residual, bool))
    scales = look(task.inner.at(point.hparams, point.inner_batch), params, cold, asked)
    epsilon = trees.epsilon(params)
    limit = limits(scales, tolerance, reference, epsilon)
    code = jnp.where(scales.residual <= limit.converged, Code.converged, Code.max_steps)
    code = jnp.where(indefinite, Code.indefinite, code)
    status = Status.of(jnp.where(jnp.isfinite(scales.residual), code, Code.nonfinite))
    return relative(scales, limit, reference, epsilon), status, scales.evaluations


def _relative(part: PyTree, whole: PyTree) -> Scalar:
    size = trees.norm(whole)
    return trees.norm(part) / jnp.where(size > 0, size, 1)


def _status(residual: Scalar, tolerance: float) -> Status:
    code = jnp.where(residual <= tolerance, Code.converged, Code.max_steps)
    return Status.of(jnp.where(jnp.isfinite(residual), code, Code.nonfinite))


def inverse(
    task: Task, point: Point, params: Params, hessian: Callable
) -> tuple[Callable[[PyTree], PyTree], int, jax.Array]:
    """rhs -> H^{-1} rhs, by the matrix that the loss states, by Woodbury's identity or by H itself, the number of
    products with H, and whether H has a negative eigenvalue, so that the quadratic has no minimum."""
    loss = task.inner.loss
    if isinstance(loss, Quadratic):
        factor = jax.scipy.linalg.cho_factor(loss.matrix(point.hparams, point.inner_batch))
        return lambda rhs: jax.scipy.linalg.cho_solve(factor, rhs), 0, jnp.bool_(False)  # NaN tells of one
    if isinstance(loss, Linear) and isinstance(params, jax.Array):
        design = loss.design(point.inner_batch)
        if design.shape[0] < design.shape[1]:
            solve, indefinite = woodbury(loss, design, point, params)
            return solve, 0, indefinite
    operator = Operator(hessian, symmetric=True, definite=True, owner="the inner Hessian")
    prepared = Dense().prepare(operator, params)
    matrix_only = lambda rhs: prepared.solve(rhs).value
    tried = prepared.solve(jax.tree.map(jnp.ones_like, params)).status
    return matrix_only, int(prepared.products) + 1, tried.code == Code.indefinite


def woodbury(
    loss: Linear, design: jax.Array, point: Point, params: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """rhs -> (X' M X + D)^{-1} rhs, column by column, and whether it has a negative eigenvalue; the diagonals M and D
    are read off by a product with ones.

    With M > 0 the inverse needs a positive definite kernel and D > 0. Of the kernel its Cholesky factor tells, by NaN.
    """
    predictions = design @ params

    def diagonal(slope: Callable, where: jax.Array) -> jax.Array:
        return jax.jvp(slope, (where,), (jnp.ones_like(where),))[1]

    of_predictions = jax.grad(lambda z: loss.loss(z, params, point.hparams, point.inner_batch))
    of_params = jax.grad(lambda w: loss.loss(predictions, w, point.hparams, point.inner_batch))
    rows = diagonal(of_predictions, predictions).reshape(design.shape[0], -1)
    features = diagonal(of_params, params).reshape(design.shape[1], -1)
    dense = jnp.asarray(design) if isinstance(design, jax.Array) else design.todense()

    def column(weights: jax.Array, ridge: jax.Array, rhs: jax.Array) -> jax.Array:
        kernel = jnp.diag(1 / weights) + (dense / ridge) @ dense.T
        factor = jax.scipy.linalg.cho_factor(kernel)
        scaled = rhs / ridge
        return scaled - (dense.T @ jax.scipy.linalg.cho_solve(factor, dense @ scaled)) / ridge

    def solve(rhs: jax.Array) -> jax.Array:
        columns = jax.vmap(column, in_axes=1, out_axes=1)(rows, features, rhs.reshape(design.shape[1], -1))
        return columns.reshape(rhs.shape)

    return solve, jnp.any(features < 0)
