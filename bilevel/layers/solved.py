"""What quadratic and cone programs share between the solve and the derivative of its solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import GRADES, Status
from bilevel.foundation.typing import Counts, Params
from bilevel.implicit.attach import solve_system
from bilevel.implicit.mapping import Mapping
from bilevel.linear_solve import AutoLinear
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram

POLISHES = 3
DENSE = 1024  # unknowns and rows up to which these Newton steps are made with a dense matrix


class Solved(NamedTuple):
    """A program's solution before it gets its derivative; ``usable`` is 1, or NaN where there is no solution."""

    unknown: Any
    usable: jax.Array
    residual: jax.Array
    status: Status
    grade: jax.Array
    steps: jax.Array
    counts: Counts
    curvature: jax.Array
    frame: Any  # what the derivative is computed in: the active rows, or the units of a cone program


def root_step(mapping: Mapping, at: Params, args: tuple) -> Params:
    return solve_system(mapping.system(at, *args), AutoLinear(dense=DENSE), mapping(at, *args))


def polished(correction: Callable, unknown: Params, measure: Callable) -> tuple[Params, jax.Array]:
    """Newton steps on the optimality condition while the residual is not small yet and they lower it."""
    first = measure(unknown)
    precise = 100 * float(jnp.finfo(first.dtype).eps)

    def body(state: tuple) -> tuple:
        unknown, residual, _, tries = state
        moved = jax.tree.map(jnp.subtract, unknown, correction(unknown))
        after = measure(moved)
        better = after < residual
        unknown = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, unknown)
        return unknown, jnp.where(better, after, residual), better, tries + 1

    def proceed(state: tuple) -> jax.Array:
        _, residual, better, tries = state
        return better & (residual > precise) & (tries < POLISHES)

    usable = jnp.isfinite(first)
    unknown, residual, _, _ = jax.lax.while_loop(proceed, body, (unknown, first, usable, jnp.int32(0)))
    return unknown, residual


def grade_of(status: Status, regular: jax.Array) -> jax.Array:
    return jnp.where(status.ok & regular, GRADES.index("estimate"), GRADES.index("residual")).astype(jnp.int32)


def start_of(program: ConeProgram, x: jax.Array, y: jax.Array) -> Answer:
    """The solution of a nearby program; zeros where that program had none."""
    usable = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    x, y = jnp.where(usable, x, 0), jnp.where(usable, y, 0)
    none = jnp.zeros((), jnp.int32)
    return jax.lax.stop_gradient(Answer(x, y, program.b - program.A @ x, none, none))


def counts_of(answer: Answer) -> Counts:
    return Counts(factorizations=answer.steps).as_arrays()
