"""Newton's method for separable penalties and boxes, with the matrix of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.kernels.separable_quadratic import Separable, minimise, proxes_in
from bilevel.linear_solve import materialize
from bilevel.losses.linear import Linear
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.first_order.rows import by_rows
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.quadratic_model import Memory, curvature, dense, evaluate, search

MODEL_TOL = 1e-10  # the model is minimised to this share of its first residual


def takes(instance: Instance, params: Params) -> bool:
    """Whether params are one vector and the penalty or set acts on each coordinate alone."""
    return (
        isinstance(params, (jax.Array, jax.ShapeDtypeStruct)) and len(params.shape) == 1 and instance.penalty.separable
    )


@settings
@dataclass(frozen=True)
class ProximalNewton(Solver):
    """w <- argmin over v of grad'(v - w) + 1/2 (v - w)' H (v - w) + penalty(v), halved until the objective decreases.

    H is the matrix of the Hessian; for a `bl.Linear` loss it is X' M X + ..., one product of matrices, which costs n
    p^2. The model is made convex where it is not, and minimised by coordinate descent and Newton steps on its face,
    which cost p^3 / 3 each. One step is enough where the loss is quadratic. For up to one or two thousand coordinates;
    for sparse solutions with more put it into a `bl.WorkingSet`. Raises ValueError for params that are not one vector,
    and for penalties that are not separable. Source: Lee, Sun and Saunders, 2014.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), penalty=bl.L1(weight=jnp.exp),
    ...                         init=lambda key, h: jnp.zeros(2), solver=bl.ProximalNewton(tol=1e-5))
    >>> inner.solve(0.0, jnp.array([3.0, 0.5])).params.round(4).tolist()
    [2.0, 0.0]
    """

    max_steps: int = 100
    tol: float | jax.Array = 1e-10
    patience = 10
    keeps_value = True
    structured = True
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        if not takes(instance, params):
            raise ValueError(
                "bl.ProximalNewton needs params that are one vector and a separable penalty or a box, which "
                f"{type(instance.penalty).__name__} on {jax.tree.structure(params)} does not give. Use "
                "bl.ActiveSetNewton() or bl.Auto()."
            )
        params = instance.prox(params, 0.0)
        trial = evaluate(instance, params)
        return State(params, trial.residual, Counts(gradients=1, proxes=2), Memory(trial.value, trial.gradient))

    def step(self, instance: Instance, state: State) -> State:
        target, cost = model_minimum(instance, state.params, state.memory.gradient, MODEL_TOL)
        found = search(instance, state, target)
        counts = state.counts.add(cost).plus(gradients=found.trials, proxes=found.trials)
        code = jnp.where(found.accepted, Code.converged, Code.stalled)
        return State(found.params, found.residual, counts, Memory(found.value, found.gradient), code)

    def refresh(self, instance: Instance, state: State) -> State:
        trial = evaluate(instance, state.params)
        return state._replace(memory=Memory(trial.value, trial.gradient), counts=state.counts.plus(gradients=1))


def model_minimum(
    instance: Instance, params: jax.Array, gradient: jax.Array, tol: float | jax.Array
) -> tuple[jax.Array, Counts]:
    """The minimiser of the quadratic model at ``params`` plus the penalty, and its cost."""
    rows = by_rows(instance.penalty, instance.hparams, params)
    term = Separable(
        lambda point, step, parameters: rows.rebuild(parameters).prox(point, step, instance.hparams),
        rows.varying,
        lambda params: instance.penalty.value(params, instance.hparams),
    )
    matrix = convexified(hessian_matrix(instance, params))
    target, cycles = minimise(matrix, gradient, params, term, tol)
    proxes = proxes_in(cycles, len(matrix))
    return target, Counts(hessian_products=len(matrix), proxes=proxes, factorizations=cycles)


def convexified(matrix: jax.Array) -> jax.Array:
    """The matrix where no curvature is negative.

    Else a multiple of the identity is added that changes the sign of the least curvature, because a model without a
    minimiser gives no direction of descent.
    """
    scale, identity = jnp.max(jnp.abs(matrix)), jnp.eye(len(matrix), dtype=matrix.dtype)
    noise = 10 * len(matrix) * jnp.finfo(matrix.dtype).eps * scale
    definite = jnp.all(jnp.isfinite(jnp.linalg.cholesky(matrix + noise * identity)))
    least = jax.lax.cond(definite, lambda: jnp.zeros_like(scale), lambda: jnp.linalg.eigvalsh(matrix)[0])
    return matrix + jnp.where(least < -noise, -2 * least, 0) * identity


def hessian_matrix(instance: Instance, params: jax.Array) -> jax.Array:
    """The Hessian of the smooth part; of a function of X w by one product of matrices. A curvature that the loss
    declares saves a pass over the loss for each column."""
    loss = instance.loss
    if not isinstance(loss, Linear):
        return materialize(instance.hessian(params), params)[0]
    columns = dense(loss.design(instance.batch))
    predictions = columns @ params
    curve = curvature(instance, params, predictions)
    if loss.curvature is not None and not curve.direct:
        return (columns.T * loss.curvature(predictions, params, instance.hparams, instance.batch)) @ columns
    basis = jnp.eye(params.size, dtype=params.dtype)
    if not curve.direct:
        nothing = jnp.zeros_like(params)
        return jax.vmap(lambda column: curve.product(column, nothing)[0])(columns.T) @ columns
    changes, directly = jax.vmap(curve.product)(columns.T, basis)
    return changes @ columns + directly
