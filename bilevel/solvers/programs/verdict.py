"""The status of a program stated by arrays, judged on the data as given, in one way for all solvers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.callbacks import on_host
from bilevel.foundation.rescue import rescued
from bilevel.foundation.status import Code, Status
from bilevel.kernels.equilibrate_operators import squares_of, units
from bilevel.kernels.matrices import compressed, is_positive_semidefinite, is_sparse
from bilevel.kernels.splitting import proofs
from bilevel.linear_solve import sparse_factor
from bilevel.solvers.programs.split_program import quadratic
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, groups_of


def verdict(
    program: ConeProgram,
    answer: Answer,
    residual: jax.Array,
    asked: float | jax.Array,
    convex: jax.Array | None = None,
) -> tuple[Status, jax.Array]:
    """The status, and 1 where there is a solution, else NaN; ``asked`` is the tolerance of the solver, and
    ``convex`` what is known of the Hessian already.

    Data that are not finite are `nonfinite`. A proof counts if it holds for the program as stated. A Hessian with a
    negative eigenvalue is `indefinite`. Otherwise the ``residual`` decides, whatever the solver reports.
    """
    floor = float(jnp.finfo(residual.dtype).eps) ** 0.625  # 2e-10 in float64, 5e-5 in float32
    tol = jnp.maximum(asked, floor)
    near = jnp.where(residual <= floor**0.6, Code.stalled, Code.max_steps)
    judged = jnp.where(residual <= tol, Code.converged, near)
    judged = jnp.where(jnp.isfinite(residual), judged, Code.nonfinite)
    infeasible, unbounded = _proofs_where_claimed(program, answer)
    judged = jnp.where((answer.code == Code.unbounded) & unbounded, Code.unbounded, judged)
    judged = jnp.where(is_convex(program) if convex is None else convex, judged, Code.indefinite)
    judged = jnp.where((answer.code == Code.infeasible) & infeasible, Code.infeasible, judged)
    code = jnp.where(is_finite(program), judged, Code.nonfinite)
    return Status.of(code), jnp.where(code <= Code.stalled, 1, jnp.nan).astype(residual.dtype)


def _proofs_where_claimed(program: ConeProgram, answer: Answer) -> tuple[jax.Array, jax.Array]:
    """`_proofs`, of a dense program only where the solver claims that there is no solution."""
    if program.sparse:
        return _proofs(program, answer)
    claimed = (answer.code == Code.infeasible) | (answer.code == Code.unbounded)
    cone, none = program.cone, (jnp.bool_(False), jnp.bool_(False))

    def examined(P: jax.Array, q: jax.Array, A: jax.Array, b: jax.Array, answer: Answer) -> tuple:
        return _proofs(ConeProgram(P, q, A, b, cone), answer)

    return rescued(claimed, examined, (*program[:4], answer), none)


def _proofs(program: ConeProgram, answer: Answer) -> tuple[jax.Array, jax.Array]:
    stated = quadratic(program, factored=0)
    measures = units(stated.q, squares_of(program.P, program.A), groups_of(program.cone))
    return proofs(stated, measures, answer.x, answer.y)


def is_convex(program: ConeProgram) -> jax.Array:
    """Whether the Hessian has no negative eigenvalue."""
    if not is_sparse(program.P):
        return is_positive_semidefinite(program.P)
    eps = float(jnp.finfo(program.q.dtype).eps)
    return on_host(lambda P: sparse_factor.is_positive_semidefinite(compressed(P), eps), jnp.bool_(True), program.P)


def is_finite(program: ConeProgram) -> jax.Array:
    """Whether all data are finite numbers."""
    data = jax.tree.leaves(program[:4])  # a sparse matrix has leaves for its entries and for their places
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in data]))
