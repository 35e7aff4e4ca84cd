"""The small flax networks of several tasks. flax loads when a task with one is asked for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Key, PyTree


def perceptron(*widths: int) -> Any:
    """Dense layers of these widths with tanh between them; smooth, because the losses of the tasks have to be.

    >>> len(perceptron(8, 8, 1).layers)
    5
    """
    from flax import linen

    layers: list[Any] = [part for width in widths[:-1] for part in (linen.Dense(width), jnp.tanh)]
    return linen.Sequential(  # pyright: ignore[reportCallIssue]  # flax adds the fields name and parent
        [*layers, linen.Dense(widths[-1])]
    )


def first_weights(network: Any, key: Key, shape: tuple[int, ...]) -> PyTree:
    """The weights that a network for one input of this shape draws, in the precision of the task.

    flax itself draws float32 at every precision.
    """
    weights = network.init(key, jnp.zeros((1, *shape)))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), weights)
