"""What a linear system is, what a linear solver takes and returns, and the checks that all solvers share."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO
from jax.flatten_util import ravel_pytree

from bilevel.foundation.settings import changed
from bilevel.foundation.status import Status
from bilevel.foundation.typing import LinearMap, PyTree


class Stored(NamedTuple):
    """A symmetric matrix by its entries, positive semidefinite on the first ``leading`` unknowns and negative
    semidefinite on the others."""

    matrix: BCOO
    leading: int


class Saddle(NamedTuple):
    """A = [[0, C'], [C, -diag(corner)]] in the unknowns (x, y), by its parts: C has the shape (m, n), corner >= 0.

    ``shift`` (m,) are multiples of a small number that make the last block definite where it is added to the corner:
    1 where the corner vanishes.
    """

    rows: jax.Array
    corner: jax.Array
    shift: jax.Array

    def product(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A (x, y)."""
        return y @ self.rows, self.rows @ x - self.corner * y


@dataclass(frozen=True, eq=False)
class Operator:
    """A square linear map x -> A x on pytrees, with the facts of A that its owner knows.

    ``symmetric`` and ``definite`` are True, False or None for unknown; ``sign`` is +1 for positive and -1 for negative
    (semi)definite. ``singular`` says that A may have a null space by construction while right-hand sides lie in its
    range, as in the reduced systems of proximal mappings: direct solvers then return the solution of least norm.
    ``owner`` is the name, in error messages, of who stated the facts.
    """

    matvec: LinearMap
    symmetric: bool | None = None
    definite: bool | None = None
    sign: int = 1
    singular: bool = False
    owner: str = "the system"
    matrix: jax.Array | None = None  # A for one flat array, where its owner has built it already
    stored: Stored | None = None  # the same where it is sparse
    saddle: Saddle | None = None  # A for a pair of flat arrays (x, y), where it has this form

    def __call__(self, x: PyTree) -> PyTree:
        return self.matvec(x)

    @property
    def factorable(self) -> bool:
        """Whether A is known to be symmetric and definite, as Cholesky's factorisation needs."""
        return bool(self.symmetric and self.definite and not self.singular)

    def transpose(self, example: PyTree) -> Operator:
        """The operator x -> A' x; ``example`` has the shapes of x."""
        if self.symmetric:
            return self
        transposed = jax.linear_transpose(self.matvec, example)
        return Operator(lambda x: transposed(x)[0], self.symmetric, self.definite, self.sign, self.singular, self.owner)


class Preconditioner(abc.ABC):
    """A way to approximate the inverse of A. Abstract; the subclasses are frozen dataclasses, registered as pytrees."""

    trivial: ClassVar[bool] = False  # whether it does nothing
    exact: ClassVar[bool] = False  # whether it is a factorisation: the exact inverse of A, or of a nearby A

    @abc.abstractmethod
    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        """The map r -> M r with M close to the inverse of A, and the number of products with A that it cost."""


class LinearSolution(NamedTuple):
    """The result of a linear solver."""

    value: PyTree  # x, of the structure of the right-hand side
    residual: jax.Array  # || b - A x || / || b ||, recomputed from x (0 where b = 0)
    products: jax.Array  # how often A (or its transpose) was applied, the recomputed residual included
    status: Status
    factorizations: jax.Array | int = 0
    inverse: Preconditioner | None = None  # an approximate inverse of A learnt on the way, where it was asked for

    def uniform(self) -> LinearSolution:
        """The solution in the types that branches carry."""
        return self._replace(factorizations=jnp.asarray(self.factorizations, jnp.int32))


class Prepared(NamedTuple):
    """A solver bound to an operator. The work that all right-hand sides share is done, and its cost is stated here."""

    solve: Callable[..., LinearSolution]  # (rhs, init=None, tol=None) -> solution, with the cost of this solve alone
    products: jax.Array | int = 0
    factorizations: jax.Array | int = 0
    inverse: Preconditioner | None = None  # the approximate inverse of A, where there is one to hand on


class LinearSolver(abc.ABC):
    """A way to solve A x = b. Abstract; the subclasses are final frozen dataclasses, registered as pytrees whose
    leaves are the tolerances (traced: changing one compiles nothing again)."""

    needs_symmetric: ClassVar[bool] = False
    needs_definite: ClassVar[bool] = False
    truncates: ClassVar[bool] = False  # whether it leaves out by design something that it cannot measure
    direct: ClassVar[bool] = False  # whether it factors a matrix wherever that has a size that can be factored
    tol: float | jax.Array = math.nan  # relative; NaN: there is none to state
    max_steps: int = 0

    @abc.abstractmethod
    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        """Solves A x = rhs, from ``init`` (zeros if None); ``preconditioner`` approximates the inverse of A."""

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The solver for several right-hand sides with the shapes of ``example``; factors and preconditioners are
        shared between them."""

        def solve(rhs: PyTree, init: PyTree = None, tol: float | jax.Array | None = None) -> LinearSolution:
            return (self if tol is None else self.with_tol(tol))(operator, rhs, init)

        return Prepared(solve)

    def prepare_both(self, operator: Operator, example: PyTree) -> tuple[Prepared, Prepared]:
        """A and A' prepared; one and the same where A is symmetric."""
        forward = self.prepare(operator, example)
        return forward, forward if operator.symmetric else self.prepare(operator.transpose(example), example)

    @property
    def stated_tol(self) -> float | jax.Array:
        """The tolerance; 0 of a solver that has none (direct and truncated methods)."""
        return getattr(self, "tol", 0.0)

    def with_tol(self, tol: float | jax.Array) -> LinearSolver:
        """The same solver with another tolerance; itself where it has none (direct and truncated methods)."""
        return changed(self, tol=tol)

    def longer(self, factor: int) -> LinearSolver:
        """The same solver with so many times the steps; itself where it counts none."""
        return changed(self, max_steps=factor * self.max_steps)

    def builds(self, operator: Operator, example: PyTree) -> bool:
        """Whether the solver makes the matrix of this operator, so that `matrix` gives it."""
        return False

    def matrix(self, operator: Operator, example: PyTree) -> jax.Array:
        """The matrix that the solver factors, of an operator whose matrix it ``builds``."""
        raise ValueError(f"bl.{type(self).__name__} solves by products and has no matrix: use bl.Dense().")

    def reusing(self, inverse: Preconditioner) -> LinearSolver:
        """The same solver preconditioned by ``inverse``; itself where it takes no preconditioner or has one already."""
        own: Preconditioner | None = getattr(self, "preconditioner", None)
        return self if own is None or not own.trivial else changed(self, preconditioner=inverse)

    def remembering(self, directions: int) -> LinearSolver:
        """The same solver, returning so many of its ``directions`` as `LinearSolution.inverse`; itself where it keeps
        none."""
        return changed(self, memory=directions)

    def refuse(self, operator: Operator) -> None:
        """Raises ValueError where the owner of the operator ruled out a fact that this solver needs."""
        for needed, fact, word in (
            (self.needs_symmetric, operator.symmetric, "symmetric"),
            (self.needs_definite, operator.definite, "definite"),
        ):
            if needed and fact is False:
                raise ValueError(
                    f"bl.{type(self).__name__} needs a {word} system, which {operator.owner} does not give. "
                    "Use bl.GMRES() or bl.Dense(), or a mapping with a symmetric reduced form."
                )


def as_operator(operator: Operator | LinearMap) -> Operator:
    """A plain linear function as an operator without known facts; an operator unchanged."""
    return operator if isinstance(operator, Operator) else Operator(operator)


def materialize(operator: LinearMap, example: PyTree) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The dense matrix of a linear map on pytrees, and the function that turns a flat vector back into a pytree."""
    flat, unravel = ravel_pytree(example)
    columns = jax.vmap(lambda column: ravel_pytree(operator(unravel(column)))[0])(jnp.eye(flat.size, dtype=flat.dtype))
    return columns.T, unravel
