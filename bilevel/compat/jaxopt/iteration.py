"""Solvers that take steps, also those of a user's own."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from bilevel.compat.jaxopt.common import OptStep, Solver
from bilevel.compat.jaxopt.implicit_diff import custom_root
from bilevel.compat.jaxopt.loop import while_loop


class IterativeSolver(Solver):
    """A solver with `init_state` and `update`.

    A subclass of one's own states these two and `optimality_fun`, with the settings ``maxiter`` and ``tol``, and its
    states have an ``error``. It gets `run`, whose derivative is that of the root of `optimality_fun`, or with
    ``implicit_diff=False`` that of the steps.
    """

    maxiter: int
    tol: float
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None

    @abc.abstractmethod
    def init_state(self, init_params: Any, *args: Any, **kwargs: Any) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def update(self, params: Any, state: Any, *args: Any, **kwargs: Any) -> OptStep:
        """One step."""

    def run(self, init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
        """Steps until the error is at most ``tol``, or ``maxiter``."""

        def walked(init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
            start = init_params.params if isinstance(init_params, OptStep) else init_params
            step = OptStep(start, self.init_state(init_params, *args, **kwargs))
            onward = lambda step: OptStep(*self.update(*step, *args, **kwargs))
            unroll = not self.implicit_diff
            return while_loop(lambda step: step.state.error > self.tol, onward, step, self.maxiter, unroll)

        if self.implicit_diff:
            walked = custom_root(self.optimality_fun, has_aux=True, solve=self.implicit_diff_solve)(walked)
        return walked(init_params, *args, **kwargs)
