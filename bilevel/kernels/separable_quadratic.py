"""Quadratics with a small dense matrix plus a separable nonsmooth term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CYCLES = 60
TRIALS = 4  # points on the way of a Newton step: all of it, half, ...
EPOCHS = (4, 32)  # passes over the coordinates between Newton steps: at least, at most
PER_EPOCH = 32  # coordinates for each of which a factorisation costs about one more pass
SMALL = 32  # unknowns below which nothing is worth a smaller system
ROUNDING = 10.0  # units of roundoff, relative to the slope, below which a residual is none
RIDGE = 10.0  # units of roundoff, relative to the diagonal


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

    A cycle makes some passes of coordinate descent, which find the face (the signs, the bounds that hold), and a Newton
    step on it: with r = prox(x - s q, s) - x, q the slope at x, s = 1 / diag G and d the derivative of the prox,

        (G_AA + diag((1 - d) / (d s))) y_A = r_A / (d s) - G_AI r_I,    y_I = r_I,    A = {d > 0}, I the others.

    Of some points on its way the one of least value is taken, if that decreases: so convergence is that of coordinate
    descent from anywhere, and finite for polyhedral terms. Ends where ||r / s|| fell by ``tol``, or to rounding.
    ``matrix`` (k, k) is symmetric and positive semidefinite. Source: Tseng, 2001; Qi and Sun, 1993.
    """
    largest = jnp.max(jnp.diagonal(matrix), initial=0)
    floor = jnp.finfo(matrix.dtype).eps * jnp.where(largest > 0, largest, 1)
    diagonal = jnp.maximum(jnp.diagonal(matrix), floor)
    size = matrix.shape[0]
    epochs = min(max(EPOCHS[0], size // PER_EPOCH), EPOCHS[1])
    at = lambda point: slope + matrix @ (point - start)  # noqa: E731
    measure = lambda point, slope: jnp.linalg.norm(diagonal * _move(term, point, slope, diagonal))  # noqa: E731
    first = measure(start, slope)
    rounding = ROUNDING * jnp.finfo(matrix.dtype).eps * (jnp.linalg.norm(slope) + jnp.linalg.norm(diagonal * start))
    target = jnp.maximum(tol * first, rounding)

    def cycle(state: State) -> State:
        point = _passes(matrix, diagonal, term, state, epochs)
        here = at(point)
        step = _newton(matrix, diagonal, term, point, here)
        point = _least(matrix, term, point, here, step)
        here = at(point)
        return State(point, here, measure(point, here), state.cycles + 1)

    end = jax.lax.while_loop(
        lambda state: (state.residual > target) & (state.cycles < CYCLES),
        cycle,
        State(start, slope, first, jnp.int32(0)),
    )
    return end.point, end.cycles


def _move(term: Separable, point: jax.Array, slope: jax.Array, diagonal: jax.Array) -> jax.Array:
    return term.proxes(point - slope / diagonal, 1 / diagonal) - point


def _passes(matrix: jax.Array, diagonal: jax.Array, term: Separable, state: State, epochs: int) -> jax.Array:
    """Coordinate descent, the slope kept up to date by a row of the matrix an update."""

    def update(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        point, slope = carry
        step = 1 / diagonal[j]
        after = term.prox(point[j] - slope[j] * step, step, jax.tree.map(lambda leaf: leaf[j], term.parameters))
        return point.at[j].set(after), slope + (after - point[j]) * matrix[j]

    def epoch(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jax.lax.fori_loop(0, len(diagonal), update, carry)

    return jax.lax.fori_loop(0, epochs, epoch, (state.point, state.slope))[0]


def _newton(matrix: jax.Array, diagonal: jax.Array, term: Separable, point: jax.Array, slope: jax.Array) -> jax.Array:
    """The step to the minimiser on the face that the prox points at."""
    prox = lambda moved: term.proxes(moved, 1 / diagonal)  # noqa: E731
    after, derivative = jax.jvp(prox, (point - slope / diagonal,), (jnp.ones_like(point),))
    residual = after - point
    active = derivative > 0
    scale = jnp.where(active, diagonal / jnp.where(active, derivative, 1), 1)
    extra = (1 - derivative) * scale + RIDGE * jnp.finfo(point.dtype).eps * diagonal
    fixed = jnp.where(active, 0, residual)
    rhs = scale * residual - matrix @ fixed

    def on_face(size: int) -> jax.Array:
        """The step with the active coordinates gathered into a system of ``size``."""
        (indices,) = jnp.nonzero(active, size=size, fill_value=0)
        used = jnp.arange(size) < jnp.sum(active)
        system = jnp.where(used[:, None] & used[None, :], matrix[indices[:, None], indices[None, :]], 0)
        system = system + jnp.diag(jnp.where(used, extra[indices], 1))
        factor = jax.scipy.linalg.cho_factor(system, lower=True)
        found = jax.scipy.linalg.cho_solve(factor, jnp.where(used, rhs[indices], 0))
        return fixed.at[jnp.where(used, indices, active.size)].set(found, mode="drop")

    half = active.size // 2
    if half < SMALL:
        return on_face(active.size)
    return jax.lax.cond(jnp.sum(active) <= half, lambda: on_face(half), lambda: on_face(active.size))


def _least(matrix: jax.Array, term: Separable, point: jax.Array, slope: jax.Array, step: jax.Array) -> jax.Array:
    """Of the points on the way of a step the one of least value; the beginning where that is none of them."""
    shares = 0.5 ** jnp.arange(TRIALS)
    nowhere = jnp.zeros_like(point)
    ends = jax.vmap(lambda share: term.proxes(point + share * step, nowhere))(shares)  # into the set, where it is one
    ways = ends - point
    values = ways @ slope + 0.5 * jnp.sum(ways * (ways @ matrix), axis=1) + jax.vmap(term.value)(ends)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
    rounding = 10 * jnp.finfo(point.dtype).eps * jnp.abs(term.value(point))
    return jnp.where(values[best] <= term.value(point) + rounding, ends[best], point)
