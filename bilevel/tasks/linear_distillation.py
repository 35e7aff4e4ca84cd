"""Distillation for ridge regression: one learned pair for each class, which loses nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import softmax
from bilevel.tasks.distillation import gallery_of


def linear_distillation(
    *,
    data: str = "digits",
    root: str = "",
    train: float = 1000,
    penalty: float = 0.1,
    inner_penalty: float = 0.1,
    scale: float = 0.3,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns one pair (image, target vector) for each class from which ridge regression gives the full-data solution.

        inner:  1/2 mean_i ||x_i(h)' w - y_i(h)||^2 + inner_penalty/2 ||w||^2      on the learned pairs h
        outer:  1/2 mean ||x' w - y||^2 + penalty/2 ||w||^2                        on the ``train`` real images

    y is 1 for the class of an image and 0 else; there is no intercept. With as many pairs as classes every matrix w is
    an inner solution for some pairs, so the minimum of the outer level is the ridge regression on the real data. The
    unknown is a with w = x(h)' a, a row for each pair. Images are learned in coordinates that make the outer loss
    round, x = h (X'X/n + penalty)^(-1/2), because in pixels its condition is in the hundreds. Metrics: full/distance
    (||w - w_full|| / ||w_full||), test/accuracy. Baseline: the full-data solution itself, which has the least outer
    loss.

    Source: Wang et al., Dataset distillation, 2018, section 3.3, with a penalty.
    """
    found = data_sets.classification(data, root)
    splits = data_sets.split(found, data_sets.count(train, len(found.targets)), 1, 0, seed)
    inputs, test = splits.train.inputs, (splits.test.inputs, splits.test.targets)
    targets = np.eye(found.classes)[splits.train.targets]
    moments = inputs.T @ inputs / len(inputs), inputs.T @ targets / len(inputs)
    values, vectors = np.linalg.eigh(moments[0] + penalty * np.eye(len(moments[0])))
    rounding = vectors / np.sqrt(values) @ vectors.T
    full = vectors / values @ (vectors.T @ moments[1])

    def weights(params: Params, hparams: HParams) -> jax.Array:
        return (hparams["images"] @ rounding).T @ params

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        learned = hparams["images"] @ rounding
        outputs = learned @ (learned.T @ params)
        errors = 0.5 * jnp.mean(jnp.sum((outputs - hparams["targets"]) ** 2, axis=1))
        return errors + 0.5 * inner_penalty * jnp.sum(params * outputs)

    def loss_of(w: jax.Array, batch: Batch) -> Scalar:
        gram, cross = batch
        return 0.5 * (jnp.sum(w * (gram @ w)) - 2 * jnp.sum(w * cross) + 1 + penalty * jnp.sum(w**2))

    def init_hparams(key: Key) -> HParams:
        images = scale * jax.random.normal(key, (found.classes, inputs.shape[1]), jnp.result_type(float))
        return {"images": images, "targets": jnp.eye(found.classes)}

    def evaluate(params: Params, hparams: HParams) -> dict[str, Scalar]:
        w = weights(params, hparams)
        return {
            "full/distance": jnp.linalg.norm(w - full) / jnp.linalg.norm(full),
            "test/accuracy": softmax.accuracy(w, test),
        }

    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: jnp.zeros((found.classes, found.classes))),
        outer_loss=lambda params, hparams, batch: loss_of(weights(params, hparams), batch),
        init_hparams=init_hparams,
        batches=full_batch((), moments),
        evaluate=evaluate,
        baselines=lambda: {
            "baseline/full_accuracy": float(softmax.accuracy(jnp.asarray(full), test)),
            "baseline/full_outer_loss": float(loss_of(jnp.asarray(full), moments)),
        },
        figures={
            "images": lambda result: gallery_of(
                result, found, range(found.classes), lambda hparams: hparams["images"] @ rounding
            )
        },
        precision=precision,
        name="linear_distillation",
        headline=Headline("test/accuracy", against={"baseline/full_accuracy": "with all real images"}),
    )
