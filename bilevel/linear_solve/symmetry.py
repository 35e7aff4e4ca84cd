"""The check that a system is symmetric, which a user asserts by choosing a solver for symmetric systems."""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.foundation import vectors as tree
from bilevel.foundation.typing import Key, LinearMap, PyTree
from bilevel.linear_solve.base import Operator, as_operator


def check_symmetric(operator: Operator | LinearMap, example: PyTree, key: Key) -> None:
    """Raises ValueError where u' A v differs from v' A u for random u and v.

    The difference is compared with eps^(2/3) (|| A u || + || A v ||), far above rounding and far below the difference
    for a matrix that is not symmetric. ``example`` has the shapes of x. Takes two products. Raises nothing under a
    trace, or where a product is not finite, because the values do not tell there.

    >>> import jax.numpy as jnp
    >>> check_symmetric(lambda x: jnp.array([[2.0, 1.0], [1.0, 3.0]]) @ x, jnp.ones(2), jax.random.key(0))
    """
    operator, example = as_operator(operator), tree.as_vector(example)
    u, v = (_gaussian(part, example) for part in jax.random.split(key))
    image_u, image_v = (tree.apply(operator, x, operator.owner) for x in (u, v))
    difference = jnp.abs(tree.dot(u, image_v) - tree.dot(v, image_u))
    size = tree.norm(image_u) + tree.norm(image_v)
    if isinstance(difference, Tracer):
        return
    rounding = max(tree.epsilon(example) ** (2 / 3), 4 * tree.epsilon(example) * tree.size(example) ** 0.5)
    if bool(difference > rounding * size):
        raise ValueError(
            f"A solver for symmetric systems was chosen, but {operator.owner} is not symmetric: for random u and v, "
            f"u'Av and v'Au differ by {float(difference):.1e} where || A u || + || A v || is {float(size):.1e}. "
            "Use bl.GMRES() or bl.Dense()."
        )


def _gaussian(key: Key, example: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(example)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [jax.random.normal(part, leaf.shape, leaf.dtype) for part, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(structure, drawn)
