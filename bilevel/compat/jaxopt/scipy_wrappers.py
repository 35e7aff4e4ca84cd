"""SciPy's minimisers and root finders on the host, by `bl.SciPy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bilevel.compat.jaxopt.common import OptStep
from bilevel.compat.jaxopt.functions import FirstOf, Objective
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.states import Statement
from bilevel.compat.jaxopt.terms import Bounds
from bilevel.foundation.status import Code
from bilevel.implicit import Residual
from bilevel.optimality import ProximalGradient
from bilevel.solvers import SciPy, Solver as InnerSolver


class ScipyInfo(NamedTuple):
    """What is known of a run. ``success`` says that the optimality condition holds, whatever SciPy reports."""

    fun_val: Any
    success: Any
    status: Any
    iter_num: Any
    error: Any
    aux: Any = None
    num_fun_eval: Any = 0


@dataclass(eq=False)
class ScipyWrapper(EngineSolver):
    """The settings that all wrappers share."""

    method: str | None = None
    dtype: Any = np.float64
    jit: bool = True
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False

    maxiter: ClassVar[int] = 500
    runs: ClassVar[int | None] = 5  # of SciPy, each from the end of the last, until the condition holds
    default: ClassVar[str]

    def engine(self) -> InnerSolver:
        options = tuple(sorted((getattr(self, "options", None) or {}).items()))
        return SciPy(self.method or self.default, options=options)

    def run(self, init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
        """SciPy's result, with its implicit derivative, and whether it is a solution."""
        params, state = super().run(init_params, *args, **kwargs)
        counts = state.inner.counts.gradients
        success = state.status.code <= Code.stalled
        return OptStep(
            params, ScipyInfo(state.value, success, state.status, state.iter_num, state.error, state.aux, counts)
        )


@dataclass(eq=False)
class ScipyMinimize(ScipyWrapper):
    """min over w of fun(w, *args, **kwargs) by `scipy.optimize.minimize` with ``method`` ("BFGS" by default)."""

    fun: Callable = None  # type: ignore[assignment]  # JAXopt's order of arguments
    callback: Callable | None = None
    tol: float | None = None  # type: ignore[assignment]  # None: the default
    options: dict[str, Any] | None = None
    maxiter: int = 500  # type: ignore[misc]  # the most steps of SciPy
    value_and_grad: bool | Callable = False

    tells_value: ClassVar[bool] = True
    default: ClassVar[str] = "BFGS"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "maxiter" in (self.options or {}):
            raise ValueError(f"{type(self).__name__} got maxiter in options: give it as the argument maxiter=.")

    def engine(self) -> InnerSolver:
        options = dict(self.options or {})
        options["maxiter"] = self.maxiter
        solver = SciPy(self.method or self.default, options=tuple(sorted(options.items())))
        return solver if self.callback is None else replace(solver, callback=self.callback)

    def function(self) -> Objective:
        return Objective(self.fun, self.value_and_grad, self.has_aux)

    def statement(self) -> Statement:
        return Statement.minimise(self.function())


@dataclass(eq=False)
class ScipyBoundedMinimize(ScipyMinimize):
    """As `ScipyMinimize`, within bounds: ``run(init_params, (lower, upper), *args, **kwargs)``."""

    extra: ClassVar[str | None] = "bounds"
    default: ClassVar[str] = "L-BFGS-B"

    def statement(self) -> Statement:
        loss, box = self.function().loss, Bounds()
        return Statement(ProximalGradient.under(loss, box), loss, box)


@dataclass(eq=False)
class ScipyRootFinding(ScipyWrapper):
    """w with optimality_fun(w, *args, **kwargs) = 0 by `scipy.optimize.root` with ``method`` ("hybr" by default)."""

    optimality_fun: Callable = None  # type: ignore[assignment]  # JAXopt's order of arguments
    tol: float | None = None  # type: ignore[assignment]  # None: the default
    options: dict[str, Any] | None = None
    use_jacrev: bool = True

    default: ClassVar[str] = "hybr"

    def function(self) -> FirstOf:
        return FirstOf(self.optimality_fun, self.has_aux)

    def statement(self) -> Statement:
        return Statement(Residual(self.function().stated))
