"""The shared part of solvers that minimise a model of the objective and step towards that minimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from bilevel.foundation import trees
from bilevel.foundation.closures import depends
from bilevel.foundation.typing import Params, Scalar
from bilevel.losses.linear import Linear, is_sparse
from bilevel.solvers.base import State
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search as line

SUFFICIENT = 1e-4  # Armijo's constant
MAX_HALVINGS = 30  # 2^-30 of the way is lost in the digits of most losses


class Memory(NamedTuple):
    value: Scalar  # the value of loss and penalty together
    gradient: jax.Array


class Trial(NamedTuple):
    params: jax.Array
    value: Scalar
    gradient: jax.Array
    residual: jax.Array
    accepted: jax.Array
    trials: jax.Array


def evaluate(instance: Instance, params: jax.Array) -> Trial:
    """Objective, gradient and residual at ``params``."""
    value, gradient = instance.value_and_gradient(params)
    value = value + instance.penalty.value(params, instance.hparams)
    residual = instance.residual_given(params, gradient)
    return Trial(params, value, gradient, residual, jnp.bool_(True), jnp.int32(1))


def search(instance: Instance, state: State, target: jax.Array) -> Trial:
    """Halves the way to ``target`` until the objective decreases enough, or neither it nor the residual grows."""
    memory, before, end = jax.lax.stop_gradient((state.memory, state.params, target))
    penalty = lambda params: instance.penalty.value(params, instance.hparams)
    predicted = trees.dot(memory.gradient, end - before) + penalty(end) - penalty(before)
    rounding = 10 * trees.epsilon(before) * jnp.abs(memory.value)

    def at(step: jax.Array) -> Trial:
        return evaluate(instance, state.params + step * (target - state.params))

    def falls(step: jax.Array, trial: Trial) -> jax.Array:
        decreased = trial.value <= memory.value + SUFFICIENT * step * jnp.minimum(predicted, 0) + rounding
        level = trial.value <= memory.value + rounding  # because steps to maxima lower the residual too
        return decreased | (level & (trial.residual <= state.residual))

    found = line(instance, at, falls, jnp.ones_like(state.residual), MAX_HALVINGS)
    return found.point._replace(accepted=found.accepted, trials=found.trials)


def dense(design: Any) -> jax.Array:
    """A matrix as an array."""
    return design.todense() if is_sparse(design) else jnp.asarray(design)


class Curvature(NamedTuple):
    """The second derivatives of loss(z, w) with z = X w."""

    product: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # (dz, dw) -> change of the slopes in both
    direct: bool  # whether the loss depends on w beside z


def curvature(instance: Instance, params: jax.Array, predictions: jax.Array) -> Curvature:
    """The second derivatives of a `bl.Linear` loss at ``params``, whose image is ``predictions``."""
    loss, hparams, batch = instance.loss, instance.hparams, instance.batch
    assert isinstance(loss, Linear)
    gradients = lambda z, w: jax.grad(loss.loss, argnums=(0, 1))(z, w, hparams, batch)
    _, product = jax.linearize(gradients, predictions, params)
    direct = depends(lambda w: loss.loss(jax.lax.stop_gradient(predictions), w, hparams, batch), params)
    return Curvature(product, direct)


def is_quadratic(instance: Instance, params: Params) -> bool:
    """Whether the program of the Hessian's products does not read the point, so that the Hessian is constant."""
    leaves, structure = jax.tree.flatten(params)

    def product(point: list, direction: list) -> Params:
        unflatten = structure.unflatten
        return jax.jvp(instance.gradient, (unflatten(point),), (unflatten(direction),))[1]

    jaxpr = jax.make_jaxpr(product)(leaves, leaves).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return not any(used[: len(leaves)])
