"""The saddle system of the KKT conditions on the active rows: in orthonormal coordinates, or matrix-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.typing import LinearMap, Params, PyTree
from bilevel.implicit.mapping import System
from bilevel.linear_solve.base import Operator
from bilevel.optimality.active_rows import orthonormal, singular_values
from bilevel.optimality.primal_dual import PrimalDual, size

DENSE = 2**22  # entries of the Jacobian of the constraints up to which it is built


class Saddle(NamedTuple):
    """A Lagrangian, known by its gradient in w, and the constraint values."""

    gradient: Callable[[Params, tuple[PyTree, PyTree]], PyTree]  # (w, (nu, lam)) -> grad_w L
    rows: Callable[[Params], tuple[PyTree, PyTree]]  # w -> (equality, inequality)


def saddle_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """The system of `KKT` at ``at``; which of the two forms is decided by size."""
    duals = (at.equality_dual, at.inequality_dual)
    unknowns, rows = size(at.primal), size(duals)
    form = _dense_system if 0 < unknowns * rows <= DENSE else _free_system
    return form(saddle, at, owner)


class Activity(NamedTuple):
    """Which inequalities are active, and divisors that take a product residual lam * G to the unknown of its row."""

    active: PyTree  # 1 where dual > slack, else 0
    dual: PyTree  # the multiplier where active, else 1
    value: PyTree  # the constraint value where not active and not zero, else 1


def activity(dual: PyTree, values: PyTree) -> Activity:
    """Reads the active set off the solution: dual > slack, slack = -inequality."""

    def one(lam: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        on = (lam > -value) & (lam > 0)
        return on.astype(lam.dtype), jnp.where(on, lam, 1), jnp.where(on | (value == 0), 1, value)

    structure = jax.tree.structure(dual)
    found = [one(lam, value) for lam, value in zip(jax.tree.leaves(dual), jax.tree.leaves(values), strict=True)]
    columns = zip(*found, strict=True) if found else ((), (), ())
    return Activity(*(jax.tree.unflatten(structure, list(column)) for column in columns))


def _hessian(saddle: Saddle, at: PrimalDual) -> LinearMap:
    duals = (at.equality_dual, at.inequality_dual)
    return jax.linearize(lambda w: saddle.gradient(w, duals), at.primal)[1]


def _free_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """K itself on pytrees: products only."""
    hessian = _hessian(saddle, at)
    (_, values), push = jax.linearize(saddle.rows, at.primal)
    pull = jax.linear_transpose(push, at.primal)
    active, dual, value = activity(at.inequality_dual, values)
    off = jax.tree.map(lambda m: 1 - m, active)

    def matvec(x: PrimalDual) -> PrimalDual:
        (forces,) = pull((x.equality_dual, _times(active, x.inequality_dual)))
        equality, inequality = push(x.primal)
        rows = trees.subtract(_times(active, inequality), _times(off, x.inequality_dual))
        return PrimalDual(jax.tree.map(jnp.add, hessian(x.primal), forces), equality, rows)

    def restrict(rhs: PrimalDual) -> PrimalDual:
        known = _times(off, _over(rhs.inequality_dual, value))
        (forces,) = pull((jax.tree.map(jnp.zeros_like, rhs.equality_dual), known))
        rows = trees.subtract(_times(active, _over(rhs.inequality_dual, dual)), known)
        return PrimalDual(trees.subtract(rhs.primal, forces), rhs.equality_dual, rows)

    return System(Operator(matvec, symmetric=True, definite=False, owner=owner), restrict, lambda _, x: x)


def _times(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, left, right)


def _over(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, left, right)


class Rows(NamedTuple):
    """The constraints at a point, as one block: the equalities first."""

    jacobian: jax.Array  # (rows, unknowns)
    active: jax.Array  # (rows,), 1 for equalities
    divisor: jax.Array  # what the residual of a row is divided by: 1, the multiplier, or the constraint value
    pack: Callable[[PyTree], tuple[jax.Array, jax.Array]]  # PrimalDual -> (primal, both duals), flat
    unpack: Callable[[jax.Array, jax.Array], PrimalDual]


def _rows(saddle: Saddle, at: PrimalDual) -> Rows:
    primal, unravel = ravel_pytree(at.primal)
    duals, split = ravel_pytree((at.equality_dual, at.inequality_dual))

    def flat_rows(x: jax.Array) -> jax.Array:
        return ravel_pytree(saddle.rows(unravel(x)))[0]

    differentiate = jax.jacrev if duals.size < primal.size else jax.jacfwd
    _, values = saddle.rows(at.primal)
    active, dual, value = activity(at.inequality_dual, values)
    ones = jax.tree.map(jnp.ones_like, at.equality_dual)
    divisor = jax.tree.map(lambda m, lam, g: jnp.where(m > 0, lam, g), active, dual, value)

    def pack(tree: PrimalDual) -> tuple[jax.Array, jax.Array]:
        return ravel_pytree(tree.primal)[0], ravel_pytree((tree.equality_dual, tree.inequality_dual))[0]

    def unpack(x: jax.Array, y: jax.Array) -> PrimalDual:
        return PrimalDual(unravel(x), *split(y))

    return Rows(
        differentiate(flat_rows)(primal),
        ravel_pytree((ones, active))[0],
        ravel_pytree((ones, divisor))[0],
        pack,
        unpack,
    )


def _dense_system(saddle: Saddle, at: PrimalDual, owner: str) -> System:
    """K with the active rows R replaced by T R: [[H, (T R)'], [T R, -(I - kept)]], the multipliers being T' mu."""
    hessian = _hessian(saddle, at)
    _, unravel = ravel_pytree(at.primal)
    jacobian, active, divisor, pack, unpack = _rows(saddle, at)
    transform, kept = orthonormal(active[:, None] * jacobian)
    basis = transform @ (active[:, None] * jacobian)

    def matvec(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step, along = x
        curved = ravel_pytree(hessian(unravel(step)))[0]
        return curved + basis.T @ along, basis @ step - (1 - kept) * along

    def restrict(rhs: PrimalDual) -> tuple[jax.Array, jax.Array]:
        primal, rows = pack(rhs)
        rows = rows / divisor
        return primal - jacobian.T @ ((1 - active) * rows), transform @ (active * rows)

    def extend(rhs: PrimalDual, x: tuple[jax.Array, jax.Array]) -> PrimalDual:
        rows = pack(rhs)[1] / divisor
        return unpack(x[0], active * (transform.T @ x[1]) + (1 - active) * rows)

    return System(Operator(matvec, symmetric=True, definite=False, owner=owner), restrict, extend)


def margin(saddle: Saddle, at: PrimalDual) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The numbers of `kkt.Margin`, from the dense saddle matrix."""
    jacobian, active, _, _, _ = _rows(saddle, at)
    primal, unravel = ravel_pytree(at.primal)
    _, values = saddle.rows(at.primal)
    lam, slack = ravel_pytree(at.inequality_dual)[0], -ravel_pytree(values)[0]
    strength = jnp.maximum(lam, slack)
    roundoff = trees.epsilon(at.primal) ** 0.5 * (1 + jnp.max(jnp.abs(lam), initial=0))

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
