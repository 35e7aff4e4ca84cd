"""Multinomial logistic regression with one penalty, one for each class, or one for each feature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import HeldOut, full_batch
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import Linear
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import pictures, softmax

GRID = tuple(10.0 ** (0.25 * power) for power in range(-20, 1))  # the penalties of the baseline
SHRINKAGES = ("mean", "start")


def logistic(
    *,
    data: str = "digits",
    root: str = "",
    penalties: str = "per_class",
    train: int = 600,
    validation: int = 200,
    stop: int = 200,
    start: float = -5.0,
    lower: float = -10.0,
    upper: float = 2.0,
    shrinkage: float = 0.0,
    towards: str = "mean",
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Penalties on log scale for a multinomial logistic regression.

        inner:  mean cross_entropy(w) + 1/2 sum_jc exp(h_jc) w_jc^2                    on the training set
        outer:  mean cross_entropy(w) + shrinkage/2 sum (h - centre)^2                 on the validation set

    ``penalties`` is "single" (h is 1 x 1), "per_class" (1 x classes) or "per_feature" (features x 1, the intercept
    counting as a feature); h starts at ``start`` and stays within [``lower``, ``upper``]. Many hyperparameters can
    overfit the validation set: ``shrinkage`` pulls them ``towards`` their "mean" or their "start", and ``stop`` samples
    are a second hold-out, on which the best step is chosen and training may stop (trainer.patience). The remaining
    samples are the test set. Metrics: test/loss, test/accuracy, stop/loss. Baseline: one penalty, the best of a grid on
    the validation set.
    """
    if towards not in SHRINKAGES:
        raise ValueError(f"task.towards={towards}: choose one of {', '.join(SHRINKAGES)}.")
    if not lower <= start <= upper:
        raise ValueError(f"task.start={start} does not lie between task.lower={lower} and task.upper={upper}.")
    found = data_sets.classification(data, root, by_rows=True)
    parts = data_sets.split(found, train, validation, stop, seed)
    training, validating, stopping, test = (softmax.samples(part) for part in parts)
    features = training[0].shape[1]
    shape = penalty_shape(penalties, features, found.classes)

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.mean(softmax.cross_entropy(z, batch[1])) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    def prior(hparams: HParams) -> Scalar:
        centre = jnp.mean(hparams) if towards == "mean" else start
        return 0.5 * shrinkage * jnp.sum((hparams - centre) ** 2)

    def baselines() -> dict[str, Any]:
        learned_on, chosen_on, *others = data_sets.in_memory((training, validating, test, stopping))
        fit = softmax.best_of_grid(learned_on, chosen_on, found.classes, GRID)
        scores = {
            "validation_loss": softmax.mean_loss(fit.params, chosen_on),
            **softmax.held_out(fit.params, *others),
        }
        return {"baseline/penalty": fit.penalty, **{f"baseline/{name}": float(score) for name, score in scores.items()}}

    return Task(
        inner=InnerProblem(
            loss=Linear(design=lambda batch: batch[0], loss=loss),
            init=lambda key, hparams: jnp.zeros((features, found.classes)),
        ),
        outer_loss=lambda params, hparams, batch: softmax.mean_loss(params, batch),
        init_hparams=lambda key: jnp.full(shape, start),
        batches=full_batch(training, validating),
        evaluate=HeldOut(lambda params, hparams, samples: softmax.held_out(params, *samples), (test, stopping)),
        prior=prior,
        feasible=lambda hparams: jnp.clip(hparams, lower, upper),
        baselines=baselines,
        figures={"hyperparameters": lambda result: picture(np.asarray(result.hparams), penalties, found, start)},
        precision=precision,
        name="logistic",
        headline=Headline(against={"baseline/test/accuracy": "with one penalty, the best of a grid"}),
        natural=lambda hparams: {
            "penalty": dict(zip(penalty_names(penalties, found), np.exp(hparams).ravel(), strict=True))
        },
    )


def picture(values: np.ndarray, penalties: str, found: data_sets.DataSet, start: float) -> Any:
    """The logarithms of the penalties: one for each pixel as an image, others as bars from the start."""
    if penalties == "per_feature" and found.image_shape:
        return pictures.heatmap(values[:-1].reshape(found.image_shape), "log of the penalty of each pixel")
    return pictures.bars(penalty_names(penalties, found), values.ravel(), "log of the penalty found", start)


def penalty_shape(penalties: str, features: int, classes: int) -> tuple[int, int]:
    """The shape of the hyperparameters: it broadcasts against parameters of shape (features, classes).

    >>> penalty_shape("per_class", 65, 10)
    (1, 10)
    """
    shapes = {"single": (1, 1), "per_class": (1, classes), "per_feature": (features, 1)}
    if penalties not in shapes:
        raise ValueError(f"task.penalties={penalties}: choose one of {', '.join(shapes)}.")
    return shapes[penalties]


def penalty_names(penalties: str, data: data_sets.DataSet) -> list[str]:
    """The name of what each hyperparameter penalises."""
    features = data.features or tuple(f"feature {number}" for number in range(data.inputs.shape[1]))
    return {
        "single": ["all"],
        "per_class": [f"class {number}" for number in range(data.classes)],
        "per_feature": [*features, "intercept"],
    }[penalties]
