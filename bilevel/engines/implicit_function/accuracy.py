"""How wrong an implicit hypergradient is: one Newton correction of the solution and one of the adjoint."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import GRADES, Point
from bilevel.engines.implicit_function.active_face import Face, compare_faces, of_any_face
from bilevel.engines.implicit_function.linearization import (
    Linearization,
    adjoint_gradient,
    evaluation_counts,
    linearize,
)
from bilevel.engines.implicit_function.rounding import ROUNDING, Noise, cost_of_noise, fraction, noise_of
from bilevel.foundation import trees
from bilevel.foundation.signs import tree_of_signs
from bilevel.foundation.typing import Counts, HParams, PyTree
from bilevel.implicit import Mapping, PreparedSystem, Solve
from bilevel.task import Task

SAFETY = 1.25  # published with the measured rate of under-estimates: docs/accuracy.md
FARTHEST = 1e3  # corrections: the way to the solution is never estimated as longer than so many of the first one
NEWTON_REGIME = 0.1  # the size of a correction is an estimate only if it reduces the residual by this factor
LOOSE = 1e-2  # relative tolerance of solves whose result is only measured
NEGLIGIBLE = 1e-3  # a part of the right-hand side smaller than the other by this factor is not solved for separately
POWERS = 3  # steps of the power iteration for the norm of the system


class Solved(NamedTuple):
    """Where the hypergradient was computed, with what."""

    mapping: Mapping
    at: Linearization
    system: PreparedSystem
    adjoint: Solve
    pulled: tuple[PyTree, HParams]  # (A'u, B'u)
    grad: HParams


class Correction(NamedTuple):
    """The estimate that the distance between corrected and uncorrected gradient gives, and its evidence."""

    after: Solved
    error: jax.Array
    error_inner: jax.Array
    error_adjoint: jax.Array
    theta: jax.Array
    grade: jax.Array
    face: Face
    condition: jax.Array
    solved: jax.Array  # whether all linear solves succeeded
    counts: Counts  # the cost of the corrected gradient
    inspection: Counts  # the cost of the estimate


def correction(task: Task, point: Point, solved: Solved, tol: float | None = LOOSE) -> Correction:
    """One Newton step on both equations, and the gradient there.

        w+ = w - A^{-1} F(w),      u+ = u + A^{-T} (v+ - A+'u),      g+ = dg/dh+ - B+'u+

    ||g+ - g|| is an asymptotically exact estimate of the error of g, and the error of g+ is quadratic in the error of
    w. The claim is made only in the Newton regime: theta <= 0.1, where theta is the larger of ||F(w+)|| / ||F(w)|| and
    the same ratio of the adjoint; and no coordinate may change its face on the way. ``tol`` is the tolerance of the
    solves; it is loose where only the size of the correction is wanted. Outside the regime the way left is longer than
    one correction, and the error is multiplied accordingly. The error of a corrected gradient is estimated by a second
    correction. Source: Newton-Kantorovich; dual-weighted residuals (Becker and Rannacher, 2001).
    """
    mapping, at, system, adjoint, pulled, grad = solved
    step = system.solve(jax.tree.map(jnp.negative, at.residual), tol)
    moved = linearize(task, point, trees.axpy(1.0, step.value, at.params), mapping)
    rest = trees.subtract(at.cotangent, pulled[0])  # the residual of the adjoint solve
    wrong_params, wrong_hparams = moved.pull(adjoint.value)
    shifted = trees.subtract(trees.subtract(moved.cotangent, wrong_params), rest)  # the change by the step
    parts = _solve_parts(system, moved, shifted, rest, tol)
    by_adjoint = jax.tree.map(lambda leaf: leaf[1], parts.hparams)
    change, *explained = jax.tree.map(lambda leaf: leaf[0] + leaf[1], (parts.value, parts.params, parts.hparams))
    pulled_after = (trees.axpy(1.0, wrong_params, explained[0]), trees.axpy(1.0, wrong_hparams, explained[1]))
    corrected = adjoint_gradient(moved, pulled_after[1])
    wrong = trees.axpy(1.0, rest, shifted)
    left = trees.subtract(wrong, explained[0])
    adjoint_after = adjoint._replace(value=trees.axpy(1.0, change, adjoint.value))

    noise = noise_of(task, point, mapping, at, adjoint, pulled)
    size, error_inner, error_adjoint = _sizes(trees.subtract(corrected, grad), by_adjoint, noise)
    theta_inner = _shrinkage(moved.residual, at.residual, noise.residual)
    theta_adjoint = _shrinkage(left, wrong, noise.cotangent)
    theta = jnp.maximum(theta_inner, theta_adjoint)
    longer = _longer(theta_inner, theta_adjoint)
    face = compare_faces(mapping, point, at, moved, longer)
    succeeded = step.solution.status.ok & jnp.all(parts.solved)
    claimed = (theta <= NEWTON_REGIME) & (face.weakly_active == 0) & succeeded
    error = SAFETY * jnp.where(claimed, 1, longer) * size + noise.gradient
    amplification = jnp.maximum(jnp.maximum(adjoint.amplification, step.amplification), parts.amplification)
    return Correction(
        after=Solved(mapping, moved, system, adjoint_after, pulled_after, corrected),
        error=of_any_face(face, error, adjoint, at.cotangent, pulled[1], theta <= NEWTON_REGIME),
        error_inner=error_inner,
        error_adjoint=error_adjoint,
        theta=theta,
        grade=jnp.where(claimed, GRADES.index("estimate"), GRADES.index("residual")).astype(jnp.int32),
        face=face,
        condition=power_norm(system) * jnp.max(amplification),
        solved=succeeded,
        counts=_counts(mapping, step, parts),
        inspection=_inspection(mapping).add(cost_of_noise(mapping, at)),
    )


def _sizes(distance: HParams, by_adjoint: HParams, noise: Noise) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The size of the correction of the gradient, and of its parts by the inner and by the adjoint solve."""
    inner = _widened(trees.axpy(1.0, by_adjoint, distance), noise.inner, noise.gradient)
    adjoint = _widened(by_adjoint, noise.adjoint, noise.gradient)
    together = _widened(distance, jnp.maximum(noise.inner, noise.adjoint), noise.gradient)
    return jnp.minimum(together, inner + adjoint), inner, adjoint


def _widened(change: HParams, noise: jax.Array, rounding: jax.Array) -> jax.Array:
    """The size of a part of the correction.

    It is widened to that of a residual as large as its ``noise``; the share of rounding is not, because it does not
    grow with the residual.
    """
    size = trees.norm(change)  # the residual may by chance be 1e9 times smaller than its noise
    return size + noise * jnp.maximum(size - rounding, 0)


def _longer(inner: jax.Array, adjoint: jax.Array) -> jax.Array:
    """The length of all corrections together in units of the first one, up to `FARTHEST`, by the ratios of both
    residuals.

    A Newton step multiplies the adjoint by q = 1 / (1 - adjoint), because it shrinks A by the factor 1 - adjoint along
    it. Each step is inner * q times as long as the one before, so the whole way is p = 1 / (1 - inner * q) first steps
    long. On this way the gradient changes by (q^p - 1) / (q - 1) times its first change. Corrections of the adjoint at
    the same params add up to q times the first.
    """
    ratio = lambda theta: jnp.where(theta > 0, jnp.minimum(theta, 1 - 1 / FARTHEST), 0)  # NaN: no ratio was measured
    growth = -jnp.log1p(-ratio(adjoint))  # log q
    steps = 1 / (1 - ratio(inner * jnp.exp(growth)))
    longest = jnp.minimum(growth * steps, jnp.log(FARTHEST))  # a power would overflow
    total = jnp.where(growth > 0, jnp.expm1(longest) / jnp.where(growth > 0, jnp.expm1(growth), 1), steps)
    return jnp.minimum(jnp.exp(growth) * total, FARTHEST)


class Parts(NamedTuple):
    """The solutions x for two cotangents, one after the other, with A'x and B'x (stacked) and the cost."""

    value: PyTree
    params: PyTree
    hparams: HParams
    amplification: jax.Array
    solved: jax.Array
    products: jax.Array
    factorizations: jax.Array


def _solve_parts(
    system: PreparedSystem, moved: Linearization, shifted: PyTree, rest: PyTree, tol: float | None
) -> Parts:
    """A'x for both parts of the right-hand side, 0 for a part far below the other. A loop, because then the solve is
    compiled once."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), shifted, rest)
    threshold = NEGLIGIBLE * jnp.maximum(trees.norm(shifted), trees.norm(rest))

    def solve(rhs: PyTree) -> Parts:
        solved = system.solve_adjoint(rhs, None, tol)
        pulled = moved.pull(solved.value)
        cost = (solved.solution.products + 1, solved.solution.factorizations)
        numbers = (jnp.asarray(number, jnp.int32) for number in cost)
        return Parts(solved.value, *pulled, solved.amplification, solved.solution.status.ok, *numbers)

    def one(rhs: PyTree) -> Parts:
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(solve, rhs))
        nothing = nothing._replace(solved=jnp.bool_(True))
        return jax.lax.cond(trees.norm(rhs) > threshold, solve, lambda _: nothing, rhs)

    return jax.lax.map(one, stacked)


def _shrinkage(after: PyTree, before: PyTree, noise: jax.Array) -> jax.Array:
    """||after|| / ||before||, less the rounding; 0 where ``before`` is rounding already."""
    size = trees.norm(before)
    ratio = fraction(jnp.maximum(trees.norm(after) - ROUNDING * noise, 0), size)
    return jnp.where(jnp.isfinite(size), ratio, jnp.nan)


def power_norm(system: PreparedSystem) -> jax.Array:
    """A lower estimate of || K ||, by a short power iteration from random signs."""

    def advance(_: int, state: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
        vector, size = state
        vector = system.operator(vector)
        length = trees.norm(vector)
        scaled = jax.tree.map(lambda leaf: (leaf / jnp.where(length > 0, length, 1)).astype(leaf.dtype), vector)
        return scaled, jnp.maximum(size, length)

    signs = tree_of_signs(system.example)
    length = trees.norm(signs)
    start = jax.tree.map(lambda leaf: (leaf / jnp.where(length > 0, length, 1)).astype(leaf.dtype), signs)
    return jax.lax.fori_loop(0, POWERS, advance, (start, jnp.zeros_like(length)))[1]


def _counts(mapping: Mapping, step: Solve, parts: Parts) -> Counts:
    return evaluation_counts(mapping).plus(
        gradients=1,  # of the outer loss at the corrected point
        hessian_products=step.solution.products + jnp.sum(parts.products) + 1,
        jacobian_products=1 + jnp.sum(parts.products > 0),
        factorizations=step.solution.factorizations + jnp.sum(parts.factorizations),
    )


def _inspection(mapping: Mapping) -> Counts:
    """The cost of two inspections of the face, and of the norm of the system."""
    return mapping.inspection.add(mapping.inspection).plus(hessian_products=POWERS)
