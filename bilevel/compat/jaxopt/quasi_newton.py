"""BFGS, limited-memory BFGS (in a box too) and nonlinear conjugate gradients, all by bilevel's limited-memory BFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.states import Statement
from bilevel.compat.jaxopt.terms import Bounds
from bilevel.optimality import ProximalGradient
from bilevel.solvers import LBFGS as Unbounded, LBFGSB as Bounded, Solver as InnerSolver

SEARCHED = ("linesearch", "linesearch_init", "condition", "maxls", "decrease_factor", "increase_factor")
STEPS = ("max_stepsize", "min_stepsize")
FULL = 50  # pairs in the place of BFGS's dense matrix, because the newest pairs determine the step


@dataclass(eq=False)
class SmoothSolver(EngineSolver):
    """A minimiser of a smooth function whose states hold the function's value; its search is bilevel's own."""

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    maxiter: int = 500
    tol: float = 1e-3

    tells_value: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = (*SEARCHED, *STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        stepsize = getattr(self, "stepsize", 0.0)
        if callable(stepsize) or stepsize > 0:
            name = type(self).__name__
            differs(f"{name}(stepsize=...)", "a line search finds the step; for given steps use GradientDescent.")

    def function(self) -> Objective:
        return Objective(self.fun, self.value_and_grad, self.has_aux)

    def statement(self) -> Statement:
        return Statement.minimise(self.function())


@dataclass(eq=False)
class LBFGS(SmoothSolver):
    """min over w of fun(w, *args, **kwargs). By `bl.LBFGS` with ``history_size`` pairs."""

    stepsize: float | Callable = 0.0
    linesearch: str = "zoom"
    linesearch_init: str = "increase"
    stop_if_linesearch_fails: bool = False
    condition: Any = None
    maxls: int = 30
    decrease_factor: Any = None
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    history_size: int = 10
    use_gamma: bool = True
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    verbose: bool | int = False

    resumes: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = (*SEARCHED, *STEPS, "stop_if_linesearch_fails", "use_gamma")

    def engine(self) -> InnerSolver:
        return Unbounded(memory=self.history_size)


@dataclass(eq=False)
class BFGS(SmoothSolver):
    """min over w of fun(w, *args, **kwargs). By `bl.LBFGS` with 50 pairs, which keeps no dense matrix."""

    stepsize: float | Callable = 0.0
    linesearch: str = "zoom"
    linesearch_init: str = "increase"
    condition: Any = None
    maxls: int = 30
    decrease_factor: Any = None
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    verbose: bool | int = False

    def engine(self) -> InnerSolver:
        return Unbounded(memory=FULL)


@dataclass(eq=False)
class NonlinearCG(SmoothSolver):
    """min over w of fun(w, *args, **kwargs). By `bl.LBFGS` with one pair.

    This is memoryless BFGS. With an exact line search its directions are those of the conjugate gradient methods of
    Polak and Ribiere and of Hestenes and Stiefel (Shanno, 1978). With an inexact one they still descend.
    """

    maxiter: int = 100
    method: str = "polak-ribiere"
    linesearch: str = "zoom"
    linesearch_init: str = "increase"
    condition: Any = None
    maxls: int = 30
    decrease_factor: Any = None
    increase_factor: float = 1.2
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    verbose: bool | int = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("polak-ribiere", "fletcher-reeves", "hestenes-stiefel"):
            raise ValueError(
                f"NonlinearCG got method={self.method!r}: give 'polak-ribiere', 'fletcher-reeves' or "
                "'hestenes-stiefel' (all are memoryless BFGS here)."
            )

    def engine(self) -> InnerSolver:
        return Unbounded(memory=1)


@dataclass(eq=False)
class LBFGSB(SmoothSolver):
    """min over lower <= w <= upper of fun(w, *args, **kwargs). By `bl.LBFGSB`.

    ``run(init_params, bounds, *args, **kwargs)`` with bounds = (lower, upper), or None.
    """

    maxiter: int = 50
    stepsize: float | Callable = 0.0
    linesearch: str = "zoom"
    linesearch_init: str = "increase"
    stop_if_linesearch_fails: bool = False
    condition: Any = None
    maxls: int = 30
    decrease_factor: Any = None
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    theta: float = 1.0
    history_size: int = 10
    use_gamma: bool = True
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    verbose: bool | int = False

    extra: ClassVar[str | None] = "bounds"
    resumes: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = (*SEARCHED, *STEPS, "stop_if_linesearch_fails", "use_gamma", "theta")

    def engine(self) -> InnerSolver:
        return Bounded(memory=self.history_size)

    def statement(self) -> Statement:
        loss, box = self.function().loss, Bounds()
        return Statement(ProximalGradient.under(loss, box), loss, box)
