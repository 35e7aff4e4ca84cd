"""How a network is trained: a learning rate for each tenth of the training, and the momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.batches import draw_samples, full_batch, whole_batch
from bilevel.foundation.progress import followed
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.solvers import Optax
from bilevel.task import Headline, Task
from bilevel.tasks import softmax
from bilevel.tasks.grids import lowest
from bilevel.tasks.perceptrons import first_weights, perceptron

METHODS = ("sgd", "adam")
PARTS = 10  # of the training, each with its learning rate
SOFTENED = 1e-8  # under Adam's root, whose derivative is infinite where a gradient was 0 at every step: a black pixel's
GRID = tuple(10.0 ** (0.25 * power) for power in range(-10, 3))  # the constant rates of the baseline


def learning_rate(
    *,
    data: str = "digits",
    root: str = "",
    train: int = 1000,
    validation: int = 400,
    width: int = 32,
    steps: int = 200,
    batch_size: int = 100,
    start: float = 0.05,
    momentum: float = 0.5,
    method: str = "sgd",
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """The learning rates of ten equal parts of a training, and the momentum, for a network with one hidden layer.

        inner:  w after ``steps`` steps of ``method`` with momentum on mean cross_entropy(net(x; w), y)
        outer:  mean cross_entropy(net(x; w), y)                                     on the validation set

    ``method`` is "sgd" (stochastic gradient descent) or "adam", whose b1 is the momentum. Each step takes a minibatch
    of ``batch_size`` training samples. The initial weights and the minibatches are the same at each outer step, so the
    outer loss is a function of the hyperparameters: the logarithms of the rates, which start at ``start``, and the
    logit of the momentum. Metrics: test/loss, test/accuracy, schedule/momentum. Baseline: the constant rate of a grid
    of 13 with the lowest validation loss, with the momentum at the start.

    Source: Maclaurin et al., Gradient-based hyperparameter optimization through reversible learning, 2015.
    """
    if method not in METHODS:
        raise ValueError(f"task.method={method}: choose one of {', '.join(METHODS)}.")
    found = data_sets.classification(data, root)
    parts = data_sets.divided_by_largest(data_sets.split(found, train, validation, 0, seed))
    fitted, chosen, _, test = ((part.inputs, part.targets) for part in parts)
    network, whole = perceptron(width, found.classes), whole_batch(fitted)

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        inputs, labels = batch
        return jnp.mean(batch.weight * softmax.cross_entropy(network.apply(params, inputs), labels))

    def mean_loss(params: Params, batch: Batch) -> Scalar:
        return jnp.mean(softmax.cross_entropy(network.apply(params, batch[0]), batch[1]))

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        scores = softmax.scores(network.apply(params, test[0]), test[1])
        return {**scores, "schedule/momentum": jax.nn.sigmoid(hparams["momentum"])}

    training = Optax(lambda hparams: descent(hparams, steps, method), steps=steps, draw=draw_samples(batch_size))
    inner = InnerProblem(
        loss=loss,
        init=lambda key, hparams: first_weights(network, key, fitted[0].shape[1:]),
        solver=training,
    )
    begin = {"log_rates": np.full(PARTS, np.log(start)), "momentum": np.log(momentum / (1 - momentum))}

    def with_rate(rate: float) -> dict[str, float]:
        """Validation loss, test loss and test accuracy of a constant rate."""
        hparams = jax.tree.map(jnp.asarray, {**begin, "log_rates": np.full(PARTS, np.log(rate))})
        params = inner.solve(hparams, whole).params
        tested = softmax.scores(network.apply(params, test[0]), test[1])
        scores = {"validation_loss": mean_loss(params, chosen), **tested}
        return {name: float(score) for name, score in scores.items()}

    return Task(
        inner=inner,
        outer_loss=lambda params, hparams, batch: mean_loss(params, batch),
        init_hparams=lambda key: jax.tree.map(jnp.asarray, begin),
        batches=full_batch(whole, chosen),
        evaluate=evaluate,
        baselines=lambda: best_constant_rate(with_rate),
        natural=lambda hparams: {
            "learning rate": np.exp(np.asarray(hparams["log_rates"])),
            "momentum": 1 / (1 + np.exp(-np.asarray(hparams["momentum"]))),
        },
        figures={"schedule": lambda result: schedule(result, steps, start)},
        precision=precision,
        name="learning_rate",
        headline=Headline(against={"baseline/test/accuracy": f"with the best of {len(GRID)} constant rates"}),
    )


def best_constant_rate(with_rate: Callable[[float], dict[str, float]]) -> dict[str, float]:
    """The constant rate of the grid with the lowest validation loss, and its scores."""
    scores = [with_rate(rate) for rate in followed(GRID, "rates")]
    best = lowest((one["validation_loss"] for one in scores), "the grid of rates")
    return {"baseline/rate": GRID[best], **{f"baseline/{name}": score for name, score in scores[best].items()}}


def descent(hparams: HParams, steps: int, method: str) -> optax.GradientTransformation:
    """Gradient descent or Adam with the rate of the current part of the training, and momentum."""
    rates, momentum = jnp.exp(hparams["log_rates"]), jax.nn.sigmoid(hparams["momentum"])
    schedule: Any = lambda count: rates[jnp.asarray(count) * PARTS // steps]
    if method == "adam":
        return optax.adam(schedule, b1=momentum, eps_root=SOFTENED)
    return optax.sgd(schedule, momentum=momentum)


def schedule(result: Any, steps: int, start: float) -> Any:
    """The learning rate by step, found and at the start."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, steps, PARTS + 1)
    axes.stairs(np.exp(np.asarray(result.hparams["log_rates"])), edges, baseline=None, linewidth=2, label="found")
    axes.axhline(start, color="0.6", label="start")
    momentum = 1 / (1 + np.exp(-float(result.hparams["momentum"])))
    axes.set(xlabel="step of the training", ylabel="learning rate", yscale="log", title=f"momentum {momentum:.2f}")
    axes.legend(frameon=False)
    return figure
