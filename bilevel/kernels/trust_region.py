"""One descent step with the Hessian's matrix: Newton's where it descends, else the minimiser of the model in a ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.rescue import rescued
from bilevel.kernels.scalar_root import bracketed_root

SUFFICIENT = 1e-4  # of the predicted decrease, or of the size of the gradient where rounding hides the decrease
POOR, GOOD = 0.25, 0.75  # of the predicted decrease: below, the ball shrinks; above, it grows
SHRINKAGE = 0.25  # of the rejected step or ball
MAX_TRIALS = 40  # 0.25^40 of any length is nothing


class Point(NamedTuple):
    """A point (n,) with the value and the gradient there."""

    x: jax.Array
    value: jax.Array
    gradient: jax.Array


class Spectrum(NamedTuple):
    """Eigenvalues (n,), ascending, and the eigenvectors (n, n) in columns."""

    values: jax.Array
    vectors: jax.Array


class Step(NamedTuple):
    """The point after a step, and its parts: x + ``push`` - (H + ``damping`` I)^{-1} gradient."""

    point: Point
    accepted: jax.Array
    trials: jax.Array
    radius: jax.Array  # the radius of the next step's ball; infinite as long as Newton's steps descend
    damping: jax.Array
    push: jax.Array  # along negative curvature, in which the gradient has no part
    whole: jax.Array  # whether this was Newton's own step, with Cholesky's factor ``lower``
    lower: jax.Array
    definite: jax.Array  # whether there is such a factor
    spectrum: Spectrum
    decomposed: jax.Array  # whether the spectrum was needed

    @property
    def curvature(self) -> jax.Array:
        """The least eigenvalue relative to the largest in absolute value where it is negative beyond rounding, else
        0."""
        values, _ = _cleaned(self.spectrum)
        largest = jnp.max(jnp.abs(values))
        share = jnp.minimum(values[0], 0) / jnp.where(largest > 0, largest, 1)
        return jnp.where(self.definite, 0, share)

    def inverse(self, rhs: jax.Array) -> jax.Array:
        """(H + damping I)^{-1} rhs by the factor that the step used."""
        by_factor = jax.scipy.linalg.cho_solve((self.lower, True), rhs)
        return jnp.where(self.whole, by_factor, damped_inverse(self.spectrum, self.damping, rhs))


def descend(evaluate: Callable[[jax.Array], Point], start: Point, matrix: jax.Array, radius: jax.Array) -> Step:
    """The first point whose value falls enough, of: Newton's step, where the matrix is positive definite and the step
    within ``radius``; then the minimisers of the model in smaller and smaller balls.

    Where no ball gives a decrease the step is rejected and ends at its start. The step is not differentiable.
    Reference: Conn, Gould and Toint, Trust-region methods, 2000, chapters 6 and 7; More and Sorensen, 1983.
    """
    start, matrix, radius = jax.lax.stop_gradient((start, matrix, radius))
    before, newton = _begun(start, matrix, radius)

    def attempt(step: Step) -> Step:
        step, direction, ball = _aimed(step, start, matrix, newton)
        point = jax.lax.stop_gradient(evaluate(start.x + direction))
        accepted, ratio = _judged(start, point, direction, matrix)
        length = trees.norm(direction)
        grown = jnp.where(ratio > GOOD, jnp.maximum(ball, 2 * length), ball)
        shrunk = SHRINKAGE * jnp.minimum(length, ball)
        return step._replace(
            point=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), point, start),
            accepted=accepted,
            trials=step.trials + 1,
            radius=jnp.where(accepted & (ratio >= POOR), grown, shrunk),
        )

    def proceeds(step: Step) -> jax.Array:
        return ~step.accepted & (step.trials < MAX_TRIALS) & ~jnp.isnan(step.radius) & (step.radius > 0)

    return jax.lax.while_loop(proceeds, attempt, before)


def _begun(start: Point, matrix: jax.Array, radius: jax.Array) -> tuple[Step, jax.Array]:
    """The step before the first trial: Newton's, which is a descent step only where the matrix is ``definite``."""
    lower = jnp.linalg.cholesky(matrix)
    pivots = jnp.square(jnp.diagonal(lower))
    definite = jnp.min(pivots) > len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.max(pivots)
    lower = jnp.where(definite, lower, jnp.eye(len(matrix), dtype=matrix.dtype))
    nothing = jnp.zeros_like(start.x)
    before = Step(
        start,
        accepted=jnp.bool_(False),
        trials=jnp.int32(0),
        radius=radius,
        damping=jnp.zeros_like(radius),
        push=nothing,
        whole=definite,
        lower=lower,
        definite=definite,
        spectrum=Spectrum(nothing, jnp.zeros_like(matrix)),
        decomposed=jnp.bool_(False),
    )
    return before, -jax.scipy.linalg.cho_solve((lower, True), start.gradient)


def _aimed(step: Step, start: Point, matrix: jax.Array, newton: jax.Array) -> tuple[Step, jax.Array, jax.Array]:
    """The step with its direction: Newton's step where it is within the radius. Elsewhere it is the minimiser of
    the quadratic model in the ball whose radius is returned. In a batch
    the matrices are decomposed only where one of the lanes needs its spectrum."""
    whole = step.definite & (trees.norm(newton) <= step.radius)
    needed = ~whole & ~step.decomposed
    spectrum = rescued(needed, lambda matrix: Spectrum(*jnp.linalg.eigh(matrix)), (matrix,), step.spectrum)
    ball = _ball(spectrum, start, step.radius)
    damping, push = minimiser_within(spectrum, start.gradient, jnp.where(whole, jnp.inf, ball))
    damping, push = jnp.where(whole, 0, damping), jnp.where(whole, 0, push)
    direction = jnp.where(whole, newton, push - damped_inverse(spectrum, damping, start.gradient))
    decomposed = step.decomposed | ~whole
    step = step._replace(damping=damping, push=push, whole=whole, spectrum=spectrum, decomposed=decomposed)
    return step, direction, jnp.where(whole, step.radius, ball)


def _judged(start: Point, point: Point, direction: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the point is accepted, and its decrease relative to the predicted one.

    Where rounding hides the decrease, the size of the gradient decides. A value may be the difference of terms as large
    as x'Hx, which round as they are.
    """
    predicted = -(start.gradient @ direction + 0.5 * direction @ (matrix @ direction))
    decrease = start.value - point.value
    ratio = decrease / jnp.where(predicted > 0, predicted, jnp.inf)
    terms = jnp.abs(start.value) + jnp.abs(start.x @ (matrix @ start.x))
    rounding = 10 * jnp.finfo(direction.dtype).eps * terms
    before, after = trees.norm(start.gradient), trees.norm(point.gradient)
    hidden = (decrease >= -rounding) & (after <= (1 - SUFFICIENT) * before)
    finite = jnp.isfinite(point.value) & jnp.isfinite(after)
    fell = (ratio > SUFFICIENT) & (decrease > 0)
    return finite & (fell | hidden), jnp.where(hidden & ~fell, 1, ratio)


def _cleaned(spectrum: Spectrum) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues, rounding set to zero, and a mask of the zeros."""
    values = spectrum.values
    noise = 10 * len(values) ** 0.5 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    flat = jnp.abs(values) <= noise
    return jnp.where(flat, 0, values), flat


def _slopes(spectrum: Spectrum, gradient: jax.Array, flat: jax.Array) -> jax.Array:
    """The gradient along the eigenvectors. Small components along flat eigenvectors are dropped because they are noise,
    and a step along them would be long."""
    slopes = spectrum.vectors.T @ gradient
    small = jnp.abs(slopes) <= jnp.finfo(slopes.dtype).eps ** 0.5 * trees.norm(slopes)
    return jnp.where(flat & small, 0, slopes)


def _ball(spectrum: Spectrum, start: Point, radius: jax.Array) -> jax.Array:
    """The radius. Where no radius is known yet and the model has no minimiser, it is the size of the point."""
    values, flat = _cleaned(spectrum)
    endless = (values[0] < 0) | jnp.any(flat & (_slopes(spectrum, start.gradient, flat) != 0))
    size = jnp.maximum(1, trees.norm(start.x))
    return jnp.where(endless & jnp.isinf(radius), size, radius)


def minimiser_within(spectrum: Spectrum, gradient: jax.Array, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(damping, push) of the minimiser d = push - (H + damping I)^{-1} g of g'd + d'Hd/2 over ||d|| <= radius.

    With damping = -least + excess, ||d|| falls as the excess grows; 1/||d|| is nearly linear in it. The push reaches
    the sphere along the least eigenvector where the gradient has no part there (the hard case).
    """
    values, flat = _cleaned(spectrum)
    slopes = _slopes(spectrum, gradient, flat)
    least = jnp.maximum(0, -values[0])

    def shortness(excess: jax.Array, values: jax.Array, slopes: jax.Array, inverse_radius: jax.Array) -> jax.Array:
        pole = values + excess
        parts = jnp.where(slopes == 0, 0, slopes / jnp.where(slopes == 0, 1, pole))
        return 1 / jnp.linalg.norm(parts) - inverse_radius

    upper = jnp.where(jnp.isinf(radius), 0, trees.norm(slopes) / radius)
    excess = bracketed_root(shortness, jnp.zeros_like(upper), upper, values + least, slopes, 1 / radius)
    damping = least + excess
    length = trees.norm(damped_inverse(spectrum, damping, gradient))
    hard = (least > 0) & (length < 0.9 * radius)
    rest = jnp.sqrt(jnp.maximum(radius - length, 0) * (radius + length))
    side = jnp.where(slopes[0] > 0, -rest, rest)
    return damping, jnp.where(hard, side, 0) * spectrum.vectors[:, 0]


def damped_inverse(spectrum: Spectrum, damping: jax.Array, rhs: jax.Array) -> jax.Array:
    """(H + damping I)^{-1} rhs, without the directions in which H + damping I is zero."""
    values, flat = _cleaned(spectrum)
    poles = values + damping
    parts = _slopes(spectrum, rhs, flat)
    return spectrum.vectors @ jnp.where(poles > 0, parts / jnp.where(poles > 0, poles, 1), 0)
