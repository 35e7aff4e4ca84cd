"""The problems of the search benchmark: validation losses of one to a hundred penalties, on log scale."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl

LOW, HIGH, START = -9.0, 2.0, -3.0


def elastic_net() -> bl.Task:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 400))
    y = X[:, :20] @ rng.standard_normal(20) + 2 * rng.standard_normal(400)
    train, held_out = ((jnp.asarray(X[part]), jnp.asarray(y[part])) for part in (slice(200), slice(200, 400)))

    def loss(z: jax.Array, w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        return 0.5 * jnp.mean((z - batch[1]) ** 2) + 0.5 * jnp.exp(h[1]) * jnp.sum(w**2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Linear(design=lambda batch: batch[0], loss=loss),
            penalty=bl.L1(weight=lambda h: jnp.exp(h[0])),
            init=lambda key, h: jnp.zeros(400),
            solver=bl.Auto(tol=1e-6),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        init_hparams=lambda key: jnp.full(2, START),
        batches=bl.full_batch(train, held_out),
    )


def softmax(by_feature: bool) -> bl.Task:
    found = bl.data.load("digits")
    inputs, labels = np.asarray(found.inputs, float), np.eye(10)[found.targets]
    if by_feature:  # as many columns of noise: penalties that differ are worth something
        inputs = np.concatenate([inputs, 0.5 * np.random.default_rng(0).standard_normal(inputs.shape)], axis=1)
    features = inputs.shape[1]
    train, held_out = ((jnp.asarray(inputs[p]), jnp.asarray(labels[p])) for p in (slice(300), slice(300, 600)))

    def error(z: jax.Array, answers: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(answers * jax.nn.log_softmax(z), axis=1))

    def loss(z: jax.Array, w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        weight = jnp.exp(h)[:, None] if by_feature else jnp.exp(h)
        return error(z, batch[1]) + 0.5 * jnp.sum(weight * w**2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Linear(design=lambda batch: batch[0], loss=loss),
            init=lambda key, h: jnp.zeros((features, 10)),
            solver=bl.Auto(tol=1e-6),
        ),
        outer_loss=lambda w, h, batch: error(batch[0] @ w, batch[1]),
        init_hparams=lambda key: jnp.full(features if by_feature else 10, START),
        batches=bl.full_batch(train, held_out),
    )


PROBLEMS: dict[str, Callable[[], bl.Task]] = {
    "elastic net": elastic_net,
    "penalty a class": lambda: softmax(by_feature=False),
    "penalty a feature": lambda: softmax(by_feature=True),
}
