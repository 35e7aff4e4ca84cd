"""Normal equations: least squares for any system, square or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.refine import Advance, refine, unscaled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal(LinearSolver):
    """Least squares by a symmetric solver on A'A x = A'b: the solution of least norm for singular systems.

    ``inner`` solves each normal system to its own tolerance, in the norm || A'(b - A x) || / || A'b ||. It is called
    again on the true residual as long as that falls, because A'A has the squared condition number and one pass leaves a
    large residual. The residual reported is || b - A x || / || b ||, and the status compares it with ``tol``.
    ``singular`` says that x is a least-squares solution and that A x = b has none; a failure of ``inner`` keeps its
    code. A rectangular system asks for least squares, so its status is the status of the normal system; its unknown has
    the shapes of ``init``. A product with A' counts like one with A. A ``preconditioner`` approximates the inverse of
    A'A.

    >>> import jax.numpy as jnp
    >>> solution = Normal()(lambda x: jnp.array([[0.0, 1.0], [-2.0, 0.0]]) @ x, jnp.array([3.0, 4.0]))
    >>> solution.value.round(5).tolist(), solution.status.name
    ([-2.0, 3.0], 'converged')
    """

    inner: LinearSolver = CG()
    tol: float | jax.Array = 1e-10
    passes: int = field(default=20, metadata={"static": True})

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator, rhs = as_operator(operator), tree.as_vector(rhs)
        example = rhs if init is None else tree.as_vector(init)
        _check_shapes(operator, example, rhs)
        backward = operator.transpose(example)
        normal = Operator(lambda x: backward(operator(x)), True, True, 1, operator.singular, operator.owner)

        def solved(pulled: PyTree) -> tuple[LinearSolution, jax.Array]:
            solution = self.inner(normal, pulled, preconditioner=preconditioner)
            return solution, jnp.where(solution.status.ok, Code.converged, solution.status.code)

        def advance(residual: PyTree, target: Scalar, max_steps: jax.Array) -> Advance:
            pulled = backward(residual)
            solution, code = solved(pulled)
            products = 1 + 2 * solution.products
            return Advance(solution.value, jnp.ones((), jnp.int32), products, code, tree.norm(pulled))

        def advance_normal(pulled: PyTree, target: Scalar, max_steps: jax.Array) -> Advance:
            solution, code = solved(pulled)
            norm = jnp.ones((), tree.dtype(pulled))
            return Advance(solution.value, jnp.ones((), jnp.int32), solution.products, code, norm)

        if jax.tree.map(jnp.shape, example) == jax.tree.map(jnp.shape, rhs):
            return refine(advance, operator, rhs, init, self.tol, self.passes, otherwise=Code.singular)
        found = refine(advance_normal, normal, backward(rhs), init, self.tol, self.passes, otherwise=Code.singular)
        unit, scales = tree.normalized(rhs)
        rest = tree.minus(unit, operator(unscaled(found.value, scales, found.value)))
        return found._replace(residual=tree.norm(rest), products=2 * found.products + 2)


def _check_shapes(operator: Operator, example: PyTree, rhs: PyTree) -> None:
    """Raises ValueError where A x has other shapes than the right-hand side, or A does not take the unknown."""
    wanted = jax.tree.map(jnp.shape, rhs)
    try:
        got: Any = jax.tree.map(jnp.shape, jax.eval_shape(operator, example))
    except (TypeError, ValueError) as error:
        got = f"an error ({str(error).splitlines()[0]})"
    if got != wanted:
        raise ValueError(
            f"bl.Normal takes the unknown of {operator.owner} to have the shapes {jax.tree.map(jnp.shape, example)}, "
            f"for which A x gives {got}, and the right-hand side has {wanted}: for a rectangular system give init=, "
            "zeros of the shapes of the unknown."
        )
