"""A damped system in place of the system itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Status
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.refine import damped_code, true_residual, unscaled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Damped(LinearSolver):
    """Solves A + damping I in place of A (A - damping I where A is declared negative definite) by ``inner``.

    For nearly singular systems, at the price of a bias. The residual reported belongs to A, and a damped system that
    was solved has the status ``truncated``. With damping 0 this is ``inner``.

    >>> import jax.numpy as jnp
    >>> solution = Damped(damping=1.0)(lambda x: 3.0 * x, jnp.array([4.0]))
    >>> solution.value.tolist(), float(solution.residual), solution.status.name
    ([1.0], 0.25, 'truncated')
    """

    inner: LinearSolver = CG()
    damping: float = 1e-6

    truncates: ClassVar[bool] = True  # it cannot measure the bias of the damping

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        shift = operator.sign * self.damping
        shifted = dataclasses.replace(operator, matvec=lambda x: tree.plus(tree.apply(operator, x), shift, x))
        solution = self.inner(shifted, rhs, init, preconditioner)
        rhs, scales = tree.normalized(tree.as_vector(rhs))
        residual = tree.norm(true_residual(operator, rhs, unscaled(solution.value, scales, rhs)))
        code = damped_code(solution.status.code, self.damping)
        return solution._replace(residual=residual, products=solution.products + 1, status=Status.of(code))
