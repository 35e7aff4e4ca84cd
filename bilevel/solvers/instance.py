"""An inner problem at given hyperparameters and data, as a solver gets it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Key, LinearMap, Loss, Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.penalties import Penalty


@dataclass(frozen=True, eq=False)
class Instance:
    """minimise loss(w, hparams, batch) + penalty(w, hparams), or solve mapping(w, hparams, batch) = 0."""

    loss: Loss
    penalty: Penalty
    mapping: Mapping
    hparams: HParams
    batch: Batch
    differentiable: bool = False  # derivatives pass through the steps: accepted points are evaluated once more
    searches: bool = True  # False: take the natural step without a search (at the solution, where none can succeed)
    exact: bool = False  # accepted step sizes are differentiated too, because the steps need not converge
    stated: Loss | None = None  # the loss in a form that forward mode takes, where ``loss`` has another form
    complete: bool = True  # whether loss and penalty are all of the objective: False where a user states the condition
    key: Key | None = None  # of the cold start, for steps that draw at random; None stands for a fixed key

    @property
    def plain(self) -> Instance | None:
        """The problem with its loss in the form that forward mode takes; None where it has no other."""
        return None if self.stated is None else replace(self, loss=self.stated, stated=None)

    def with_values(self, hparams: HParams, batch: Batch) -> Instance:
        """The same problem at other hyperparameters and data."""
        return replace(self, hparams=hparams, batch=batch)

    def value(self, params: Params) -> Scalar:
        """The smooth part of the objective."""
        return self.loss(params, self.hparams, self.batch)

    def gradient(self, params: Params) -> PyTree:
        """The gradient of the smooth part."""
        return jax.grad(self.value)(params)

    def hessian(self, params: Params) -> LinearMap:
        """The Hessian of the smooth part at ``params``, as a product."""
        loss = self.stated or self.loss
        return jax.linearize(lambda w: jax.grad(loss)(w, self.hparams, self.batch), params)[1]

    def value_and_gradient(self, params: Params) -> tuple[Scalar, PyTree]:
        return jax.value_and_grad(self.value)(params)

    def prox(self, point: Params, step_size: float | jax.Array) -> Params:
        """The proximal operator of the penalty, or the projection on the constraint."""
        return self.penalty.prox(point, step_size, self.hparams)

    def objective(self, params: Params) -> Scalar:
        """The smooth part and the penalty together."""
        return self.value(params) + self.penalty.value(params, self.hparams)

    def residual(self, params: Params) -> PyTree:
        """The natural residual of the optimality condition, which the stopping rule measures."""
        return self.mapping.natural_residual(params, self.hparams, self.batch)

    def residual_norm(self, params: Params) -> jax.Array:
        """The norm of `residual`: read by the stopping rule, never differentiated."""
        return jax.lax.stop_gradient(trees.norm(self.residual(params)))

    def residual_given(self, params: Params, gradient: PyTree) -> jax.Array:
        """`residual_norm` where the gradient of the smooth part at ``params`` is known already."""
        if not self.mapping.of_gradient:
            return self.residual_norm(params)
        return jax.lax.stop_gradient(trees.norm(self._with_gradient(params, gradient)))

    def value_and_residual(self, params: Params) -> tuple[Scalar, PyTree]:
        """The smooth part of the objective, 0 where there is none, and the natural residual: by one evaluation where
        one has both."""
        if not self.mapping.of_gradient:
            residual = self.residual(params)
            return jnp.zeros_like(trees.norm(residual)), residual
        if not self.complete:  # the condition may belong to another loss
            return self.value(params), self.residual(params)
        value, gradient = self.value_and_gradient(params)
        return value, self._with_gradient(params, gradient)

    def _with_gradient(self, params: Params, gradient: PyTree) -> PyTree:
        """The natural residual where the gradient of the smooth part is known: a mapping that uses the loss for its
        gradient alone gets a loss with that gradient."""
        mapping = self.mapping.with_loss(lambda w, *_: trees.dot(gradient, w))
        return mapping.natural_residual(params, self.hparams, self.batch)

    def system(self, params: Params) -> System:
        """The linear system of the optimality condition at ``params``."""
        return self.mapping.system(params, self.hparams, self.batch)
