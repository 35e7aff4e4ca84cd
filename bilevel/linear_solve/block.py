"""Block conjugate gradients: all right-hand sides of one system in one Krylov space."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation.typing import LinearMap, Scalar


class Block(NamedTuple):
    """The state of a run on k right-hand sides. Vectors are rows: R = C' Q holds the residuals of all k."""

    value: jax.Array  # (k, n)
    basis: jax.Array  # Q: orthonormal rows, zero where the residuals span less than k dimensions
    coordinates: jax.Array  # C, (k, k)
    direction: jax.Array  # S
    weight: jax.Array  # N = Q M Q'
    sign: Scalar  # prepared S A S'
    norm: Scalar  # the largest s'As / s's
    steps: jax.Array
    broken: jax.Array  # whether S A S' or N is not definite beyond rounding

    @property
    def lengths(self) -> jax.Array:
        """The norms of the residuals."""
        return jnp.linalg.norm(self.coordinates, axis=0)


def block_conjugate_gradients(
    matvec: LinearMap, precondition: LinearMap, sign: int, rhs: jax.Array, targets: jax.Array, max_steps: jax.Array
) -> Block:
    """One run from zero on the rows of ``rhs``, (k, n), until the residuals of the recurrence are below ``targets``.

        X <- X + S a C,   a = (S'AS)^{-1} N,   Q z = qr(Q - A S a),   C <- z C
        S <- M Q + S N_old^{-1} z' N,          N = Q'MQ

    in columns. The residuals are held as Q C with an orthonormal Q. Dependent residuals and early convergence do no
    harm, because directions that vanish to rounding leave Q, and S with it. A matrix S'AS (or N) that is not definite
    ends the run: x keeps its last value and ``broken`` is set. Sources: O'Leary, 1980; Dubrulle, 2001 (BCGrQ); Ji and
    Li, 2017 (without breakdowns).
    """
    roundoff = 10 * float(jnp.finfo(rhs.dtype).eps)
    start = _start(precondition, sign, rhs)
    toward = jnp.sign(jnp.trace(start.weight))  # 1 or -1: the sign of M

    def running(state: Block) -> jax.Array:
        open_ = (state.lengths > targets) & (state.steps < max_steps)
        return jnp.any(open_) & ~state.broken

    def step(state: Block) -> Block:
        image = jax.vmap(matvec)(state.direction)
        curvature, squares = state.direction @ image.T, jnp.sum(state.direction**2, axis=1)
        diagonal = jnp.diagonal(curvature)
        sign = jnp.where(state.sign == 0, jnp.sign(jnp.sum(diagonal)), state.sign)
        norm = jnp.max(jnp.abs(diagonal) / jnp.where(squares == 0, 1, squares), initial=state.norm)
        factor, definite = factorized(sign * curvature, squares, roundoff * norm)
        rates = sign * solve(factor, state.weight)
        basis, change = orthonormal(state.basis - rates.T @ image)
        preconditioned = jax.vmap(precondition)(basis)
        weight = symmetrized(basis @ preconditioned.T)
        old, one_sign = factorized(toward * state.weight, jnp.abs(jnp.diagonal(state.weight)), roundoff)
        forward = toward * solve(old, change.T @ weight)
        broken = ~(definite & one_sign)
        moved = Block(
            state.value + (rates @ state.coordinates).T @ state.direction,
            basis,
            change @ state.coordinates,
            preconditioned + forward.T @ state.direction,
            weight,
            sign,
            norm,
            state.steps + 1,
            broken,
        )
        kept = state._replace(steps=state.steps + 1, broken=broken, norm=norm)
        return jax.tree.map(lambda new, old: jnp.where(broken, old, new), moved, kept)

    return lax.while_loop(running, step, start)


def _start(precondition: LinearMap, sign: int, rhs: jax.Array) -> Block:
    basis, coordinates = orthonormal(rhs)
    direction = jax.vmap(precondition)(basis)
    weight = symmetrized(basis @ direction.T)
    count, zero, sound = jnp.zeros((), jnp.int32), jnp.zeros((), rhs.dtype), jnp.zeros((), bool)
    return Block(jnp.zeros_like(rhs), basis, coordinates, direction, weight, zero + sign, zero, count, sound)


def orthonormal(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(Q, z) with rows = z' Q and Q Q' = I; a direction that is zero to rounding is a zero row of Q and z.

    Takes products of matrices, and eigenvalues of k x k matrices. The first pass works with squares, so it cannot
    separate directions below sqrt(eps): it scales them up, and the second pass separates them. One step of Newton and
    Schulz then makes the result orthonormal to rounding. Source: Stathopoulos and Wu, 2002.
    """
    precision = jnp.finfo(rows.dtype)
    noise = len(rows) * float(precision.eps)
    values, vectors = jnp.linalg.eigh(symmetrized(rows @ rows.T))
    scales = jnp.sqrt(jnp.maximum(jnp.maximum(values, noise * values[-1]), float(precision.tiny)))
    rough = (vectors / scales).T @ rows
    values, turn = jnp.linalg.eigh(symmetrized(rough @ rough.T))
    roots = jnp.sqrt(jnp.where(values > 10 * noise, values, 1))
    change = (turn * roots).T @ (vectors * scales).T
    kept = (values > 10 * noise) & (jnp.linalg.norm(change, axis=1) > 10 * float(precision.eps))
    basis, change = (jnp.where(kept[:, None], part, 0) for part in ((turn / roots).T @ rough, change))
    excess = (symmetrized(basis @ basis.T) - jnp.diag(kept.astype(rows.dtype))) / 2
    return basis - excess @ basis, change + excess @ change


def factorized(matrix: jax.Array, squares: jax.Array, floor: Scalar | float) -> tuple[tuple, jax.Array]:
    """A k x k matrix prepared for `solve`, and whether its eigenvalues exceed ``floor`` after scaling by ``squares``,
    which are zero for rows that are not in use.

    Eigenvalues replace Cholesky's factor because triangular solves of this size wait for threads on busy CPUs, up to a
    hundred times as long as they compute.
    """
    used = squares > 0
    scales = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, squares, 1)), 0)
    scaled = scales[:, None] * matrix * scales
    scaled += jnp.diag(jnp.where(used, 0, jnp.max(jnp.diagonal(scaled), initial=0, where=used)))
    values, vectors = jnp.linalg.eigh(symmetrized(scaled))
    return (vectors, values, scales), values[0] > floor  # False for NaN


def solve(factor: tuple, rhs: jax.Array) -> jax.Array:
    """The solution by `factorized`, zero in rows that are not in use."""
    vectors, values, scales = factor
    return scales[:, None] * (vectors @ ((vectors.T @ (scales[:, None] * rhs)) / values[:, None]))


def symmetrized(matrix: jax.Array) -> jax.Array:
    """(A + A') / 2."""
    return (matrix + matrix.T) / 2
