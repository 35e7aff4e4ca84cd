"""Generalised minimal residuals, restarted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import Operator, Preconditioner
from bilevel.linear_solve.krylov import Krylov
from bilevel.linear_solve.preconditioners import Identity
from bilevel.linear_solve.refine import Advance, Method


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GMRES(Krylov):
    """Restarted GMRES for any square A: x minimises || b - A x || over the Krylov space of the residual.

    Needs no fact about A, and memory for ``restart`` + 1 vectors. Preconditioned from the right, so the residual stays
    the residual of A x = b. ``tol`` is relative to the right-hand side (never below 10 eps). A breakdown that solves
    the system is ``converged``. A breakdown that does not is ``singular``; its x is no least-squares solution (see
    `Normal` and `Dense`). A restart that gains nothing ends the solve with ``max_steps``: raise ``restart``. The
    vectors are orthogonalised twice, and no number of the size of rounding is a divisor. Reference: Saad and Schultz,
    1986.

    >>> import jax.numpy as jnp
    >>> solution = GMRES()(lambda x: jnp.array([[0.0, 1.0], [-2.0, 0.0]]) @ x, jnp.array([3.0, 4.0]))
    >>> solution.value.round(6).tolist(), solution.status.name
    ([-2.0, 3.0], 'converged')
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    restart: int = field(default=50, metadata={"static": True})
    preconditioner: Preconditioner = Identity()

    gain: ClassVar[float] = 0.999  # high, because a run is one cycle, and a cycle may gain little

    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        return functools.partial(minimal_residual_cycle, operator, precondition, self.restart)

    def misled(self, example: PyTree) -> Code:
        return Code.singular if self.restart >= tree.size(example) else Code.max_steps


class _State(NamedTuple):
    basis: jax.Array  # (restart + 1, n), orthonormal rows
    triangle: jax.Array  # (restart + 1, restart), R of the QR factors of the Hessenberg matrix
    rotation: jax.Array  # (restart + 1, restart + 1), Q'; its first column holds the rotated right-hand side
    norm: Scalar
    used: jax.Array  # columns of R that count
    steps: jax.Array
    code: jax.Array


class _Column(NamedTuple):
    """One more vector of Arnoldi's method, and its column of the Hessenberg matrix."""

    vector: jax.Array
    entries: jax.Array
    size: Scalar  # the norm of the product
    norm: Scalar
    spent: jax.Array  # the product lies in the space so far


def minimal_residual_cycle(
    operator: Operator, precondition: LinearMap, restart: int, rhs: PyTree, target: Scalar, max_steps: jax.Array
) -> Advance:
    """One cycle from zero: at most ``restart`` steps of Arnoldi's method, then the least-squares solution."""
    flat, unravel = ravel_pytree(rhs)
    restart = min(restart, flat.size)
    roundoff = 10 * tree.epsilon(rhs)

    def running(state: _State) -> jax.Array:
        return (state.code == Code.max_steps) & (state.steps < jnp.minimum(restart, max_steps))

    def step(state: _State) -> _State:
        direction = precondition(unravel(state.basis[state.steps]))
        image = ravel_pytree(tree.apply(operator, direction, operator.owner))[0]
        column = _orthogonalized(state, image, tree.norm(direction), roundoff)
        return _rotated(state, column, target, roundoff)

    count, zeros = jnp.zeros((), jnp.int32), jnp.zeros((restart + 1, restart), flat.dtype)
    basis = jnp.zeros((restart + 1, flat.size), flat.dtype).at[0].set(flat)
    start = _State(
        basis, zeros, jnp.eye(restart + 1, dtype=flat.dtype), zeros[0, 0], count, count, count + Code.max_steps
    )
    end = lax.while_loop(running, step, start)
    weights = _least_squares(end, restart)
    value = precondition(unravel(weights @ end.basis[:restart]))
    return Advance(value, end.steps, end.steps, end.code, end.norm)


def _orthogonalized(state: _State, image: jax.Array, unit: Scalar, roundoff: float) -> _Column:
    """The part of ``image`` = A v that is orthogonal to the basis; ``unit`` is the norm of v."""
    length = jnp.linalg.norm(image)
    norm = jnp.maximum(state.norm, length / jnp.where(unit == 0, 1, unit))
    first = state.basis @ image
    image = image - first @ state.basis
    second = state.basis @ image  # twice, because the first pass leaves errors of the size of rounding
    image = image - second @ state.basis
    height = jnp.linalg.norm(image)
    spent = height <= roundoff * length
    vector = jnp.where(spent, 0, image / jnp.where(spent, 1, height))
    entries = (first + second).at[state.steps + 1].add(jnp.where(spent, 0, height))
    return _Column(vector, entries, length, norm, spent)


def _rotated(state: _State, new: _Column, target: Scalar, roundoff: float) -> _State:
    """The state with the new column in its triangle."""
    k, restart = state.steps, state.triangle.shape[1]
    column = state.rotation @ new.entries
    pivot = jnp.hypot(column[k], column[k + 1])
    largest = jnp.maximum(new.size, jnp.max(jnp.abs(state.triangle)))
    lost = pivot <= roundoff * largest  # the column adds nothing: A is singular on the space
    divisor = jnp.where(lost, 1, pivot)
    cosine, sine = jnp.where(lost, 1, column[k] / divisor), jnp.where(lost, 0, column[k + 1] / divisor)
    upper, lower = state.rotation[k], state.rotation[k + 1]
    rotation = state.rotation.at[k].set(cosine * upper + sine * lower)
    rotation = rotation.at[k + 1].set(cosine * lower - sine * upper)
    length = jnp.abs(jnp.where(lost, rotation[k, 0], rotation[k + 1, 0]))
    code = jnp.where(new.spent | lost, Code.singular, Code.max_steps)
    code = jnp.where(length <= target, Code.converged, code)
    code = jnp.where(jnp.isfinite(length) & jnp.isfinite(pivot), code, Code.nonfinite).astype(jnp.int32)
    triangle = state.triangle.at[:, k].set(jnp.where(jnp.arange(restart + 1) <= k, column, 0).at[k].set(pivot))
    basis = state.basis.at[k + 1].set(new.vector)
    return _State(basis, triangle, rotation, new.norm, k + jnp.where(lost, 0, 1), k + 1, code)


def _least_squares(state: _State, restart: int) -> jax.Array:
    """The coefficients in the basis: R y = Q' e_1 on the columns in use, zero elsewhere."""
    used = jnp.arange(restart) < state.used
    triangle = jnp.where(used[:, None] & used[None, :], state.triangle[:restart], 0)
    triangle = triangle + jnp.diag(jnp.where(used, 0.0, 1.0).astype(triangle.dtype))
    return jax.scipy.linalg.solve_triangular(triangle, jnp.where(used, state.rotation[:restart, 0], 0))
