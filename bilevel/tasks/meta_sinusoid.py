"""Meta-learning on sinusoids: MAML, Meta-SGD, ANIL and implicit MAML by what is an unknown and what is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS, Optax, Solver
from bilevel.task import PRECISIONS, Headline, Task
from bilevel.tasks.adaptation import Adaptation, Learned, lanes_of, refuse_words
from bilevel.tasks.few_shot_sinusoid import Points, drawing, drawn, head, tail
from bilevel.tasks.perceptrons import perceptron
from bilevel.training.result import Result


@dataclass(frozen=True)
class Sinusoids:
    """What is asked of adapted networks on sinusoids."""

    adaptation: Adaptation

    def squared_errors(self, params: Params, hparams: Learned, points: Points) -> jax.Array:
        """Mean squared error of each network on its sinusoid."""
        return jnp.mean((self.adaptation.outputs(params, hparams, points.x) - points.y) ** 2, axis=(1, 2))

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
        x = jnp.broadcast_to(jnp.linspace(-5.0, 5.0, 201)[:, None], (lanes_of(held), 201, 1))
        before = self.adaptation.outputs(jax.tree.map(jnp.zeros_like, held), hparams, x)
        return before, self.adaptation.outputs(held, hparams, x), x


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
    weight, all ``rate`` at first; "layer": one for each array of weights; "fixed": MAML. ``adapt`` "head": ANIL, only
    the last layer is unknown. All by an engine that differentiates the ``steps`` steps (``engine=budget``). A
    ``proximity`` above 0 is implicit MAML: the problem is solved, and ``engine=implicit`` differentiates its solution.

    Sinusoids as in `few_shot_sinusoid`. Adaptations to ``held_out`` fixed ones stand beside the others and do not enter
    the outer loss. Metrics, on ``held_queries`` points of each: mse_before, mse_after and its 95 % interval.

    Source: Finn et al., 2017; Li et al., Meta-SGD, 2017; Raghu et al., ANIL, 2020; Rajeswaran et al., 2019.
    """
    refuse_words(adapt, rates)
    if min(sinusoids, shots, queries, steps, held_out, held_queries) < 1 or not (rate > 0 and proximity >= 0):
        raise ValueError(
            f"meta_sinusoid: sinusoids={sinusoids}, shots={shots}, queries={queries}, steps={steps}, "
            f"held_out={held_out}, held_queries={held_queries} must be at least 1 each, rate={rate} positive, and "
            f"proximity={proximity} not negative."
        )
    adaptation = Adaptation(perceptron(width, width, 1), adapt, rate, rate)
    asked = Sinusoids(adaptation)
    with jax.enable_x64(PRECISIONS.get(precision, True)):  # at the task's precision, not the caller's
        for_support, for_query = drawn(jax.random.key(seed + 1), held_out, shots, held_queries)
    lanes = sinusoids + held_out

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.sum(asked.squared_errors(params, hparams, batch)) + 0.5 * proximity * trees.dot(params, params)

    def batches(key: Key, step: int | jax.Array) -> tuple[Points, Points]:
        support, query = drawn(jax.random.fold_in(key, step), sinusoids, shots, queries)
        return jax.tree.map(lambda new, kept: jnp.concatenate([new, kept]), support, for_support), query

    def pictured(result: Result) -> Any:
        before, after, x = asked.curves(tail(result.params, sinusoids), result.hparams)
        return drawing(x, before, after, for_support, for_query)

    solver: Solver = LBFGS(max_steps=2000, tol=1e-4) if proximity > 0 else Optax(optax.sgd(1.0), max_steps=steps)
    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: adaptation.start(hparams, lanes), solver=solver),
        outer_loss=lambda w, h, batch: jnp.mean(asked.squared_errors(head(w, sinusoids), h, batch)),
        init_hparams=lambda key: adaptation.first(key, rates, (1,)),
        batches=batches,
        evaluate=lambda w, h: asked.scores(tail(w, sinusoids), h, for_query),
        figures={"adaptation": pictured},
        warm_start=False,
        precision=precision,
        name="meta_sinusoid",
        headline=Headline("mse_after", "squared error on new sinusoids after adaptation", {"mse_before": "before it"}),
    )
