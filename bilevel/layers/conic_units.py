"""A conic program in units in which its rows, unknowns and objective have size 1, and whether its derivative exists.

The face of the cone on which a solution lies is read off the sum of a multiplier and a slack. Rescaling the rows of a
cone, an unknown or the objective does not change the program, but it changes that sum; so the units are fixed first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.cones import Cone
from bilevel.kernels.activity import DIGITS, invertible, sizes_of, units_of
from bilevel.kernels.matrices import Matrix, is_sparse
from bilevel.linear_solve.condensed import is_invertible
from bilevel.optimality.conic import Conic, ConicPoint
from bilevel.solvers.programs.stated_by_arrays import groups_of

MEASURED = 1024  # a dense program up to this size is rescaled; others keep their units
JUDGED = 256  # the face of the solution is examined up to this size


class ConicUnits(NamedTuple):
    """x = point columns x^, s = point s^ / rows, y = forces rows y^."""

    columns: jax.Array
    rows: jax.Array
    point: jax.Array
    forces: jax.Array

    def data(self, A: Matrix, b: jax.Array, c: jax.Array) -> tuple[Matrix, jax.Array, jax.Array]:
        """(A, b, c) in the units."""
        scaled = A if is_sparse(A) else self.rows[:, None] * A * self.columns
        return scaled, self.rows * b / self.point, self.columns * c / self.forces

    def inward(self, x: jax.Array, y: jax.Array, s: jax.Array) -> ConicPoint:
        """A point of the program, in the units."""
        return ConicPoint(x / self.columns / self.point, y / self.rows / self.forces, self.rows * s / self.point)

    def outward(self, at: ConicPoint) -> ConicPoint:
        """A point in these units, converted to the units of the program."""
        return ConicPoint(
            self.columns * self.point * at.x, self.rows * self.forces * at.y, self.point * at.s / self.rows
        )


def conic_units(A: Any, c: jax.Array, cone: Cone, at: ConicPoint) -> ConicUnits:
    """The units of a program with the solution ``at``; powers of two."""
    n, ones = c.size, (jnp.ones_like(c), jnp.ones_like(at.s))
    if is_sparse(A) or n + at.s.size > MEASURED:
        return ConicUnits(*ones, jnp.ones((), c.dtype), jnp.ones((), c.dtype))
    columns, rows = units_of(jnp.zeros((n, n), c.dtype), A, groups_of(cone).owner)
    forces = jnp.max(jnp.abs(columns * jnp.stack([A.T @ at.y, c])), initial=0)
    size = jnp.max(jnp.abs(at.x / columns), initial=0)
    sizes = sizes_of(forces, size, rows * at.s, jnp.zeros((), c.dtype))
    forces, point = (jnp.exp2(jnp.round(jnp.log2(size))) for size in (sizes.forces, sizes.point))
    return ConicUnits(columns, rows, point, forces)


def is_regular(mapping: Conic, z: jax.Array, A: Any, b: jax.Array, c: jax.Array) -> jax.Array:
    """Whether the derivative at z (in units of size 1) exists for certain: z is further from the kinks of the
    projection than rounding and the residual explain, and primal and dual are unique. False where that is not examined:
    sparse and large programs, cones whose kinks are not known.

    The derivative exists where [[0, A'D], [D A, -(I - D)]] is invertible, D the Jacobian of the projection.
    """
    if is_sparse(A) or z.size > JUDGED:
        return jnp.zeros((), bool)
    at = mapping.unpack(z)
    v = at.y - at.s
    residual = jnp.max(jnp.abs(mapping.natural_residual(z, A, b, c)), initial=0)
    doubt = DIGITS * (jnp.finfo(z.dtype).eps + residual)
    certain = jnp.all(mapping.cone.dual.kinks(v) > doubt)  # False for NaN
    saddle = mapping.system(z, A, b, c).operator.saddle
    if saddle is not None:
        return certain & is_invertible(saddle)
    slope = jax.jacfwd(mapping.cone.project_dual)(v)
    return certain & invertible(jnp.zeros((c.size, c.size), c.dtype), slope @ A, jnp.eye(v.size, dtype=v.dtype) - slope)
