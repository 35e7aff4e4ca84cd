"""The inequalities of a problem stated by functions that hold its solution, judged in units that rescaling does not
change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation.signs import signs
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.kernels.activity import Units, activity, sizes_of, units_of
from bilevel.optimality.primal_dual import PrimalDual, size

PROBES = 8  # random signs that measure the rows and columns of a Jacobian by products, accurate to a third
PASSES = 3  # rounds of scaling rows, then columns


class Measured(NamedTuple):
    """The sizes of the Jacobian of the constraints that decide activity; flat."""

    units: Units
    forces: jax.Array  # (2, n): of the multipliers of equalities and inequalities on each unknown
    touched: jax.Array  # (n,) which unknowns occur in a constraint


class Even(NamedTuple):
    """The units for a solve."""

    columns: jax.Array
    cost: jax.Array  # the unit of the objective, in which the curvature of the Lagrangian is 1


class Held(NamedTuple):
    """The inequalities at a point; flat."""

    active: jax.Array  # 1 where the multiplier outweighs the slack, else 0
    strength: jax.Array  # see `kernels.activity.Activity`
    divisor: jax.Array  # divisor that turns a residual lam * G into the unknown of its row: the multiplier or the value
    units: Units
    curvature: jax.Array  # of the Lagrangian, in these units
    even: Even


def held_rows(hessian: LinearMap, at: PrimalDual, inequality: PyTree, measured: Measured) -> Held:
    """Reads the active rows off the point; products with the Hessian measure how far its forces would move it."""
    (columns, rows), forces, touched = measured
    primal, unravel = ravel_pytree(at.primal)
    dual, value = ravel_pytree(at.inequality_dual)[0], ravel_pytree(inequality)[0].astype(primal.dtype)
    rows = rows[rows.size - dual.size :]
    curvature, even = _curvature(hessian, primal, unravel, columns)
    fixed, push, gap = jax.lax.stop_gradient((primal, dual / rows, -rows * value))
    sizes = sizes_of(_size(columns[None, :] * forces), _size(jnp.where(touched, fixed / columns, 0)), gap, curvature)
    found = activity(push, gap, sizes)
    divisor = jnp.where(found.active, dual, jnp.where(value == 0, 1, value))
    return Held(found.active.astype(primal.dtype), found.strength, divisor, measured.units, curvature, even)


def _curvature(hessian: LinearMap, primal: jax.Array, unravel: Callable, columns: jax.Array) -> tuple[jax.Array, Even]:
    """The size of the Hessian in ``columns``, the units of the constraints; and the units for a solve.

    These are ``columns``, or 1, or the Hessian's own, whichever make its rows most alike. The Jacobian of a ball does
    not give units, because it is the point itself, with small entries. A loop, because then one product is compiled.
    """
    probe = signs(primal.shape, primal.dtype)

    def look(number: jax.Array, seen: tuple) -> tuple:
        trial, first, *best = seen
        bent = ravel_pytree(hessian(unravel(trial * probe)))[0]
        rows = jax.lax.stop_gradient(jnp.abs(trial * bent))
        size, known = _size(rows), jnp.all(rows > 0)  # else some unknown has no entry in the Hessian
        spread = jnp.where(known, jnp.var(jnp.log(jnp.where(rows > 0, rows, 1))), jnp.inf)
        better = (spread < best[0]) | (number == 0)
        best = [jnp.where(better, new, old) for new, old in zip((spread, trial, size), best, strict=True)]
        trial = jnp.where(number == 0, 1, trial / jnp.sqrt(jnp.where(known, rows, 1)))
        return trial, jnp.where(number == 0, size, first), *best

    columns, zero = jax.lax.stop_gradient(columns), jnp.zeros((), primal.dtype)
    _, first, _, columns, size = jax.lax.fori_loop(0, 3, look, (columns, zero, zero, columns, zero))
    first, columns, size = jax.lax.stop_gradient((first, columns, size))
    return first, Even(columns, 1 / jnp.where(size > 0, size, 1))


def measured(jacobian: jax.Array, at: PrimalDual) -> Measured:
    """The sizes of a matrix (rows, unknowns), equalities first."""
    duals = jax.lax.stop_gradient(ravel_pytree((at.equality_dual, at.inequality_dual))[0])
    jacobian = jax.lax.stop_gradient(jacobian)
    first = jnp.arange(duals.size) < size(at.equality_dual)
    forces = jnp.stack([jnp.where(first, duals, 0), jnp.where(first, 0, duals)]) @ jacobian
    nothing = jnp.zeros((jacobian.shape[1], jacobian.shape[1]), jacobian.dtype)
    return Measured(units_of(nothing, jacobian), forces, jnp.any(jacobian != 0, axis=0))


def measured_by_products(push: Callable, pull: Callable, at: PrimalDual) -> Measured:
    """The sizes of a map known by products with it and its transpose, from the lengths of products with random
    signs."""
    primal, unravel = ravel_pytree(at.primal)
    duals, split = ravel_pytree((at.equality_dual, at.inequality_dual))
    pushed = jax.vmap(lambda x: ravel_pytree(push(unravel(x)))[0])
    pulled = jax.vmap(lambda y: ravel_pytree(pull(split(y))[0])[0])
    along, across = (signs((PROBES, part.size), primal.dtype) for part in (primal, duals))

    def lengths(products: jax.Array) -> jax.Array:
        mean = jnp.sqrt(jnp.mean(products**2, axis=0))
        return jnp.where(mean > 0, mean, 1)

    def sweep(_: int, units: Units) -> Units:
        rows = 1 / lengths(pushed(along * units.columns))
        return Units(1 / lengths(pulled(across * rows)), rows)

    units = jax.lax.fori_loop(0, PASSES, sweep, Units(jnp.ones_like(primal), jnp.ones_like(duals)))
    first = jnp.arange(duals.size) < size(at.equality_dual)
    forces = pulled(jnp.stack([jnp.where(first, duals, 0), jnp.where(first, 0, duals)]))
    touched = jnp.any(pulled(across * units.rows) != 0, axis=0)
    return jax.lax.stop_gradient(Measured(units, forces, touched))


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0)
