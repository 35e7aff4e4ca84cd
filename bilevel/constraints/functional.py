"""A feasible set stated by functions: equalities and inequalities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bilevel.constraints.base import Constraint
from bilevel.foundation.typing import Batch, HParams, Params, PyTree


def no_rows(params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
    """Stands for an equality or inequality that was left out."""
    return ()


@dataclass(frozen=True, eq=False)
class Functional(Constraint):
    """{w: equality(w, hparams, batch) == 0, inequality(w, hparams, batch) <= 0}, entry by entry.

    Either function may be left out; both may return any pytree of arrays. The set should be convex (affine equalities,
    convex inequalities) for a global solution; smooth nonconvex problems are solved to a KKT point. The inner problem
    is then solved by `InteriorPoint`, and its solution has multipliers: ``Solution.dual`` is a `Dual` of
    ``equality_dual`` and ``inequality_dual``, each of the structure of what its function returns, with the signs of
    L = loss + equality_dual' equality + inequality_dual' inequality. Raises ValueError where a projection is asked for.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
    ...                         init=lambda key, h: jnp.zeros(2),
    ...                         constraint=bl.Functional(inequality=lambda w, h, batch: jnp.sum(w) - h))
    >>> solve = lambda h: inner.solve(h, jnp.array([2.0, 2.0]))
    >>> solve(2.0).params.round(5).tolist(), float(solve(2.0).dual.inequality_dual.round(5))
    ([1.0, 1.0], 1.0)
    >>> jax.jacobian(lambda h: solve(h).params)(2.0).round(5).tolist()
    [0.5, 0.5]
    """

    equality: Callable[[Params, HParams, Batch], PyTree] = no_rows
    inequality: Callable[[Params, HParams, Batch], PyTree] = no_rows
    by_functions: ClassVar[bool] = True

    def project(self, point: Params, hparams: HParams) -> Params:
        raise ValueError(
            "bl.Functional is known by its functions and has no projection: solve with bl.InteriorPoint() or "
            "bl.Auto(), or state a set that is known by its projection (bl.Box, bl.Simplex)."
        )
