"""scikit-learn's estimators as inner solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from bilevel.foundation.typing import Batch, Counts, HParams, Params
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.outside.host import call_host


def first_two(batch: Batch) -> tuple[Any, Any]:
    """A batch (X, y, ...)."""
    return batch[0], batch[1]


def coefficients(estimator: Any) -> Params:
    """The fitted coefficients of a linear model without an intercept."""
    return estimator.coef_


def start_from_coefficients(estimator: Any, params: Params) -> None:
    """The warm start of the linear models that have one."""
    if "warm_start" in estimator.get_params():
        estimator.set_params(warm_start=True)
        estimator.coef_ = params.copy()


@settings
@dataclass(frozen=True)
class ScikitLearn(Solver):
    """params = read(estimator.set_params(**parameters(hparams)).fit(*data(batch))), on the host.

    ``parameters(hparams)`` gives the estimator's parameters, ``data(batch)`` the arguments of its ``fit``,
    ``read(fitted)`` the params; ``start(estimator, params)`` prepares a warm start. Arrays are NumPy's. The inner
    problem states the same optimisation in JAX, and its residual is computed here. So an estimator that solves another
    problem (a different scaling, an intercept) ends with the status ``max_steps``. A step is one fit.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> from sklearn.linear_model import Lasso
    >>> solver = bl.ScikitLearn(Lasso(fit_intercept=False, tol=1e-10), lambda h: {"alpha": float(jnp.exp(h))}, tol=1e-4)
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2), solver=solver,
    ...                         init=lambda key, h: jnp.zeros(2), penalty=bl.L1(weight=jnp.exp))
    >>> inner.solve(0.0, (jnp.eye(2), jnp.array([4.0, 1.0]))).params.tolist()
    [2.0, 0.0]
    """

    estimator: Any
    parameters: Callable[[HParams], dict[str, Any]]
    data: Callable[[Batch], tuple] = first_two
    read: Callable[[Any], Params] = coefficients
    start: Callable[[Any, Params], None] = start_from_coefficients
    max_steps: int = 1
    tol: float | jax.Array = 1e-6
    unrolls = False
    shards = False

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        params = call_host(self._fit, state.params, instance.hparams, instance.batch)
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=1), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state

    def _fit(self, params: Params, hparams: HParams, batch: Batch) -> Params:
        from sklearn.base import clone

        estimator: Any = clone(self.estimator)
        estimator.set_params(**self.parameters(hparams))
        self.start(estimator, params)
        return self.read(estimator.fit(*self.data(batch)))
