"""The saddle system of the KKT conditions on the active rows: in orthonormal coordinates, or matrix-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.typing import LinearMap, Params, PyTree
from bilevel.implicit.mapping import System
from bilevel.linear_solve.base import Operator
from bilevel.optimality.active_rows import dependent, orthonormal, singular_values
from bilevel.optimality.held_rows import Held, held_rows, measured, measured_by_products
from bilevel.optimality.primal_dual import PrimalDual, size

DENSE = 2**22  # the Jacobian of the constraints is built up to so many entries


class Saddle(NamedTuple):
    """A Lagrangian, known by its gradient in w, and the constraint values."""

    gradient: Callable[[Params, tuple[PyTree, PyTree]], PyTree]  # (w, (nu, lam)) -> grad_w L
    rows: Callable[[Params], tuple[PyTree, PyTree]]  # w -> (equality, inequality)


def saddle_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """The system of `KKT` at ``at``; the size decides which of the two forms it has."""
    duals = (at.equality_dual, at.inequality_dual)
    unknowns, rows = size(at.primal), size(duals)
    form = _dense_system if 0 < unknowns * rows <= DENSE else _free_system
    return form(saddle, at, owner)


def _hessian(saddle: Saddle, at: PrimalDual) -> LinearMap:
    duals = (at.equality_dual, at.inequality_dual)
    return jax.linearize(lambda w: saddle.gradient(w, duals), at.primal)[1]


def _free_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """K on pytrees, by products only, in the units of unknowns and rows: symmetrically scaled, but for the -(I - m)."""
    hessian = _hessian(saddle, at)
    (_, values), push = jax.linearize(saddle.rows, at.primal)
    pull = jax.linear_transpose(push, at.primal)
    held = held_rows(hessian, at, values, measured_by_products(push, pull, at))
    _, split = ravel_pytree(at.inequality_dual)
    active, off, divisor = split(held.active), split(1 - held.active), split(held.divisor)
    scale = _scale(held, at)

    def matvec(x: PrimalDual) -> PrimalDual:
        step, *duals = _times(scale, x)
        (forces,) = pull((duals[0], _times(active, duals[1])))
        equality, inequality = push(step)
        bent = jax.tree.map(jnp.add, hessian(step), forces)
        moved = _times(scale, PrimalDual(bent, equality, _times(active, inequality)))
        return moved._replace(inequality_dual=trees.subtract(moved.inequality_dual, _times(off, x.inequality_dual)))

    def restrict(rhs: PrimalDual) -> PrimalDual:
        rows = _over(rhs.inequality_dual, divisor)
        known = _times(off, rows)
        (forces,) = pull((jax.tree.map(jnp.zeros_like, rhs.equality_dual), known))
        scaled = _times(scale, PrimalDual(trees.subtract(rhs.primal, forces), rhs.equality_dual, _times(active, rows)))
        given = _over(known, scale.inequality_dual)
        return scaled._replace(inequality_dual=trees.subtract(scaled.inequality_dual, given))

    operator = Operator(matvec, symmetric=True, definite=False, owner=owner)
    return System(operator, restrict, lambda _, x: _times(scale, x))


def _scale(held: Held, at: PrimalDual) -> PrimalDual:
    """The factors of the unknowns of the matrix-free system."""
    _, unravel = ravel_pytree(at.primal)
    _, split = ravel_pytree((at.equality_dual, at.inequality_dual))
    cost = jnp.sqrt(jnp.where(held.curvature > 0, held.curvature, 1))
    return jax.lax.stop_gradient(PrimalDual(unravel(held.units.columns / cost), *split(held.units.rows * cost)))


def _times(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.multiply, left, right)


def _over(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, left, right)


class Rows(NamedTuple):
    """The constraints at a point, as one block: the equalities first."""

    jacobian: jax.Array  # (rows, unknowns)
    active: jax.Array  # (rows,), 1 for equalities
    divisor: jax.Array  # what a row's residual is divided by: 1, the multiplier, or the constraint value
    held: Held
    pack: Callable[[PyTree], tuple[jax.Array, jax.Array]]  # PrimalDual -> (primal, both duals), flat
    unpack: Callable[[jax.Array, jax.Array], PrimalDual]


def _rows(saddle: Saddle, at: PrimalDual) -> Rows:
    primal, unravel = ravel_pytree(at.primal)
    duals, split = ravel_pytree((at.equality_dual, at.inequality_dual))

    def flat_rows(x: jax.Array) -> jax.Array:
        return ravel_pytree(saddle.rows(unravel(x)))[0]

    differentiate = jax.jacrev if duals.size < primal.size else jax.jacfwd
    jacobian = differentiate(flat_rows)(primal)
    held = held_rows(_hessian(saddle, at), at, saddle.rows(at.primal)[1], measured(jacobian, at))
    ones = jnp.ones(size(at.equality_dual), primal.dtype)

    def pack(tree: PrimalDual) -> tuple[jax.Array, jax.Array]:
        return ravel_pytree(tree.primal)[0], ravel_pytree((tree.equality_dual, tree.inequality_dual))[0]

    def unpack(x: jax.Array, y: jax.Array) -> PrimalDual:
        return PrimalDual(unravel(x), *split(y))

    active, divisor = (jnp.concatenate([ones, part]) for part in (held.active, held.divisor))
    return Rows(jacobian, active, divisor, held, pack, unpack)


def _dense_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """K in the units D of the unknowns, with B = T R D in the place of the active rows R and T' mu / c as multipliers:
    [[c D H D, B'], [B, -(I - kept)]]."""
    hessian = _hessian(saddle, at)
    _, unravel = ravel_pytree(at.primal)
    jacobian, active, divisor, held, pack, unpack = _rows(saddle, at)
    columns, cost = held.even
    rows = active[:, None] * jacobian * columns[None, :]
    transform, kept = orthonormal(rows)
    basis = transform @ rows

    def matvec(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step, along = x
        curved = cost * columns * ravel_pytree(hessian(unravel(columns * step)))[0]
        return curved + basis.T @ along, basis @ step - (1 - kept) * along

    def restrict(rhs: PrimalDual) -> tuple[jax.Array, jax.Array]:
        primal, known = pack(rhs)
        known = known / divisor
        return cost * columns * (primal - jacobian.T @ ((1 - active) * known)), transform @ (active * known)

    def extend(rhs: PrimalDual, x: tuple[jax.Array, jax.Array]) -> PrimalDual:
        known = pack(rhs)[1] / divisor
        return unpack(columns * x[0], active * (transform.T @ x[1]) / cost + (1 - active) * known)

    return System(Operator(matvec, symmetric=True, definite=False, owner=owner), restrict, extend)


def faces(saddle: Saddle, at: PrimalDual) -> PyTree:
    """The distance of each inequality from changing sides: its strength times the norm of the point, because rounding
    is relative to both. Zero for an active row that depends on others, because it could be exchanged for one of them;
    NaN where the Jacobian is too large to check that."""
    unknowns, count = size(at.primal), size((at.equality_dual, at.inequality_dual))
    dual, split = ravel_pytree(at.inequality_dual)
    if not unknowns * count <= DENSE:
        return split(jnp.full_like(dual, jnp.nan))
    rows = _rows(saddle, at)
    depends = dependent(rows.active[:, None] * rows.jacobian * rows.held.units.columns)[count - dual.size :]
    return split(jnp.where(depends, 0, rows.held.strength) * trees.norm(at))


def margin(saddle: Saddle, at: PrimalDual) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The numbers of `kkt.Margin`, from the dense saddle matrix."""
    jacobian, active, _, held, _, _ = _rows(saddle, at)
    primal, unravel = ravel_pytree(at.primal)
    strength = held.strength
    roundoff = trees.epsilon(at.primal) ** 0.5

    rows = active[:, None] * jacobian
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    _, sizes, _ = singular_values(rows / jnp.where(lengths > 0, lengths, 1))
    count = jnp.sum(lengths > 0)
    least = jnp.where(count > 0, sizes[jnp.maximum(count - 1, 0)] / jnp.where(count > 0, sizes[0], 1), 1.0)

    hessian = _hessian(saddle, at)
    curvature = jax.vmap(lambda e: ravel_pytree(hessian(unravel(e)))[0])(jnp.eye(primal.size, dtype=primal.dtype))
    matrix = jnp.block([[curvature, rows.T], [rows, -jnp.diag(1 - active)]])
    values = jnp.abs(jnp.linalg.eigvalsh(matrix))
    condition = jnp.max(values) / jnp.min(values)
    return jnp.min(strength, initial=jnp.inf), jnp.sum(strength < roundoff), least, condition
