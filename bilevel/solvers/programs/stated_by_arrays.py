"""Solvers of programs that are stated by arrays: quadratic programs over a product of cones."""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import cones
from bilevel.cones import Cone
from bilevel.foundation.rescue import rescued
from bilevel.foundation.status import Code
from bilevel.kernels.conic import Data, solve_conic
from bilevel.kernels.equilibrate import equilibrate, units
from bilevel.kernels.equilibrate_operators import Groups
from bilevel.kernels.matrices import Matrix, dense, is_sparse
from bilevel.kernels.pivoting import block_pivoting
from bilevel.kernels.residual import Products, relative_residual
from bilevel.kernels.saddle import Factors, Schur, is_lost, substitution
from bilevel.kernels.second_orders import SecondOrders
from bilevel.kernels.triangular import inverse_lower

MAX_PIVOTS = 50  # about six exchanges are usual; after so many another solver takes over
PRECISE = 1e-11  # the relative residual that exchanges reach unless the program is badly conditioned


class ConeProgram(NamedTuple):
    """min 1/2 x'Px + q'x s.t. A x + s = b, s in ``cone``; y in the dual cone are the multipliers.

    The first ``explicit`` rows are equalities that give as many last unknowns, one each: in the other rows these have
    no coefficient, and in P they have one on the diagonal, which is positive.
    """

    P: Matrix  # (n, n)
    q: jax.Array  # (n,)
    A: Matrix  # (m, n)
    b: jax.Array  # (m,)
    cone: Cone
    explicit: int = 0

    @property
    def sparse(self) -> bool:
        """Whether one of the matrices is sparse."""
        return is_sparse(self.P) or is_sparse(self.A)

    def dense(self) -> ConeProgram:
        """The program with dense matrices."""
        return self._replace(P=dense(self.P), A=dense(self.A))


class Answer(NamedTuple):
    """The result of a program solver; ``code`` is the solver's own `Code`, which the residual has to confirm.

    ``factors`` are those of the rows that hold the solution, from a solver of dense programs that has made them.
    """

    x: jax.Array
    y: jax.Array
    s: jax.Array
    steps: jax.Array
    code: jax.Array
    factors: Factors | None = None


class ProgramSolver(abc.ABC):
    """A way to solve a `ConeProgram`, without derivatives; failures are codes and raise nothing."""

    tol: float | jax.Array  # for the residual relative to the size of its terms

    @abc.abstractmethod
    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        """The solution, or the last iterate with the `Code` that says why there is none. ``start`` is the answer to a
        nearby program; interior-point methods do not use it."""


def program_residual(program: ConeProgram, x: jax.Array, y: jax.Array) -> jax.Array:
    """The largest error of (x, y) in the optimality conditions, relative to their terms; see `relative_residual`."""
    P, q, A, b, cone = program[:5]
    return relative_residual(Products(P @ x, A.T @ y, A @ x), q, b, cone.project, x, y)


class Piece(NamedTuple):
    """An elementary cone of a product, and the first of its rows."""

    cone: Cone
    start: int

    @property
    def rows(self) -> np.ndarray:
        return np.arange(self.start, self.start + self.cone.dim)


def pieces(cone: Cone, start: int = 0) -> list[Piece]:
    """The elementary cones of a (nested) product, in order."""
    if not isinstance(cone, cones.Product):
        return [Piece(cone, start)]
    found: list[Piece] = []
    for part in cone.cones:
        found += pieces(part, start)
        start += part.dim
    return found


def groups_of(cone: Cone) -> Groups:
    """One scale for all rows of a cone, except where each row is a cone of its own."""
    owner, number = [np.zeros(0, int)], 0
    for piece in pieces(cone):
        size, single = piece.cone.dim, piece.cone.by_rows
        owner.append(number + (np.arange(size) if single else np.zeros(size, int)))
        number += size if single else 1
    return Groups(np.concatenate(owner), number)


NATIVE = (cones.Zero, cones.NonNegative, cones.SecondOrder, cones.Free)


def is_native(cone: Cone) -> bool:
    """Whether the interior-point kernel knows all parts of the cone."""
    return all(isinstance(piece.cone, NATIVE) for piece in pieces(cone))


class Layout(NamedTuple):
    """The rows that are equalities, and the rows of the orthant and second-order cones; free rows are in neither."""

    equalities: np.ndarray
    bounds: np.ndarray
    lengths: tuple[int, ...]


def layout(cone: Cone) -> Layout:
    """The rows of a cone, by kind."""
    equalities, bounds, lengths = [np.zeros(0, int)], [np.zeros(0, int)], []
    for piece in pieces(cone):
        if isinstance(piece.cone, cones.Zero):
            equalities.append(piece.rows)
        if isinstance(piece.cone, cones.NonNegative | cones.SecondOrder):
            bounds.append(piece.rows)
            lengths += [1] * piece.cone.dim if isinstance(piece.cone, cones.NonNegative) else [piece.cone.dim]
    return Layout(np.concatenate(equalities), np.concatenate(bounds), tuple(length for length in lengths if length))


def is_pivotable(program: ConeProgram) -> bool:
    """Whether exchanges of the active set may pay: the constraints are linear and not many more than the unknowns."""
    kinds = {type(piece.cone) for piece in pieces(program.cone) if piece.cone.dim}
    return bool(kinds) and kinds <= {cones.Zero, cones.NonNegative} and program.b.size <= 2 * program.q.size


def pivoting_program(program: ConeProgram, otherwise: ProgramSolver) -> Answer:
    """The program by exchanges of the active set in its dual: min 1/2 y'My + d'y, M = A P^{-1} A', d = b + A P^{-1} q.

    It takes about six factorisations of the size of the constraints; an interior-point method takes about twelve of the
    size of constraints and unknowns. Where P is not positive definite on the null space of the equalities or the answer
    is not precise, the ``otherwise`` solver solves the program, in a batch only for those lanes.
    """
    program = program.dense()
    answer = _by_exchanges(program)
    precise = max(PRECISE, 100 * float(jnp.finfo(program.q.dtype).eps))
    solved = (answer.code == Code.converged) & (program_residual(program, answer.x, answer.y) <= precise)

    def rest(solver: ProgramSolver, P: jax.Array, q: jax.Array, A: jax.Array, b: jax.Array) -> Answer:
        return solver.solve_program(ConeProgram(P, q, A, b, program.cone))._replace(factors=None)

    # The solver is an argument too, because its tolerance may be traced.
    code = jnp.where(solved, answer.code, Code.max_steps).astype(jnp.int32)
    found = rescued(~solved, rest, (otherwise, *program[:4]), answer._replace(code=code, factors=None))
    return found._replace(factors=answer.factors and answer.factors.lost_where(~solved))


def _by_exchanges(program: ConeProgram) -> Answer:
    """The point at which the exchanges end, with its factors; its code is ``converged`` where they succeeded."""
    if program.explicit:
        return _by_substitution(program)
    P, q, A, b, cone, _ = program
    equal = layout(cone).equalities
    free = np.zeros(b.size, bool)
    free[equal] = True
    E, weights = A[equal], _weights(P, A[equal])
    curvature = P + (E.T * weights[None, :]) @ E if equal.size else P
    root = jnp.linalg.cholesky(curvature, symmetrize_input=False)
    inverse = inverse_lower(root)
    half, pushed = inverse @ A.T, inverse @ (q - E.T @ (weights * b[equal]))
    found = block_pivoting(half.T @ half, b + half.T @ pushed, jnp.asarray(free), MAX_PIVOTS)
    x = -(pushed + half @ found.y) @ inverse
    code = jnp.where(found.solved, Code.converged, Code.max_steps).astype(jnp.int32)
    half = half * jnp.where(found.active, found.scale, 0)[None, :]
    lost = is_lost(root, curvature) | is_lost(found.factor, jnp.eye(b.size, dtype=q.dtype))
    weight = jnp.zeros_like(b).at[equal].set(weights)
    factors = Schur(inverse, half, found.factor, found.scale, found.active, lost, weight)
    return Answer(x, found.y, b - A @ x, found.steps, code, factors)


def _by_substitution(program: ConeProgram) -> Answer:
    """The same in the first unknowns, u = (b - E x) / d put in for the last ones."""
    P, q, A, b, cone, k = program
    n = q.size - k
    reduced, whole = substitution(P, A, k)
    parts = [piece.cone for piece in pieces(cone)]
    rest = cones.Product(cones.Zero(parts[0].dim - k), *parts[1:])
    link, factor, curvature = A[:k, :n], jnp.diagonal(A[:k, n:]), jnp.diagonal(P)[n:]
    known = b[:k] / factor
    cost = q[:n] - ((curvature * known + q[n:]) / factor) @ link
    found = _by_exchanges(ConeProgram(reduced, cost, A[k:, :n], b[k:], rest))
    last = known - link @ found.x / factor
    x, y = jnp.concatenate([found.x, last]), jnp.concatenate([-(curvature * last + q[n:]) / factor, found.y])
    factors = whole(found.factors) if isinstance(found.factors, Schur) else None
    return Answer(x, y, b - A @ x, found.steps, found.code, factors)


def _weights(P: jax.Array, E: jax.Array) -> jax.Array:
    """The multiple of e'e of each equality e that is added to P where P alone is singular.

    On the feasible set a sum of squares of equalities is constant, so that neither solution nor multipliers change. In
    the dual the directions that P bends weigh e P^{-1} e' and the others the inverse of the multiple, so that a
    multiple of 1 / (e P^{-1} e'), by the diagonal of P, keeps the matrix of the dual well-conditioned.
    Source: Hestenes, Multiplier and gradient methods, 1969.
    """
    singular = is_lost(jnp.linalg.cholesky(P, symmetrize_input=False), P)
    diagonal = jnp.diagonal(P)
    largest = jnp.max(diagonal, initial=0)
    bent = diagonal > jnp.finfo(P.dtype).eps ** 0.5 * largest
    dual = jnp.sum(jnp.where(bent, E**2 / jnp.where(bent, diagonal, 1), 0), axis=1)
    sizes = jnp.sum(E**2, axis=1)
    straight = largest / jnp.where(sizes > 0, sizes, 1)  # of an equality of unknowns without curvature
    multiple = jnp.where(dual > 0, 1 / jnp.where(dual > 0, dual, 1), straight)
    return jnp.where(singular & (sizes > 0), multiple, 0)


def interior_point_program(program: ConeProgram, tol: float | jax.Array, max_steps: int) -> Answer:
    """The program by the kernel, on equilibrated data. Raises ValueError for cones that it does not know."""
    if not is_native(program.cone):
        unknown = next(piece.cone for piece in pieces(program.cone) if not isinstance(piece.cone, NATIVE))
        raise ValueError(
            f"bl.InteriorPoint knows the cones Zero, NonNegative, SecondOrder, Free and their products, not {unknown}. "
            "Use solver=bl.Clarabel() or solver=bl.OperatorSplitting()."
        )
    P, q, A, b, cone = program.dense()[:5]
    rows, bounds, lengths = layout(cone)
    family = SecondOrders(lengths)
    data = Data(P, q, A[rows], b[rows], A[bounds], b[bounds])
    scaled, scales = equilibrate(data, family)
    found = solve_conic(scaled, family, units(scaled, family), tol, max_steps)
    x = scales.columns * found.x
    y = jnp.zeros_like(b).at[rows].set(scales.rows * found.y / scales.cost)
    y = y.at[bounds].set(scales.bounds * found.z / scales.cost)
    s = (b - A @ x).at[rows].set(0).at[bounds].set(found.s / scales.bounds)
    return Answer(x, y, s, found.steps, found.code)
