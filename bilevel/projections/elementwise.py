"""Sets that constrain each coordinate by itself; points are pytrees."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.eager import compiles_once
from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point, change_of, map_leaves


@compiles_once
def non_negative(point: PyTree) -> PyTree:
    """The nearest point of {p : p >= 0}: max(x, 0).

    >>> import jax.numpy as jnp
    >>> non_negative(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return jax.tree.map(lambda leaf: jax.nn.relu(as_point(leaf)), point)


@compiles_once
def box(point: PyTree, lower: PyTree, upper: PyTree) -> PyTree:
    """The nearest point of {p : lower <= p <= upper}; NaN where lower > upper, since no point is feasible there.

    Bounds are numbers, arrays or (prefixes of) the tree of ``point``, and may be infinite.

    >>> import jax.numpy as jnp
    >>> box(jnp.array([-1.0, 0.5, 2.0]), 0.0, 1.0).tolist()
    [0.0, 0.5, 1.0]
    """
    return map_leaves(_clip, point, lower, upper)


@compiles_once
def hypercube(point: PyTree, side: PyTree = 1.0) -> PyTree:
    """The nearest point of {p : 0 <= p <= side}.

    >>> import jax.numpy as jnp
    >>> hypercube(jnp.array([-1.0, 0.5, 2.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return box(point, 0.0, side)


@compiles_once
def linf_ball(point: PyTree, radius: PyTree = 1.0) -> PyTree:
    """The nearest point of {p : max |p| <= radius}; NaN where the radius is negative.

    >>> import jax.numpy as jnp
    >>> linf_ball(jnp.array([-3.0, 0.5]), 2.0).tolist()
    [-2.0, 0.5]
    """
    return map_leaves(lambda x, r: _clip(x, -r, r), point, radius)


def _clip(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    clipped = jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))  # NaN stays NaN
    marker = jnp.where(lower <= upper, 1, jnp.nan).astype(x.dtype)  # as in `valid`, entry by entry
    return marker * clipped + (marker - 1) * (change_of(x) + change_of(lower) + change_of(upper))
