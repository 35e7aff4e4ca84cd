"""The transport polytope {P >= 0 : P 1 = rows, P'1 = columns} in the geometry of the entropy, on the last two axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, like, over_batches, valid
from bilevel.kernels.damped_newton import minimize_convex
from bilevel.projections.transport import balanced

_Triple: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


@compiles_once
def transport_kl(point: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """The minimiser of sum P log P - <P, v> over the polytope: diag(a) exp(v) diag(b), scaled to the given sums.

    ``point`` is a dual point v, (..., m, n); entries may be -inf (P is zero there). ``rows`` (..., m), ``columns``
    (..., n). NaN where no plan has these sums; sums that differ by rounding are made equal as in `transport`. Found by
    a damped Newton method in log b, with a eliminated, on smoothed problems that approach the given one. Reference:
    Cuturi, Sinkhorn distances: lightspeed computation of optimal transport, 2013.

    >>> transport_kl(jnp.zeros((2, 2)), jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5])).round(5).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    v = as_point(point)
    return _transport_kl(v, like(rows, v), like(columns, v))


@compiles_once
def birkhoff_kl(point: ArrayLike) -> jax.Array:
    """`transport_kl` onto the doubly stochastic matrices: all sums are one; the point is (..., n, n).

    >>> birkhoff_kl(jnp.zeros((2, 2))).round(5).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    v = as_point(point)
    return _transport_kl(v, jnp.ones(v.shape[-2:-1], v.dtype), jnp.ones(v.shape[-1:], v.dtype))


def _one_transport_kl(v: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    columns, feasible = balanced(rows, columns)
    if v.shape[0] < v.shape[1]:  # the larger side is eliminated
        return valid(feasible, _plan(v.T, columns, rows).T, v, rows, columns)
    return valid(feasible, _plan(v, rows, columns), v, rows, columns)


_transport_kl = over_batches(_one_transport_kl, "(m,n),(m),(n)->(m,n)")


def _plan(v: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    floor = jnp.sqrt(jnp.finfo(v.dtype).tiny).astype(v.dtype)  # keeps logarithms of empty columns finite
    columns = columns + jax.lax.stop_gradient(jnp.maximum(columns, floor) - columns)
    potential = _potential(v, rows, columns)
    plan = rows[:, None] * jax.nn.softmax(v + potential[None, :], axis=1)
    return valid(_meets(plan, columns), plan, v, rows, columns)


def _meets(plan: jax.Array, columns: jax.Array) -> jax.Array:
    error = jnp.max(jnp.abs(jnp.sum(plan, axis=0) - columns))
    return jax.lax.stop_gradient(error <= jnp.sqrt(jnp.finfo(plan.dtype).eps) * jnp.sum(columns))


@jax.custom_jvp
def _potential(v: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """log b with sum_i rows_i softmax_j(v_ij + log b_j) = columns_j."""
    finite = jnp.where(jnp.isfinite(v), v, 0)
    spread = jnp.max(finite) - jnp.min(finite)
    easy = jnp.minimum(1, 8 / jnp.where(spread > 0, spread, 1))

    def harder(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        share, potential = state
        following = jnp.minimum(1, 4 * share)
        potential = potential * following / share
        return following, _balance(following * v, rows, columns, potential, 0.1)

    start = _balance(easy * v, rows, columns, jnp.zeros_like(columns), 0.1)
    _, potential = jax.lax.while_loop(lambda state: state[0] < 1, harder, (easy, start))
    return _balance(v, rows, columns, potential, 4 * float(jnp.finfo(v.dtype).eps))


def _balance(v: jax.Array, rows: jax.Array, columns: jax.Array, potential: jax.Array, tol: float) -> jax.Array:
    """A few alternating scalings, then Newton steps, then a last scaling, which makes the error relative."""
    mass = jnp.sum(rows)

    def evaluate(potential: jax.Array) -> _Triple:
        value = rows @ logsumexp(v + potential[None, :], axis=1) - columns @ potential
        plan = rows[:, None] * jax.nn.softmax(v + potential[None, :], axis=1)
        sums = jnp.sum(plan, axis=0)
        return value / mass, (sums - columns) / mass, _reduced(v + potential[None, :], rows) / mass

    def scale(_: jax.Array, potential: jax.Array) -> jax.Array:
        row_potential = jnp.log(rows) - logsumexp(v + potential[None, :], axis=1)
        scaled = jnp.log(columns) - logsumexp(v + row_potential[:, None], axis=0)
        return scaled - jnp.max(scaled)

    potential = jax.lax.fori_loop(0, 10, scale, potential)
    found = minimize_convex(evaluate, potential, columns / mass, tol)
    return jax.lax.fori_loop(0, 2, scale, found.x)


def _reduced(scores: jax.Array, rows: jax.Array) -> jax.Array:
    """The Hessian of the dual in log b once log a is eliminated."""
    shares = jax.nn.softmax(scores, axis=1)
    return jnp.diag(rows @ shares) - (shares.T * rows[None, :]) @ shares


@_potential.defjvp
def _potential_jvp(primals: _Triple, tangents: _Triple) -> tuple[jax.Array, jax.Array]:
    v, rows, columns = primals
    potential = _potential(v, rows, columns)

    def sums(v: jax.Array, rows: jax.Array) -> jax.Array:
        return jnp.sum(rows[:, None] * jax.nn.softmax(v + potential[None, :], axis=1), axis=0)

    _, change = jax.jvp(sums, (v, rows), tangents[:2])
    hessian = _reduced(v + potential[None, :], rows)
    solve = _laplacian_solver(*jax.lax.stop_gradient((hessian, columns)))
    rhs = tangents[2] - change
    return potential, jax.lax.custom_linear_solve(lambda x: hessian @ x, rhs, lambda _, b: solve(b), symmetric=True)


def _laplacian_solver(hessian: jax.Array, columns: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Solves with the Hessian, whose null space is the constants, for right-hand sides without a constant part.

    A Cholesky factor of the matrix, scaled to a diagonal of about one, keeps the relative accuracy of columns of any
    size; eigenvectors would not. The ridge matters only where the plan consists of separate blocks.
    """
    root = jnp.sqrt(columns)
    scaled = hessian / root[None, :] / root[:, None] + root[None, :] * root[:, None] / jnp.sum(columns)
    ridge = jnp.finfo(root.dtype).eps * root.size * jnp.eye(root.size, dtype=root.dtype)
    factor = jax.scipy.linalg.cho_factor(scaled + ridge)

    def once(rhs: jax.Array) -> jax.Array:
        return jax.scipy.linalg.cho_solve(factor, rhs / root) / root

    def solve(rhs: jax.Array) -> jax.Array:
        x = once(rhs)
        return x + once(rhs - hessian @ x)

    return solve
