"""Networks that adapt from learned weights, a lane for each task: what is unknown, and the steps between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Key, Params, PyTree
from bilevel.tasks.perceptrons import first_weights

ADAPTED = ("all", "head")
RATES = ("each", "layer", "fixed")


class Learned(NamedTuple):
    """The hyperparameters: the weights that adaptation starts at, and the logarithms of the step sizes, if learned."""

    weights: PyTree
    log_rates: PyTree


@dataclass(frozen=True)
class Adaptation:
    """How the learned weights h become the weights of each lane: h + sqrt(r) v_t for the layers that ``adapt`` names.

    The unknowns v_t start at 0. A step v <- v - gradient is a step of size r for the weights, and a penalty 1/2
    ||v_t||^2 is a distance from h in which the weights of larger r move more easily.
    """

    network: Any
    adapt: str
    rate: float  # the step size r where none is learned, and the first one where it is
    head_rate: float  # the same of the last layer

    def first(self, key: Key, rates: str, shape: tuple[int, ...]) -> Learned:
        """The hyperparameters before the first step, for inputs of this shape. ``rates`` "each": a step size for each
        weight, "layer": one for each array of weights, "fixed": none is learned."""
        weights = first_weights(self.network, key, shape)["params"]
        unknown = split(weights, self.adapt)[1]
        learned: dict[str, PyTree] = {
            "each": self._constant_rates(unknown),
            "layer": jax.tree.map(lambda leaf: leaf.ravel()[0], self._constant_rates(unknown)),
            "fixed": {},
        }
        return Learned(weights, learned[rates])

    def start(self, hparams: Learned, lanes: int) -> Params:
        """The unknowns before adaptation, all 0."""
        unknown = split(hparams.weights, self.adapt)[1]
        return jax.tree.map(lambda leaf: jnp.zeros((lanes, *leaf.shape), leaf.dtype), unknown)

    def weights(self, params: Params, hparams: Learned) -> PyTree:
        """The weights of each lane."""
        moved = lambda weight, log_rate, v: weight + jnp.exp(0.5 * log_rate) * v
        known, unknown = split(hparams.weights, self.adapt)
        own = jax.tree.map(moved, unknown, hparams.log_rates or self._constant_rates(unknown), params)
        shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes_of(params), *leaf.shape)), known)
        return {"params": {**shared, **own}}

    def outputs(self, params: Params, hparams: Learned, x: jax.Array) -> jax.Array:
        """The output of each lane's network, at points of its own."""
        return jax.vmap(self.network.apply)(self.weights(params, hparams), x)

    def _constant_rates(self, unknown: PyTree) -> PyTree:
        at = {name: self.head_rate if name == max(unknown) else self.rate for name in unknown}
        constant = lambda rate: lambda leaf: jnp.full_like(leaf, jnp.log(rate))
        return {name: jax.tree.map(constant(at[name]), layer) for name, layer in unknown.items()}


def split(weights: PyTree, adapt: str) -> tuple[PyTree, PyTree]:
    """(the weights that all lanes share, those that adaptation changes): all layers, or the one whose name is last."""
    last = max(weights)  # layers_0, layers_2, layers_4
    changed = {name: layer for name, layer in weights.items() if adapt == "all" or name == last}
    return {name: layer for name, layer in weights.items() if name not in changed}, changed


def lanes_of(params: Params) -> int:
    """The number of lanes of the unknowns."""
    return len(jax.tree.leaves(params)[0])


def refuse_words(adapt: str, rates: str) -> None:
    """ValueError for a word that is none of the choices."""
    for name, word, words in (("adapt", adapt, ADAPTED), ("rates", rates, RATES)):
        if word not in words:
            raise ValueError(f"task.{name}={word}: choose one of {', '.join(words)}.")
