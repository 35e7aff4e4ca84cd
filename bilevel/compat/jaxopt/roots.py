"""Fixed points and roots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel.compat.jaxopt.functions import FirstOf
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.states import Statement
from bilevel.implicit import FixedPoint, Residual
from bilevel.solvers import (
    Anderson,
    AndersonWrapper as Accelerated,
    Broyden as BroydenEngine,
    FixedPointIteration as Iteration,
    Solver as InnerSolver,
)


@dataclass(eq=False)
class FixedPointSolver(EngineSolver):
    """A solver of fixed_point_fun(w, *args, **kwargs) = w."""

    fixed_point_fun: Callable

    def function(self) -> FirstOf:
        return FirstOf(self.fixed_point_fun, self.has_aux)

    def statement(self) -> Statement:
        return Statement(FixedPoint(self.function().stated))


@dataclass(eq=False)
class FixedPointIteration(FixedPointSolver):
    """w with fixed_point_fun(w, *args, **kwargs) = w, by `bl.FixedPointIteration`."""

    maxiter: int = 100
    tol: float = 1e-5
    has_aux: bool = False
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    begins_blank: ClassVar[bool] = True

    def engine(self) -> InnerSolver:
        return Iteration()


@dataclass(eq=False)
class AndersonAcceleration(FixedPointSolver):
    """w with fixed_point_fun(w, *args, **kwargs) = w, by `bl.Anderson` with ``history_size`` differences.

    The coefficients are those of the normalised columns, so a ``ridge`` above 1e-12 is rarely needed. Every step is
    accelerated, and a step that makes the residual ten times larger is undone.
    """

    history_size: int = 5
    mixing_frequency: int = 1
    beta: float = 1.0
    maxiter: int = 100
    tol: float = 1e-5
    ridge: float = 1e-5
    has_aux: bool = False
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing_frequency not in (None, 1):
            differs("AndersonAcceleration(mixing_frequency=...)", "every step is accelerated. Leave it out.")

    def engine(self) -> InnerSolver:
        ridge = self.ridge if self.ridge != AndersonAcceleration.ridge else Anderson.ridge
        return Anderson(memory=self.history_size, mixing=self.beta, ridge=ridge)


@dataclass(eq=False)
class AndersonWrapper(EngineSolver):
    """The steps of another solver, accelerated. ``run`` takes the arguments of that solver's ``run``. By
    `bl.AndersonWrapper`."""

    solver: EngineSolver
    history_size: int = 5
    mixing_frequency: int | None = None
    beta: float = 1.0
    ridge: float = 1e-5
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing_frequency not in (None, 1):
            differs("AndersonWrapper(mixing_frequency=...)", "every step is accelerated. Leave it out.")

    @property
    def extra(self) -> str | None:  # type: ignore[override]  # of the solver
        return self.solver.extra

    @property
    def tells_value(self) -> bool:  # type: ignore[override]  # of the solver
        return self.solver.tells_value

    @property
    def has_aux(self) -> bool:  # type: ignore[override]  # of the solver
        return self.solver.has_aux

    @property
    def maxiter(self) -> int:  # type: ignore[override]  # of the solver
        return self.solver.maxiter

    @property
    def tol(self) -> float:  # type: ignore[override]  # of the solver
        return self.solver.tol

    def engine(self) -> InnerSolver:
        ridge = self.ridge if self.ridge != AndersonWrapper.ridge else Anderson.ridge
        return Accelerated(self.solver.engine(), memory=self.history_size, mixing=self.beta, ridge=ridge)

    def function(self) -> Any:
        return self.solver.function()

    def statement(self) -> Statement:
        return self.solver.statement()


@dataclass(eq=False)
class Broyden(EngineSolver):
    """w with fun(w, *args, **kwargs) = 0, by `bl.Broyden`."""

    fun: Callable
    has_aux: bool = False
    maxiter: int = 500
    tol: float = 1e-3
    stepsize: float | Callable = 0.0
    linesearch: str = "backtracking"
    stop_if_linesearch_fails: bool = False
    condition: str = "wolfe"
    maxls: int = 15
    decrease_factor: float = 0.8
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    history_size: int | None = None
    gamma: float = 1.0
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    verbose: bool | int = False

    minimises: ClassVar[bool] = False
    resumes: ClassVar[bool] = True

    unused: ClassVar[tuple[str, ...]] = (
        "linesearch", "stop_if_linesearch_fails", "condition", "maxls", "decrease_factor", "increase_factor",
        "max_stepsize", "min_stepsize", "gamma",
    )  # fmt: skip

    def engine(self) -> InnerSolver:
        return BroydenEngine() if self.history_size is None else BroydenEngine(memory=self.history_size)

    def function(self) -> FirstOf:
        return FirstOf(self.fun, self.has_aux)

    def statement(self) -> Statement:
        return Statement(Residual(self.function().stated))
