"""Quadratics with a small dense matrix plus a separable nonsmooth term."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees

CYCLES = 60  # cycles: far more than are needed once the face is right
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)  # the fractions of a Newton step that are tried
EPOCHS = (4, 64)  # passes over the coordinates between Newton steps: at least, at most
PER_EPOCH = 16  # a factorisation costs about one pass for each so many coordinates
BLOCK = 8  # coordinates between two updates of the whole slope, because XLA compiles so small a loop into one function
ROUNDING = 10.0  # units of roundoff, relative to the slope, below which a residual counts as zero
# The power of the roundoff that is added to the diagonal of a Newton system, relative to it. Copies of a column make
# the system singular, and along them the rounding of its right-hand side is divided by what is added. No value depends
# on the way along them until a sign changes, so a third of the digits is enough there.
RIDGE = 2 / 3


class Separable(NamedTuple):
    """sum_j term_j(x_j), by its prox."""

    prox: Callable[[jax.Array, jax.Array, Any], jax.Array]  # (point_j, step_j, parameters_j) -> x_j
    parameters: Any  # a pytree of arrays whose first axis counts the coordinates
    value: Callable[[jax.Array], jax.Array]  # of the whole sum

    def proxes(self, point: jax.Array, steps: jax.Array) -> jax.Array:
        """All coordinates at once."""
        return jax.vmap(self.prox)(point, steps, self.parameters)


class State(NamedTuple):
    point: jax.Array
    slope: jax.Array  # of the quadratic at the point
    residual: jax.Array
    cycles: jax.Array


def minimise(
    matrix: jax.Array, slope: jax.Array, start: jax.Array, term: Separable, tol: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """argmin of 1/2 (x - start)' G (x - start) + slope'(x - start) + term(x), and the factorisations it took.

    A cycle is some passes of coordinate descent, which find the face (the signs, the active bounds), and a Newton step
    on the face: with r = prox(x - s q, s) - x, q the slope at x, s = 1 / diag G and d the derivative of the prox,

        (G_AA + diag((1 - d) / (d s))) y_A = r_A / (d s) - G_AI r_I,    y_I = r_I,    A = {d > 0}, I the others.

    Of some points on the way of the step, and of its end after one more prox, the one of least value is taken, if it
    decreases the value. So the method converges from anywhere as coordinate descent does, and in finitely many steps
    for polyhedral terms. Ends where ||r
    / s|| fell by ``tol``, or to rounding. ``matrix`` (k, k) is symmetric and positive semidefinite. Source: Tseng,
    2001; Qi and Sun, 1993.
    """
    largest = jnp.max(jnp.diagonal(matrix), initial=0)
    floor = jnp.finfo(matrix.dtype).eps * jnp.where(largest > 0, largest, 1)
    diagonal = jnp.maximum(jnp.diagonal(matrix), floor)
    epochs = passes(matrix.shape[0])
    at = lambda point: slope + matrix @ (point - start)
    measure = lambda point, slope: trees.norm(diagonal * _move(term, point, slope, diagonal))
    first = measure(start, slope)
    rounding = ROUNDING * jnp.finfo(matrix.dtype).eps * (trees.norm(slope) + trees.norm(diagonal * start))
    target = jnp.maximum(tol * first, rounding)

    def cycle(state: State) -> State:
        point = _passes(matrix, diagonal, term, state, epochs)
        here = at(point)
        step = _newton(matrix, diagonal, term, point, here)
        point = _least(matrix, diagonal, term, point, here, step)
        here = at(point)
        return State(point, here, measure(point, here), state.cycles + 1)

    end = jax.lax.while_loop(
        lambda state: (state.residual > target) & (state.cycles < CYCLES),
        cycle,
        State(start, slope, first, jnp.int32(0)),
    )
    return end.point, end.cycles


def passes(size: int) -> int:
    """Passes of coordinate descent in a cycle over ``size`` coordinates."""
    return min(max(EPOCHS[0], size // PER_EPOCH), EPOCHS[1])


def proxes_in(cycles: jax.Array, size: int) -> jax.Array:
    """Proximal operators of all coordinates that `minimise` takes: passes, Newton step, points on its way, residual."""
    return 1 + cycles * (passes(size) + 3 + len(SHARES))


def _move(term: Separable, point: jax.Array, slope: jax.Array, diagonal: jax.Array) -> jax.Array:
    return term.proxes(point - slope / diagonal, 1 / diagonal) - point


def _passes(matrix: jax.Array, diagonal: jax.Array, term: Separable, state: State, epochs: int) -> jax.Array:
    """Coordinate descent that keeps the slope up to date: the slope of a block of coordinates after each of its
    updates, the other entries once a block."""
    size = math.gcd(len(diagonal), BLOCK)

    def block(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number * size, size)
        point, slope = carry
        rows, steps, parameters = cut(matrix), 1 / cut(diagonal), jax.tree.map(cut, term.parameters)
        near = jax.lax.dynamic_slice_in_dim(rows, number * size, size, axis=1)

        def update(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            point, slope = carry
            after = term.prox(point[i] - slope[i] * steps[i], steps[i], jax.tree.map(lambda leaf: leaf[i], parameters))
            return point.at[i].set(after), slope + (after - point[i]) * near[i]

        before = cut(point)
        after, _ = jax.lax.fori_loop(0, size, update, (before, cut(slope)))
        point = jax.lax.dynamic_update_slice_in_dim(point, after, number * size, 0)
        for i in range(size):
            slope = slope + (after - before)[i] * rows[i]
        return point, slope

    def epoch(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jax.lax.fori_loop(0, len(diagonal) // size, block, carry)

    return jax.lax.fori_loop(0, epochs, epoch, (state.point, state.slope))[0]


def _newton(matrix: jax.Array, diagonal: jax.Array, term: Separable, point: jax.Array, slope: jax.Array) -> jax.Array:
    """The step to the minimiser on the face that the prox points at."""
    prox = lambda moved: term.proxes(moved, 1 / diagonal)
    after, derivative = jax.jvp(prox, (point - slope / diagonal,), (jnp.ones_like(point),))
    residual = after - point
    active = derivative > 0
    scale = jnp.where(active, diagonal / jnp.where(active, derivative, 1), 1)
    extra = (1 - derivative) * scale
    ridge = jnp.where(active, jnp.finfo(point.dtype).eps ** RIDGE * diagonal, 0)
    fixed = jnp.where(active, 0, residual)
    rhs = scale * residual - matrix @ fixed

    both = active[:, None] & active[None, :]
    system = jnp.where(both, matrix, 0) + jnp.diag(jnp.where(active, extra, 1))
    factor = jax.scipy.linalg.cho_factor(system + jnp.diag(ridge), lower=True)
    rhs = jnp.where(active, rhs, 0)
    step = jax.scipy.linalg.cho_solve(factor, rhs)
    step = step + jax.scipy.linalg.cho_solve(factor, rhs - system @ step)  # takes the effect of the ridge back
    return fixed + step


def _least(
    matrix: jax.Array, diagonal: jax.Array, term: Separable, point: jax.Array, slope: jax.Array, step: jax.Array
) -> jax.Array:
    """The point of least value on the way of a step, or beside its end; the start where no point is better."""
    shares = jnp.array(SHARES, point.dtype)
    nowhere = jnp.zeros_like(point)
    ends = jax.vmap(lambda share: term.proxes(point + share * step, nowhere))(shares)  # into the set, where it is one
    # A prox at the end of the whole step moves the coordinates that left the face, and no others, because those are
    # stationary there. Without it a coordinate about to change its sign would cut the step of all others short.
    whole = point + step
    beside = term.proxes(whole - (slope + matrix @ step) / diagonal, 1 / diagonal)
    ends = jnp.concatenate([ends, beside[None, :]])
    ways = ends - point[None, :]
    values = ways @ slope + 0.5 * jnp.sum(ways * (ways @ matrix), axis=1) + jax.vmap(term.value)(ends)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
    rounding = 10 * jnp.finfo(point.dtype).eps * jnp.abs(term.value(point))
    return jnp.where(values[best] <= term.value(point) + rounding, ends[best], point)
