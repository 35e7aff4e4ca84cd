"""The linear model of the residuals at a point, and the one search that the solvers of least squares share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.typing import LinearMap, Params
from bilevel.kernels.orthogonal import triangle
from bilevel.kernels.trust_region import GOOD, POOR, SHRINKAGE
from bilevel.losses.least_squares import LeastSquares
from bilevel.solvers.instance import Instance

SUFFICIENT = 1e-4  # of the predicted decrease, or of the residual where rounding hides the decrease
MAX_TRIALS = 40  # trials: a damping that doubles its growth, or a ball that shrinks to a quarter, ends long before
LEAST_WEIGHT = 1e-2  # of rho': outliers of a robust loss have less curvature, and 1 / sqrt(C) costs digits
ENTRIES = 10_000_000  # of a Jacobian that is held as a matrix: 80 MB


class Control(NamedTuple):
    """What a solver adapts from trial to trial: the damping, the radius of a ball, or a step length."""

    size: jax.Array
    growth: jax.Array  # the factor of the next damping after a rejected trial


class Point(NamedTuple):
    """A point (n,) with the value and gradient of the loss there, and the norm of the natural residual."""

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    residual: jax.Array


class Model(NamedTuple):
    """min over y of ||A y - b||^2 / 2 with A = C^(1/2) J D^(-1) on the free coordinates, y = D d and A'b = -slope."""

    push: LinearMap  # y -> A y
    pull: LinearMap
    rhs: jax.Array  # b
    slope: jax.Array
    rows: jax.Array | None  # the triangle of [A, b]; None: by products

    def change(self, y: jax.Array) -> jax.Array:
        """The change of the model's value by y."""
        image = self.push(y)
        return self.slope @ y + 0.5 * image @ image


class Trial(NamedTuple):
    """A search for a step, after some trials."""

    point: Point
    control: Control
    accepted: jax.Array
    moved: jax.Array  # False where the step is lost in the digits of the point
    tried: jax.Array  # the control that made this trial
    trials: jax.Array
    products: jax.Array


Aim = Callable[[Control], tuple[jax.Array, jax.Array | int]]  # -> the step y and the products that it cost
Adapt = Callable[[Control, jax.Array, jax.Array, jax.Array], Control]  # (control, ratio, accepted, ||y||)


def is_dense(instance: Instance, params: Params, unknowns: int) -> bool:
    """Whether the Jacobian is built: for up to so many ``unknowns``, unless the rows are too many."""
    loss = squares_of(instance)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows = jax.eval_shape(lambda w: loss.flat(w, instance.hparams, instance.batch), params).size
    return size <= unknowns and rows * size <= ENTRIES


def squares_of(instance: Instance) -> LeastSquares:
    """The loss of an instance that the solver has not refused."""
    assert isinstance(instance.loss, LeastSquares)
    return instance.loss


def evaluate(instance: Instance, x: jax.Array, unravel: Callable[[jax.Array], Params]) -> Point:
    params = unravel(x)
    value, gradient = instance.value_and_gradient(params)
    flat = ravel_pytree(gradient)[0].astype(x.dtype)
    return Point(x, value.astype(x.dtype), flat, instance.residual_given(params, gradient).astype(x.dtype))


class Rows(NamedTuple):
    """The residuals linearised at a point, before scaling: C^(1/2) J by its products and, if built, as a matrix."""

    push: LinearMap
    pull: LinearMap
    rhs: jax.Array
    matrix: jax.Array | None

    @property
    def norms(self) -> jax.Array:
        """The lengths of the columns; by products the one length that the gradient shows, for all of them."""
        if self.matrix is not None:
            squared = jnp.sum(self.matrix**2, axis=0)
            # In a form whose derivative at a column of zeros is zero.
            return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        slope, length = self.pull(self.rhs), trees.norm(self.rhs)
        seen = trees.norm(slope) / jnp.where(length > 0, length, 1)
        return jnp.full_like(slope, seen)


def linearize(instance: Instance, x: jax.Array, unravel: Callable[[jax.Array], Params], dense: bool) -> Rows:
    """The residuals at ``x``, weighted: for a robust loss they are the rows of its second-order model, with a least
    weight. Source: Triggs et al., Bundle adjustment, 1999, section 4.3."""
    loss, hparams, batch = squares_of(instance), instance.hparams, instance.batch
    residual, move = jax.linearize(lambda x: loss.flat(unravel(x), hparams, batch).astype(x.dtype), x)
    slope, curvature = loss.weights(residual, hparams)
    root = jnp.sqrt(jnp.maximum(curvature, LEAST_WEIGHT * slope)).astype(x.dtype)
    rhs = -slope * residual / jnp.where(root > 0, root, 1)
    back = jax.linear_transpose(move, x)
    push, pull = lambda d: root * move(d), lambda r: back(root * r)[0]
    matrix = None
    if dense:
        few = residual.size < x.size
        matrix = jax.vmap(pull)(jnp.eye(residual.size, dtype=x.dtype)) if few else None
        matrix = jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype)).T if matrix is None else matrix
    return Rows(push, pull, rhs.astype(x.dtype), matrix)


def scaled(rows: Rows, scale: jax.Array, free: jax.Array) -> Model:
    """The model in y = D d with D = diag(scale); coordinates that are not ``free`` stay."""
    units = jnp.where(free, 1 / scale, 0)
    push, pull = lambda y: rows.push(units * y), lambda r: units * rows.pull(r)
    triangular = None
    if rows.matrix is not None:
        matrix = rows.matrix * units[None]
        push, pull = lambda y: matrix @ y, lambda r: matrix.T @ r
        triangular = triangle(matrix, rows.rhs)
    return Model(push, pull, rows.rhs, -pull(rows.rhs), triangular)


def search(
    evaluated: Callable[[jax.Array], Point],
    start: Point,
    change: Callable[[jax.Array], jax.Array],
    scale: jax.Array,
    aim: Aim,
    adapt: Adapt,
    control: Control,
    project: LinearMap,
    searches: bool = True,
    terms: jax.Array | float = 0.0,
) -> Trial:
    """The first trial whose value falls by a share of what the model predicts; where rounding hides the decrease, the
    natural residual decides. Each trial is projected before it is compared with the model, whose value changes by
    ``change(y)``. ``terms`` is the size of terms that may cancel in the value, which round as they are."""

    def attempt(trial: Trial) -> Trial:
        aimed, products = aim(trial.control)
        ahead = start.x + (aimed / scale).astype(start.x.dtype)
        x = project(ahead)
        y = (x - start.x) * scale
        point = evaluated(x)
        accepted, ratio = judged(start, point, -change(y), terms)
        accepted |= not searches  # then the first trial is the natural step, taken unseen
        # At a corner the projection may undo a whole step, and a shorter one, closer to the gradient, leaves it.
        length = jnp.where(accepted, trees.norm(y), trees.norm(aimed))
        return Trial(
            point=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), point, start),
            control=adapt(trial.control, ratio, accepted, length),
            accepted=accepted,
            moved=jnp.any(ahead != start.x),
            tried=trial.control.size,
            trials=trial.trials + 1,
            products=trial.products + products,
        )

    def proceeds(trial: Trial) -> jax.Array:
        return ~trial.accepted & trial.moved & (trial.trials < MAX_TRIALS)

    none, frozen = jnp.int32(0), jax.lax.stop_gradient  # reverse mode cannot go back over this loop
    begin = Trial(start, control, jnp.bool_(False), jnp.bool_(True), control.size, none, none)
    return jax.lax.while_loop(proceeds, lambda trial: frozen(attempt(trial)), frozen(begin))


def resized(control: Control, ratio: jax.Array, accepted: jax.Array, length: jax.Array) -> Control:
    """The control of a ball after a trial of this ``length``: smaller after a poor one, larger after a good one."""
    grown = jnp.where(ratio > GOOD, jnp.maximum(control.size, 2 * length), control.size)
    shrunk = SHRINKAGE * jnp.minimum(length, control.size)
    return control._replace(size=jnp.where(accepted & (ratio >= POOR), grown, shrunk))


def free(start: Point, ends: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """The coordinates that are not at a bound which the gradient pushes against."""
    if ends is None:
        return jnp.ones_like(start.x, bool)
    lower, upper = ends
    close = 10 * jnp.finfo(start.x.dtype).eps * jnp.max(jnp.abs(start.x), initial=0)  # to rounding at the bound
    low, high = start.x <= lower + close, start.x >= upper - close
    held = (low & (start.gradient > 0)) | (high & (start.gradient < 0))
    return ~held & (lower < upper)


def judged(
    start: Point, point: Point, predicted: jax.Array, terms: jax.Array | float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Whether a trial is accepted, and its decrease relative to the predicted one."""
    decrease = start.value - point.value
    ratio = decrease / jnp.where(predicted > 0, predicted, jnp.inf)
    rounding = 10 * jnp.finfo(start.x.dtype).eps * (jnp.abs(start.value) + terms)
    hidden = (decrease >= -rounding) & (point.residual <= (1 - SUFFICIENT) * start.residual)
    fell = (ratio > SUFFICIENT) & (decrease > 0)
    finite = jnp.isfinite(point.value) & jnp.isfinite(point.residual)
    return finite & (fell | hidden), jnp.where(hidden & ~fell, 1, ratio)
