"""The inverse Hessian that limited-memory BFGS knows, times a vector."""

from __future__ import annotations

from typing import NamedTuple

import jax

from bilevel.foundation import trees
from bilevel.foundation.typing import PyTree, Scalar


class Pairs(NamedTuple):
    """The last steps s and gradient changes y, newest last; a pair with rho = 1/(s'y) = 0 is empty."""

    steps: PyTree  # each leaf (memory, *shape)
    changes: PyTree
    rho: jax.Array  # (memory,)


def two_loops(pairs: Pairs, scale: Scalar, vector: PyTree) -> PyTree:
    """B v for the matrix B that BFGS makes of ``scale`` times the identity by one update for each pair, oldest first.

    Two loops over the pairs, and no matrix. Reference: Nocedal, Updating quasi-Newton matrices with limited storage,
    1980.

    >>> import jax.numpy as jnp
    >>> pairs = Pairs(jnp.eye(2), jnp.diag(jnp.array([2.0, 4.0])), jnp.array([0.5, 0.25]))
    >>> two_loops(pairs, jnp.array(1.0), jnp.ones(2)).tolist()
    [0.5, 0.25]
    """

    def backward(q: PyTree, pair: Pairs) -> tuple[PyTree, jax.Array]:
        alpha = pair.rho * trees.dot(pair.steps, q)
        return trees.axpy(-alpha, pair.changes, q), alpha

    def forward(r: PyTree, pair_alpha: tuple[Pairs, jax.Array]) -> tuple[PyTree, None]:
        pair, alpha = pair_alpha
        return trees.axpy(alpha - pair.rho * trees.dot(pair.changes, r), pair.steps, r), None

    q, alphas = jax.lax.scan(backward, vector, pairs, reverse=True)
    return jax.lax.scan(forward, jax.tree.map(lambda leaf: (scale * leaf).astype(leaf.dtype), q), (pairs, alphas))[0]
