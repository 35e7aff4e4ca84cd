"""Binary logistic regression with one penalty for each feature, on data with a published split."""

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
from bilevel.tasks import pictures
from bilevel.tasks.grids import lowest

GRID = tuple(10.0 ** (0.5 * power) for power in range(-12, 1))  # the single penalties of the baseline
Samples = tuple[np.ndarray, np.ndarray]  # inputs (n, features) and signs (n,)


def feature_penalties(
    *,
    data: str = "breast_cancer",
    held_out: str = "",
    root: str = "",
    share: float = 0.3,
    standardise: bool = True,
    reference: float = 0.0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """One penalty for each feature, for a logistic regression without intercept.

        inner:  mean log(1 + exp(-y x'w)) + 1/2 sum_j exp(h_j) w_j^2      on the training set
        outer:  mean log(1 + exp(-y x'w))                                 on the validation set

    ``held_out`` names a second data set. With ``share`` 0 it is the validation set (the published protocol of ijcnn1),
    and there is no test set. Else the validation set is a random ``share`` of ``data``, and the test set is
    ``held_out``, or half of that share where there is none. h starts at the logarithm of a uniform number in (0, 1).
    ``standardise`` divides by the deviations of the training set. ``reference`` is the lowest outer loss known: where
    it is given, the metric ``suboptimality`` is the outer loss less the reference. Baseline: one penalty for all
    features, the one of a grid of 13 that is the best on the validation set.

    Source: Dagréou et al., A framework for bilevel optimization that enables stochastic and global variance reduction
    algorithms, 2022.
    """
    training, validating, test = parts_of(data, held_out, root, share, standardise, seed)
    features = training[0].shape[1]

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.mean(jax.nn.softplus(-batch[1] * z)) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    def measured(params: Params, hparams: HParams, samples: Batch) -> dict[str, Any]:
        validating, test = samples
        metrics = {"validation/accuracy": accuracy(params, validating)}
        if reference:
            metrics["suboptimality"] = mean_loss(params, validating) - reference
        if len(test[1]):
            metrics |= {"test/loss": mean_loss(params, test), "test/accuracy": accuracy(params, test)}
        return metrics

    def found(result: Any) -> Any:
        return pictures.bars(
            [f"feature {j}" for j in range(features)], np.asarray(result.hparams), "log of the penalty"
        )

    inner = InnerProblem(
        loss=Linear(design=lambda batch: batch[0], loss=loss), init=lambda key, hparams: jnp.zeros(features)
    )

    def baselines() -> dict[str, Any]:
        samples, chosen_on, tested_on = data_sets.in_memory((training, validating, test))
        fit = lambda penalty: inner.solve(jnp.full(features, penalty), samples).params
        fits = jax.jit(lambda grid: jax.lax.map(fit, grid))(jnp.log(jnp.asarray(GRID)))
        losses = [mean_loss(params, chosen_on) for params in fits]
        best = lowest(losses, "the grid of penalties")
        metrics = measured(fits[best], jnp.zeros(features), (chosen_on, tested_on))
        scores = {"outer/loss": losses[best], **metrics, "penalty": GRID[best]}
        return {f"baseline/{name}": score for name, score in scores.items()}

    counts = "test/loss" if len(test[1]) else "outer/loss"
    return Task(
        inner=inner,
        outer_loss=lambda params, hparams, batch: mean_loss(params, batch),
        init_hparams=lambda key: jnp.log(jax.random.uniform(key, (features,))),
        batches=full_batch(training, validating),
        evaluate=HeldOut(measured, (validating, test)),
        natural=lambda hparams: {"penalty": np.exp(np.asarray(hparams))},
        figures={"penalties": found},
        baselines=baselines,
        headline=Headline(
            counts,
            "test loss" if len(test[1]) else "validation loss",
            {f"baseline/{counts}": "with one penalty for all features"},
        ),
        precision=precision,
        name="feature_penalties",
    )


def mean_loss(params: Params, batch: Batch) -> Scalar:
    """The mean logistic loss of a linear score."""
    return jnp.mean(jax.nn.softplus(-batch[1] * (batch[0] @ params)))


def accuracy(params: Params, batch: Batch) -> Scalar:
    """The share of scores with the sign of their label."""
    return jnp.mean((batch[0] @ params > 0) == (batch[1] > 0), dtype=params.dtype)


def parts_of(
    data: str, held_out: str, root: str, share: float, standardise: bool, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Training, validation and test samples; the test set is empty where the second set validates."""
    if not 0 <= share < 1 or (not share and not held_out):
        raise ValueError(
            f"task.share={share}, task.held_out={held_out or 'nothing'}: give a share of the samples from 0 to 1, "
            "or 0 and a second data set to validate on."
        )
    by_rows = not standardise  # which needs the deviation of all rows
    first = data_sets.classification(data, root, by_rows)
    if first.classes != 2:
        raise ValueError(f"task.data={data} has {first.classes} classes, and two are needed: choose a9a, for instance.")
    second = data_sets.classification(held_out, root, by_rows) if held_out else first.take(np.arange(0))
    order = np.random.default_rng(seed).permutation(len(first.targets))
    cut = round((1 - share) * len(order))
    train, rest = (first.take(part) for part in np.split(order, [cut]))
    parts = (train, rest, second)
    if not share:
        parts = (first, second, first.take(np.arange(0)))
    elif not held_out:
        parts = (train, *(rest.take(half) for half in np.array_split(np.arange(len(rest.targets)), 2)))
    if standardise:
        parts = data_sets.standardise(data_sets.Splits(parts[0], parts[1], parts[2].take(np.arange(0)), parts[2]))
        parts = (parts.train, parts.validation, parts.test)
    return tuple((part.inputs, 2.0 * part.targets - 1.0) for part in parts)  # type: ignore[return-value]  # three parts
