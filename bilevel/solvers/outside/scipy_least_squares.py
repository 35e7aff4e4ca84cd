"""SciPy's solver of nonlinear least squares."""

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
from bilevel.losses.least_squares import LeastSquares
from bilevel.losses.robust import squares
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.outside.host import call_host
from bilevel.solvers.outside.scipy import TOL
from bilevel.solvers.second_order.lbfgsb import bounds

METHODS = ("trf", "dogbox", "lm")


@settings
@dataclass(frozen=True)
class SciPyLeastSquares(Solver):
    """`scipy.optimize.least_squares` with the given ``method``, on the host, for a `bl.LeastSquares` loss.

    Free or in a box ("trf" and "dogbox"). Residuals and their Jacobian are those of the compiled problem, and a robust
    loss enters them as sqrt(rho). ``options`` are SciPy's, as (name, value) pairs. A step is one whole run; the
    residual of the problem is computed here, and ``max_steps`` runs are made at most, each from the last. Raises
    ValueError for other losses, for sets that are no box, and for "lm" in a box.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.LeastSquares(lambda w, h, batch: jnp.array([w[0] + w[1] - 2.0, w[0] - w[1]]))
    >>> solver = bl.SciPyLeastSquares(tol=1e-4)
    >>> bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), solver=solver).solve(None, None).params.round(3).tolist()
    [1.0, 1.0]
    """

    method: str = "trf"
    options: tuple[tuple[str, Any], ...] = ()
    max_steps: int = 5
    tol: float | jax.Array = 1e-6
    unrolls = False
    shards = False
    structured = True

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        loss = instance.loss
        assert isinstance(loss, LeastSquares)

        def residual(params: Params) -> jax.Array:
            flat = loss.flat(params, instance.hparams, instance.batch)
            if loss.rho is squares:
                return flat
            # The same sum of squares; at zero, where the root has no derivative, rho is its argument.
            squared = jnp.square(flat)
            inner = jnp.where(squared > 0, squared, 1)
            return jnp.where(squared > 0, flat * jnp.sqrt(loss.rho(inner, instance.hparams) / inner), flat)

        flat, unravel = ravel_pytree(state.params)
        both = lambda x: (residual(unravel(x)), jax.jacobian(lambda x: residual(unravel(x)))(x))
        program, constants = hoisted(both, flat)
        box = () if instance.penalty.smooth else bounds(instance, state.params)

        def run(start: Params, box: PyTree, constants: list) -> Params:
            compiled = jax.jit(program)
            return self._run(lambda x: compiled(constants, x), start, box)

        params = call_host(run, state.params, box, constants)
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=1), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state

    def refuse(self, instance: Instance) -> None:
        penalty = instance.penalty
        if self.method not in METHODS:
            raise ValueError(f"bl.SciPyLeastSquares got method={self.method!r}: give one of {', '.join(METHODS)}.")
        if not isinstance(instance.loss, LeastSquares):
            raise ValueError(
                "bl.SciPyLeastSquares needs the residuals, and the loss of this problem is a plain function: state it "
                'as bl.LeastSquares(residual=...), or use bl.SciPy("L-BFGS-B").'
            )
        if not penalty.smooth and (self.method == "lm" or not (penalty.is_set and penalty.separable)):
            raise ValueError(
                f'bl.SciPyLeastSquares("{self.method}") would ignore {type(penalty).__name__}: "trf" and "dogbox" know '
                "boxes only. Use bl.Auto()."
            )

    def _run(self, function: Callable[[jax.Array], Any], start: Params, box: PyTree) -> Params:
        """SciPy on flat float64 vectors."""
        from scipy import optimize

        flat, unravel = ravel_pytree(start)
        last: dict[bytes, Any] = {}  # SciPy asks for residuals and Jacobian of a point one after the other

        def at(x: np.ndarray) -> Any:
            if x.tobytes() not in last:
                last.clear()
                last[x.tobytes()] = [np.asarray(one, np.float64) for one in function(jnp.asarray(x, flat.dtype))]
            return last[x.tobytes()]

        vector = lambda tree: np.asarray(ravel_pytree(tree)[0], np.float64)
        begin, limits = vector(start), (-np.inf, np.inf)
        if box:
            lower, upper = limits = tuple(map(vector, box))
            begin = np.clip(begin, lower, upper)
        asked: dict[str, Any] = {"ftol": TOL, "xtol": TOL, "gtol": TOL, **dict(self.options)}
        asked["jac"] = lambda x: at(x)[1]
        found = optimize.least_squares(lambda x: at(x)[0], begin, bounds=limits, method=self.method, **asked)
        return unravel(jnp.asarray(found.x, flat.dtype))
