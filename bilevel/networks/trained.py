"""The inner unknown of a problem with a network: its weights, and the state that training carries along."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from bilevel.foundation.typing import Key, PyTree
from bilevel.networks.flavours import Network
from bilevel.networks.floats import as_floats, from_floats


class Carried(NamedTuple):
    """The values that training changes beside the weights: the network's own state, and the keys of the minibatches."""

    network: PyTree
    batches: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trained:
    """``weights`` (the unknown, a dict of arrays) and ``state`` (statistics, keys and counters as numbers).

    ``params.model()`` is the flax module with these arrays, in evaluation mode: outer losses and metrics call it. Its
    state changes with its calls, and the changes are dropped.
    """

    weights: PyTree
    state: PyTree
    network: Network = field(metadata={"static": True})
    shapes: Any = field(metadata={"static": True})  # of the state before `as_floats`, as a hashable `Shapes`

    def model(self, training: bool = False) -> Any:
        """The module with its arrays. A linen module takes its mode as an argument of its call; an nnx module is in
        training mode or in evaluation mode (``model.train()``, ``model.eval()``)."""
        return self.network.model(self.weights, self.carried.network, training)

    @property
    def carried(self) -> Carried:
        """The state in the types of flax, without a derivative."""
        return from_floats(jax.lax.stop_gradient(self.state), self.shapes.tree)

    def with_state(self, carried: Carried) -> Trained:
        """The same weights with another state, which has no derivative."""
        numbers = as_floats(jax.lax.stop_gradient(carried))
        cast = lambda new, old: new.astype(old.dtype)
        return replace(self, state=jax.tree.map(cast, numbers, self.state))


class Shapes:
    """Shapes and types of a tree, compared by identity: what a static field holds."""

    def __init__(self, tree: PyTree) -> None:
        self.tree = tree


def start_of(network: Network, shapes: Shapes, key: Key, draws: bool) -> Trained:
    """The unknown at the start of training; ``draws``: minibatches are drawn, for which there is a key."""
    for_network, for_batches = jax.random.split(key)
    weights, state = network.start(for_network)
    carried = Carried(state, for_batches if draws else ())
    return Trained(as_floats(weights), as_floats(carried), network, shapes)


def shapes_of(network: Network, draws: bool) -> Shapes:
    """The shapes and types of the state of a network at its start."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(network.start, key)[1]
    return Shapes(Carried(state, key if draws else ()))
