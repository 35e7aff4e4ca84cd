"""Clarabel on the host, for the cones that the native interior-point method does not know."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from bilevel import cones
from bilevel.cones import Cone
from bilevel.foundation.status import Code
from bilevel.kernels.matrices import Matrix, compressed
from bilevel.kernels.symmetric import upper_by_columns
from bilevel.solvers.outside.host import call_host
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, Piece, ProgramSolver, pieces

CODES = {
    "Solved": Code.converged,
    "AlmostSolved": Code.stalled,
    "PrimalInfeasible": Code.infeasible,
    "AlmostPrimalInfeasible": Code.infeasible,
    "DualInfeasible": Code.unbounded,
    "AlmostDualInfeasible": Code.unbounded,
    "MaxIterations": Code.max_steps,
}


def installed() -> bool:
    """Whether the optional package is there."""
    return importlib.util.find_spec("clarabel") is not None


@dataclass(frozen=True)
class Clarabel(ProgramSolver):
    """Solves `bl.cone_program` and `bl.quadratic_program` with the Clarabel solver, through a host callback.

    For the zero, non-negative, second-order, positive semidefinite, exponential, power and free cones and products.
    Takes dense and sparse matrices. Works under jit and vmap (one program after the other). Computes in float64
    whatever the dtype of the data. Raises ImportError where the package is missing, ValueError for another cone.
    Source: Goulart and Chen, Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024.
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = 200

    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        if not installed():
            raise ImportError(
                "bl.Clarabel needs the package clarabel: pip install 'bilevel[clarabel]', "
                "or use solver=bl.OperatorSplitting()."
            )
        order = _arrangement(program.cone)
        P, q, A, b, cone = program[:5]
        count = jnp.zeros((), jnp.int32)
        like = (jnp.zeros_like(q), jnp.zeros_like(b), jnp.zeros_like(b), count, count)

        def host(_: tuple, *arrays: Matrix) -> tuple:
            tol, P, q, A, b = arrays
            q, b = np.asarray(q, np.float64), np.asarray(b, np.float64)
            return self._on_host(order, pieces(cone), float(tol), compressed(P), q, compressed(A), b)

        return Answer(*call_host(host, like, jnp.asarray(self.tol), P, q, A, b))

    def _on_host(
        self, order: np.ndarray, parts: list[Piece], tol: float, P: scipy.sparse.csc_array, q: np.ndarray,
        A: scipy.sparse.csc_array, b: np.ndarray,
    ) -> tuple:  # fmt: skip
        import clarabel as package

        clarabel: Any = package  # Any, because the package declares no types
        nothing = np.full(q.size, np.nan), np.full(b.size, np.nan), np.full(b.size, np.nan), 0, int(Code.nonfinite)
        if not all(np.all(np.isfinite(array)) for array in (P.data, q, A.data, b)):
            return nothing
        options = clarabel.DefaultSettings()
        options.verbose, options.max_iter = False, self.max_steps
        options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = tol
        upper = scipy.sparse.csc_matrix(scipy.sparse.triu(0.5 * (P + P.T)))
        kinds = [_KINDS[type(part.cone)](clarabel, part.cone) for part in parts if type(part.cone) is not cones.Free]
        rows = scipy.sparse.csc_matrix(A.tocsr()[order])
        found = clarabel.DefaultSolver(upper, q, rows, b[order], kinds, options).solve()
        y, s = np.zeros(b.size), b - A @ np.asarray(found.x)
        y[order], s[order] = found.z, found.s
        code = CODES.get(str(found.status).rpartition(".")[2], Code.stalled)
        return np.asarray(found.x), y, s, found.iterations, int(code)


def knows(cone: Cone) -> bool:
    """Whether Clarabel has all parts of the cone."""
    return all(type(piece.cone) is cones.Free or type(piece.cone) in _KINDS for piece in pieces(cone))


_KINDS = {
    cones.Zero: lambda host, cone: host.ZeroConeT(cone.dim),
    cones.NonNegative: lambda host, cone: host.NonnegativeConeT(cone.dim),
    cones.SecondOrder: lambda host, cone: host.SecondOrderConeT(cone.dim),
    cones.PSD: lambda host, cone: host.PSDTriangleConeT(cone.n),
    cones.Exponential: lambda host, cone: host.ExponentialConeT(),
    cones.Power: lambda host, cone: host.PowerConeT(cone.alpha),
}


def _arrangement(cone: Cone) -> np.ndarray:
    """The places of our rows in Clarabel's order, which has no free rows and takes a symmetric matrix by the columns of
    its upper triangle."""
    order = [np.zeros(0, int)]
    for piece in pieces(cone):
        if isinstance(piece.cone, cones.Free):
            continue
        if type(piece.cone) not in _KINDS:
            raise ValueError(f"bl.Clarabel does not know the cone {piece.cone}. Use solver=bl.OperatorSplitting().")
        rows = piece.rows
        order.append(rows[upper_by_columns(piece.cone.n)] if isinstance(piece.cone, cones.PSD) else rows)
    return np.concatenate(order)
