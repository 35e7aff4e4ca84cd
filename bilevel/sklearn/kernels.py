"""Kernel machines: their folds by the dual, as functions of the strength of the penalty and of the kernel's scales."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import Batch, HParams, Scalar
from bilevel.losses.duals import c_svm
from bilevel.sklearn.newton import FAILED, TINY, Answer

STEPS = 60  # of the interior-point method
GAP = 1e-13  # the complementarity at which it ends, relative to the start
WRONG = 1e-6  # in units of a margin: a point with a larger residual of the optimality conditions is no solution
RIDGE = 1e-9  # on the free block, relative to the kernel's diagonal: repeated rows make that block singular
REFINED = 4  # rounds of refinement, each of which multiplies the bias of the ridge by about `RIDGE`
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

    S^2 are the weights of the training rows. scikit-learn: KernelRidge. The derivative passes through the linear
    solve."""

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

    scikit-learn: SVC with two classes; `one_against_one` takes more. Between the borders the duals and b solve a linear
    system, whose derivative is exact as long as no dual changes side; there the loss on the folds has a kink. Source:
    Chapelle et al., 2002.
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
        """The middle of the interval of intercepts that are equally good where no dual is free: LIBSVM's choice."""
        ends, below = -signs * slope_of(a, hparams), (signs > 0) ^ over
        lowest = jnp.max(jnp.where((bound > 0) & below, ends, -jnp.inf))
        highest = jnp.min(jnp.where((bound > 0) & ~below, ends, jnp.inf))
        return 0.5 * (lowest + highest)

    def residual(point: tuple, hparams: HParams) -> tuple:
        a, b = point
        ends = a - jnp.where(over, upper(hparams), 0)
        last = jnp.where(alone, b - middle(a, hparams), signs @ a)
        return jnp.where(free, slope_of(a, hparams) + b * signs, ends), last

    solve = _refined(_jacobian(matrix, free, jax.grad(middle)(dual, hparams), signs), free)
    step = solve(jnp.append(*residual((dual, intercept), hparams)), 0)
    # One Newton step more. Where duals are not unique, it may leave their bounds a little.
    dual, intercept = jnp.clip(dual - step[:-1], 0, bound), intercept - step[-1]

    def hinge(point: tuple, hparams: HParams) -> Scalar:
        z = gram(kernel, hparams, inputs) @ (signs * point[0]) + point[1]
        return outer[2] @ jnp.maximum(0, 1 - signs * z)

    loss, (pull, direct) = jax.value_and_grad(hinge, argnums=(0, 1))((dual, intercept), hparams)
    adjoint = solve(jnp.append(*pull), 1)
    (left, last), backwards = jax.vjp(lambda hparams: residual((dual, intercept), hparams), hparams)
    gradient = jax.tree.map(jnp.subtract, direct, backwards((adjoint[:-1], adjoint[-1]))[0])
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient.values()))
    scale = jnp.linalg.norm(step) / jnp.maximum(jnp.linalg.norm(dual), TINY)
    solved = (jnp.max(jnp.abs(left)) < WRONG) & (jnp.abs(last) < WRONG * jnp.where(alone, 1, jnp.max(bound)))
    return Answer(loss, gradient, jnp.append(dual, intercept), ~(solved & jnp.isfinite(loss + size)), scale * size)


def one_against_one(kernel: str, classes: int, rows: int) -> Callable[..., Answer]:
    """`support_vectors` of each pair of classes, on its own rows, as in scikit-learn's SVC; the losses are summed.

    ``rows``: how many the largest pair has. The pairs follow each other, because side by side their matrices need
    classes^2 / 2 times the memory."""
    pairs = jnp.asarray(np.array(list(itertools.combinations(range(classes), 2))))

    def of_pair(hparams: HParams, inner: Batch, outer: Batch, pair: jax.Array) -> Answer:
        inputs, labels, weights = inner
        mine = (labels == pair[0]) | (labels == pair[1])
        places = jnp.nonzero(mine, size=rows, fill_value=0)[0]
        there = jnp.arange(rows) < jnp.sum(mine)
        own = (inputs[places], (labels[places] == pair[1]).astype(int))
        held = (*own, outer[2][places] * there)
        return support_vectors(kernel, hparams, (*own, weights[places] * there), held)

    def solve(hparams: HParams, inner: Batch, outer: Batch) -> Answer:
        each = jax.lax.map(lambda pair: of_pair(hparams, inner, outer, pair), pairs)
        total = jax.tree.map(lambda one: jnp.sum(one, axis=0), (each.value, each.gradient, each.error))
        return Answer(total[0], total[1], each.params, jnp.any(each.failed), total[2])

    return solve


def _jacobian(matrix: jax.Array, free: jax.Array, middle: jax.Array, signs: jax.Array) -> jax.Array:
    """The Jacobian of the conditions on duals and intercept: the free duals are stationary, the others at their ends,
    and the sum vanishes. Where no dual is free, the intercept follows from the others by ``middle``."""
    alone = ~jnp.any(free)
    rows = jnp.where(free[:, None], matrix, jnp.eye(len(signs)))
    last = jnp.where(alone, -middle, signs)
    corner = jnp.where(alone, 1.0, 0.0)[None, None]
    return jnp.block([[rows, (free * signs)[:, None]], [last[None, :], corner]])


def _refined(jacobian: jax.Array, free: jax.Array) -> Callable[[jax.Array, int], jax.Array]:
    """(right side, 1 for the transpose) -> solution, with a ridge on the free block whose bias is refined away.

    Free duals are not unique where rows repeat, or where there are more of them than columns of a linear kernel. The
    predictions are unique and the right sides consistent, so any solution gives the same gradient."""
    ridge = RIDGE * jnp.max(jnp.where(free, jnp.diag(jacobian)[:-1], 0))
    factor = jax.scipy.linalg.lu_factor(jacobian + jnp.diag(jnp.append(jnp.where(free, ridge, 0), 0)))

    def solve(right: jax.Array, transposed: int) -> jax.Array:
        matrix = jacobian.T if transposed else jacobian
        found = jnp.zeros_like(right)
        for _ in range(1 + REFINED):
            found = found + jax.scipy.linalg.lu_solve(factor, right - matrix @ found, trans=transposed)
        return found

    return solve


class _Box(NamedTuple):
    """min 1/2 a'Qa - linear'a, 0 <= a <= top, signed'a = 0, in the rows that take part; the others are independent."""

    quadratic: jax.Array
    linear: jax.Array
    signed: jax.Array
    top: jax.Array

    def start(self) -> Iterate:
        ones = jnp.ones_like(self.top)
        return Iterate(0.5 * self.top, ones, ones, jnp.array(0.0), jnp.mean(self.top) / 2, jnp.array(0))

    def newton(self, point: Iterate) -> Callable[[tuple], tuple]:
        """The map from the aimed products of duals and multipliers to the Newton step, by one factor for both steps of
        an iteration."""
        room = self.top - point.dual
        stationarity = self.quadratic @ point.dual - self.linear - point.low + point.high
        stationarity += point.intercept * self.signed
        factor = jax.scipy.linalg.cho_factor(self.quadratic + jnp.diag(point.low / point.dual + point.high / room))
        across = jax.scipy.linalg.cho_solve(factor, self.signed)

        def to(target: tuple) -> tuple:
            right = -stationarity + target[0] / point.dual - point.low - target[1] / room + point.high
            along = jax.scipy.linalg.cho_solve(factor, right)
            moved = (self.signed @ along + self.signed @ point.dual) / (self.signed @ across)
            step = along - moved * across
            low = (target[0] - point.low * step) / point.dual - point.low
            high = (target[1] + point.high * step) / room - point.high
            return step, low, high, moved

        return to

    def longest(self, point: Iterate, step: tuple) -> Scalar:
        """The longest part of a step that stays within the borders."""
        room = self.top - point.dual
        pairs = ((point.dual, step[0]), (room, -step[0]), (point.low, step[1]), (point.high, step[2]))
        ways = [
            jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, 1), jnp.inf))
            for value, change in pairs
        ]
        return jnp.minimum(1.0, BACK * jnp.min(jnp.stack(ways)))

    def after(self, point: Iterate) -> Iterate:
        """The next iterate, by Mehrotra's predictor and corrector; the same where that is not finite."""
        none, to, count = jnp.zeros_like(self.top), self.newton(point), 2 * len(self.top)
        affine = to((none, none))
        size = self.longest(point, affine)
        ahead = (point.dual + size * affine[0]) @ (point.low + size * affine[1])
        ahead += (self.top - point.dual - size * affine[0]) @ (point.high + size * affine[2])
        centre = (ahead / (count * point.gap)) ** 3 * point.gap
        step = to((centre - affine[0] * affine[1], centre + affine[0] * affine[2]))
        size = self.longest(point, step)
        moved = [old + size * new for old, new in zip(point[:4], step, strict=True)]
        gap = (moved[0] @ moved[1] + (self.top - moved[0]) @ moved[2]) / count
        new = Iterate(moved[0], moved[1], moved[2], moved[3], gap, point.steps + 1)
        fine = jnp.isfinite(gap) & jnp.isfinite(moved[3])
        kept = point._replace(steps=jnp.array(STEPS))
        return jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, kept)


def _box_section(matrix: jax.Array, upper: jax.Array, signs: jax.Array) -> tuple[jax.Array, ...]:
    """min 1/2 a'Qa - sum a, 0 <= a <= upper, signs'a = 0, by Mehrotra's method (1992): the duals, the multiplier of the
    sum, and which duals are free: the share of its bound is larger than the multiplier of each end, a margin.

    An upper end of zero takes a row out. The last systems may be singular where duals are not unique, so the last
    finite point is the result. Beside `bilevel.kernels.qp.solve_qp`, because a program with one equality and a box
    needs one factor of the size of Q a step: 0.3 ms instead of 2.5 for 60 rows, 23 instead of 85 for 200, and a sixth
    of the time to compile."""
    there = upper > 0
    top = jnp.where(there, upper, 1.0)
    quadratic = jnp.where(there[:, None] & there[None, :], matrix, 0)
    signed, linear = jnp.where(there, signs, 0.0), jnp.where(there, 1.0, 0.0)
    box = _Box(quadratic, linear, signed, top)
    begin = box.start()
    unsolved = lambda point: (point.gap > GAP * begin.gap) & (point.steps < STEPS)
    end = jax.lax.while_loop(unsolved, box.after, begin)
    share = end.dual / top
    free = there & (share > end.low) & (1 - share > end.high)
    return jnp.where(there, end.dual, 0), end.intercept, free
