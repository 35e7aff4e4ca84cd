"""Truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator
from bilevel.linear_solve.refine import scaled_back, unscaled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neumann(LinearSolver):
    """Truncated Neumann series: x = alpha * sum_{k < terms} (I - alpha A)^k b.

    The terms are the residuals of Richardson's iteration, which converges where all eigenvalues of alpha A lie within 1
    of 1: for 0 < alpha < 2 / || A || if A is symmetric and positive definite, for alpha = 1 if A = I - J with a
    contraction J. An A declared negative definite takes -alpha. With ``init`` the series continues from it; with
    ``preconditioner`` M it is the series of M A. The status is ``truncated``; ``diverged`` if the terms grew.
    Reference: Lorraine et al., 2020.

    >>> import jax.numpy as jnp
    >>> solution = Neumann(terms=60, alpha=0.25)(lambda x: 2.0 * x, jnp.array(4.0))
    >>> float(solution.value), solution.status.name, int(solution.products)
    (2.0, 'truncated', 60)
    """

    alpha: float = 1.0
    terms: int = field(default=20, metadata={"static": True})

    truncates: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        precondition = preconditioner or (lambda residual: residual)
        rhs, scales = tree.normalized(tree.as_vector(rhs))
        rate = (1 if preconditioner else operator.sign) * self.alpha

        def remainder(value: PyTree) -> tuple[PyTree, Scalar]:
            residual = tree.minus(rhs, tree.apply(operator, value, operator.owner))
            return residual, tree.norm(residual)

        def body(_: jax.Array, state: tuple[PyTree, PyTree, Scalar, Scalar]) -> tuple[PyTree, PyTree, Scalar, Scalar]:
            value, residual, _, peak = state
            value = tree.plus(value, rate, precondition(residual))
            residual, length = remainder(value)
            return value, residual, length, jnp.fmax(peak, length)

        warm = init is not None
        value = unscaled(init, scales, rhs) if warm else tree.zeros_like(rhs)
        residual, first = remainder(value) if warm else (rhs, tree.norm(rhs))
        value, _, last, peak = lax.fori_loop(0, self.terms, body, (value, residual, first, first))
        code = jnp.where(last > first, Code.diverged, Code.truncated)
        overflow = jnp.where(peak > 2 * first, Code.diverged, Code.nonfinite)
        code = jnp.where(jnp.isfinite(last), code, overflow)
        return scaled_back(value, scales, last, self.terms + warm, code)
