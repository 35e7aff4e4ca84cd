"""Normal equations: least squares for any square system."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.refine import Advance, refine


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal(LinearSolver):
    """Least squares by a symmetric solver on A'A x = A'b: the solution of least norm for singular systems.

    ``inner`` solves each normal system to its own tolerance, in the norm || A'(b - A x) || / || A'b ||; it is called
    anew on the true residual as long as that falls (A'A has the squared condition number, so one pass leaves much).
    The residual reported, and the status, are those of the system itself: || b - A x || / || b || against ``tol``.
    ``singular`` says that x is a least-squares solution of a system that has none; a failure of ``inner`` keeps
    its code. A product with A' counts like one with A. A ``preconditioner`` approximates the inverse of A'A.

    >>> import jax.numpy as jnp
    >>> solution = Normal()(lambda x: jnp.array([[0.0, 1.0], [-2.0, 0.0]]) @ x, jnp.array([3.0, 4.0]))
    >>> solution.value.round(5).tolist(), solution.status.name
    ([-2.0, 3.0], 'converged')
    """

    inner: LinearSolver = CG()
    tol: float = 1e-10
    passes: int = field(default=20, metadata={"static": True})

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        backward = operator.transpose(tree.as_vector(rhs))
        normal = Operator(lambda x: backward(operator(x)), True, True, 1, operator.singular, operator.owner)

        def advance(residual: PyTree, target: Scalar, max_steps: jax.Array) -> Advance:
            pulled = backward(residual)
            solution = self.inner(normal, pulled, preconditioner=preconditioner)
            code = jnp.where(solution.status.ok, Code.converged, solution.status.code)
            products = 1 + 2 * solution.products
            return Advance(solution.value, jnp.ones((), jnp.int32), products, code, tree.norm(pulled))

        return refine(advance, operator, rhs, init, self.tol, self.passes, otherwise=Code.singular)
