"""Few-shot regression by implicit MAML: a network that adapts to a new sinusoid from ten points."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import Batch, HParams, Key, Params, PyTree, Scalar
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS
from bilevel.task import Headline, Task
from bilevel.tasks.perceptrons import first_weights, perceptron
from bilevel.training.result import Result


class Points(NamedTuple):
    """Points of several sinusoids: ``x`` and ``y`` are (sinusoids, points, 1)."""

    x: jax.Array
    y: jax.Array


def few_shot_sinusoid(
    *,
    sinusoids: int = 5,
    shots: int = 10,
    queries: int = 10,
    proximity: float = 2.0,
    width: int = 40,
    held_out: int = 10,
    tol: float = 1e-6,
    max_steps: int = 2000,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns the weights from which a network adapts best to sinusoids that it has not seen.

        inner:  sum_t 1/2 mean (net(x; w_t) - y)^2 + proximity/2 ||w_t - h||^2      on ``shots`` points of sinusoid t
        outer:  mean_t mean (net(x; w_t) - y)^2                                     on ``queries`` other points

    Each outer step draws ``sinusoids`` new ones: y = a sin(x - p), a from [0.1, 5], p from [0, pi], x from [-5, 5]. The
    inner problem is new each time, so there is no warm start; it starts at the meta-parameters h. All adaptations
    together are one inner problem. Adaptations to ``held_out`` fixed sinusoids are solved beside the others and do not
    enter the outer loss. Metrics on the held-out sinusoids: test/loss (mean squared error at their query points after
    adaptation) and test/loss_unadapted.

    Source: Finn et al., 2017, for the task; Rajeswaran et al., Meta-learning with implicit gradients, 2019.
    """
    network = perceptron(width, width, 1)
    for_support, for_query = drawn(jax.random.key(seed + 1), held_out, shots, queries)

    def squared_errors(params: Params, points: Points) -> jax.Array:
        """Mean squared error of each network on its sinusoid."""
        return jnp.mean((jax.vmap(network.apply)(params, points.x) - points.y) ** 2, axis=(1, 2))

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        distances = jax.tree.map(lambda own, shared: jnp.sum((own - shared) ** 2), params, hparams)
        return 0.5 * jnp.sum(squared_errors(params, batch)) + 0.5 * proximity * sum(jax.tree.leaves(distances))

    def repeated(hparams: HParams) -> Params:
        number = sinusoids + held_out
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), hparams)

    def batches(key: Key, step: int | jax.Array) -> tuple[Points, Points]:
        support, query = drawn(jax.random.fold_in(key, step), sinusoids, shots, queries)
        return jax.tree.map(lambda new, kept: jnp.concatenate([new, kept]), support, for_support), query

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        adapted = squared_errors(tail(params, sinusoids), for_query)
        unadapted = squared_errors(tail(repeated(hparams), sinusoids), for_query)
        return {"test/loss": jnp.mean(adapted), "test/loss_unadapted": jnp.mean(unadapted)}

    def adaptation(result: Result) -> Any:
        adapted = jax.tree.map(jnp.asarray, tail(result.params, sinusoids))
        x = jnp.broadcast_to(jnp.linspace(-5.0, 5.0, 201)[:, None], (held_out, 201, 1))
        before = jax.vmap(network.apply, (None, 0))(result.hparams, x)
        return drawing(x, before, jax.vmap(network.apply)(adapted, x), for_support, for_query)

    return Task(
        inner=InnerProblem(
            loss=loss, init=lambda key, hparams: repeated(hparams), solver=LBFGS(max_steps=max_steps, tol=tol)
        ),
        outer_loss=lambda params, hparams, batch: jnp.mean(squared_errors(head(params, sinusoids), batch)),
        init_hparams=lambda key: first_weights(network, key, (1,)),
        batches=batches,
        evaluate=evaluate,
        figures={"adaptation": adaptation},
        warm_start=False,
        precision=precision,
        name="few_shot_sinusoid",
        headline=Headline(
            "test/loss", "squared error on new sinusoids after adaptation", {"test/loss_unadapted": "before it"}
        ),
    )


def drawn(key: Key, number: int, shots: int, queries: int) -> tuple[Points, Points]:
    """Support and query points of ``number`` random sinusoids; a pure function of the key."""
    for_amplitude, for_phase, for_x = jax.random.split(key, 3)
    amplitude = jax.random.uniform(for_amplitude, (number, 1, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(for_phase, (number, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(for_x, (number, shots + queries, 1), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return Points(x[:, :shots], y[:, :shots]), Points(x[:, shots:], y[:, shots:])


def head(tree: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:number], tree)


def tail(tree: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[number:], tree)


def drawing(x: jax.Array, before: jax.Array, after: jax.Array, support: Points, query: Points) -> Any:
    """Six held-out sinusoids: the network before and after adaptation, and the points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    for number, axes in enumerate(figure.subplots(2, 3, sharex=True).ravel()):
        if number >= len(after):
            axes.set_axis_off()
            continue
        axes.plot(x[number, :, 0], np.asarray(before[number, :, 0]), color="0.6", label="before")
        axes.plot(x[number, :, 0], np.asarray(after[number, :, 0]), label="adapted")
        axes.plot(support.x[number, :, 0], support.y[number, :, 0], "ko", markersize=4, label="support points")
        axes.plot(query.x[number, :, 0], query.y[number, :, 0], ".", markersize=4, label="query points")
    figure.supxlabel("x", fontsize=9)
    figure.supylabel("y", fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
