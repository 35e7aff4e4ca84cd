"""Dataset distillation: a few learned images from which a classifier is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import HeldOut, full_batch, minibatches, whole_batch
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import pictures, softmax
from bilevel.training.result import Result

FORMS = ("primal", "kernel")
MOMENTS = 4  # steps before the chosen one that the figure shows
PENALTIES = tuple(10.0 ** (0.5 * power) for power in range(-10, 1))  # the grid of the baseline


def distillation(
    *,
    data: str = "digits",
    root: str = "",
    images_per_class: int = 1,
    train: float = 1000,
    stop: float = 197,
    penalty: float = 1e-2,
    form: str = "primal",
    scale: float = 0.1,
    batch_size: int = 0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns ``images_per_class`` images x_i for each class such that a model trained on them alone fits the real data.

        inner:  mean_i cross_entropy(w; x_i(h), y_i) + penalty/2 ||w||^2      on the learned images h
        outer:  mean cross_entropy(w)                                         on the ``train`` real images

    The labels y_i are fixed; the images start as normal noise of standard deviation ``scale``. ``stop`` real images are
    the second hold-out, which chooses the best step; the remaining images are the test set. ``train`` and ``stop`` are
    numbers of images, or shares of all below 1. ``batch_size`` 0 takes all real images at every step.

    ``form`` "primal" has the weights w of every pixel and of the intercept as its unknown. "kernel" has one row for
    each learned image: w = [x(h), 1]' a, and its ``params`` are a. It is much smaller and loses nothing, because the
    penalty is on all of w (the representer theorem). Metrics: test/loss, test/accuracy, stop/loss. Baseline: softmax
    regression on all real training images, its penalty the best of a grid on the second hold-out. Its loss on the
    images that it was trained on stands beside the outer loss, which is on the same images.

    Source: Wang et al., Dataset distillation, 2018; Blondel et al., 2021, section 4.2.
    """
    if form not in FORMS:
        raise ValueError(f"task.form={form}: choose one of {', '.join(FORMS)}.")
    found = data_sets.classification(data, root, by_rows=not batch_size)
    learned, chosen = (data_sets.count(part, len(found.targets)) for part in (train, stop))
    splits = data_sets.split(found, learned, chosen, 0, seed)
    real, stopping, test = (softmax.samples(part) for part in (splits.train, splits.validation, splits.test))
    pixels = found.inputs.shape[1]
    labels = np.repeat(np.arange(found.classes), images_per_class)
    rows = pixels + 1 if form == "primal" else len(labels)

    def weights(params: Params, hparams: HParams) -> jax.Array:
        return params if form == "primal" else with_ones(hparams).T @ params

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        learned = with_ones(hparams)
        if form == "primal":
            logits, size = learned @ params, jnp.sum(params**2)
        else:
            logits = learned @ (learned.T @ params)
            size = jnp.sum(params * logits)
        return jnp.mean(softmax.cross_entropy(logits, labels)) + 0.5 * penalty * size

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        logits = batch[0] @ weights(params, hparams)
        return jnp.mean(batch.weight * softmax.cross_entropy(logits, batch[1]))

    def init_hparams(key: Key) -> HParams:
        return scale * jax.random.normal(key, (len(labels), pixels), jnp.result_type(float))

    def metrics(params: Params, hparams: HParams, samples: Batch) -> dict[str, Any]:
        return softmax.held_out(weights(params, hparams), *samples)

    def baselines() -> dict[str, float]:
        learned_on, chosen_on, tested_on = data_sets.in_memory((real, stopping, test))
        fit = softmax.best_of_grid(learned_on, chosen_on, found.classes, PENALTIES)
        losses = {
            "validation": softmax.mean_loss(fit.params, learned_on),
            "test": softmax.mean_loss(fit.params, tested_on),
        }
        return {
            "baseline/real_accuracy": float(softmax.accuracy(fit.params, tested_on)),
            **{f"baseline/real_{which}_loss": float(loss) for which, loss in losses.items()},
            "baseline/real_images": float(len(splits.train.targets)),
            "baseline/penalty": fit.penalty,
        }

    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: jnp.zeros((rows, found.classes))),
        outer_loss=outer_loss,
        init_hparams=init_hparams,
        batches=minibatches(np.zeros(1), real, 1, batch_size) if batch_size else full_batch((), whole_batch(real)),
        evaluate=HeldOut(metrics, (test, stopping)),
        baselines=baselines,
        figures={"images": lambda result: gallery_of(result, found, labels, lambda hparams: hparams)},
        precision=precision,
        name="distillation",
        headline=Headline(
            "test/accuracy", against={"baseline/real_accuracy": f"with all {len(splits.train.targets):,} real images"}
        ),
    )


def with_ones(images: jax.Array) -> jax.Array:
    """Images with a column of ones for the intercept."""
    return jnp.concatenate([images, jnp.ones((len(images), 1), images.dtype)], axis=1)


def gallery_of(
    result: Result, data: data_sets.DataSet, labels: Iterable[int], images_of: Callable[[HParams], Any]
) -> Any:
    """The images at several steps and as they were chosen, each with its class, above a real image of each class and
    the mean of all of them; each group has a grey scale of its own."""
    shape = data.image_shape or (1, data.inputs.shape[1])
    data = data.whole()
    of_class = [data.inputs[data.targets == label] for label in range(data.classes)]
    best = result.summary.get("best_step", -1)
    shown = [step for step in result.snapshots if best < 0 or step < best]
    shown = [shown[round(at)] for at in np.linspace(0, len(shown) - 1, min(MOMENTS, len(shown)))]
    groups = {"at the start" if step == 0 else f"step {step}": result.snapshots[step] for step in shown}
    groups |= {f"chosen at {best}" if best >= 0 else "chosen": result.hparams}
    titles = [f"{label} {moment}" for moment in groups for label in labels]
    titles += [f"{words} {label}" for words in ("a real", "mean real") for label in range(data.classes)]
    real = [np.stack([images[0] for images in of_class]), np.stack([images.mean(axis=0) for images in of_class])]
    grey = [_grey(np.asarray(images).reshape(-1, *shape)) for images in (*map(images_of, groups.values()), *real)]
    return pictures.gallery(np.concatenate(grey), titles, data.classes, "learned images, and real ones")


def _grey(images: np.ndarray) -> np.ndarray:
    """Images on the scale from 0 to 1."""
    low, high = np.min(images), np.max(images)
    return (images - low) / (high - low) if high > low else np.zeros_like(images)
