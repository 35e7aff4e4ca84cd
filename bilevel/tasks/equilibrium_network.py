"""A network whose hidden state is an equilibrium, beside an explicit one with as many weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.batches import draw_samples, whole_batch
from bilevel.foundation.typing import Batch, Key, Params, Scalar
from bilevel.layers.equilibria import equilibrium
from bilevel.problem import InnerProblem
from bilevel.solvers import Anderson
from bilevel.task import Headline, Task
from bilevel.tasks import softmax
from bilevel.tasks.softmax import Samples
from bilevel.training.result import Result


class Weights(NamedTuple):
    """The hyperparameters: the weights of the cell, and the weights of the logits."""

    recurrent: jax.Array  # W (width, width)
    inputs: jax.Array  # U (width, features)
    bias: jax.Array  # b (width,)
    logits: jax.Array  # V (width, classes)


def cell(state: jax.Array, weights: Weights, x: jax.Array) -> jax.Array:
    """tanh(W z + U x + b), of one sample or of rows."""
    return jnp.tanh(state @ weights.recurrent.T + x @ weights.inputs.T + weights.bias)


def equilibrium_network(
    *,
    data: str = "digits",
    root: str = "",
    train: int = 1200,
    validation: int = 200,
    width: int = 64,
    batch_size: int = 100,
    jacobian: float = 1.0,
    solver_steps: int = 40,
    tol: float = 1e-4,
    steps: int = 400,
    learning_rate: float = 0.003,
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """The weights of a network with an equilibrium for a hidden layer; they are the hyperparameters.

        inner:  z = tanh(W z + U x + b)                                         for each sample x of a minibatch
        outer:  mean cross_entropy(V z, y) + ``jacobian`` ||dtanh/dz||_F^2 / width      on the same samples

    The second term, estimated by one random product, keeps the map a contraction. Anderson acceleration finds z in at
    most ``solver_steps`` steps. Metrics of the result: test/accuracy, test/loss, validation/accuracy (which chooses
    nothing in the run, so settings may be chosen by it), lanes/mean_steps and lanes/max_steps. For them each sample is
    a lane that stops by itself (`bl.layers.equilibrium`). Baseline: the explicit network tanh(W tanh(U x + b)) with
    weights of the same shapes, trained with Adam at ``learning_rate`` on the same ``steps`` minibatches.

    Source: Bai, Kolter and Koltun, Deep equilibrium models, 2019; Bai, Koltun and Kolter, 2021 (the regulariser).
    """
    if min(width, batch_size, solver_steps, steps) < 1 or jacobian < 0:
        raise ValueError(
            f"equilibrium_network: width={width}, batch_size={batch_size}, solver_steps={solver_steps} and "
            f"steps={steps} must be at least 1 each, and jacobian={jacobian} not negative."
        )
    found = data_sets.classification(data, root)
    parts = data_sets.divided_by_largest(data_sets.split(found, train, validation, 0, seed))
    fitted, chosen, _, test = ((part.inputs, part.targets) for part in parts)
    solver = Anderson(max_steps=solver_steps, tol=tol)
    layer = equilibrium(cell, lambda weights, x: jnp.zeros_like(weights.bias), solver=solver)
    draw, whole = draw_samples(batch_size), whole_batch(fitted)
    start = lambda key: init_weights(key, fitted[0].shape[1], width, found.classes)

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        batch = draw(key, step, whole)
        return batch, batch

    def outer_loss(params: Params, weights: Weights, batch: Batch) -> Scalar:
        inputs, labels = batch
        fit = jnp.mean(batch.weight * softmax.cross_entropy(params @ weights.logits, labels))
        if not jacobian:
            return fit
        key = jax.random.fold_in(jax.random.key(seed), batch.index[0])  # another product for each minibatch
        return fit + jacobian * layer.jacobian_size(params, weights, inputs, key)

    def baselines() -> dict[str, Any]:
        key = jax.random.key(seed)
        trained = train_explicit(start(key), lambda step: batches(key, step)[0], steps, learning_rate)
        scores = softmax.scores(explicit(trained, test[0]), test[1])
        return {**{f"baseline/{name}": score for name, score in scores.items()}, "weights/number": size(trained)}

    return Task(
        inner=InnerProblem.from_fixed_point(
            lambda z, weights, batch: cell(z, weights, batch[0]),
            lambda key, weights: jnp.zeros((batch_size, width), weights.bias.dtype),
            solver,
        ),
        outer_loss=outer_loss,
        init_hparams=start,
        batches=batches,
        assess=lambda params, weights: assessment(layer, weights, test, chosen),
        baselines=baselines,
        figures={"lanes": lambda result: lanes(result, layer, test)},
        warm_start=False,
        precision=precision,
        name="equilibrium_network",
        headline=Headline(
            "test/accuracy", "test accuracy", {"baseline/test/accuracy": "of the explicit network of equal size"}
        ),
    )


def init_weights(key: Key, features: int, width: int, classes: int) -> Weights:
    """A contraction at the start: the spectral radius of W is near 1/2."""
    drawn = lambda number, rows, columns, scale: (
        scale * jax.random.normal(jax.random.fold_in(key, number), (rows, columns), float) / np.sqrt(columns)
    )
    return Weights(
        drawn(0, width, width, 0.5),
        drawn(1, width, features, 1.0),
        jnp.zeros(width, float),
        drawn(2, width, classes, 0.1),
    )


def explicit(weights: Weights, inputs: Any) -> jax.Array:
    """The logits of the network with two explicit layers."""
    first = jnp.tanh(inputs @ weights.inputs.T + weights.bias)
    return jnp.tanh(first @ weights.recurrent.T) @ weights.logits


def train_explicit(start: Weights, batch_of: Any, steps: int, rate: float) -> Weights:
    """The explicit network after ``steps`` steps of Adam on cross-entropy."""
    optimizer = optax.adam(rate)

    def loss(weights: Weights, batch: Batch) -> Scalar:
        return jnp.mean(batch.weight * softmax.cross_entropy(explicit(weights, batch[0]), batch[1]))

    def turn(step: jax.Array, state: tuple) -> tuple:
        weights, memory = state
        updates, memory = optimizer.update(jax.grad(loss)(weights, batch_of(step)), memory)
        return optax.apply_updates(weights, updates), memory

    run = jax.jit(lambda state: jax.lax.fori_loop(0, steps, turn, state))
    return run((start, optimizer.init(start)))[0]


def assessment(layer: Any, weights: Weights, test: Samples, chosen: Samples) -> dict[str, Any]:
    """Scores on test and validation data, and the steps of all their samples, each of them a lane."""
    found = layer(weights, jnp.asarray(np.concatenate([test[0], chosen[0]]), weights.bias.dtype))
    logits, number = found.params @ weights.logits, len(test[1])
    return {
        **softmax.scores(logits[:number], test[1]),
        "validation/accuracy": softmax.scores(logits[number:], chosen[1])["test/accuracy"],
        "lanes/mean_steps": jnp.mean(found.steps),
        "lanes/max_steps": jnp.max(found.steps),
    }


def size(weights: Weights) -> int:
    """The number of weights."""
    return sum(leaf.size for leaf in weights)


def lanes(result: Result, layer: Any, test: Samples) -> Any:
    """The steps that each test sample takes to its equilibrium, and the samples that take the most."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    weights = jax.tree.map(jnp.asarray, result.hparams)
    found = layer(weights, jnp.asarray(test[0], weights.bias.dtype))
    steps = np.asarray(found.steps)
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    left.hist(steps, bins=np.arange(steps.min(), steps.max() + 2) - 0.5)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="steps of Anderson acceleration", ylabel="test samples", title="each sample stops by itself")
    right.axis("off")
    side = round(np.sqrt(test[0].shape[1]))
    if side**2 == test[0].shape[1]:
        slowest = np.argsort(-steps, kind="stable")[:12]
        guesses = np.asarray(jnp.argmax(found.params @ weights.logits, axis=1))
        tiles = [np.pad(test[0][one].reshape(side, side), 1) for one in slowest]
        right.imshow(np.vstack([np.hstack(tiles[row : row + 4]) for row in range(0, len(tiles) // 4 * 4, 4)]), "gray_r")
        wrong = int(np.sum(guesses[slowest] != test[1][slowest]))
        right.set_title(f"the {len(slowest)} slowest ({wrong} of them misread)")
    return figure
