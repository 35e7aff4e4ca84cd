"""The last digits of a solution: Newton steps on its optimality conditions, as long as they help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from bilevel.foundation.rescue import rescued
from bilevel.kernels.activity import (
    Point,
    Program,
    Reading,
    Units,
    in_units,
    into_units,
    out_of_units,
    read_program,
    units_of,
)
from bilevel.kernels.matrices import is_positive_semidefinite
from bilevel.kernels.saddle import Factors, factors_of

State = TypeVar("State")

STEPS = 12  # of a quadratic program: each may take up and let go of rows
SHIFTS = 16.0, 1e3  # the factor between shifts of a matrix that rounding has left indefinite, and the largest multiple
ROUNDING = 100  # units of rounding in which the residual of an exact solution of some hundred unknowns stays
PATIENCE = 3  # steps without progress, because an exchange of rows may raise the residual first


class _Loop(NamedTuple):
    at: Any
    best: Any
    residual: jax.Array  # of the best
    fruitless: jax.Array
    steps: jax.Array


def improved(
    step: Callable[[State], State],
    measure: Callable[[State], jax.Array],
    start: State,
    steps: int,
    patience: int = 1,
    enough: float = 0.0,
) -> tuple[State, jax.Array]:
    """The best of the points start, step(start), ... by ``measure``, and its measure. Ends at ``enough``, and after
    ``patience`` steps without progress. NaN is never better.

    >>> point, residual = improved(lambda x: x - 0.5, jnp.abs, jnp.array(1.25), 10)
    >>> float(point), float(residual)
    (0.25, 0.25)
    """

    def body(loop: _Loop) -> _Loop:
        at = step(loop.at)
        residual = measure(at)
        better = residual < loop.residual
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), at, loop.best)
        fruitless = jnp.where(better, 0, loop.fruitless + 1)
        return _Loop(at, best, jnp.where(better, residual, loop.residual), fruitless, loop.steps + 1)

    def proceed(loop: _Loop) -> jax.Array:
        hopeful = (loop.fruitless < patience) & jnp.isfinite(loop.residual)
        return hopeful & (loop.residual > enough) & (loop.steps < steps)

    zero = jnp.zeros((), jnp.int32)
    last = jax.lax.while_loop(proceed, body, _Loop(start, start, measure(start), zero, zero))
    return last.best, last.residual


def polished(program: Program, at: Point, units: Units | None = None) -> Point:
    """(x, y, z) near a solution of (Q, q, A, b, G, h), made exact to rounding by Newton steps on the rows that hold it.
    The rows are read again after each step. The units, by default those of the program, give rows, unknowns and
    objective size 1, so that rescaling the program does not change the rows that are read.

    >>> program = (jnp.eye(1), -jnp.ones(1), jnp.zeros((0, 1)), jnp.zeros(0), jnp.ones((1, 1)), jnp.zeros(1))
    >>> x, y, z = polished(program, (jnp.array([0.1]), jnp.zeros(0), jnp.array([0.9])))
    >>> bool(jnp.abs(x[0]) < 1e-6), bool(jnp.abs(z[0] - 1) < 1e-6)
    (True, True)
    """
    units = units_of(program[0], jnp.concatenate([program[2], program[4]])) if units is None else units
    scaled = in_units(program, units)
    same = units._replace(columns=jnp.ones_like(units.columns), rows=jnp.ones_like(units.rows))

    def step(at: Point) -> Point:
        return newton_step(scaled, at, read_program(scaled, at, same).wanted)

    def measure(at: Point) -> jax.Array:
        return read_program(scaled, at, same).residual

    # No more steps are spared: slacks and multipliers that should be zero are rounding beside large others.
    best, _ = improved(step, measure, into_units(at, units), STEPS, PATIENCE, 10 * float(jnp.finfo(at[0].dtype).eps))
    return out_of_units(best, units)


class Settled(NamedTuple):
    """A solution that is exact to rounding, the reading of its rows, and the factors on those that hold it."""

    at: Point
    reading: Reading
    by: Factors


def settled(program: Program, at: Point, units: Units, by: Factors | None = None, explicit: int = 0) -> Settled:
    """`polished`, mostly without a step of it. ``by`` are factors on the rows that are believed to hold the solution.

    Factors that have not lost digits solve the conditions on their rows to rounding. Where it is beyond doubt that
    the same rows hold the point found, no other rows can, and the polish would end there. The other lanes are polished.
    Factors that are lost come back as numbers without a meaning, but finite ones. The first ``explicit`` equalities
    give as many last unknowns, see `Substituted`.

    >>> program = (jnp.eye(1), -jnp.ones(1), jnp.zeros((0, 1)), jnp.zeros(0), jnp.ones((1, 1)), jnp.zeros(1))
    >>> found = settled(program, (jnp.array([0.1]), jnp.zeros(0), jnp.array([0.9])), units_of(program[0], program[4]))
    >>> [part.tolist() for part in found.at], found.reading.active.tolist(), bool(found.by.lost)
    ([[0.0], [], [1.0]], [True], False)
    """
    if by is None:
        _, _, duals = into_units(at, units)
        slack = units.rows[at[1].size :] * (program[5] - program[4] @ at[0])
        by = _factors(program, duals > slack, explicit)
    first = corrected(program, at, by)
    reading = read_program(program, first, units)
    same = jnp.all(reading.active == by.held[at[1].size :])
    exact = reading.residual <= ROUNDING * float(jnp.finfo(at[0].dtype).eps)
    sure = same & exact & reading.certain & ~by.lost

    def searched(program: Program, at: Point, units: Units) -> Settled:
        at = polished(program, at, units)
        reading = read_program(program, at, units)
        return Settled(at, reading, _factors(program, reading.active, explicit).quiet())

    return rescued(~sure, searched, (program, at, units), Settled(first, reading, by))


def _factors(program: Program, active: jax.Array, explicit: int) -> Factors:
    Q, _, A, _, G, _ = program
    return factors_of(Q, jnp.concatenate([A, jnp.where(active[:, None], G, 0)]), explicit)


def is_convex(hessian: jax.Array, by: Factors) -> jax.Array:
    """Whether a Hessian has no negative eigenvalue, up to rounding. Factors ``by`` that have not lost digits prove it,
    unless they are of more than the Hessian.

    >>> none, concave = jnp.zeros((0, 1)), -jnp.eye(1)
    >>> [bool(is_convex(Q, factors_of(Q, none))) for Q in (jnp.eye(1), concave)]
    [True, False]
    """
    return rescued(~by.convex, is_positive_semidefinite, (hessian,), jnp.bool_(True))


def corrected(program: Program, at: Point, by: Factors) -> Point:
    """(x, y, z) after a Newton step on the rows that the factors ``by`` are of; other multipliers are zero."""
    Q, q, A, b, G, h = program
    x, y, z = at
    duals = jnp.where(by.held, jnp.concatenate([y, z]), 0)
    rows = jnp.concatenate([A, G])
    unmet = jnp.where(by.held, rows @ x - jnp.concatenate([b, h]), 0)
    change, more = by.solve(-(Q @ x + q + rows.T @ duals), -unmet)
    duals = duals + more
    return x + change, duals[: y.size], duals[y.size :]


def newton_step(program: Program, at: Point, active: jax.Array) -> Point:
    """(x, y, z) moved so that Q x + q + A'y + G'z = 0, A x = b, and G x = h on the ``active`` rows, z = 0 on others.

    One Cholesky factor of Q + d I + C'C / d, C the rows of A and the active ones of G at size 1, and d half of the
    digits of the largest entry of Q: the Newton system with d and -d on its diagonal, its multipliers eliminated.
    The shifted system is regular for every convex program, dependent rows included. The next step removes the error of
    the shift, and leaves out directions without curvature. Source: Friedlander and Orban, 2012.
    """
    Q, q, A, b, G, h = program
    x, y, z = at
    rows, known = jnp.concatenate([A, G]), jnp.concatenate([b, h])
    held = jnp.concatenate([jnp.ones(y.size, bool), active])
    size = jnp.max(jnp.abs(rows), axis=1, initial=0)
    size = jnp.where(size > 0, size, 1)
    rows = rows / size[:, None]
    largest = jnp.max(jnp.abs(Q), initial=0)
    shift = float(jnp.finfo(q.dtype).eps) ** 0.5 * jnp.where(largest > 0, largest, 1)
    stiff = jnp.where(held, jnp.where(largest > 0, largest, 1) ** 2 / shift, 0)
    duals = jnp.where(held, jnp.concatenate([y, z]) * size, 0)
    slack = rows @ x - known / size
    matrix = Q + (rows.T * stiff[None, :]) @ rows
    forces = Q @ x + q + rows.T @ (duals + stiff * slack)
    change = -jax.scipy.linalg.cho_solve((_factor(matrix, shift), True), forces)
    duals = (duals + stiff * (slack + rows @ change)) / size
    return x + change, duals[: y.size], duals[y.size :]


def _factor(matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """The Cholesky factor of a positive semidefinite matrix with ``shift`` on its diagonal, or with the first multiple
    of it that is above the rounding of the matrix."""

    def trial(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        return shift, jnp.linalg.cholesky(matrix + shift * jnp.eye(len(matrix), dtype=matrix.dtype))

    largest = shift * SHIFTS[1]
    return jax.lax.while_loop(
        lambda last: ~jnp.all(jnp.isfinite(jnp.diagonal(last[1]))) & (last[0] < largest),
        lambda last: trial(SHIFTS[0] * last[0]),
        trial(shift),
    )[1]
