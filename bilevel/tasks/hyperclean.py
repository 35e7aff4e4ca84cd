"""Data hyper-cleaning: a weight for each training sample, half of which are labelled wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import HeldOut, full_batch, minibatches, whole_batch
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import Linear
from bilevel.problem import InnerProblem
from bilevel.projections import capped_simplex
from bilevel.task import Headline, Task, anywhere
from bilevel.tasks import pictures, softmax
from bilevel.training.result import Result

PENALTIES = tuple(10.0 ** (0.25 * power) for power in range(-16, 1))  # the grid of the baselines
SEEN = ("corrupted", "uncorrupted")  # the baselines that are fitted to training samples
WORST = 24  # images shown


def hyperclean(
    *,
    data: str = "digits",
    root: str = "",
    train: int = 900,
    validation: int = 200,
    stop: int = 97,
    corruption: str = "exact_wrong",
    fraction: float = 0.5,
    penalty: float = 3e-3,
    radius: float = 0.0,
    batch_size: int = 0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns which labels are wrong from a few samples whose labels are right.

        inner:  mean_i sigmoid(h_i) cross_entropy_i(w) + penalty/2 ||w||^2    on training samples, some labelled wrong
        outer:  mean cross_entropy(w)                                         on clean validation samples

    ``corruption`` names a rule of `bilevel.data.CORRUPTIONS`, which falsifies ``fraction`` of the training labels.
    ``stop`` samples are a second hold-out; the remaining samples are the test set. ``batch_size`` 0 takes all samples
    at every step. Metrics: test/loss, test/accuracy, stop/loss, and precision, recall and F1 of the guess that the
    samples with a weight below one half are the corrupted ones (the precision is NaN where no weight is below one
    half). With ``radius`` the weights are the hyperparameters themselves, in the l1-ball of that radius within [0,
    1]^n. Baselines are trained without weights on the corrupted set and on its uncorrupted samples (with the penalty of
    a grid that is the most accurate on the validation set), and on the validation set alone (with ``penalty``).

    Source: Franceschi et al., Forward and reverse gradient-based hyperparameter optimization, 2017.
    """
    found = data_sets.classification(data, root, by_rows=not batch_size)
    splits = data_sets.split(found, train, validation, stop, seed)
    labels, corrupted = data_sets.corrupt(corruption, splits.train.targets, found.classes, fraction, seed + 1)
    given = splits.train._replace(targets=labels)
    parts = (given, splits.validation, splits.stop, splits.test)
    noisy, clean, stopping, test = (softmax.samples(part) for part in parts)
    shape = (noisy[0].shape[1], found.classes)

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        weights = batch.weight * weights_of(hparams[batch.index], radius)
        return jnp.mean(weights * softmax.cross_entropy(z, batch[1])) + 0.5 * penalty * jnp.sum(params**2)

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.mean(batch.weight * softmax.cross_entropy(batch[0] @ params, batch[1]))

    def metrics(params: Params, hparams: HParams, samples: Batch) -> dict[str, Any]:
        return {**softmax.held_out(params, *samples), **detection(weights_of(hparams, radius) < 0.5, corrupted)}

    def weights(result: Result) -> Any:
        found_weights = np.asarray(weights_of(jnp.asarray(result.hparams), radius))
        groups = {"right label": found_weights[~corrupted], "wrong label": found_weights[corrupted]}
        return pictures.histogram(groups, "weight of a training sample")

    figures = {"weights": weights}
    if found.image_shape:
        figures["worst"] = lambda result: worst(np.asarray(result.hparams), given, splits.train.targets, corrupted)
    return Task(
        inner=InnerProblem(
            loss=Linear(design=lambda batch: batch[0], loss=loss), init=lambda key, hparams: jnp.zeros(shape)
        ),
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.full(train, min(radius / train, 1.0)),
        feasible=partial(in_ball, radius=radius) if radius else anywhere,
        batches=minibatches(noisy, clean, batch_size, min(batch_size, validation))
        if batch_size
        else full_batch(whole_batch(noisy), whole_batch(clean)),
        evaluate=HeldOut(metrics, (test, stopping)),
        baselines=lambda: without_weights(data_sets.in_memory((noisy, clean, test)), corrupted, penalty, found.classes),
        figures=figures,
        precision=precision,
        name="hyperclean",
        headline=Headline(
            "test/accuracy",
            against={
                "baseline/corrupted_accuracy": "without cleaning",
                "baseline/uncorrupted_accuracy": "with the right labels alone",
                "baseline/validation_accuracy": "on the validation set alone",
            },
        ),
        natural=lambda hparams: {"weight of a sample": np.asarray(weights_of(jnp.asarray(hparams), radius))},
    )


def weights_of(hparams: HParams, radius: float = 0.0) -> jax.Array:
    """The weights of the training samples, 0 to 1."""
    return hparams if radius else jax.nn.sigmoid(hparams)


def without_weights(samples: tuple, corrupted: np.ndarray, penalty: float, classes: int) -> dict[str, float]:
    """Test accuracy, test loss and validation loss of each baseline, on (training, validation, test) samples, with its
    best penalty. The loss of a fit to the validation samples on these same samples would say nothing."""
    noisy, clean, test = samples
    validation = len(clean[1])
    given = np.arange(len(corrupted) + validation) < len(corrupted)
    fitted: dict[str, tuple[tuple[float, ...], np.ndarray]] = {
        "corrupted": (PENALTIES, given),
        "uncorrupted": (PENALTIES, given & ~np.pad(corrupted, (0, validation))),
        "validation": ((penalty,), ~given),
    }
    both: Any = tuple(np.concatenate(parts) for parts in zip(noisy, clean, strict=True))
    fits = {
        name: softmax.best_of_grid(both, clean, classes, penalties, softmax.error_rate, weights)
        for name, (penalties, weights) in fitted.items()
    }
    scores = {
        **{f"{name}_accuracy": softmax.accuracy(fit.params, test) for name, fit in fits.items()},
        **{f"{name}_test_loss": softmax.mean_loss(fit.params, test) for name, fit in fits.items()},
        **{f"{name}_validation_loss": softmax.mean_loss(fits[name].params, clean) for name in SEEN},
    }
    return {f"baseline/{name}": float(score) for name, score in scores.items()}


def worst(hparams: np.ndarray, given: data_sets.DataSet, truth: np.ndarray, corrupted: np.ndarray) -> Any:
    """The images of the samples with the least weights, each with the label given."""
    order = np.argsort(hparams)[:WORST]
    images = given.inputs[order].reshape(len(order), *given.image_shape)
    titles = [f"{given.targets[i]}, is {truth[i]}" if corrupted[i] else f"{given.targets[i]}" for i in order]
    colors = ["black" if corrupted[i] else "red" for i in order]
    heading = "the samples judged worst: label given, and what it is (red: the label was right)"
    return pictures.gallery(images, titles, 8, heading, colors)


def in_ball(hparams: HParams, radius: float) -> HParams:
    """The projection on the weights in [0, 1]^n whose sum is ``radius`` or less.

    >>> in_ball(jnp.array([2.0, 0.25, -1.0]), 2.0).tolist(), in_ball(jnp.array([0.5, 1.0]), 0.5).tolist()
    ([1.0, 0.25, 0.0], [0.0, 0.5])
    """
    inside = jnp.clip(hparams, 0.0, 1.0)
    return jnp.where(jnp.sum(inside) <= radius, inside, capped_simplex(hparams, 1.0, radius))


def detection(flagged: jax.Array, corrupted: np.ndarray) -> dict[str, jax.Array]:
    """Precision, recall and F1 of ``flagged`` as a guess at ``corrupted``.

    >>> scores = detection(jnp.array([True, True, False]), np.array([True, False, False]))
    >>> [round(float(score), 3) for score in scores.values()]
    [0.5, 1.0, 0.667]
    """
    hits = jnp.sum(flagged & corrupted)
    flags, wrong = jnp.sum(flagged), jnp.sum(corrupted)
    return {
        "cleaning/precision": hits / flags,
        "cleaning/recall": hits / wrong,
        "cleaning/f1": 2 * hits / (flags + wrong),
    }
