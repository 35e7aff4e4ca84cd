"""The solver of inner problems with networks: an optax transformation on the weights, and the state carried along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import optax

from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, Counts, HParams, Params
from bilevel.networks.trained import Trained
from bilevel.solvers.base import ONE, Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance


@settings
@dataclass(frozen=True)
class Training(Solver):
    """w <- w + update(grad_w L(w, s)), s <- the state after the forward pass that the gradient came from.

    ``optimizer`` is an ``optax.GradientTransformation``, or a function of the hyperparameters that returns one.
    ``advance(params, hparams, batch)`` returns the params with their next state. It takes the forward pass of the
    gradient again, and XLA computes the two once.
    """

    optimizer: optax.GradientTransformation | Callable[[HParams], optax.GradientTransformation]
    advance: Callable[[Params, HParams, Batch], Params]
    max_steps: int = 1000
    tol: float = 1e-6

    def init(self, instance: Instance, params: Trained) -> State:
        gradient = instance.gradient(params)
        inside = self._transformation(instance).init(params.weights)
        memory = (gradient, self._next_state(instance, params), inside)
        return State(params, trees.norm(gradient), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        gradient, ahead, inside = state.memory
        updates, inside = self._transformation(instance).update(gradient.weights, inside, state.params.weights)
        weights = optax.apply_updates(state.params.weights, updates)
        params = replace(state.params, weights=weights, state=ahead)
        gradient = instance.gradient(params)
        memory = (gradient, self._next_state(instance, params), inside)
        return State(params, trees.norm(gradient), state.counts.plus(gradients=1), memory, derivative=ONE)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = (instance.gradient(state.params), self._next_state(instance, state.params), state.memory[2])
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)

    def _next_state(self, instance: Instance, params: Trained) -> Params:
        return self.advance(params, instance.hparams, instance.batch).state

    def _transformation(self, instance: Instance) -> optax.GradientTransformation:
        if isinstance(self.optimizer, optax.GradientTransformation):
            return self.optimizer
        return self.optimizer(instance.hparams)
