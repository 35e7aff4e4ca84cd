"""The choice of a linear solver from the facts of the system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from bilevel.foundation import vectors as tree
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Preconditioner, Prepared, as_operator
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.condensed import Condensed
from bilevel.linear_solve.dense import Dense
from bilevel.linear_solve.gmres import GMRES
from bilevel.linear_solve.minres import MINRES
from bilevel.linear_solve.preconditioners import Identity
from bilevel.linear_solve.refactored import Refactored
from bilevel.linear_solve.sparse_lu import SparseLU

BUILT = 2048  # unknowns up to which a matrix that its owner has built already is factored


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AutoLinear(LinearSolver):
    """Chooses from the size of the system and the facts of its operator, when it is traced.

    ======================================  =====================================================================
    a sparse matrix, stored                 `SparseLU`, on the host
    up to ``dense`` unknowns, a saddle      `Condensed`: a factor of the size of the first block, refined
    up to ``dense`` unknowns                `Dense`: n products in one batch and a factorisation, at any condition
    symmetric and definite                  `CG`
    symmetric, not known to be definite     `MINRES`
    anything else                           `GMRES`
    ======================================  =====================================================================

    The default bound is a compromise between speed and robustness. Measured on Hessians of logistic regressions (2 busy
    cores, float64, 20 to 430 products of CG): `CG` was faster on well-conditioned systems at every size from 128; on
    the others `Dense` was faster up to 256 unknowns, and both took about as long at 512. ``preconditioner`` is for the
    iterative methods; a factor of a nearby A replaces `Dense` (`Refactored`). `explain` says what was chosen, and why.

    >>> import jax.numpy as jnp
    >>> print(AutoLinear().explain(Operator(lambda x: 2.0 * x, symmetric=True, definite=True), jnp.ones(1000)))
    CG(tol=1e-10, max_steps=1000): the system is symmetric and definite, and its 1000 unknowns are more than the 256 up
    to which a dense factorisation is preferred.
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    dense: int = field(default=256, metadata={"static": True})
    preconditioner: Preconditioner = Identity()
    memory: int = field(default=0, metadata={"static": True})  # `CG`'s default

    direct: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        return self.choose(operator, rhs)(operator, rhs, init, preconditioner)

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The chosen solver, prepared."""
        return self.choose(operator, example).prepare(operator, example)

    def prepare_both(self, operator: Operator, example: PyTree) -> tuple[Prepared, Prepared]:
        """The chosen solver, prepared for A and A'."""
        return self.choose(operator, example).prepare_both(operator, example)

    def builds(self, operator: Operator, example: PyTree) -> bool:
        return self.choose(operator, example).builds(operator, example)

    def matrix(self, operator: Operator, example: PyTree) -> jax.Array:
        return self.choose(operator, example).matrix(operator, example)

    def choose(self, operator: Operator | LinearMap, example: PyTree) -> LinearSolver:
        """The solver for this operator; ``example`` has the shapes of x."""
        operator = as_operator(operator)
        if operator.stored is not None:
            return SparseLU(self.tol)
        if tree.size(tree.as_vector(example)) <= (self.dense if operator.matrix is None else BUILT):
            if self.preconditioner.exact and operator.factorable and operator.matrix is None:
                return Refactored(self.preconditioner, self.tol, self.max_steps)
            return Dense(tol=self.tol) if operator.saddle is None else Condensed(tol=self.tol)
        if operator.symmetric and operator.definite:
            return CG(self.tol, self.max_steps, self.preconditioner, self.memory)
        if operator.symmetric:
            return MINRES(self.tol, self.max_steps, self.preconditioner)
        return GMRES(self.tol, self.max_steps, preconditioner=self.preconditioner)

    def explain(self, operator: Operator | LinearMap, example: PyTree) -> str:
        """The solver chosen for this operator, and why, in a sentence."""
        operator, unknowns = as_operator(operator), tree.size(tree.as_vector(example))
        chosen = self.choose(operator, example)
        if operator.stored is not None:
            return f"SparseLU(tol={self.tol:g}): the entries of the sparse matrix are stored, so it is factored."
        if isinstance(chosen, Condensed):
            return f"Condensed(tol={self.tol:g}): the system is a saddle whose second block is eliminated."
        if unknowns <= self.dense:
            built = f"{unknowns} unknowns are at most {self.dense}, so the matrix is built"
            return f"Dense(tol={self.tol:g}): {built}; {_factorization(operator)}."
        if not operator.symmetric:
            fact = "not known to be symmetric" if operator.symmetric is None else "not symmetric"
        else:
            fact = "symmetric and definite" if operator.definite else "symmetric, but not known to be definite"
        return (
            f"{type(chosen).__name__}(tol={self.tol:g}, max_steps={self.max_steps}): the system is {fact}, and its "
            f"{unknowns} unknowns are more than the {self.dense} up to which a dense factorisation is preferred."
        )


def _factorization(operator: Operator) -> str:
    if operator.singular:
        return "it may be singular, so the solution of least norm is taken"
    if operator.symmetric and operator.definite:
        return "it is symmetric and definite, so Cholesky's factorisation is taken"
    return "nothing allows Cholesky's factorisation, so LU is taken, and the solution of least norm if that breaks down"
