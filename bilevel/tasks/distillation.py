"""Dataset distillation: a few learned images from which a classifier is trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch, minibatches, whole_batch
from bilevel.problem import InnerProblem
from bilevel.result import Result
from bilevel.task import Task
from bilevel.tasks import pictures, softmax
from bilevel.typing import Batch, HParams, Key, Params, Scalar

PENALTIES = tuple(10.0 ** (0.5 * power) for power in range(-10, 1))  # the grid of the baseline


def distillation(
    *,
    data: str = "digits",
    root: str = "",
    images_per_class: int = 1,
    train: int = 1000,
    stop: int = 197,
    penalty: float = 1e-2,
    scale: float = 0.1,
    batch_size: int = 0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns ``images_per_class`` images x_i for each class such that a model trained on them alone fits the real data.

        inner:  mean_i cross_entropy(w; x_i(h), y_i) + penalty/2 ||w||^2      on the learned images h
        outer:  mean cross_entropy(w)                                         on the ``train`` real images

    The labels y_i are fixed; the images start as normal noise of standard deviation ``scale``. On ``stop`` real images,
    the second hold-out, the best step is chosen; what remains is the test set. ``batch_size`` 0 takes all real images
    at every step. Metrics: test/loss, test/accuracy, stop/loss. Baseline: softmax regression on all real training
    images, its penalty the best of a grid on the second hold-out.

    Source: Wang et al., Dataset distillation, 2018; Blondel et al., 2021, section 4.2.
    """
    found = data_sets.classification(data, root)
    splits = data_sets.split(found, train, stop, 0, seed)
    real, stopping, test = (softmax.samples(part) for part in (splits.train, splits.validation, splits.test))
    pixels = found.inputs.shape[1]
    labels = np.repeat(np.arange(found.classes), images_per_class)
    shape = (pixels + 1, found.classes)

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        logits = hparams @ params[:-1] + params[-1]
        return jnp.mean(softmax.cross_entropy(logits, labels)) + 0.5 * penalty * jnp.sum(params**2)

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.mean(batch.weight * softmax.cross_entropy(batch[0] @ params, batch[1]))

    def init_hparams(key: Key) -> HParams:
        return scale * jax.random.normal(key, (len(labels), pixels), jnp.result_type(float))

    def baselines() -> dict[str, float]:
        fit = softmax.best_of_grid(real, stopping, found.classes, PENALTIES)
        return {
            "baseline/real_accuracy": float(softmax.accuracy(fit.params, test)),
            "baseline/real_images": float(train),
            "baseline/penalty": fit.penalty,
        }

    def images(result: Result) -> Any:
        height, width = found.image_shape or (1, pixels)
        learned = np.asarray(result.hparams).reshape(len(labels), height, width)
        return pictures.gallery(learned, [str(label) for label in labels], found.classes, "learned images")

    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: jnp.zeros(shape)),
        outer_loss=outer_loss,
        init_hparams=init_hparams,
        batches=minibatches(np.zeros(1), real, 1, batch_size) if batch_size else full_batch((), whole_batch(real)),
        evaluate=lambda params, hparams: softmax.held_out(params, test, stopping),
        baselines=baselines,
        figures={"images": images},
        precision=precision,
        name="distillation",
    )
