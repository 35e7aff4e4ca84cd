"""Steps on arguments that change from step to step: Optax's optimisers, and step sizes from values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel.compat.jaxopt.common import OptStep
from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.iteration import IterativeSolver
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.states import State, Statement
from bilevel.solvers import ArmijoSGD as ArmijoEngine, Optax, PolyakSGD as PolyakEngine, Solver as InnerSolver


class StochasticSolver(IterativeSolver):
    """A solver whose arguments may change from step to step."""

    def run_iterator(self, init_params: Any, iterator: Iterable[Any], *args: Any, **kwargs: Any) -> OptStep:
        """A step for each item of ``iterator``, given as ``data=``; at most ``maxiter``."""
        params, state, items = init_params, None, iter(iterator)
        for _ in range(self.maxiter):
            try:
                data = next(items)
            except StopIteration:
                break
            state = self.init_state(params, *args, **kwargs, data=data) if state is None else state
            params, state = self.update(params, state, *args, **kwargs, data=data)
        if state is None:
            raise ValueError(f"{type(self).__name__}.run_iterator got an iterator without items: give it a fresh one.")
        return OptStep(params, state)


class GradientSteps(StochasticSolver, EngineSolver):
    """Steps along gradients of a function of the current arguments; states hold its value.

    ``pre_update(params, state, *args, **kwargs)`` returns (params, state) for each step; it is called in `update`.
    """

    tells_value: ClassVar[bool] = True
    fun: Callable
    value_and_grad: bool
    pre_update: Callable | None

    def function(self) -> Objective:
        return Objective(self.fun, self.value_and_grad, self.has_aux)

    def statement(self) -> Statement:
        return Statement.minimise(self.function())

    def update(self, params: Any, state: State, *args: Any, **kwargs: Any) -> OptStep:
        """One step from ``params``, after ``pre_update``."""
        if self.pre_update is not None:
            params, state = self.pre_update(params, state, *args, **kwargs)
        return super().update(params, state, *args, **kwargs)

    def run(self, init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
        """As `EngineSolver.run`; ``pre_update`` cannot be called within a compiled solve, and a warning says so."""
        if self.pre_update is not None:
            differs(f"{type(self).__name__}(pre_update=...).run", "it is called by update and run_iterator. Use those.")
        return super().run(init_params, *args, **kwargs)


@dataclass(eq=False)
class OptaxSolver(GradientSteps):
    """min over w of fun(w, *args, **kwargs) by the updates of an Optax transformation. By `bl.Optax`."""

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

    def engine(self) -> InnerSolver:
        return Optax(self.opt)


@dataclass(eq=False)
class PolyakSGD(GradientSteps):
    """min over w of fun(w, *args, **kwargs) with steps of (value - fun_min) / ||gradient||^2. By `bl.PolyakSGD`.

    ``variant`` "SPS_max" bounds them by ``max_stepsize``, "SPS+" does not; ``delta`` is added to the square.
    """

    fun: Callable
    value_and_grad: bool = False
    has_aux: bool = False
    fun_min: float = 0.0
    variant: str = "SPS_max"
    max_stepsize: float = 1.0
    delta: float = 0.0
    momentum: float = 0.0
    pre_update: Callable | None = None
    maxiter: int = 500
    tol: float = 1e-3
    verbose: bool | int = False
    implicit_diff: bool = False
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("SPS_max", "SPS+"):
            raise ValueError(f"PolyakSGD got variant={self.variant!r}: give 'SPS_max' or 'SPS+'.")

    def engine(self) -> InnerSolver:
        largest = self.max_stepsize if self.variant == "SPS_max" else math.inf
        return PolyakEngine(largest=largest, least=self.fun_min, damping=self.delta, momentum=self.momentum)


@dataclass(eq=False)
class ArmijoSGD(GradientSteps):
    """min over w of fun(w, *args, **kwargs) with steps that decrease it enough. By `bl.ArmijoSGD`.

    The decrease asked for is (1 - aggressiveness) stepsize ||gradient||^2. ``reset_option`` says where a search begins:
    "increase" at the last step size times ``increase_factor``, "conservative" at the last step size, and "goldstein" at
    ``max_stepsize``. The search multiplies the step size by ``decrease_factor``.
    """

    fun: Callable
    value_and_grad: bool = False
    has_aux: bool = False
    aggressiveness: float = 0.9
    decrease_factor: float = 0.8
    increase_factor: float = 1.5
    reset_option: str = "increase"
    momentum: float = 0.0
    max_stepsize: float = 1.0
    pre_update: Callable | None = None
    maxiter: int = 500
    maxls: int = 15
    tol: float = 1e-3
    verbose: bool | int = False
    implicit_diff: bool = False
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    unused: ClassVar[tuple[str, ...]] = ("maxls",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset_option not in ("increase", "conservative", "goldstein"):
            raise ValueError(
                f"ArmijoSGD got reset_option={self.reset_option!r}: give 'increase', 'conservative' or 'goldstein'."
            )

    def engine(self) -> InnerSolver:
        growth = {"increase": self.increase_factor, "conservative": 1.0, "goldstein": math.inf}[self.reset_option]
        return ArmijoEngine(
            largest=self.max_stepsize,
            sufficient=1 - self.aggressiveness,
            growth=growth,
            shrink=self.decrease_factor,
            momentum=self.momentum,
        )
