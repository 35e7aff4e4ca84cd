"""ijcnn1 with one penalty a feature: the value function of the task, by Newton's method on all data."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import bilevel as bl
from bilevel.batches import Minibatch
from bilevel.tasks.feature_penalties import parts_of

REFERENCE = 0.2034990  # the lowest value known: configs/experiment/hpo/ijcnn1.yaml says of what
NEWTON = 12  # steps to the inner solution, from 0


def mean_loss(params: jax.Array, inputs: jax.Array, signs: jax.Array) -> jax.Array:
    """mean log(1 + exp(-y x'w))."""
    return jnp.mean(jax.nn.softplus(-signs * (inputs @ params)))


def outer(params: jax.Array, hparams: jax.Array, batch: Minibatch) -> jax.Array:
    """The logistic loss of a minibatch."""
    inputs, signs = batch
    return jnp.mean(batch.weight * jax.nn.softplus(-signs * (inputs @ params)))


def inner(params: jax.Array, hparams: jax.Array, batch: Minibatch) -> jax.Array:
    """The same with the penalties."""
    return outer(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


@dataclass(frozen=True, eq=False)
class Logistic:
    """49,990 samples to train on and 91,701 to validate, or the first ``samples`` of each."""

    root: str = ""
    samples: int = 0

    def parts(self) -> list[tuple]:
        """(inputs, signs) of the training and the validation set."""
        found = parts_of("ijcnn1", "ijcnn1_test", self.root, 0.0, False, 0)[:2]
        return [tuple(jnp.asarray(leaf[: self.samples or None]) for leaf in part) for part in found]

    def task(self, batch_size: int) -> bl.Task:
        """The task on minibatches; weights start at normal numbers, penalties at logarithms of uniform ones."""
        train, validation = self.parts()
        features = train[0].shape[1]
        return bl.Task(
            inner=bl.InnerProblem(loss=inner, init=lambda key, hparams: jax.random.normal(key, (features,))),
            outer_loss=outer,
            init_hparams=lambda key: jnp.log(jax.random.uniform(key, (features,))),
            batches=bl.minibatches(train, validation, batch_size),
            name="ijcnn1",
        )

    def measure(self):
        """h -> (suboptimality, norm of the gradient) of the value function, compiled."""
        train, validation = self.parts()
        run = jax.jit(self._measured)
        return lambda hparams: run(hparams, train, validation)

    @staticmethod
    def _measured(hparams: jax.Array, train: tuple, validation: tuple) -> tuple[jax.Array, jax.Array]:
        inputs, signs = train

        def level(params: jax.Array, hparams: jax.Array) -> jax.Array:
            return mean_loss(params, inputs, signs) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

        def curvature(params: jax.Array, hparams: jax.Array) -> jax.Array:
            share = jax.nn.sigmoid(inputs @ params)
            return (inputs.T * (share * (1 - share))) @ inputs / len(signs) + jnp.diag(jnp.exp(hparams))

        step = lambda _, w: w - jnp.linalg.solve(curvature(w, hparams), jax.grad(level)(w, hparams))
        params = jax.lax.fori_loop(0, NEWTON, step, jnp.zeros_like(hparams))
        value, slope = jax.value_and_grad(mean_loss)(params, *validation)
        adjoint = jnp.linalg.solve(curvature(params, hparams), slope)
        return value - REFERENCE, jnp.linalg.norm(jnp.exp(hparams) * params * adjoint)
