"""Nonlinear least squares: fun is the residual, and half the sum of its squares is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt import linear_solve
from bilevel.compat.jaxopt.functions import FirstOf
from bilevel.compat.jaxopt.iterative import EngineSolver
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.scipy_wrappers import ScipyWrapper
from bilevel.compat.jaxopt.states import Statement
from bilevel.compat.jaxopt.terms import Bounds
from bilevel.foundation.typing import HParams
from bilevel.losses.least_squares import LeastSquares
from bilevel.losses.robust import CauchyRho, HuberRho, squares
from bilevel.optimality import ProximalGradient, Stationary
from bilevel.solvers import (
    GaussNewton as Newton,
    LevenbergMarquardt as Damped,
    SciPyLeastSquares,
    Solver as InnerSolver,
)


@dataclass(frozen=True)
class Squares:
    """The value 1/2 sum rho(r^2) of residuals that may have aux."""

    residual: FirstOf
    rho: Callable[[jax.Array, HParams], jax.Array] = squares

    def with_aux(self, params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The value and aux."""
        found, aux = self.residual.with_aux(params, *args, **kwargs)
        return LeastSquares(lambda *_: found, self.rho)(params, None, None), aux

    def statement(self) -> Statement:
        """The problem without bounds."""
        loss = LeastSquares(self.residual.stated, self.rho)
        return Statement(Stationary(loss), loss)

    def bounded(self) -> Statement:
        """The problem in a box."""
        loss, box = LeastSquares(self.residual.stated, self.rho), Bounds()
        return Statement(ProximalGradient.under(loss, box), loss, box)


@dataclass(eq=False)
class SquaresSolver(EngineSolver):
    """A minimiser of ||residual_fun(w, *args, **kwargs)||^2 / 2, whose states hold that value."""

    residual_fun: Callable
    maxiter: int = 30

    tells_value: ClassVar[bool] = True

    def function(self) -> Any:
        return Squares(FirstOf(self.residual_fun, self.has_aux))

    def statement(self) -> Statement:
        return self.function().statement()


@dataclass(eq=False)
class GaussNewton(SquaresSolver):
    """min over w of ||residual_fun(w, *args, **kwargs)||^2 / 2, by `bl.GaussNewton`."""

    tol: float = 1e-5
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False
    verbose: bool | int = False
    jit: bool = True
    unroll: str | bool = "auto"

    def engine(self) -> InnerSolver:
        return Newton()


@dataclass(eq=False)
class LevenbergMarquardt(SquaresSolver):
    """min over w of ||residual_fun(w, *args, **kwargs)||^2 / 2, by `bl.LevenbergMarquardt`.

    It stops where the norm of the gradient is at most ``tol`` (``gtol`` with stop_criterion="madsen-nielsen").
    """

    unused: ClassVar[tuple[str, ...]] = ("damping_parameter", "xtol", "solver", "materialize_jac")

    damping_parameter: float = 1e-6
    stop_criterion: str = "grad-l2-norm"
    tol: float = 1e-3
    xtol: float = 1e-3
    gtol: float = 1e-3
    solver: str | Callable = linear_solve.solve_cg
    geodesic: bool = False
    verbose: bool | int = False
    jac_fun: Callable | None = None
    materialize_jac: bool = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False
    jit: bool = True
    unroll: str | bool = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop_criterion not in ("grad-l2-norm", "madsen-nielsen"):
            raise ValueError(
                f"LevenbergMarquardt got stop_criterion={self.stop_criterion!r}: give 'grad-l2-norm' or "
                "'madsen-nielsen'."
            )
        if self.stop_criterion == "madsen-nielsen":
            self.tol = self.gtol
        own = {"geodesic": "steps are not bent", "jac_fun": "the Jacobian is that of residual_fun"}
        for name, what in own.items():
            if getattr(self, name):
                differs(f"LevenbergMarquardt({name}=...)", f"{what}. Leave it out.")

    def engine(self) -> InnerSolver:
        return Damped()


def _soft_l1(squared: jax.Array, hparams: HParams) -> jax.Array:
    return 2 * (jnp.sqrt(1 + squared) - 1)


def _arctan(squared: jax.Array, hparams: HParams) -> jax.Array:
    return jnp.arctan(squared)


@dataclass(frozen=True)
class Scaled:
    """C^2 rho(z / C^2) for SciPy's ``f_scale`` C, the residual at which outliers begin."""

    rho: Callable[[jax.Array, HParams], jax.Array]
    scale: float

    def __call__(self, squared: jax.Array, hparams: HParams) -> jax.Array:
        return self.scale**2 * self.rho(squared / self.scale**2, hparams)


RHO: dict[str, Callable[[jax.Array, HParams], jax.Array]] = {
    "linear": squares,
    "soft_l1": _soft_l1,
    "huber": HuberRho(),
    "cauchy": CauchyRho(),
    "arctan": _arctan,
}


@dataclass(eq=False)
class ScipyLeastSquares(ScipyWrapper):
    """min over w of sum rho(fun(w, *args, **kwargs)^2) / 2 by `scipy.optimize.least_squares`; ``loss`` names rho as
    SciPy does ("linear", "soft_l1", "huber", "cauchy", "arctan"). By `bl.SciPyLeastSquares`."""

    fun: Callable = None  # type: ignore[assignment]  # JAXopt's order of arguments
    loss: str = "linear"
    options: dict[str, Any] | None = None
    use_jacrev: bool = True

    tol: ClassVar[float | None] = None  # type: ignore[misc]  # it has no such setting
    tells_value: ClassVar[bool] = True
    default: ClassVar[str] = "trf"
    minimises: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in RHO:
            raise ValueError(f"{type(self).__name__} got loss={self.loss!r}: give one of {', '.join(RHO)}.")

    def engine(self) -> InnerSolver:
        return SciPyLeastSquares(self.method or self.default, options=tuple(sorted((self.options or {}).items())))

    def function(self) -> Any:
        rho = RHO[self.loss]
        scale = (self.options or {}).get("f_scale", 1.0)
        return Squares(FirstOf(self.fun, self.has_aux), rho if self.loss == "linear" else Scaled(rho, scale))

    def statement(self) -> Statement:
        return self.function().statement()


@dataclass(eq=False)
class ScipyBoundedLeastSquares(ScipyLeastSquares):
    """As `ScipyLeastSquares`, within bounds: ``run(init_params, (lower, upper), *args, **kwargs)``."""

    extra: ClassVar[str | None] = "bounds"

    def statement(self) -> Statement:
        return self.function().bounded()
