"""flax's two kinds of modules behind one interface: weights, other state, and a model that is called."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
from flax import linen, nnx

from bilevel.foundation.typing import Key, PyTree


class Network(abc.ABC):
    """A module without its arrays. Abstract; compared by identity."""

    @abc.abstractmethod
    def start(self, key: Key) -> tuple[PyTree, PyTree]:
        """Weights and state at the start."""

    @abc.abstractmethod
    def model(self, weights: PyTree, state: PyTree, training: bool) -> Any:
        """The module with these arrays, to be called."""

    @abc.abstractmethod
    def after(self, model: Any, state: PyTree) -> PyTree:
        """The state after the calls of ``model``, which was made with ``state``."""


class Linen(Network):
    """A module of ``flax.linen``: the collection ``params`` holds the weights, the others and a key are state."""

    def __init__(self, module: linen.Module, example: Sequence[Any], streams: Sequence[str]) -> None:
        self.module, self.example, self.streams = module, tuple(example), tuple(streams)

    def start(self, key: Key) -> tuple[PyTree, PyTree]:
        for_weights, own = jax.random.split(key)
        variables: Any = self.module.init({"params": for_weights, **self._rngs(own)}, *self.example)
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        return variables.get("params", {}), {**collections, **({"key": own} if self.streams else {})}

    def model(self, weights: PyTree, state: PyTree, training: bool) -> Any:
        collections = {name: tree for name, tree in state.items() if name != "key"}
        rngs = self._rngs(state["key"]) if self.streams else {}
        return self.module.bind({"params": weights, **collections}, rngs=rngs, mutable=list(collections))

    def after(self, model: Any, state: PyTree) -> PyTree:
        collections = {name: model.variables[name] for name in state if name != "key"}
        return {**collections, **({"key": jax.random.split(state["key"])[0]} if self.streams else {})}

    def _rngs(self, key: Key) -> dict[str, Key]:
        """A key for each stream, none of which is the one that the next state has."""
        own = jax.random.split(key)[1]
        return {name: jax.random.fold_in(own, number) for number, name in enumerate(self.streams)}


class NNX(Network):
    """A module of ``flax.nnx``, or a function of ``nnx.Rngs`` that makes one: its ``nnx.Param`` are the weights, all
    its other variables (statistics, keys, counters) are state. Both are dicts of arrays."""

    def __init__(self, module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> None:
        self.module = module
        made = module if isinstance(module, nnx.Module) else nnx.eval_shape(lambda: module(nnx.Rngs(0)))
        self.graph, *self.shapes = nnx.split(made, nnx.Param, ...)

    def start(self, key: Key) -> tuple[PyTree, PyTree]:
        made = self.module if isinstance(self.module, nnx.Module) else self.module(nnx.Rngs(key))
        _, weights, state = nnx.split(made, nnx.Param, ...)
        return nnx.to_pure_dict(weights), nnx.to_pure_dict(state)

    def model(self, weights: PyTree, state: PyTree, training: bool) -> Any:
        parts = [jax.tree.map(lambda leaf: leaf, shapes) for shapes in self.shapes]  # copies, which are filled
        for part, arrays in zip(parts, (weights, state), strict=True):
            nnx.replace_by_pure_dict(part, arrays)
        model = nnx.merge(self.graph, *parts)
        model.train() if training else model.eval()
        return model

    def after(self, model: Any, state: PyTree) -> PyTree:
        _, _, moved = nnx.split(model, nnx.Param, ...)
        return nnx.to_pure_dict(moved)


def network_of(module: Any, example: Sequence[Any], streams: Sequence[str]) -> Network:
    """The network of a module of either kind; ValueError for what is neither."""
    if isinstance(module, linen.Module):
        return Linen(module, example, streams)
    if not isinstance(module, nnx.Module) and not callable(module):
        raise ValueError(
            f"bl.networks: a {type(module).__name__} is no network: give a flax.linen module, a flax.nnx module, or a "
            "function of nnx.Rngs that makes one."
        )
    if streams:
        raise ValueError(
            f"bl.networks: streams={tuple(streams)} belong to flax.linen; a flax.nnx module has its own nnx.Rngs. "
            "Leave streams out."
        )
    return NNX(cast(Any, module))
