"""Optax's optimisers: steps on arguments that change from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel.compat.jaxopt.base import OptStep
from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.iterative import State, Statement, StochasticSolver
from bilevel.solvers import Optax, Solver as InnerSolver


@dataclass(eq=False)
class OptaxSolver(StochasticSolver):
    """min over w of fun(w, *args, **kwargs) by the updates of an Optax transformation. By `bl.Optax`.

    ``pre_update(params, state, *args, **kwargs)`` returns (params, state) for each step; it is called in `update`.
    """

    fun: Callable
    opt: Any
    value_and_grad: bool = False
    pre_update: Callable | None = None
    maxiter: int = 500
    tol: float = 1e-3
    verbose: bool | int = False
    implicit_diff: bool = False
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False
    jit: bool = True
    unroll: str | bool = "auto"

    tells_value: ClassVar[bool] = True

    def engine(self) -> InnerSolver:
        return Optax(self.opt)

    def function(self) -> Objective:
        return Objective(self.fun, self.value_and_grad, self.has_aux)

    def statement(self) -> Statement:
        return Statement.minimise(self.function())

    def update(self, params: Any, state: State, *args: Any, **kwargs: Any) -> OptStep:
        if self.pre_update is not None:
            params, state = self.pre_update(params, state, *args, **kwargs)
        return super().update(params, state, *args, **kwargs)
