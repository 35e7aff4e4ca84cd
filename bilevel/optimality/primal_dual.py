"""The unknown of a constrained problem: a point and its multipliers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Params, PyTree


class PrimalDual(NamedTuple):
    """A point with the multipliers of its constraints: the unknown of `KKT`.

    The signs are those of the Lagrangian L = loss + equality_dual' equality + inequality_dual' inequality, so that
    inequality_dual >= 0 at a solution. A multiplier has the structure and shapes of the result of its function; the
    multiplier of a function that was left out is (), None or an empty array.

    >>> import jax.numpy as jnp
    >>> PrimalDual(jnp.zeros(2), inequality_dual=jnp.ones(1)).equality_dual
    ()
    """

    primal: Params
    equality_dual: PyTree = ()
    inequality_dual: PyTree = ()

    @property
    def dual(self) -> Dual:
        """The multipliers alone."""
        return Dual(self.equality_dual, self.inequality_dual)


class Dual(NamedTuple):
    """The multipliers of a constrained problem, as `Solution.dual` returns them; unpacks as a pair."""

    equality_dual: PyTree = ()
    inequality_dual: PyTree = ()


def size(tree: PyTree) -> int:
    """The number of entries of all leaves."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))
