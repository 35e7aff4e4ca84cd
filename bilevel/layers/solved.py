"""The common part of quadratic and cone programs, between the solve and the derivative of its solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import GRADES, Status
from bilevel.foundation.typing import Counts, Params
from bilevel.implicit.attach import solve_system
from bilevel.implicit.mapping import Mapping
from bilevel.kernels.polish import improved
from bilevel.linear_solve import AutoLinear
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram

POLISHES = 3  # Newton steps, which double the digits
DENSE_STEP = 1024  # unknowns and rows up to which such a step of a cone or sparse program has a dense matrix


class Solved(NamedTuple):
    """A program's solution before it gets its derivative; ``usable`` is 1, or NaN where there is no derivative."""

    unknown: Any
    usable: jax.Array
    residual: jax.Array
    status: Status
    grade: jax.Array
    steps: jax.Array
    counts: Counts
    curvature: jax.Array
    frame: Any  # the data of the derivative: the active rows, or the units of a cone program


def improved_at_root(mapping: Mapping, at: Params, args: tuple, measure: Callable) -> tuple[Params, jax.Array]:
    """Newton steps on the optimality condition while the residual is not small yet and they lower it."""

    solve = AutoLinear(dense=DENSE_STEP)

    def step(at: Params) -> Params:
        return trees.subtract(at, solve_system(mapping.system(at, *args), solve, mapping(at, *args)))

    precise = 100 * float(jnp.finfo(jax.tree.leaves(at)[0].dtype).eps)
    return improved(step, measure, at, POLISHES, enough=precise)


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
