"""Block coordinate descent for losses of a linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.losses.linear import Linear
from bilevel.solvers.base import SPARING, Solver, State, settings
from bilevel.solvers.first_order.rows import by_rows, needs_rows
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.quadratic_model import Memory, curvature, dense, evaluate, search

CHUNK = 64  # rows whose curvature is computed at a time


@settings
@dataclass(frozen=True)
class BlockCoordinateDescent(Solver):
    """w_j <- prox_j(w_j - [grad]_j / L_j, 1 / L_j), row after row, on a quadratic model of loss(z, w), z = X w.

    The rows of ``params`` (p,) or (p, q) are the blocks; L_j bounds the j-th diagonal block of the Hessian. A step
    makes ``epochs`` passes over all rows on the second-order model around its start and keeps X w up to date (one
    column of X an update). Then it goes the part of the way that decreases the objective; that is all of it where the
    loss is quadratic. So it needs no step size, and badly scaled columns do not slow it down. For `bl.Linear` losses
    with a separable penalty or set, `bl.Simplex` or `bl.GroupLasso` by rows; for sparse solutions put it into a
    `bl.WorkingSet`. Raises ValueError for other problems. Source: Tseng, 2001; Friedman, Hastie and Tibshirani, 2010.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.sum((z - h) ** 2))
    >>> inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(3), penalty=bl.L1(weight=1.0),
    ...                         solver=bl.BlockCoordinateDescent(tol=1e-5))
    >>> inner.solve(jnp.array([3.0, 0.1, 0.2]), jnp.eye(3)).params.round(3).tolist()
    [2.5, 0.0, 0.0]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    epochs: int = 10
    patience = 30
    keeps_value = True
    structured = True

    def init(self, instance: Instance, params: Params) -> State:
        needs_rows(self, instance, params)
        params = instance.prox(params, 0.0)
        trial = evaluate(instance, params)
        return State(params, trial.residual, Counts(gradients=1, proxes=2), Memory(trial.value, trial.gradient))

    def step(self, instance: Instance, state: State) -> State:
        target = self._model_minimum(instance, state)
        found = search(instance, state, target)
        trials = found.trials
        checked = 1 if instance.searches else 0  # of the residual, unused without a search
        proxes = self.epochs + trials - 1 + checked
        counts = state.counts.plus(gradients=trials, hessian_products=self.epochs, proxes=proxes)
        code = jnp.where(found.accepted, Code.converged, Code.stalled)
        derivative = SPARING.plus(hessian_products=self.epochs, proxes=-checked)
        return State(found.params, found.residual, counts, Memory(found.value, found.gradient), code, derivative)

    def refresh(self, instance: Instance, state: State) -> State:
        trial = evaluate(instance, state.params)
        memory = Memory(trial.value, trial.gradient)
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        if not isinstance(instance.loss, Linear):
            raise ValueError(
                "bl.BlockCoordinateDescent needs a loss that is a function of a linear map, stated as bl.Linear: its "
                "updates take one column of the matrix each. Use bl.ActiveSetNewton() or bl.ProximalGradient()."
            )

    def _model_minimum(self, instance: Instance, state: State) -> jax.Array:
        """The rows after the passes over the quadratic model at ``state.params``."""
        params, gradient = state.params, state.memory.gradient
        loss, hparams = instance.loss, instance.hparams
        assert isinstance(loss, Linear)
        columns = dense(loss.design(instance.batch)).T
        curve, direct = curvature(instance, params, columns.T @ params)
        lipschitz = _block_curvature(columns, curve, params, direct)
        rows = by_rows(instance.penalty, hparams, params)
        numbers = jnp.arange(params.shape[0])

        def update(change: tuple, row: tuple) -> tuple[tuple, jax.Array]:
            column, number, slope, bound, before, parameters = row
            curved, curved_directly = curve(*change)
            slope = slope + column @ curved + (curved_directly[number] if direct else 0)
            after = rows.rebuild(parameters).prox(before - slope / bound, 1 / bound, hparams)
            image = change[0] + jnp.multiply.outer(column, after - before)
            moved = change[1].at[number].add(after - before) if direct else change[1]
            return (image, moved), after

        def epoch(carry: tuple, _: None) -> tuple[tuple, None]:
            change, current = carry
            change, current = jax.lax.scan(
                update, change, (columns, numbers, gradient, lipschitz, current, rows.varying)
            )
            return (change, current), None

        nothing = (jnp.zeros_like(columns.T @ params), jnp.zeros_like(params))
        (_, after), _ = jax.lax.scan(epoch, (nothing, params), length=self.epochs)
        return after


def _block_curvature(columns: jax.Array, curve: Any, params: jax.Array, direct: bool) -> jax.Array:
    """A bound of each diagonal block of the Hessian of the model: its largest absolute row sum."""
    basis = jnp.eye(params[0].size, dtype=params.dtype).reshape(params[0].size, *params.shape[1:])

    def bound(row: tuple) -> jax.Array:
        column, number = row

        def image(unit: jax.Array) -> jax.Array:
            curved, directly = curve(jnp.multiply.outer(column, unit), jnp.zeros_like(params).at[number].set(unit))
            return column @ curved + (directly[number] if direct else 0)

        block = jax.vmap(image)(basis)
        return jnp.max(jnp.sum(jnp.abs(block.reshape(basis.shape[0], -1)), axis=-1))

    bounds = jax.lax.stop_gradient(jax.lax.map(bound, (columns, jnp.arange(len(columns))), batch_size=CHUNK))
    largest = jnp.max(bounds)
    return jnp.maximum(bounds, trees.epsilon(params) * jnp.where(largest > 0, largest, 1))
