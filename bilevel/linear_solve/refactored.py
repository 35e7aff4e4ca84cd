"""Solves with the factor of a nearby matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation import vectors as tree
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Preconditioner, Prepared, as_operator
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.dense import Dense
from bilevel.linear_solve.preconditioners import CholeskyFactor


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Refactored(LinearSolver):
    """`Dense` where a Cholesky factor of A, or of a nearby A, is known: a few steps of `CG` preconditioned by it.

    The nearer the matrix, the fewer the steps; with the factor of A itself it is one. The residual is the residual of A
    x = b, whichever matrix was factored. Where the factor is not ``usable`` the matrix of A is built and factored once
    for all right-hand sides, as `Dense` does; only then do products and a factorisation count. For symmetric and
    definite systems.

    >>> import jax.numpy as jnp
    >>> factor = CholeskyFactor(jnp.diag(jnp.array([2.0, 3.0])), jnp.bool_(True))
    >>> operator = Operator(lambda x: jnp.array([4.0, 9.0]) * x, symmetric=True, definite=True)
    >>> solution = Refactored(factor)(operator, jnp.array([4.0, 18.0]))
    >>> solution.value.round(6).tolist(), int(solution.products), int(solution.factorizations)
    ([1.0, 2.0], 2, 0)
    """

    preconditioner: Preconditioner
    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})

    needs_symmetric: ClassVar[bool] = True
    needs_definite: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        prepared = self.prepare(as_operator(operator), tree.as_vector(rhs))
        solution = prepared.solve(rhs, init)
        return solution._replace(
            products=solution.products + prepared.products,
            factorizations=solution.factorizations + prepared.factorizations,
        )

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The solver with the given factor, or with one made here where it is not usable."""
        self.refuse(operator)
        factor = self.preconditioner
        assert isinstance(factor, CholeskyFactor)
        dense, missing = Dense(tol=self.tol), (~factor.usable).astype(jnp.int32)
        nothing = operator.sign * jnp.eye(tree.size(example), dtype=factor.lower.dtype)
        matrix = lax.cond(factor.usable, lambda: nothing, lambda: dense.matrix(operator, example))
        made = dense.factored(operator, matrix, example)
        precondition, _ = factor.prepare(operator, example)

        def solve(rhs: PyTree, init: PyTree = None, tol: float | jax.Array | None = None) -> LinearSolution:
            iterative = CG(self.tol if tol is None else tol, self.max_steps)
            return lax.cond(
                factor.usable,
                lambda: iterative(operator, rhs, init, precondition).uniform(),
                lambda: made.solve(rhs, init, tol).uniform(),
            )

        return Prepared(solve, missing * tree.size(example), missing)
