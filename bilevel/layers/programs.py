"""Convex programs as differentiable functions of their data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from bilevel.cones import Cone, NonNegative, Product, Zero
from bilevel.foundation import trees
from bilevel.foundation.eager import Setting, compiles_once
from bilevel.foundation.status import GRADES, Code, Status
from bilevel.foundation.typing import Counts, Params, Scalar
from bilevel.implicit.attach import attach, solve_system
from bilevel.implicit.mapping import Mapping
from bilevel.kernels import activity
from bilevel.kernels.matrices import is_sparse, rows_kept, stacked, symmetric_part
from bilevel.kernels.polish import improved, polished
from bilevel.kernels.program_derivative import moving
from bilevel.layers.conic_units import conic_units, is_regular
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.optimality.conic import Conic, ConicPoint
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.problem import Solution
from bilevel.solvers import Auto
from bilevel.solvers.programs.arguments import cone_arguments, quadratic_arguments, start_arguments
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, program_residual
from bilevel.solvers.programs.verdict import verdict

POLISHES = 3
DENSE_STEP = 1024  # unknowns and rows up to which such a step of a cone or sparse program has a dense matrix
DENSE = 4096  # unknowns up to which a dense quadratic program is polished and differentiated by dense factors
JUDGED = 1024  # unknowns and rows up to which its active rows are looked at for independence, by a factor of them all


def quadratic_program(
    Q: Any,
    q: Any,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    *,
    solver: ProgramSolver = Auto(),
    linear_solve: LinearSolver = AutoLinear(),
    init: Solution | None = None,
) -> Solution:
    """min 1/2 x'Qx + q'x subject to A x = b and G x <= h, for a symmetric positive semidefinite Q.

    Shapes: Q (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,); the pair A, b or G, h may be left out, and entries of
    h may be infinite (no constraint). The matrices may be dense or sparse (`BCOO`). With sparse ones only products are
    taken, and their derivatives are with respect to the stored entries. ``init`` is the solution of a nearby program,
    from which a `bl.OperatorSplitting` starts. Batches by ``jax.vmap``. Returns a `Solution` whose ``params`` (x) and
    ``dual`` (a `bl.Dual`, L = 1/2 x'Qx + q'x + equality_dual'(A x - b) + inequality_dual'(G x - h)) have derivatives in
    every argument, in both modes. Only the symmetric part of Q counts.

    ``residual`` is the largest of the KKT conditions and the duality gap, each relative to the size of its terms. Where
    there is no solution the status says `infeasible` or `unbounded` (a proof, checked on the data as given), for a Q
    with a negative eigenvalue `indefinite` (sparse Q: up to 1,024 unknowns), for data with NaN `nonfinite`: lane by
    lane, and params, dual and derivatives are NaN (to a cotangent that is exactly zero, zero). Compiles once for shapes
    and settings, in eager calls too. Rescaling rows, unknowns or the objective rescales the derivatives exactly.
    ``error_grade`` is "estimate" where the derivative exists: no row is weakly active, and the active rows are
    independent. Elsewhere, and where that is not examined (sparse and large programs), it is "residual": the derivative
    may be one of several, of least norm on the rows whose multiplier outweighs their slack. Raises ValueError for
    shapes that do not fit.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> solve = lambda h: bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.ones((1, 2)), h=h)
    >>> solution = solve(jnp.ones(1))
    >>> solution.params.round(6).tolist(), solution.dual.inequality_dual.round(6).tolist(), solution.status.name
    ([0.5, 0.5], [0.5], 'converged')
    >>> jax.jacobian(lambda h: solve(h).params)(jnp.ones(1)).round(6).tolist()
    [[0.5], [0.5]]
    """
    data = quadratic_arguments(Q, q, A, b, G, h)
    sizes = (data[1].size, data[3].size, data[5].size)
    start = None if init is None else start_arguments("quadratic_program", (init.params, *init.dual), sizes)
    return _quadratic_program(data, start, solver, Setting(linear_solve))


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
    `bl.OperatorSplitting` for large and sparse programs. Sparse A, ``init``, statuses and grades as for
    `quadratic_program` (the rows of a sparse A should be of one size). Raises ValueError for shapes that do not fit.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> solve = lambda b: bl.cone_program(-jnp.eye(2), b, jnp.array([1.0, 2.0]), bl.cones.NonNegative(2))
    >>> solution = solve(jnp.array([-3.0, 1.0]))
    >>> solution.params.round(5).tolist(), solution.dual.round(5).tolist(), solution.status.name
    ([3.0, -1.0], [1.0, 2.0], 'converged')
    """
    data = cone_arguments(A, b, c, cone)
    sizes = (data[2].size, data[1].size)
    start = None if init is None else start_arguments("cone_program", (init.params, init.dual), sizes)
    return _cone_program(data, cone, start, solver, Setting(linear_solve))


@compiles_once
def _quadratic_program(data: list, start: list | None, solver: ProgramSolver, solve: Setting) -> Solution:
    Q, q, A, b, G, h = data
    impossible = jnp.any(h == -jnp.inf)
    G, h = rows_kept(G, h != jnp.inf), jnp.where(jnp.isinf(h), 1, h)
    frozen = jax.lax.stop_gradient((Q, q, A, b, G, h))
    cone = Product(Zero(b.size), NonNegative(h.size))
    program = ConeProgram(
        symmetric_part(frozen[0]),
        frozen[1],
        stacked(frozen[2], frozen[4]),
        jnp.concatenate([frozen[3], frozen[5]]),
        cone,
    )
    begin = None if start is None else _start(program, start[0], jnp.concatenate(start[1:]))
    answer: Answer = jax.lax.stop_gradient(solver.solve_program(program, begin))
    unknown = PrimalDual(answer.x, answer.y[: b.size], answer.y[b.size :])

    dense = not program.sparse and q.size <= DENSE
    arrays = (program.P, *frozen[1:])
    if dense:
        unknown = PrimalDual(*polished(arrays, tuple(unknown)))
        residual = _measure(program, unknown)
    else:
        ones = jnp.ones((), q.dtype)
        unknown, residual = _improved(QP, unknown, (*frozen, ones), partial(_measure, program))
    status, usable = verdict(program, answer, residual, solver.tol)
    status = Status.of(jnp.where(impossible & (status.code != Code.nonfinite), Code.infeasible, status.code))
    usable = jnp.where(impossible, jnp.nan, usable)
    unknown = jax.tree.map(lambda leaf: leaf * usable, unknown)
    grade = _grade(status, jnp.bool_(False))
    if dense and solve.value == AutoLinear():
        reading = jax.lax.stop_gradient(activity.read_program(arrays, tuple(unknown)))
        if q.size + program.b.size <= JUDGED:
            grade = _grade(status, activity.is_regular(arrays, reading))
        told = jnp.where(reading.told, usable, jnp.nan)  # a guess of the active rows gives no derivative
        unknown = PrimalDual(*moving(tuple(unknown), (Q, q, A, b, G, h, told), reading))
    else:
        unknown = attach(QP, solve.value, unknown, (Q, q, A, b, G, h, usable))
    looked = jnp.full((), 0.0 if not program.sparse else jnp.nan, q.dtype)  # `verdict` has looked at the eigenvalues
    return Solution(unknown.primal, unknown.dual, residual, answer.steps, status, _counts(answer), looked, grade)


@compiles_once
def _cone_program(data: list, cone: Cone, start: list | None, solver: ProgramSolver, solve: Setting) -> Solution:
    A, b, c = data
    n = c.size
    frozen = jax.lax.stop_gradient((A, b, c))
    curvature = BCOO.fromdense(jnp.zeros((n, n), c.dtype), nse=0) if is_sparse(A) else jnp.zeros((n, n), c.dtype)
    program = ConeProgram(curvature, frozen[2], frozen[0], frozen[1], cone)
    begin = None if start is None else _start(program, *start)
    answer: Answer = jax.lax.stop_gradient(solver.solve_program(program, begin))
    mapping = Conic(cone)
    units = conic_units(frozen[0], frozen[2], cone, ConicPoint(answer.x, answer.y, answer.s))
    scaled = units.data(*frozen)
    unknown = mapping.pack(*units.inward(answer.x, answer.y, answer.s))

    def measure(z: jax.Array) -> jax.Array:
        at = units.outward(mapping.unpack(z))
        return program_residual(program, at.x, at.y)

    unknown, residual = _improved(mapping, unknown, scaled, measure)
    status, usable = verdict(program, answer, residual, solver.tol)
    grade = _grade(status, is_regular(mapping, unknown, *scaled))
    lost = jnp.isnan(usable)
    unknown = jnp.where(
        lost, mapping.pack(*map(jnp.zeros_like, (c, b, b))), unknown
    )  # where a cotangent of zero stays zero
    point = units.outward(mapping.unpack(attach(mapping, solve.value, unknown, units.data(A, b, c), lost=lost)))
    x, y = (part + (usable - 1) for part in (point.x, point.y))  # NaN where lost, with the derivative of `attach`
    flat = jnp.zeros((), c.dtype)  # a linear objective has no curvature
    return Solution(x, y, residual, answer.steps, status, _counts(answer), flat, grade)


def _qp_loss(x, Q, q, A, b, G, h, usable) -> Scalar:
    return usable * (0.5 * x @ (Q @ x) + q @ x)  # usable is 1, or NaN, which makes all derivatives NaN


def _qp_equality(x, Q, q, A, b, G, h, usable) -> jax.Array:
    return A @ x - b


def _qp_inequality(x, Q, q, A, b, G, h, usable) -> jax.Array:
    return G @ x - h


QP = KKT(_qp_loss, _qp_equality, _qp_inequality)


def _measure(program: ConeProgram, at: PrimalDual) -> jax.Array:
    return program_residual(program, at.primal, jnp.concatenate([at.equality_dual, at.inequality_dual]))


def _improved(mapping: Mapping, at: Params, args: tuple, measure: Callable) -> tuple[Params, jax.Array]:
    """Newton steps on the optimality condition while the residual is not small yet and they lower it."""

    solve = AutoLinear(dense=DENSE_STEP)

    def step(at: Params) -> Params:
        return trees.subtract(at, solve_system(mapping.system(at, *args), solve, mapping(at, *args)))

    precise = 100 * float(jnp.finfo(jax.tree.leaves(at)[0].dtype).eps)
    return improved(step, measure, at, POLISHES, enough=precise)


def _grade(status: Status, regular: jax.Array) -> jax.Array:
    return jnp.where(status.ok & regular, GRADES.index("estimate"), GRADES.index("residual")).astype(jnp.int32)


def _start(program: ConeProgram, x: jax.Array, y: jax.Array) -> Answer:
    """The solution of a nearby program; zeros where that program had none."""
    usable = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    x, y = jnp.where(usable, x, 0), jnp.where(usable, y, 0)
    none = jnp.zeros((), jnp.int32)
    return jax.lax.stop_gradient(Answer(x, y, program.b - program.A @ x, none, none))


def _counts(answer: Answer) -> Counts:
    return Counts(factorizations=answer.steps).as_arrays()
