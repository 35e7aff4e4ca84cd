"""Kernel machines: their folds by the dual, as functions of the strength of the penalty and of the kernel's scales."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Batch, HParams, Scalar
from bilevel.losses.duals import c_svm
from bilevel.sklearn.newton import FAILED, TINY, Answer

STEPS = 60  # of the interior-point method
GAP = 1e-13  # complementarity, relative to that at the start, at which it ends
OUTSIDE = 1e-6  # how far out of its bounds the last step may bring a dual, relative to the largest bound
BACK = 0.995  # the share of the way to the border that a step may go


def gram(kernel: str, hparams: HParams, inputs: jax.Array) -> jax.Array:
    """k(x_i, x_j) (n, n): x'z, or exp(-sum_f gamma_f (x_f - z_f)^2)."""
    if kernel == "linear":
        return inputs @ inputs.T
    scaled = inputs * jnp.exp(0.5 * hparams["gamma"][:, 0])
    squares = jnp.sum(scaled**2, axis=1)
    return jnp.exp(2 * scaled @ scaled.T - squares[:, None] - squares[None, :])


def kernel_ridge(kernel: str, hparams: HParams, inner: Batch, outer: Batch) -> Answer:
    """1/2 sum of weighted squared errors of z = K d, where (S K S + alpha) c = S y and d = S c.

    S^2 are the weights of the training rows. scikit-learn: KernelRidge. The derivative is that of the linear solve."""

    def value(hparams: HParams) -> tuple[Scalar, tuple]:
        inputs, targets, weights = inner
        roots = jnp.sqrt(weights)
        matrix = gram(kernel, hparams, inputs)
        system = roots[:, None] * matrix * roots + jnp.exp(hparams["strength"][0, 0]) * jnp.eye(len(roots))
        shaped = targets.reshape(len(roots), -1)
        scaled = jnp.linalg.solve(system, roots[:, None] * shaped)
        dual = roots[:, None] * scaled
        error = jnp.sum((matrix @ dual - shaped) ** 2, axis=1)
        left = jnp.linalg.norm(system @ scaled - roots[:, None] * shaped) / jnp.maximum(jnp.linalg.norm(shaped), TINY)
        return 0.5 * outer[2] @ error, (dual, left)

    (loss, (dual, left)), gradient = jax.value_and_grad(value, has_aux=True)(hparams)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient.values()))
    return Answer(loss, gradient, dual, ~(left < FAILED) | ~jnp.isfinite(loss + size), left * size)


class Iterate(NamedTuple):
    """A primal-dual point of the box: dual a, multipliers of both ends and of the sum."""

    dual: jax.Array
    low: jax.Array
    high: jax.Array
    intercept: Scalar
    gap: Scalar
    steps: jax.Array


def support_vectors(kernel: str, hparams: HParams, inner: Batch, outer: Batch) -> Answer:
    """Weighted hinge loss of z = K (s a) + b, a minimising `bl.losses.c_svm` over 0 <= a <= C weights, s'a = 0.

    scikit-learn: SVC with two classes. Between the borders the duals and b solve a linear system, whose derivative is
    exact as long as no dual changes side; there the loss on the folds has a kink. Source: Chapelle et al., 2002.
    """
    inputs, labels, weights = inner
    signs = jnp.where(labels == 1, 1.0, -1.0)
    upper = lambda hparams: jnp.exp(-hparams["strength"][0, 0]) * weights  # C is the inverse of a penalty
    slope_of = jax.grad(lambda a, hparams: c_svm(a, hparams, (gram(kernel, hparams, inputs), signs)))
    matrix = signs[:, None] * gram(kernel, hparams, inputs) * signs
    bound = upper(hparams)
    dual, intercept, free = _box_section(matrix, bound, signs)
    over = ~free & (dual > 0.5 * bound)

    alone = ~jnp.any(free)

    def middle(a: jax.Array, hparams: HParams) -> Scalar:
        """Of the interval of intercepts that are equally good where no dual is free, as LIBSVM takes it."""
        ends, below = -signs * slope_of(a, hparams), (signs > 0) ^ over
        lowest = jnp.max(jnp.where((bound > 0) & below, ends, -jnp.inf))
        highest = jnp.min(jnp.where((bound > 0) & ~below, ends, jnp.inf))
        return 0.5 * (lowest + highest)

    def residual(point: tuple, hparams: HParams) -> tuple:
        a, b = point
        ends = a - jnp.where(over, upper(hparams), 0)
        last = jnp.where(alone, b - middle(a, hparams), signs @ a)
        return jnp.where(free, slope_of(a, hparams) + b * signs, ends), last

    rows = jnp.where(free[:, None], matrix, jnp.eye(len(signs)))
    last = jnp.where(alone, -jax.grad(middle)(dual, hparams), signs)
    corner = jnp.where(alone, 1.0, 0.0)[None, None]
    jacobian = jnp.block([[rows, (free * signs)[:, None]], [last[None, :], corner]])  # of the residual
    step = jnp.linalg.solve(jacobian, jnp.append(*residual((dual, intercept), hparams)))
    dual, intercept = dual - step[:-1], intercept - step[-1]  # the end of the interior-point method's convergence

    def hinge(point: tuple, hparams: HParams) -> Scalar:
        z = gram(kernel, hparams, inputs) @ (signs * point[0]) + point[1]
        return outer[2] @ jnp.maximum(0, 1 - signs * z)

    loss, (pull, direct) = jax.value_and_grad(hinge, argnums=(0, 1))((dual, intercept), hparams)
    adjoint = jnp.linalg.solve(jacobian.T, jnp.append(*pull))
    pair = (adjoint[:-1], adjoint[-1])
    gradient = jax.tree.map(
        jnp.subtract, direct, jax.vjp(lambda hparams: residual((dual, intercept), hparams), hparams)[1](pair)[0]
    )
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient.values()))
    scale = jnp.linalg.norm(step) / jnp.maximum(jnp.linalg.norm(dual), TINY)
    slack = OUTSIDE * jnp.max(bound)
    inside = jnp.all(dual > -slack) & jnp.all(dual < bound + slack)
    return Answer(loss, gradient, jnp.append(dual, intercept), ~(inside & jnp.isfinite(loss + size)), scale * size)


def _box_section(matrix: jax.Array, upper: jax.Array, signs: jax.Array) -> tuple[jax.Array, ...]:
    """min 1/2 a'Qa - sum a, 0 <= a <= upper, signs'a = 0, by Mehrotra's method (1992): the duals, the multiplier of the
    sum, and which duals are free: the share of its bound is larger than the multiplier of each end, a margin.

    Rows with an upper end of zero are not there. The last systems may be singular where duals are not unique, so the
    last finite point is the result."""
    there = upper > 0
    top = jnp.where(there, upper, 1.0)
    quadratic = jnp.where(there[:, None] & there[None, :], matrix, 0)
    signed, linear = jnp.where(there, signs, 0.0), jnp.where(there, 1.0, 0.0)
    count = 2 * len(top)

    def directions(point: Iterate, target: tuple) -> tuple:
        """The Newton step to these products of dual and multipliers."""
        room = top - point.dual
        stationarity = quadratic @ point.dual - linear - point.low + point.high + point.intercept * signed
        system = quadratic + jnp.diag(point.low / point.dual + point.high / room)
        right = -stationarity + target[0] / point.dual - point.low - target[1] / room + point.high
        factor = jax.scipy.linalg.cho_factor(system)
        along, across = jax.scipy.linalg.cho_solve(factor, jnp.stack([right, signed], 1)).T
        moved = (signed @ along + signed @ point.dual) / (signed @ across)
        step = along - moved * across
        low = (target[0] - point.low * step) / point.dual - point.low
        high = (target[1] + point.high * step) / room - point.high
        return step, low, high, moved

    def longest(point: Iterate, step: tuple) -> Scalar:
        pairs = ((point.dual, step[0]), (top - point.dual, -step[0]), (point.low, step[1]), (point.high, step[2]))
        ways = [
            jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, 1), jnp.inf))
            for value, change in pairs
        ]
        return jnp.minimum(1.0, BACK * jnp.min(jnp.stack(ways)))

    def one(point: Iterate) -> Iterate:
        none = jnp.zeros_like(top)
        affine = directions(point, (none, none))
        size = longest(point, affine)
        ahead = (point.dual + size * affine[0]) @ (point.low + size * affine[1])
        ahead += (top - point.dual - size * affine[0]) @ (point.high + size * affine[2])
        centre = (ahead / (count * point.gap)) ** 3 * point.gap
        step = directions(point, (centre - affine[0] * affine[1], centre + affine[0] * affine[2]))
        size = longest(point, step)
        moved = [old + size * new for old, new in zip(point[:4], step, strict=True)]
        gap = (moved[0] @ moved[1] + (top - moved[0]) @ moved[2]) / count
        new = Iterate(moved[0], moved[1], moved[2], moved[3], gap, point.steps + 1)
        fine = jnp.isfinite(gap) & jnp.isfinite(moved[3])
        kept = point._replace(steps=jnp.array(STEPS))
        return jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, kept)

    ones = jnp.ones_like(top)
    begin = Iterate(0.5 * top, ones, ones, jnp.array(0.0), jnp.mean(top) / 2, jnp.array(0))
    first = begin.gap
    end = jax.lax.while_loop(lambda p: (p.gap > GAP * first) & (p.steps < STEPS), one, begin)
    share = end.dual / top
    free = there & (share > end.low) & (1 - share > end.high)
    return jnp.where(there, end.dual, 0), end.intercept, free
