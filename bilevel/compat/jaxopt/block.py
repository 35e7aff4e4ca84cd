"""Block coordinate descent, by `bl.BlockCoordinateDescent`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bilevel import constraints, penalties
from bilevel.compat.jaxopt import projection, prox
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.objective import CompositeLinearFunction
from bilevel.compat.jaxopt.states import Statement
from bilevel.compat.jaxopt.terms import Proximal
from bilevel.losses.linear import Linear
from bilevel.optimality import ProximalGradient as Condition
from bilevel.penalties import Penalty
from bilevel.solvers import BlockCoordinateDescent as Blocks, ProximalGradient, Solver as InnerSolver


def _itself(hparams: Any) -> Any:
    return 1.0 if hparams is None else hparams


def _first(hparams: Any) -> Any:
    return 1.0 if hparams is None else hparams[0]


def _second(hparams: Any) -> Any:
    return 1.0 if hparams is None else hparams[1]


_KNOWN: dict[Callable, Penalty] = {
    prox.prox_none: penalties.Zero(),
    prox.prox_lasso: penalties.L1(weight=_itself),
    prox.prox_non_negative_lasso: penalties.NonNegativeL1(weight=_itself),
    prox.prox_elastic_net: penalties.ElasticNet(l1=_first, l2=lambda h: 1.0 if h is None else h[0] * h[1]),
    prox.prox_group_lasso: penalties.GroupLasso(weight=_itself),
    prox.prox_ridge: penalties.Ridge(weight=_itself),
    prox.prox_non_negative_ridge: penalties.NonNegativeRidge(weight=_itself),
    projection.projection_simplex: constraints.Simplex(scale=_itself),
    projection.projection_non_negative: constraints.NonNegative(),
    projection.projection_box: constraints.Box(lower=_first, upper=_second),
    projection.projection_hypercube: constraints.Hypercube(side=_itself),
}


@dataclass(eq=False)
class BlockCoordinateDescent(EngineSolver):
    """min over w of fun(w, *args) + sum over rows j of g(w_j), where block_prox(w_j, hyperparams_prox, scaling) is the
    prox of g and ``fun`` an `objective.CompositeLinearFunction`.

    ``run(init_params, hyperparams_prox, *args)``. By `bl.BlockCoordinateDescent` for the proxes and projections of this
    package. For other ones by `bl.ProximalGradient`, with the prox on each row.
    """

    fun: CompositeLinearFunction
    block_prox: Callable
    maxiter: int = 500
    tol: float = 1e-4
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    extra: ClassVar[str | None] = "hyperparams_prox"
    has_aux: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.fun, "make_linop") or not hasattr(self.fun, "subfun"):
            raise AttributeError(
                "BlockCoordinateDescent needs a fun that is an objective.CompositeLinearFunction (with make_linop and "
                "subfun): use ProximalGradient for other functions."
            )
        if self.penalty() is None:
            name = getattr(self.block_prox, "__name__", "block_prox")
            differs(
                f"BlockCoordinateDescent(block_prox={name})", "a prox of one's own runs by proximal gradient steps."
            )

    def penalty(self) -> Penalty | None:
        """bilevel's penalty or set of this prox; None where there is none."""
        return _KNOWN.get(getattr(self.block_prox, "projection", self.block_prox))

    def engine(self) -> InnerSolver:
        return ProximalGradient() if self.penalty() is None else Blocks(epochs=1)

    def statement(self) -> Statement:
        loss = Linear(design=self._design, loss=self._of_product)
        penalty = self.penalty() or Proximal(self._by_rows)
        return Statement(Condition.under(loss, penalty), loss, penalty)

    def _design(self, batch: Any) -> Any:
        args, kwargs = batch
        return self.fun.make_linop(*args, **kwargs).A

    def _of_product(self, z: jax.Array, params: Any, hparams: Any, batch: Any) -> Any:
        args, kwargs = batch
        value, b = self.fun.subfun(z, *args, **kwargs), self.fun.b(*args, **kwargs)
        return value if b is None else value + jnp.vdot(b, params)

    def _by_rows(self, point: Any, hyperparams: Any, scaling: Any) -> Any:
        return jax.vmap(lambda row: self.block_prox(row, hyperparams, scaling))(point)
