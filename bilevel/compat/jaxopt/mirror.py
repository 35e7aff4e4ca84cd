"""Mirror descent with JAXopt's ``projection_grad``, by `bl.MirrorDescent`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.states import Statement
from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree
from bilevel.implicit import System, plain_system
from bilevel.optimality import Geometry, MirrorDescent as Condition
from bilevel.optimality.geometry import Linearized
from bilevel.solvers import MirrorDescent as Engine, Solver as InnerSolver


@dataclass(frozen=True)
class Stepped(Geometry):
    """A geometry that is known by its step alone: projection_grad(w, gradient, step size, hyperparams)."""

    projection_grad: Callable[..., Params]

    def move(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> Params:
        return self.projection_grad(params, gradient, t, args[0])

    def system(self, params: Params, of: Linearized, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> System:
        stepped = lambda w, gradient: self.move(w, gradient, t, *args)
        _, along = jax.linearize(stepped, params, of.gradient)
        return plain_system(lambda x: trees.subtract(along(x, of.hessian(x)), x), params, owner=of.owner)


@dataclass(eq=False)
class MirrorDescent(EngineSolver):
    """min over w of fun(w, *args, **kwargs) by the steps w <- projection_grad(w, gradient, stepsize, hyperparams_proj).

    ``run(init_params, hyperparams_proj, *args, **kwargs)``; ``stepsize`` is a number or a function of the number of
    steps. By `bl.MirrorDescent`, which by itself has the steps of the entropy, safe at zeros, and a search of the step
    size.
    """

    fun: Callable
    projection_grad: Callable | None
    stepsize: float | Callable
    maxiter: int = 500
    tol: float = 1e-2
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False
    jit: bool = True
    unroll: str | bool = "auto"

    extra: ClassVar[str | None] = "hyperparams_proj"
    tells_value: ClassVar[bool] = True
    begins_blank: ClassVar[bool] = True

    @staticmethod
    def make_projection_grad(projection: Callable, mapping_fun: Callable) -> Callable:
        """The step projection(mapping_fun(w) - stepsize gradient, hyperparams_proj)."""

        def projection_grad(x: Params, x_fun_grad: PyTree, stepsize: Any, hyperparams_proj: Any) -> Params:
            return projection(trees.axpy(-stepsize, x_fun_grad, mapping_fun(x)), hyperparams_proj)

        return projection_grad

    def engine(self) -> InnerSolver:
        if callable(self.stepsize):
            return Engine(step_size=1.0, schedule=self.stepsize)
        return Engine(step_size=self.stepsize)

    def function(self) -> Objective:
        return Objective(self.fun, has_aux=self.has_aux)

    def statement(self) -> Statement:
        if self.projection_grad is None:
            raise ValueError(
                "MirrorDescent got projection_grad=None: give one, as MirrorDescent.make_projection_grad(projection, "
                "mapping_fun) makes it."
            )
        loss = self.function().loss
        return Statement(Condition(loss, Stepped(self.projection_grad)), loss)
