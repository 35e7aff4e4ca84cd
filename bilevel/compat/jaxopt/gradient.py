"""Gradient, proximal gradient and projected gradient methods."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bilevel.compat.jaxopt import prox as proxes
from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.states import Statement
from bilevel.compat.jaxopt.step_sizes import stepping
from bilevel.compat.jaxopt.terms import Proximal
from bilevel.optimality import ProximalGradient as Condition
from bilevel.solvers import ProximalGradient as Engine, Solver as InnerSolver


@dataclass(eq=False)
class AcceleratedSolver(EngineSolver):
    """A minimiser of fun + g by proximal gradient steps with Nesterov's acceleration; a subclass says what g is."""

    fun: Callable
    value_and_grad: bool = False
    has_aux: bool = False
    stepsize: float | Callable = 0.0
    maxiter: int = 500
    maxls: int = 15
    tol: float = 1e-3
    acceleration: bool = True
    decrease_factor: float = 0.5
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    tells_value: ClassVar[bool] = True
    begins_blank: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("maxls", "decrease_factor")

    @abc.abstractmethod
    def penalty(self) -> Proximal:
        """The term g that is not smooth."""

    def engine(self) -> InnerSolver:
        return stepping(Engine(acceleration=self.acceleration), self.stepsize)

    def function(self) -> Objective:
        return Objective(self.fun, self.value_and_grad, self.has_aux)

    def statement(self) -> Statement:
        loss, penalty = self.function().loss, self.penalty()
        return Statement(Condition.under(loss, penalty), loss, penalty)


# A dataclass takes the fields of its last base first. So these two come before the settings, where JAXopt has them.
@dataclass(eq=False)
class Penalised:
    """The first arguments of a method for a penalty."""

    fun: Callable
    prox: Callable = proxes.prox_none


@dataclass(eq=False)
class Constrained:
    """The first arguments of a method for a set."""

    fun: Callable
    projection: Callable


@dataclass(eq=False)
class ProximalGradient(AcceleratedSolver, Penalised):
    """min over w of fun(w, *args, **kwargs) + g(w), where prox(w, hyperparams_prox, scaling) is the prox of g.

    ``run(init_params, hyperparams_prox, *args, **kwargs)``. By `bl.ProximalGradient`.
    """

    extra: ClassVar[str | None] = "hyperparams_prox"

    def penalty(self) -> Proximal:
        """The nonsmooth term."""
        return Proximal(self.prox)


@dataclass(eq=False)
class GradientDescent(ProximalGradient):
    """min over w of fun(w, *args, **kwargs), by gradient descent with Nesterov's acceleration.

    ``run(init_params, *args, **kwargs)``. By `bl.ProximalGradient` without a prox.
    """

    extra: ClassVar[str | None] = None

    def statement(self) -> Statement:
        return Statement.minimise(self.function())


@dataclass(eq=False)
class ProjectedGradient(AcceleratedSolver, Constrained):
    """min over w in a set of fun(w, *args, **kwargs), where projection(w, hyperparams_proj) is the nearest point.

    ``run(init_params, hyperparams_proj, *args, **kwargs)``. By `bl.ProximalGradient`.
    """

    extra: ClassVar[str | None] = "hyperparams_proj"

    def penalty(self) -> Proximal:
        """The set, whose prox is the projection for every step size."""
        return Proximal(proxes.make_prox_from_projection(self.projection))
