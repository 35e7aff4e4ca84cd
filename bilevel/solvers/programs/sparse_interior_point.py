"""The interior-point method of programs with sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import cones
from bilevel.cones import Cone
from bilevel.foundation.callbacks import on_host
from bilevel.foundation.status import Code
from bilevel.kernels.matrices import Matrix, compressed
from bilevel.kernels.sparse_conic import Data, solve_sparse
from bilevel.solvers.base import settings
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, layout, pieces

LINEAR = (cones.Zero, cones.NonNegative, cones.Free)
ROOM = 1e-3  # programs are solved to this share of tol, because they are judged in other units


def is_linear(cone: Cone) -> bool:
    """Whether all rows are equalities, inequalities or free."""
    return all(isinstance(piece.cone, LINEAR) for piece in pieces(cone))


@settings
@dataclass(frozen=True)
class SparseInteriorPoint(ProgramSolver):
    """Mehrotra's predictor-corrector method for `bl.quadratic_program` and linear `bl.cone_program` with sparse
    matrices.

    The method of `bl.InteriorPoint`, on the host, with a sparse factor of the whole system a step. Works under jit;
    under vmap one program after the other. Computes in float64 whatever the dtype of the data. Certificates of
    infeasible and unbounded programs are judged in the same way for all solvers. Raises ValueError for cones that are
    not linear. Source: Mehrotra, 1992; Vanderbei, Symmetric quasidefinite matrices, 1995.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> from jax.experimental.sparse import BCOO
    >>> rows = BCOO.fromdense(jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    >>> solution = bl.quadratic_program(BCOO.fromdense(jnp.eye(3)), -jnp.ones(3), G=rows, h=jnp.ones(2),
    ...                                 solver=bl.SparseInteriorPoint())
    >>> solution.params.round(5).tolist(), solution.status.name
    ([0.5, 1.0, 0.5], 'converged')
    """

    max_steps: int = 200
    tol: float | jax.Array = 1e-10

    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        if not is_linear(program.cone):
            unknown = next(piece.cone for piece in pieces(program.cone) if not isinstance(piece.cone, LINEAR))
            raise ValueError(
                f"bl.SparseInteriorPoint knows the cones Zero, NonNegative and Free, not {unknown}. Use "
                "solver=bl.Clarabel() or solver=bl.OperatorSplitting()."
            )
        P, q, A, b, cone = program[:5]
        rows, bounds, _ = layout(cone)
        count = jnp.zeros((), jnp.int32)
        like = (jnp.zeros_like(q), jnp.zeros_like(b), jnp.zeros_like(b), count, count)

        def host(tol: np.ndarray, P: Matrix, q: np.ndarray, A: Matrix, b: np.ndarray) -> tuple:
            P, A = compressed(P), compressed(A).tocsr()
            q, b = np.asarray(q, np.float64), np.asarray(b, np.float64)
            y, s = np.zeros(b.size), np.zeros(b.size)
            if not all(np.all(np.isfinite(part)) for part in (P.data, q, A.data, b)):
                return np.full(q.size, np.nan), y * np.nan, s * np.nan, 0, int(Code.nonfinite)
            data = Data(P, q, A[rows].tocsc(), b[rows], A[bounds].tocsc(), b[bounds])
            with np.errstate(all="ignore"):  # a step that is not finite ends the iteration
                found = solve_sparse(data, max(ROOM * float(tol), 4 * float(np.finfo(float).eps)), self.max_steps)
            y[rows], y[bounds] = found.y, found.z
            return found.x, y, b - A @ found.x, found.steps, int(found.code)

        return Answer(*on_host(host, like, jnp.asarray(self.tol), P, q, A, b))
