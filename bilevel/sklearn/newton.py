"""A fold's solve and its hypergradient as one small program.

The general solvers and engines also examine curvature, estimate errors by a second adjoint solve and carry remedies.
That compiles for 10 s, and a user of scikit-learn would wait for it at each new shape. The problems of a search are
convex, and the Hessian of some hundred unknowns fits. So a program that compiles in a second or two gives the same
numbers. `bl.hypergradient` of the same statement agrees (tests/sklearn/test_newton.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import Batch, HParams, Scalar

SIZES = 0.5 ** np.arange(20)  # of the trial steps, all evaluated at once, because a nested loop compiles longer
SLOPE = 1e-4  # the share of the predicted decrease that a step has to keep
SETTLED = 1e-12  # at this predicted decrease, relative to the loss, one last step follows, which squares it
FAILED = 1e-9  # with a larger predicted decrease, relative to the loss, a point is no solution
ROUNDING = 1e-14  # of the loss, relative
MOST = 100  # steps
ROUNDS = 300  # of coordinate descent on one quadratic model
EXACT = 1e-12  # a model is solved where the largest move of a round is below this, relative to the gradient
TINY = 1e-300  # stands for zero in a denominator


class Statement(NamedTuple):
    """A fold: minimise smooth(w, h, batch) + sum_j weights(h)_j ||w_j|| over w (rows, width); outer(w, h, batch)."""

    shape: tuple[int, int]  # rows, width
    smooth: Callable[[jax.Array, HParams, Batch], Scalar]
    outer: Callable[[jax.Array, HParams, Batch], Scalar]
    weights: Callable[[HParams], jax.Array] | None = None  # (rows,); none: the problem is smooth
    # of (w, gradient, h, batch): directions to try beside Newton's, (k, unknowns), where the smooth part is made of
    # pieces that may have no curvature
    ways: Callable[[jax.Array, jax.Array, HParams, Batch], jax.Array] | None = None


class Point(NamedTuple):
    params: jax.Array  # flat
    value: Scalar
    decrease: Scalar  # predicted by the model at the point before
    steps: jax.Array
    stuck: jax.Array


class Answer(NamedTuple):
    """The result of a lane."""

    value: Scalar
    gradient: HParams
    params: jax.Array  # flat
    failed: jax.Array
    error: Scalar  # of the gradient, first order: its size times the relative size of one more Newton step


def answer(stated: Statement, hparams: HParams, inner: Batch, outer: Batch, start: jax.Array) -> Answer:
    """The value of the outer loss at the solution, and its gradient by one linear solve.

    With F = grad smooth + the derivative of the penalty on the rows that are not zero, and H its Jacobian there:
    H u = d outer/dw, gradient = d outer/dh - u' dF/dh. Sources: Bengio, 2000; Bertrand et al., 2020 (nonsmooth).
    """
    smooth = lambda flat: stated.smooth(flat.reshape(stated.shape), hparams, inner)
    weights = None if stated.weights is None else stated.weights(hparams)
    more = stated.ways
    others = None if more is None else lambda flat, slope: more(flat, slope, hparams, inner)
    flat, settled = _minimised(smooth, weights, stated.shape, start.reshape(-1), others)
    free = jnp.ones_like(flat, bool) if weights is None else _free(flat, stated.shape)

    def total(flat: jax.Array, hparams: HParams) -> Scalar:
        loss = stated.smooth(flat.reshape(stated.shape), hparams, inner)
        if stated.weights is None:
            return loss
        return loss + jnp.sum(stated.weights(hparams) * _lengths(flat.reshape(stated.shape)))

    outside = lambda flat, hparams: stated.outer(flat.reshape(stated.shape), hparams, outer)
    value, (pull, direct) = jax.value_and_grad(outside, argnums=(0, 1))(flat, hparams)
    slope = jnp.where(free, jax.grad(total)(flat, hparams), 0)
    matrix = _restricted(jax.hessian(total)(flat, hparams), free)
    both = jnp.stack([jnp.where(free, pull, 0), slope], 1)
    adjoint, step = jnp.linalg.solve(matrix, both).T
    moved = jax.grad(lambda hparams: jax.jvp(lambda w: total(w, hparams), (flat,), (adjoint,))[1])(hparams)
    gradient = jax.tree.map(jnp.subtract, direct, moved)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    solved = settled & (slope @ step <= FAILED * jnp.abs(total(flat, hparams)))
    error = size * jnp.linalg.norm(step) / jnp.maximum(jnp.linalg.norm(flat), TINY)
    return Answer(value, gradient, flat, ~(solved & jnp.isfinite(size + value)), error)


def _lengths(rows: jax.Array) -> jax.Array:
    """The norm of each row, with the derivative zero at zero."""
    squares = jnp.sum(rows**2, axis=1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _free(flat: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Which unknowns lie in a row that is not zero."""
    return jnp.repeat(jnp.any(flat.reshape(shape) != 0, axis=1), shape[1])


def _restricted(matrix: jax.Array, free: jax.Array) -> jax.Array:
    """The matrix on the free unknowns, and the identity on the others."""
    return jnp.where(free[:, None] & free[None, :], matrix, jnp.diag(1.0 * ~free))


def _minimised(
    smooth: Callable[[jax.Array], Scalar],
    weights: jax.Array | None,
    shape: tuple[int, int],
    start: jax.Array,
    others: Callable[[jax.Array, jax.Array], jax.Array] | None,
) -> tuple[jax.Array, jax.Array]:
    """The minimiser, and whether it is one. Each step goes to the minimiser of a quadratic model plus the penalty, or
    less far, by a search along the way (Lee et al., 2014)."""
    penalty = lambda flat: 0.0 if weights is None else jnp.sum(weights * _lengths(flat.reshape(shape)))
    loss = lambda flat: smooth(flat) + penalty(flat)

    def step(point: Point) -> Point:
        params, gradient = point.params, jax.grad(smooth)(point.params)
        matrix = jax.hessian(smooth)(params)
        if weights is None:  # where the curvature of a piece is singular, the other directions lead out of it
            ways = [-jnp.linalg.solve(matrix, gradient), *(() if others is None else others(params, gradient))]
        else:
            ways = [Model(matrix, gradient, weights, shape, params).minimiser() - params]
        slopes = jnp.stack([gradient @ way + penalty(params + way) - penalty(params) for way in ways])
        trials = jnp.concatenate([params + SIZES[:, None] * way for way in ways])
        values = jax.vmap(loss)(trials)
        falls = (slopes[:, None] * SIZES).ravel()
        enough = (values <= point.value + SLOPE * falls + ROUNDING * jnp.abs(point.value)) & (falls <= 0)
        first, some = jnp.argmax(enough) if others is None else _lowest(values, enough), jnp.any(enough)
        if others is not None:  # where the fall is below rounding, values do not compare: the whole Newton step
            near = (slopes[0] <= 0) & (-slopes[0] <= SETTLED * jnp.abs(point.value))
            first, some = jnp.where(near, 0, first), some | near
        return Point(
            jnp.where(some, trials[first], params),
            jnp.where(some, values[first], point.value),
            -slopes[jnp.where(some, first // len(SIZES), 0)],
            point.steps + 1,
            ~some,
        )

    def unsettled(point: Point) -> jax.Array:
        return (point.decrease > SETTLED * jnp.abs(point.value)) & (point.steps < MOST) & ~point.stuck

    begin = Point(start, loss(start), jnp.array(jnp.inf), jnp.array(0), jnp.array(False))
    end = jax.lax.while_loop(unsettled, step, begin)
    return end.params, end.decrease <= FAILED * jnp.abs(end.value)


def _lowest(values: jax.Array, enough: jax.Array) -> jax.Array:
    """The trial to take, of two ways: a short step of the first may be allowed where a whole one of the second is far
    better."""
    return jnp.argmin(jnp.where(enough, values, jnp.inf))


class Round(NamedTuple):
    """The state after a round on a `Model`."""

    params: jax.Array  # flat
    slope: jax.Array  # of the quadratic part
    moved: Scalar  # by the last round, in the units of a gradient
    rounds: jax.Array


class Model(NamedTuple):
    """gradient'(v - start) + 1/2 (v - start)' matrix (v - start) + sum_j weights_j ||v_j||, v of ``shape`` flattened.

    Coordinate descent finds the rows that are not zero, and a Newton step on them, taken where it lowers the model,
    finds their values.
    """

    matrix: jax.Array
    gradient: jax.Array
    weights: jax.Array
    shape: tuple[int, int]
    start: jax.Array

    def minimiser(self) -> jax.Array:
        """The minimiser over v."""
        bounds = self.bounds()
        scale = EXACT * (jnp.max(jnp.abs(self.gradient)) + jnp.max(jnp.where(bounds > 0, self.weights, 0)))

        def one_round(state: Round) -> Round:
            begin = state.params, state.slope, jnp.array(0.0)
            flat, slope, moved = jax.lax.fori_loop(0, self.shape[0], partial(self.one_row, bounds), begin)
            flat = self.on_face(flat, slope, bounds)
            return Round(flat, self.gradient + self.matrix @ (flat - self.start), moved, state.rounds + 1)

        begin = Round(self.start, self.gradient, jnp.array(jnp.inf), jnp.array(0))
        unsolved = lambda state: (state.moved > scale) & (state.rounds < ROUNDS)
        return jax.lax.while_loop(unsolved, one_round, begin).params

    def bounds(self) -> jax.Array:
        """Bounds on the eigenvalues of each row's own block: its largest absolute row sum."""
        rows, width = self.shape
        blocks = self.matrix.reshape(rows, width, rows, width)[jnp.arange(rows), :, jnp.arange(rows), :]
        return jnp.max(jnp.sum(jnp.abs(blocks), axis=2), axis=1)

    def value(self, flat: jax.Array) -> Scalar:
        away = flat - self.start
        return self.gradient @ away + 0.5 * away @ self.matrix @ away + self.penalty(flat)

    def penalty(self, flat: jax.Array) -> Scalar:
        return jnp.sum(self.weights * _lengths(flat.reshape(self.shape)))

    def one_row(self, bounds: jax.Array, row: jax.Array, state: tuple) -> tuple:
        """A proximal step on one row, with the slope kept up to date."""
        (rows, width), (flat, slope, moved) = self.shape, state
        own = jax.lax.dynamic_slice(flat, (row * width,), (width,))
        back = own - jax.lax.dynamic_slice(slope, (row * width,), (width,)) / jnp.maximum(bounds[row], TINY)
        length = jnp.sqrt(jnp.sum(back**2))
        new = back * jnp.maximum(0, 1 - self.weights[row] / jnp.maximum(bounds[row] * length, TINY))
        change = new - own
        slope = slope + jax.lax.dynamic_slice(self.matrix, (row * width, 0), (width, rows * width)).T @ change
        moved = jnp.maximum(moved, bounds[row] * jnp.max(jnp.abs(change)))
        return jax.lax.dynamic_update_slice(flat, new, (row * width,)), slope, moved

    def on_face(self, flat: jax.Array, slope: jax.Array, bounds: jax.Array) -> jax.Array:
        """The end of a Newton step on the rows that are not zero, or the part of it that lowers the model."""
        free, width = _free(flat, self.shape), self.shape[1]
        bent = self.matrix if width == 1 else self.matrix + jax.hessian(self.penalty)(flat)
        little = EXACT * jnp.max(bounds) * jnp.eye(len(flat))  # more columns than rows are singular
        right = jnp.where(free, slope + jax.grad(self.penalty)(flat), 0)
        new = flat - jnp.linalg.solve(_restricted(bent, free) + little, right)
        if width > 1:
            return jnp.where(self.value(new) < self.value(flat), new, flat)
        turned = (new * flat < 0) & (self.weights > 0)
        ways = jnp.where(turned, flat / jnp.where(turned, flat - new, 1), jnp.inf)
        first = jnp.minimum(1, jnp.min(ways))  # up to the first change of sign the model is sure to fall
        ends = jnp.stack([flat, jnp.where(turned, 0, new), jnp.where(ways <= first, 0, flat + first * (new - flat))])
        return ends[jnp.nanargmin(jax.vmap(self.value)(ends))]
