"""How the training data of a network are blurred: label smoothing, noise on the inputs, dropout, and the penalty."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS
from bilevel.task import Headline, Task
from bilevel.tasks import softmax

NAMES = ("smoothing", "noise", "dropout", "penalty")
SHARES = ("smoothing", "dropout")  # between 0 and 1; the others are sizes


def augmentation(
    *,
    data: str = "digits",
    root: str = "",
    train: int = 300,
    validation: int = 400,
    width: int = 16,
    draws: int = 4,
    smoothing: float = 0.05,
    noise: float = 0.1,
    dropout: float = 0.1,
    penalty: float = 1e-2,
    max_steps: int = 3000,
    tol: float = 1e-6,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Label smoothing, noise, dropout and the penalty of a network with one hidden layer.

        inner:  mean_ik cross_entropy(net(x_i + n e_ik, 1 + sqrt(p / (1 - p)) d_ik; w), smoothed y_i) + c/2 ||w||^2
        outer:  mean cross_entropy(net(x, 1; w), y)                              on the validation set

    A smoothed label is (1 - s) times the one-hot label and s / classes elsewhere. Dropout multiplies the hidden units
    by normal numbers with mean 1 and the variance p / (1 - p) of a dropout of rate p, because these have a derivative
    in p. All of e and d are drawn once, ``draws`` for each sample, so the inner loss has a minimum. The hyperparameters
    are the logits of s and p and the logarithms of n and c. Inputs are divided by their largest value. Metrics:
    test/loss, test/accuracy, augmentation/NAME. Baseline: trained without the first three, at the penalty of the start.

    The network has many minima, and a solve leads to one near its start; the gradient belongs to this minimum. There
    the penalty bounds the Hessian from below, so conjugate gradients converge (the default is `engine=implicit_cg`).
    `engine=nystrom` needs no iteration, and its error is larger than the gradient unless its rank is hundreds.

    Sources: Szegedy et al., 2016; Srivastava et al., 2014; Lorraine et al., 2020.
    """
    found = data_sets.classification(data, root)
    parts = data_sets.divided_by_largest(data_sets.split(found, train, validation, 0, seed))
    fitted, chosen, _, test = ((part.inputs, part.targets) for part in parts)
    features, generator = fitted[0].shape[1], np.random.default_rng(seed)
    blurs = tuple(generator.standard_normal((draws, train, columns)) for columns in (features, width))

    def mean_loss(params: Params, batch: Batch) -> Scalar:
        return jnp.mean(softmax.cross_entropy(network(params, batch[0], 1.0), batch[1]))

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        blurred = {f"augmentation/{name}": value for name, value in natural(hparams).items()}
        return {**softmax.scores(network(params, jnp.asarray(test[0]), 1.0), test[1]), **blurred}

    inner = InnerProblem(
        loss=blurred_loss,
        init=lambda key, hparams: init_network(key, features, width, found.classes),
        solver=LBFGS(max_steps=max_steps, tol=tol),
    )
    begin = hyperparameters({"smoothing": smoothing, "noise": noise, "dropout": dropout, "penalty": penalty})

    def baselines() -> dict[str, Any]:
        none = {**begin, "smoothing": -40.0, "noise": -40.0, "dropout": -40.0}
        params = inner.solve(jax.tree.map(jnp.asarray, none), (fitted, blurs)).params
        tested = softmax.scores(network(params, jnp.asarray(test[0]), 1.0), test[1])
        scores = {"validation_loss": mean_loss(params, chosen), **tested}
        return {f"baseline/{name}": float(score) for name, score in scores.items()}

    return Task(
        inner=inner,
        outer_loss=lambda params, hparams, batch: mean_loss(params, batch),
        init_hparams=lambda key: jax.tree.map(jnp.asarray, begin),
        batches=full_batch((fitted, blurs), chosen),
        evaluate=evaluate,
        baselines=baselines,
        natural=lambda hparams: {name: np.asarray(value) for name, value in natural(hparams).items()},
        precision=precision,
        name="augmentation",
        headline=Headline(against={"baseline/test/accuracy": "without smoothing, noise and dropout"}),
    )


def blurred_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
    """The inner loss, on (samples, the normal numbers of their blurs)."""
    (inputs, labels), (shifts, factors) = batch
    value, classes = natural(hparams), params["top"].shape[1]
    smooth = (1 - value["smoothing"]) * jax.nn.one_hot(labels, classes) + value["smoothing"] / classes
    spread = jnp.sqrt(value["dropout"] / (1 - value["dropout"]))
    logits = network(params, inputs + value["noise"] * shifts, 1 + spread * factors)
    losses = -jnp.sum(smooth * jax.nn.log_softmax(logits), axis=-1)
    return jnp.mean(losses) + 0.5 * value["penalty"] * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def hyperparameters(values: dict[str, float]) -> dict[str, np.floating]:
    """The logits of the shares and the logarithms of the sizes; `natural` is the inverse."""
    return {name: np.log(x / (1 - x)) if name in SHARES else np.log(x) for name, x in values.items()}


def natural(hparams: HParams) -> dict[str, jax.Array]:
    """The shares and sizes that the hyperparameters stand for.

    >>> [float(value) for value in natural({name: jnp.array(0.0) for name in NAMES}).values()]
    [0.5, 1.0, 0.5, 1.0]
    """
    return {name: (jax.nn.sigmoid if name in SHARES else jnp.exp)(hparams[name]) for name in NAMES}


def init_network(key: Key, features: int, width: int, classes: int) -> Params:
    """Normal weights, whose last rows are the biases."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (features + 1, width)) / np.sqrt(features + 1),
        "top": jax.random.normal(second, (width + 1, classes)) / np.sqrt(width + 1),
    }


def network(params: Params, inputs: jax.Array, factors: jax.Array | float) -> jax.Array:
    """The logits of one hidden layer, whose units are multiplied by ``factors``."""
    hidden = jnp.tanh(inputs @ params["hidden"][:-1] + params["hidden"][-1]) * factors
    return hidden @ params["top"][:-1] + params["top"][-1]
