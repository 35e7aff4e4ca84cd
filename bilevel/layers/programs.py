"""Convex programs as differentiable functions of their data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.cones import Cone
from bilevel.foundation.eager import Setting
from bilevel.layers.cone import move_conic, solve_conic
from bilevel.layers.quadratic import move_quadratic, solve_quadratic
from bilevel.layers.solved import Solved
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.solvers import Auto
from bilevel.solvers.programs.arguments import (
    cone_arguments,
    quadratic_arguments,
    start_arguments,
    two_sided_arguments,
)
from bilevel.solvers.programs.stated_by_arrays import ProgramSolver
from bilevel.solvers.solution import Solution


def quadratic_program(
    Q: Any,
    q: Any,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    *,
    g: Any = None,
    solver: ProgramSolver = Auto(),
    linear_solve: LinearSolver = AutoLinear(),
    init: Solution | None = None,
) -> Solution:
    """min 1/2 x'Qx + q'x subject to A x = b and g <= G x <= h, for a symmetric positive semidefinite Q.

    Shapes: Q (n, n), q (n,), A (p, n), b (p,), G (m, n), g and h (m,); the pair A, b or G with its bounds may be left
    out, and bounds may be infinite (none). With ``g`` a negative entry of ``inequality_dual`` is the multiplier of a
    lower bound; rows with g == h belong into A, b. The matrices may be dense or sparse (`BCOO`). Sparse ones are
    factored on the host, by `bl.Clarabel` where it is installed, else by `bl.SparseInteriorPoint`; their derivatives
    are with respect to the stored entries. ``init`` is the solution of a nearby program, from which a
    `bl.OperatorSplitting` starts. Batches by ``jax.vmap``. Returns a `Solution` whose
    ``params`` (x) and ``dual`` (a `bl.Dual`, L = 1/2 x'Qx + q'x + equality_dual'(A x - b) + inequality_dual'(G x - h))
    have derivatives in every argument, in both modes. Only the symmetric part of Q counts.

    ``residual`` is the largest of the KKT conditions and the duality gap, each relative to the size of its terms. Where
    there is no solution the status says `infeasible` or `unbounded` (a proof, checked on the data as given), for a Q
    with a negative eigenvalue `indefinite`, for data with NaN `nonfinite`: lane by
    lane, and params, dual and derivatives are NaN (to a cotangent that is exactly zero, zero). Compiles once for shapes
    and settings, in eager calls too. Rescaling rows, unknowns or the objective rescales the derivatives exactly.
    ``error_grade`` is "estimate" where the derivative exists: no row is weakly active, and the active rows are
    independent. Elsewhere, and where that is not examined (dense programs of more than 1,024 unknowns and rows whose
    factors lose digits), it is "residual": the derivative may be one of several, of least norm on the rows whose
    multiplier outweighs their slack. Raises ValueError for shapes that do not fit.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> solve = lambda h: bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.ones((1, 2)), h=h)
    >>> solution = solve(jnp.ones(1))
    >>> solution.params.round(6).tolist(), solution.dual.inequality_dual.round(6).tolist(), solution.status.name
    ([0.5, 0.5], [0.5], 'converged')
    >>> jax.jacobian(lambda h: solve(h).params)(jnp.ones(1)).round(6).tolist()
    [[0.5], [0.5]]
    """
    if g is not None:
        G, h = two_sided_arguments(G, g, h)
    data = quadratic_arguments(Q, q, A, b, G, h)
    rows = data[5].size if g is None else data[5].size // 2
    sizes = (data[1].size, data[3].size, rows)
    start = None if init is None else start_arguments("quadratic_program", (init.params, *init.dual), sizes)
    if start is not None and g is not None:
        start[2] = jnp.maximum(jnp.concatenate([start[2], -start[2]]), 0)
    found = of_data(data, start, solver, linear_solve)
    if g is None:
        return found
    dual = found.dual.inequality_dual
    return found._replace(dual=found.dual._replace(inequality_dual=dual[:rows] - dual[rows:]))


def of_data(
    data: list, start: list | None, solver: ProgramSolver, linear_solve: LinearSolver, explicit: int = 0
) -> Solution:
    """The quadratic program with these arguments, of which the first ``explicit`` equalities give as many last
    unknowns (see `ConeProgram`)."""
    solve = Setting(linear_solve)
    solved = solve_quadratic(data, start, solver, solve, Setting(explicit))
    moved = move_quadratic(data, solved, solve)
    return _solution(solved, moved.primal, moved.dual)


def cone_program(
    A: Any,
    b: Any,
    c: Any,
    cone: Cone,
    *,
    solver: ProgramSolver = Auto(),
    linear_solve: LinearSolver = AutoLinear(),
    init: Solution | None = None,
) -> Solution:
    """min c'x subject to A x + s = b, s in ``cone`` (of `bl.cones`, products included).

    Shapes: A (m, n), b (m,), c (n,). Batches by ``jax.vmap``. Returns a `Solution` whose ``params`` (x) and ``dual``
    (y in the dual cone, L = c'x + y'(A x + s - b)) have derivatives in A, b and c, in both modes; the slack is b - A x.
    ``solver``: by default `bl.InteriorPoint` for linear and second-order cones, `bl.Clarabel` on the host for others,
    and for sparse A the solvers of `quadratic_program`, or `bl.OperatorSplitting`. Sparse A, ``init``, statuses and
    grades as for `quadratic_program` (the rows of a sparse A should be of one size). Raises ValueError for shapes that
    do not fit.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> solve = lambda b: bl.cone_program(-jnp.eye(2), b, jnp.array([1.0, 2.0]), bl.cones.NonNegative(2))
    >>> solution = solve(jnp.array([-3.0, 1.0]))
    >>> solution.params.round(5).tolist(), solution.dual.round(5).tolist(), solution.status.name
    ([3.0, -1.0], [1.0, 2.0], 'converged')
    """
    data = cone_arguments(A, b, c, cone)
    sizes = (data[2].size, data[1].size)
    start = None if init is None else start_arguments("cone_program", (init.params, init.dual), sizes)
    solved = solve_conic(data, cone, start, solver)
    x, y = move_conic(data, cone, solved, Setting(linear_solve))
    return _solution(solved, x, y)


def _solution(solved: Solved, params: jax.Array, dual: Any) -> Solution:
    _, _, residual, status, grade, steps, counts, curvature, _ = solved
    return Solution(params, dual, residual, steps, status, counts, curvature, grade)
