"""SciPy's minimisers and root finders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.foundation.closures import hoisted
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.outside.host import call_host
from bilevel.solvers.second_order.lbfgsb import bounds

TOL = 1e-12  # the tolerance given to SciPy; the residual that it reached is computed here
DERIVATIVE_FREE = ("Powell", "Nelder-Mead", "COBYLA")
BOUNDED = ("L-BFGS-B", "TNC", "trust-constr", "SLSQP", "Powell", "Nelder-Mead")
WITH_REGION = ("hybr", "lm")
FIRST_REGIONS = (100.0, 1.0, 0.1)  # first trust regions relative to the size of the start; 100 is SciPy's own
SOLVED = 1e-6  # at or below this share of the first residual no further region is tried
ROOTS = ("hybr", "lm", "broyden1", "broyden2", "anderson", "krylov", "df-sane")


def _silent(params: Params) -> None:
    """Tells nobody of a step."""


@settings
@dataclass(frozen=True)
class SciPy(Solver):
    """`scipy.optimize.minimize` or `scipy.optimize.root` with the given ``method``, on the host.

    A minimiser works on the loss, within a box if the method knows bounds ("L-BFGS-B", "TNC", "trust-constr", "SLSQP").
    A root finder ("hybr", "lm", "krylov", ...) works on a problem stated by a residual or a fixed point. Values and
    gradients are those of the compiled problem. ``options`` are SciPy's, as (name, value) pairs. A step is one whole
    run; as with `Host`, the residual is computed here, and ``max_steps`` runs are made at most, each from the last.
    ``callback`` is called on the host with the params after each step within a run of a minimiser.
    Raises ValueError where the method does not fit the problem.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - h)), init=lambda key, h: jnp.zeros(2),
    ...                         constraint=bl.Box(upper=1.5), solver=bl.SciPy("L-BFGS-B", tol=1e-3))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(2).tolist()
    [1.0, 1.5]
    """

    method: str = "L-BFGS-B"
    options: tuple[tuple[str, Any], ...] = ()
    callback: Callable[[Params], Any] = _silent
    max_steps: int = 5
    tol: float | jax.Array = 1e-6
    unrolls = False
    shards = False

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        function = instance.residual if _named(self.method, ROOTS) else instance.value_and_gradient
        program, constants = hoisted(function, state.params)
        box = () if instance.penalty.smooth else bounds(instance, state.params)

        def run(start: Params, box: PyTree, constants: list) -> Params:
            compiled = jax.jit(program)
            return self._run(lambda params: compiled(constants, params), start, box)

        params = call_host(run, state.params, box, constants)
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=1), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state

    def refuse(self, instance: Instance) -> None:
        has_loss = instance.mapping.states_loss
        penalty = instance.penalty
        boxed = penalty.is_set and penalty.separable and _named(self.method, BOUNDED)
        if has_loss == _named(self.method, ROOTS):
            right = 'a minimiser such as bl.SciPy("L-BFGS-B")' if has_loss else 'a root finder such as bl.SciPy("hybr")'
            stated = "a loss" if has_loss else "a residual"
            raise ValueError(f"bl.SciPy({self.method!r}) does not fit a problem stated by {stated}. Use {right}.")
        if not (penalty.smooth or boxed):
            raise ValueError(
                f"bl.SciPy({self.method!r}) would ignore {type(penalty).__name__}: of the nonsmooth parts SciPy knows "
                f"boxes only, with the methods {', '.join(BOUNDED)}. Use bl.ActiveSetNewton() or bl.Auto()."
            )

    def _run(self, function: Callable[[Params], Any], start: Params, box: PyTree) -> Params:
        """SciPy on flat float64 vectors."""
        from scipy import optimize

        flat, unravel = ravel_pytree(start)

        def vector(tree: PyTree) -> np.ndarray:
            return np.asarray(ravel_pytree(tree)[0], np.float64)

        def at(x: np.ndarray) -> Any:
            return function(unravel(jnp.asarray(x, flat.dtype)))

        def value_and_gradient(x: np.ndarray) -> Any:
            value, gradient = at(x)
            return float(value) if _named(self.method, DERIVATIVE_FREE) else (float(value), vector(gradient))

        settings: dict[str, Any] = {"method": self.method, "options": dict(self.options)}
        if _named(self.method, ROOTS):
            return unravel(jnp.asarray(_root(lambda x: vector(at(x)), vector(start), settings), flat.dtype))
        limits: Any = list(zip(*map(vector, box), strict=True)) if box else None
        gradient = None if _named(self.method, DERIVATIVE_FREE) else True
        settings |= {"tol": TOL, "callback": lambda x, *more: self.callback(unravel(jnp.asarray(x, flat.dtype)))}
        found = optimize.minimize(value_and_gradient, vector(start), jac=gradient, bounds=limits, **settings)
        return unravel(jnp.asarray(found.x, flat.dtype))


def _named(method: str, among: tuple[str, ...]) -> bool:
    """Whether a method is one of these, in capital letters or small ones, as SciPy takes both."""
    return method.lower() in [name.lower() for name in among]


def _root(function: Callable[[np.ndarray], np.ndarray], start: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """The best of SciPy's runs, each with a smaller first trust region than the last, until one succeeds.

    MINPACK begins with a region of 100 times the start and stops where a step out of the domain gives NaN. So NaN and
    infinity become large numbers, which make it shorten the step.
    """
    from scipy import optimize

    first = np.linalg.norm(function(start))
    large = 1e6 * (1 + np.nan_to_num(first))

    def finite(x: np.ndarray) -> np.ndarray:
        value = function(x)
        return value if np.all(np.isfinite(value)) else np.full_like(value, large)

    options = settings["options"]
    regions = _named(settings["method"], WITH_REGION) and "factor" not in options
    best, least = start, first
    for region in FIRST_REGIONS if regions else (None,):
        more = {} if region is None else {"factor": region}
        found = optimize.root(finite, start, method=settings["method"], options=options | more).x
        size = np.linalg.norm(function(found))
        best, least = (found, size) if size < least or not np.isfinite(least) else (best, least)
        if least <= SOLVED * first:
            break
    return best
