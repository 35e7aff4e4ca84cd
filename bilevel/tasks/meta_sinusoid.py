"""Meta-learning on sinusoids: MAML, Meta-SGD, ANIL and implicit MAML by what is an unknown and what is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.foundation.typing import Batch, HParams, Key, Params, PyTree, Scalar
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS, Optax, Solver
from bilevel.task import PRECISIONS, Headline, Task
from bilevel.tasks.few_shot_sinusoid import Points, drawing, drawn, head, tail
from bilevel.tasks.perceptrons import first_weights, perceptron
from bilevel.training.result import Result

ADAPTED = ("all", "head")
RATES = ("each", "fixed")


class Learned(NamedTuple):
    """The hyperparameters: the weights that adaptation starts at, and the logarithms of the step sizes, if learned."""

    weights: PyTree
    log_rates: PyTree


@dataclass(frozen=True)
class Adaptation:
    """How the learned weights h become the weights of each sinusoid: h + sqrt(r) v_t for the layers that ``adapt``
    names."""

    network: Any
    adapt: str
    rate: float  # the step size r where none is learned, and the first one where it is

    def first(self, key: Key, rates: str) -> Learned:
        """The hyperparameters before the first step."""
        weights = first_weights(self.network, key, (1,))["params"]
        return Learned(weights, self._constant_rates(split(weights, self.adapt)[1]) if rates == "each" else {})

    def start(self, hparams: Learned, lanes: int) -> Params:
        """The unknowns before adaptation, all 0."""
        unknown = split(hparams.weights, self.adapt)[1]
        return jax.tree.map(lambda leaf: jnp.zeros((lanes, *leaf.shape), leaf.dtype), unknown)

    def weights(self, params: Params, hparams: Learned) -> PyTree:
        """The weights of each lane."""
        moved = lambda weight, log_rate, v: weight + jnp.exp(0.5 * log_rate) * v
        known, unknown = split(hparams.weights, self.adapt)
        own = jax.tree.map(moved, unknown, hparams.log_rates or self._constant_rates(unknown), params)
        shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (_lanes(params), *leaf.shape)), known)
        return {"params": {**shared, **own}}

    def outputs(self, params: Params, hparams: Learned, x: jax.Array) -> jax.Array:
        """The output of each lane's network, at points of its own."""
        return jax.vmap(self.network.apply)(self.weights(params, hparams), x)

    def squared_errors(self, params: Params, hparams: Learned, points: Points) -> jax.Array:
        """Mean squared error of each network on its sinusoid."""
        return jnp.mean((self.outputs(params, hparams, points.x) - points.y) ** 2, axis=(1, 2))

    def scores(self, params: Params, hparams: Learned, points: Points) -> dict[str, Scalar]:
        """The mean squared errors before adaptation and after it, and half of the 95 % interval of the latter."""
        before = self.squared_errors(jax.tree.map(jnp.zeros_like, params), hparams, points)
        after = self.squared_errors(params, hparams, points)
        return {
            "mse_before": jnp.mean(before),
            "mse_after": jnp.mean(after),
            "mse_after_ci95": 1.96 * jnp.std(after) / jnp.sqrt(len(after)),
        }

    def curves(self, params: Params, hparams: Learned) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The outputs on [-5, 5] before adaptation and after it, and the points, lane by lane."""
        held, hparams = jax.tree.map(jnp.asarray, (params, hparams))
        x = jnp.broadcast_to(jnp.linspace(-5.0, 5.0, 201)[:, None], (_lanes(held), 201, 1))
        return self.outputs(jax.tree.map(jnp.zeros_like, held), hparams, x), self.outputs(held, hparams, x), x

    def _constant_rates(self, unknown: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.log(self.rate)), unknown)


def meta_sinusoid(
    *,
    sinusoids: int = 25,
    shots: int = 10,
    queries: int = 10,
    steps: int = 1,
    adapt: str = "all",
    rates: str = "each",
    rate: float = 0.01,
    proximity: float = 0.0,
    width: int = 40,
    held_out: int = 200,
    held_queries: int = 50,
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """Learns the weights, and the step size of each, from which a network adapts to a new sinusoid.

        inner:  sum_t mean (net(x; h + sqrt(r) v_t) - y)^2 + proximity/2 ||v_t||^2     on ``shots`` points of sinusoid t
        outer:  mean_t mean (net(x; h + sqrt(r) v_t) - y)^2                            on ``queries`` other points

    The unknowns v_t are a lane for each sinusoid and start at 0. A step v <- v - gradient is a step of size r for the
    weights, so that the step sizes are ordinary hyperparameters. ``rates`` "each": Meta-SGD, a step size for each
    weight, all ``rate`` at first; "fixed": MAML. ``adapt`` "head": ANIL, only the last layer is unknown. Both by an
    engine that differentiates the ``steps`` steps (``engine=budget``). A ``proximity`` above 0 is implicit MAML: the
    problem is solved, and ``engine=implicit`` differentiates its solution.

    Sinusoids as in `few_shot_sinusoid`. Adaptations to ``held_out`` fixed ones stand beside the others and do not enter
    the outer loss. Metrics, on ``held_queries`` points of each: mse_before, mse_after and its 95 % interval.

    Source: Finn et al., 2017; Li et al., Meta-SGD, 2017; Raghu et al., ANIL, 2020; Rajeswaran et al., 2019.
    """
    _refuse_words(adapt, rates)
    if min(sinusoids, shots, queries, steps, held_out, held_queries) < 1 or rate <= 0:
        raise ValueError(
            f"meta_sinusoid: sinusoids={sinusoids}, shots={shots}, queries={queries}, steps={steps}, "
            f"held_out={held_out}, held_queries={held_queries} must be at least 1 each, and rate={rate} positive."
        )
    adaptation = Adaptation(perceptron(width, width, 1), adapt, rate)
    with jax.enable_x64(PRECISIONS.get(precision, True)):  # at the task's precision, not the caller's
        for_support, for_query = drawn(jax.random.key(seed + 1), held_out, shots, held_queries)
    lanes = sinusoids + held_out

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.sum(adaptation.squared_errors(params, hparams, batch)) + 0.5 * proximity * size

    def batches(key: Key, step: int | jax.Array) -> tuple[Points, Points]:
        support, query = drawn(jax.random.fold_in(key, step), sinusoids, shots, queries)
        return jax.tree.map(lambda new, kept: jnp.concatenate([new, kept]), support, for_support), query

    def pictured(result: Result) -> Any:
        before, after, x = adaptation.curves(tail(result.params, sinusoids), result.hparams)
        return drawing(x, before, after, for_support, for_query)

    solver: Solver = LBFGS(max_steps=2000, tol=1e-4) if proximity > 0 else Optax(optax.sgd(1.0), max_steps=steps)
    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: adaptation.start(hparams, lanes), solver=solver),
        outer_loss=lambda w, h, batch: jnp.mean(adaptation.squared_errors(head(w, sinusoids), h, batch)),
        init_hparams=lambda key: adaptation.first(key, rates),
        batches=batches,
        evaluate=lambda w, h: adaptation.scores(tail(w, sinusoids), h, for_query),
        figures={"adaptation": pictured},
        warm_start=False,
        precision=precision,
        name="meta_sinusoid",
        headline=Headline("mse_after", "squared error on new sinusoids after adaptation", {"mse_before": "before it"}),
    )


def _refuse_words(adapt: str, rates: str) -> None:
    for name, word, words in (("adapt", adapt, ADAPTED), ("rates", rates, RATES)):
        if word not in words:
            raise ValueError(f"task.{name}={word}: choose one of {', '.join(words)}.")


def split(weights: PyTree, adapt: str) -> tuple[PyTree, PyTree]:
    """(the weights that all sinusoids share, those that adaptation changes)."""
    last = max(weights)  # layers_0, layers_2, layers_4
    changed = {name: layer for name, layer in weights.items() if adapt == "all" or name == last}
    return {name: layer for name, layer in weights.items() if name not in changed}, changed


def _lanes(params: Params) -> int:
    return len(jax.tree.leaves(params)[0])
