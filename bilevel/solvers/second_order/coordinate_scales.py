"""A change of scale of the coordinates that turns a badly scaled problem into a well scaled one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation.signs import signs
from bilevel.foundation.typing import HParams, Params, PyTree, Scalar
from bilevel.optimality import ProximalGradient
from bilevel.penalties import Penalty
from bilevel.solvers.instance import Instance

ROUNDS = 5  # each round takes the square root of the remaining ratios of scale
PROBES = 2  # few, because each round draws new signs
BAD = 30.0  # below this ratio of scales the coordinates are not scaled


@dataclass(frozen=True, eq=False)
class Scaled(Penalty):
    """u -> penalty(scale * u), for a separable penalty on one array: its prox takes a step size for each coordinate."""

    penalty: Penalty
    scale: jax.Array
    separable: ClassVar[bool] = True

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self.penalty.prox(self.scale * point, step_size * self.scale**2, hparams) / self.scale

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return self.penalty.value(self.scale * params, hparams)


def scales(instance: Instance, params: Params) -> bool:
    """Whether the coordinates may be scaled one by one: a separable penalty on a single array."""
    return instance.penalty.separable and isinstance(params, jax.Array)


def scaled(instance: Instance, scale: PyTree) -> Instance:
    """The problem in u, w = scale * u, with its proximal gradient condition; itself in w where it has no scales."""
    loss, penalty = instance.loss, instance.penalty
    if scales(instance, scale):
        loss = lambda u, hparams, batch: instance.loss(scale * u, hparams, batch)
        penalty = Scaled(penalty, scale)
    return replace(instance, loss=loss, penalty=penalty, mapping=ProximalGradient.under(loss, penalty))


def times(tree: PyTree, scale: PyTree, inverse: bool = False) -> PyTree:
    """scale * tree, or tree / scale."""
    return jax.tree.map(jnp.divide if inverse else jnp.multiply, tree, scale)


def equilibrium(instance: Instance, params: Params) -> PyTree:
    """scale with rows of diag(scale) H diag(scale) of about one length, H the Hessian at ``params``, known by products;
    ones where the problem has no scales, or where they are about equal already.

    Each round divides by the square root of row lengths that random signs estimate. A coordinate without curvature
    keeps its scale. Constant: no derivative passes through it. Source: Ruiz, 2001; Diamond and Boyd, 2016.
    """
    if not scales(instance, params):
        return jax.tree.map(jnp.ones_like, params)
    _, hessian = jax.linearize(instance.gradient, jax.lax.stop_gradient(params))
    probes = signs((ROUNDS, PROBES, *params.shape), params.dtype)

    def one_round(scale: jax.Array, probes: jax.Array) -> tuple[jax.Array, None]:
        images = jax.vmap(lambda sign: scale * hessian(scale * sign))(probes)
        length = jnp.sqrt(jnp.mean(images**2, axis=0))
        return jnp.where(length > 0, scale / jnp.sqrt(jnp.where(length > 0, length, 1)), scale), None

    scale, _ = jax.lax.scan(one_round, jnp.ones_like(params), probes)
    bad = jnp.max(scale) > BAD * jnp.min(scale)
    return jax.lax.stop_gradient(jnp.where(bad, scale, 1))
