"""The derivative of the solution of a dense quadratic program in its data."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from bilevel.implicit.silence import silent
from bilevel.kernels.activity import Reading
from bilevel.kernels.saddle import Factors, solve_saddle


class Arguments(NamedTuple):
    """The arguments of min 1/2 x'Qx + q'x, A x = b, G x <= h; ``usable`` is 1, or NaN where there is no solution."""

    Q: jax.Array
    q: jax.Array
    A: jax.Array
    b: jax.Array
    G: jax.Array
    h: jax.Array
    usable: jax.Array


@jax.custom_jvp
def moving(
    solution: tuple[jax.Array, ...], arguments: tuple, reading: Reading, by: Factors | None = None
) -> tuple[jax.Array, ...]:
    """The ``solution`` (x, y, z), unchanged in value, with its derivative in the `Arguments`, in both modes and to any
    order. It takes factors of Q and of its Schur complement on the active rows of the ``reading``, in its units, or
    ``by``, where those were made for the program as given. Where
    the active rows are dependent, it is the derivative of least norm. It is NaN where ``usable`` is NaN, or where Q is
    singular along a direction that the derivative needs; a cotangent that is exactly zero still gives zero.

    >>> from bilevel.kernels.activity import read_program
    >>> solution = (jnp.array([1.0]), jnp.zeros(0), jnp.array([2.0]))  # min 1/2 x^2 - 3 x, x <= h = 1
    >>> fixed = (jnp.eye(1), -3 * jnp.ones(1), jnp.zeros((0, 1)), jnp.zeros(0), jnp.eye(1))
    >>> reading = read_program((*fixed, jnp.ones(1)), solution)
    >>> jax.jacobian(lambda h: moving(solution, (*fixed, h, 1.0), reading)[2])(jnp.ones(1)).tolist()
    [[-1.0]]
    """
    return solution


def _rule(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    at, given, reading = moving(*primals), Arguments(*primals[1]), primals[2]
    columns, scales = reading.units
    by = None if primals[3] is None else jax.lax.stop_gradient(primals[3]).in_units(columns, scales)
    mask = jnp.concatenate([jnp.ones_like(at[1]), reading.active.astype(at[0].dtype)])

    moves = [i for i, tangent in enumerate(tangents[1]) if not isinstance(tangent, SymbolicZero)]
    if not moves:
        return at, tuple(map(jnp.zeros_like, at))

    def linear(of: tuple, tangents: tuple) -> tuple[jax.Array, ...]:
        (x, y, z), given, moved = of[0], of[1], dict(zip(moves, tangents, strict=True))
        rows = (mask * scales)[:, None] * jnp.concatenate([given.A, given.G]) * columns[None, :]
        curvature = columns[:, None] * (0.5 * (given.Q + given.Q.T)) * columns[None, :]
        top, equality, inequality = unmet((x, y, z), moved)
        bottom = jnp.concatenate([equality, inequality])
        change, duals = solve_saddle(curvature, rows, columns * top, mask * scales * bottom, strict=True, by=by)
        change, duals = columns * change, scales * duals
        return change, duals[: y.size], duals[y.size :]

    lost = jnp.isnan(given.usable)
    return at, silent(linear, (at, given), tuple(tangents[1][i] for i in moves), lost, given[:-1])


def unmet(at: tuple, moved: dict[int, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far a change of some of the data, by their places in `Arguments`, moves the conditions away from the point.
    Data that stay have no terms, because products with zeros take as long as others."""
    x, y, z = at
    Q, q, A, b, G, h = (moved.get(i) for i in range(6))
    top, equality, inequality = jnp.zeros_like(x), jnp.zeros_like(y), jnp.zeros_like(z)
    if Q is not None:
        top = top - 0.5 * (Q @ x + x @ Q)
    if q is not None:
        top = top - q
    if A is not None:
        top, equality = top - y @ A, equality - A @ x
    if b is not None:
        equality = equality + b
    if G is not None:
        top, inequality = top - z @ G, inequality - G @ x
    if h is not None:
        inequality = inequality + h
    return top, equality, inequality


moving.defjvp(_rule, symbolic_zeros=True)
