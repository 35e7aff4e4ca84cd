"""The inverse that limited-memory BFGS knows, of given pairs of steps and their images, as a preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation import vectors as tree
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import Operator, Preconditioner
from bilevel.linear_solve.two_loops import Pairs, two_loops


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LBFGSPairs(Preconditioner):
    """The inverse that limited-memory BFGS builds from pairs y = A s. The pairs are given, so it takes no products.

    ``steps`` (s) and ``images`` (y) are pytrees like the unknown with a leading axis of pairs, oldest first; an inner
    L-BFGS solver has such pairs. Empty slots, and pairs without curvature of the operator's sign, are left out, so M is
    definite. Reference: Nocedal, 1980.

    >>> import jax.numpy as jnp
    >>> pairs = LBFGSPairs(steps=jnp.eye(2), images=jnp.diag(jnp.array([2.0, 4.0])))
    >>> precondition, products = pairs.prepare(Operator(lambda x: jnp.array([2.0, 4.0]) * x), jnp.ones(2))
    >>> precondition(jnp.ones(2)).tolist(), products
    ([0.5, 0.25], 0)
    """

    steps: PyTree
    images: PyTree

    @classmethod
    def empty(cls, example: PyTree, number: int) -> LBFGSPairs:
        """``number`` empty slots for unknowns of the shapes of ``example``."""
        stacked = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), example)
        return cls(stacked, stacked)

    def followed_by(self, newer: LBFGSPairs) -> LBFGSPairs:
        """The newest pairs of both: as many as the larger of the two has slots, empty slots first."""
        filled = jax.vmap(tree.dot)(newer.steps, newer.steps) > 0
        taken = jnp.sum(filled)

        def merge(old: jax.Array, new: jax.Array) -> jax.Array:
            kept = jnp.roll(old, -taken, axis=0)
            return jnp.where(filled.reshape(-1, *(1,) * (old.ndim - 1)), new, kept)

        return jax.tree.map(merge, self, newer)

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        images = tree.scaled(jnp.asarray(operator.sign), self.images)
        curvatures, squares = jax.vmap(tree.dot)(self.steps, images), jax.vmap(tree.dot)(images, images)
        used = curvatures > tree.epsilon(example) * jnp.sqrt(squares * jax.vmap(tree.dot)(self.steps, self.steps))
        inverses = jnp.where(used, 1 / jnp.where(used, curvatures, 1), 0)
        scales = jnp.where(used, curvatures / jnp.where(squares == 0, 1, squares), 0)
        newest = jnp.max(jnp.where(used, jnp.arange(used.size), -1), initial=-1)
        scale = jnp.where(newest < 0, 1, scales[newest])
        pairs, sign = Pairs(self.steps, images, inverses), jnp.asarray(operator.sign)
        return lambda residual: tree.scaled(sign, two_loops(pairs, scale, residual)), 0
