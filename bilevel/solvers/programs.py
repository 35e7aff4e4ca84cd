"""Solvers of programs that are stated by arrays: quadratic programs over a product of cones."""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import cones
from bilevel.cones import Cone
from bilevel.kernels.conic import Data, solve_conic
from bilevel.kernels.equilibrate import equilibrate
from bilevel.kernels.matrices import Matrix, dense, is_sparse
from bilevel.kernels.second_orders import SecondOrders


class ConeProgram(NamedTuple):
    """min 1/2 x'Px + q'x s.t. A x + s = b, s in ``cone``; y in the dual cone are the multipliers."""

    P: Matrix  # (n, n)
    q: jax.Array  # (n,)
    A: Matrix  # (m, n)
    b: jax.Array  # (m,)
    cone: Cone

    @property
    def sparse(self) -> bool:
        """Whether one of the matrices is sparse."""
        return is_sparse(self.P) or is_sparse(self.A)

    def dense(self) -> ConeProgram:
        """The program with dense matrices."""
        return self._replace(P=dense(self.P), A=dense(self.A))


class Answer(NamedTuple):
    """What a program solver found; ``code`` is a `Code`, to be checked against the residual."""

    x: jax.Array
    y: jax.Array
    s: jax.Array
    steps: jax.Array
    code: jax.Array


class ProgramSolver(abc.ABC):
    """A way to solve a `ConeProgram`; no derivatives, and nothing raised on values."""

    @abc.abstractmethod
    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        """The solution, or the last iterate with the `Code` that says why there is none. ``start`` is the answer to a
        program nearby; interior-point methods do not use it."""


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


NATIVE = (cones.Zero, cones.NonNegative, cones.SecondOrder, cones.Free)


def is_native(cone: Cone) -> bool:
    """Whether the interior-point kernel knows all parts of the cone."""
    return all(isinstance(piece.cone, NATIVE) for piece in pieces(cone))


class Layout(NamedTuple):
    """Which rows are equalities and which belong to the orthant and second-order cones; free rows to neither."""

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


def interior_point_program(program: ConeProgram, tol: float | jax.Array, max_steps: int) -> Answer:
    """The program by the kernel, on equilibrated data. Raises ValueError for cones that it does not know."""
    if not is_native(program.cone):
        unknown = next(piece.cone for piece in pieces(program.cone) if not isinstance(piece.cone, NATIVE))
        raise ValueError(
            f"bl.InteriorPoint knows the cones Zero, NonNegative, SecondOrder, Free and their products, not {unknown}. "
            "Use solver=bl.Clarabel() or solver=bl.OperatorSplitting()."
        )
    P, q, A, b, cone = program.dense()
    rows, bounds, lengths = layout(cone)
    family = SecondOrders(lengths)
    data = Data(P, q, A[rows], b[rows], A[bounds], b[bounds])
    scaled, scales = equilibrate(data, family)
    found = solve_conic(scaled, family, tol, max_steps)
    x = scales.columns * found.x
    y = jnp.zeros_like(b).at[rows].set(scales.rows * found.y / scales.cost)
    y = y.at[bounds].set(scales.bounds * found.z / scales.cost)
    s = (b - A @ x).at[rows].set(0).at[bounds].set(found.s / scales.bounds)
    return Answer(x, y, s, found.steps, found.code)
