"""The root of a scalar function in a bracket, by Newton steps that a bisection guards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.compat.jaxopt.common import OptStep, asked
from bilevel.compat.jaxopt.functions import FirstOf
from bilevel.compat.jaxopt.iteration import IterativeSolver
from bilevel.compat.jaxopt.linear_solve import linear_solver
from bilevel.foundation.eager import Setting, solves_once
from bilevel.foundation.status import Code, Status
from bilevel.implicit import Residual
from bilevel.implicit.attach import attach_once
from bilevel.kernels.scalar_root import bracketed_root


class BisectionState(NamedTuple):
    """What is known of the root. ``low`` and ``high`` are the bracket given, and ``sign`` is the sign of the slope."""

    iter_num: jax.Array
    value: jax.Array
    error: jax.Array
    low: jax.Array
    high: jax.Array
    sign: jax.Array
    status: Status
    aux: Any = None


@dataclass(eq=False)
class Bisection(IterativeSolver):
    """x in [lower, upper] with optimality_fun(x, *args, **kwargs) = 0, exact up to rounding.

    ``run(None, *args, **kwargs)``. Raises ValueError where the function has the same sign at both ends and
    ``check_bracket`` is on; under jit and vmap the status is then ``infeasible``. `update` finds the root at once.
    """

    optimality_fun: Callable = field()  # type: ignore[assignment]  # a field without a default, as in JAXopt
    lower: Any
    upper: Any
    maxiter: int = 30
    tol: float = 1e-5
    check_bracket: bool = True
    verbose: bool | int = False
    implicit_diff_solve: Callable | None = None
    has_aux: bool = False
    jit: bool = True
    unroll: str | bool = "auto"

    implicit_diff: ClassVar[bool] = True

    def init_state(self, init_params: Any = None, *args: Any, **kwargs: Any) -> BisectionState:
        """The signs at the ends of the bracket."""
        function = FirstOf(self.optimality_fun, self.has_aux)
        low, high = (jnp.asarray(end, float) for end in (self.lower, self.upper))
        at_low, _ = function.with_aux(low, *args, **kwargs)
        at_high, aux = function.with_aux(high, *args, **kwargs)
        sign = jnp.where(at_high > at_low, 1, -1)
        enclosed = (at_low * at_high <= 0) | ~jnp.bool_(self.check_bracket)
        code = jnp.where(enclosed, Code.converged, Code.infeasible)
        if self.check_bracket and not isinstance(code, Tracer) and bool(jnp.any(~enclosed)):
            raise ValueError(
                f"Bisection: the function has the same sign at lower={self.lower} and at upper={self.upper}. Give a "
                "bracket that encloses the root, or check_bracket=False."
            )
        error = jnp.full_like(jnp.asarray(at_high, float), jnp.inf)
        return BisectionState(jnp.int32(0), at_high, error, low, high, sign, Status.of(code), aux)

    def update(self, params: Any, state: BisectionState, *args: Any, **kwargs: Any) -> OptStep:
        """The root, from the bracket of ``state``."""
        function = FirstOf(self.optimality_fun, self.has_aux)
        root = _root(asked(self), state.low, state.high, state.sign, (args, kwargs))
        root = attach_once(Residual(function), linear_solver(self.implicit_diff_solve), root, args, kwargs)
        value, aux = function.with_aux(root, *args, **kwargs)
        error = jax.lax.stop_gradient(jnp.abs(value))
        return OptStep(root, state._replace(iter_num=state.iter_num + 1, value=value, error=error, aux=aux))

    def run(self, init_params: Any = None, *args: Any, **kwargs: Any) -> OptStep:
        """The root with its derivative; NaN where the bracket is known to enclose no root."""
        state = self.init_state(init_params, *args, **kwargs)
        root, state = self.update(init_params, state, *args, **kwargs)
        return OptStep(jnp.where(state.status.ok, root, jnp.nan), state)


@solves_once
def _root(setting: Setting, low: jax.Array, high: jax.Array, sign: jax.Array, batch: tuple) -> jax.Array:
    solver: Bisection = setting.value
    args, kwargs = jax.lax.stop_gradient(batch)
    function = FirstOf(solver.optimality_fun, solver.has_aux)
    increasing = lambda x: sign * function(x, *args, **kwargs)
    return bracketed_root(increasing, *jax.lax.stop_gradient((low, high)))
