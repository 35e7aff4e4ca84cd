"""Linear systems by iterative refinement, with JAXopt's arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt.common import OptStep, Solver
from bilevel.compat.jaxopt.linear_solve import linear_solver
from bilevel.compat.jaxopt.matrices import Equalities
from bilevel.foundation import trees
from bilevel.foundation.typing import PyTree
from bilevel.linear_solve import Operator


class RefinementState(NamedTuple):
    """The passes taken and the norm of b - A x."""

    iter_num: jax.Array
    error: jax.Array


@dataclass(eq=False)
class IterativeRefinement(Solver):
    """A x = b by solves of a nearby system on the true residual: ``run(init, A, b, A_bar)``.

    ``matvec_A(A, x)`` and ``matvec_A_bar(A_bar, x)`` give the products. Without them each product is jnp.dot leaf by
    leaf. The solver is ``solve`` (any of `linear_solve`, or solve(matvec, b)). Derivatives go through A and b.
    """

    matvec_A: Callable | None = None
    matvec_A_bar: Callable | None = None
    solve: Callable | None = None
    maxiter: int = 10
    tol: float = 1e-7
    verbose: bool | int = False
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    def init_params(self, A: Any, b: PyTree, A_bar: Any = None) -> PyTree:
        """Zeros."""
        return jax.tree.map(jnp.zeros_like, b)

    def run(self, init_params: Any, A: Any, b: PyTree, A_bar: Any = None) -> OptStep:  # type: ignore[override]  # JAXopt's
        """The solution, and the norm of the residual that is left."""
        matvec = Equalities(self.matvec_A, A)
        nearby = matvec if A_bar is None else Equalities(self.matvec_A_bar or self.matvec_A, A_bar)
        b = trees.strong(b)
        refined = lambda matvec, rhs: self._refined(matvec, nearby, rhs)
        x, passes = jax.lax.custom_linear_solve(matvec, b, refined, self._transposed, has_aux=True)
        error = jax.lax.stop_gradient(trees.norm(trees.subtract(b, matvec(x))))
        return OptStep(x, RefinementState(passes, error))

    def optimality_fun(self, params: PyTree, A: Any, b: PyTree, A_bar: Any = None) -> PyTree:
        """A x - b."""
        return trees.subtract(Equalities(self.matvec_A, A)(params), b)

    def _transposed(self, transposed: Callable, rhs: PyTree) -> tuple[PyTree, jax.Array]:
        return linear_solver(self.implicit_diff_solve)(Operator(transposed), rhs).value, jnp.int32(0)

    def _refined(self, matvec: Callable, nearby: Callable, rhs: PyTree) -> tuple[PyTree, jax.Array]:
        solver = linear_solver(self.solve)

        def pass_(state: tuple) -> tuple:
            x, left, number = state
            x = trees.axpy(1.0, solver(Operator(nearby), left).value, x)
            return x, trees.subtract(rhs, matvec(x)), number + 1

        def going(state: tuple) -> jax.Array:
            return (trees.norm(state[1]) > self.tol) & (state[2] < self.maxiter)

        start = (jax.tree.map(jnp.zeros_like, rhs), rhs, jnp.int32(0))
        x, _, passes = jax.lax.while_loop(going, pass_, start)
        return x, passes
