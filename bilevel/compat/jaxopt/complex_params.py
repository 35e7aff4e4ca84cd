"""Complex params as pairs of real ones, because the solvers minimise over real vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Params, PyTree


class Pair(NamedTuple):
    """A complex array."""

    real: jax.Array
    imag: jax.Array


def is_complex(tree: PyTree) -> bool:
    """Whether a leaf is complex."""
    return any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(tree))


def split(tree: PyTree) -> PyTree:
    """The tree with a `Pair` in the place of each complex leaf."""
    return jax.tree.map(lambda leaf: Pair(jnp.real(leaf), jnp.imag(leaf)) if jnp.iscomplexobj(leaf) else leaf, tree)


def join(tree: PyTree) -> PyTree:
    """The tree of complex leaves again."""
    is_pair = lambda node: isinstance(node, Pair)
    whole = lambda node: jax.lax.complex(node.real, node.imag) if is_pair(node) else node
    return jax.tree.map(whole, tree, is_leaf=is_pair)


def conjugate(tree: PyTree) -> PyTree:
    """The complex conjugate."""
    return jax.tree.map(jnp.conj, tree)


@dataclass(frozen=True)
class OnPairs:
    """A user's function of complex params as a function of pairs. ``gives`` names its results: "value", "value and
    gradient" or "params" (a map, a residual, a prox). Aux follows each of them where ``has_aux`` is set."""

    function: Callable[..., Any]
    gives: str
    has_aux: bool = False

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        result = self.function(join(params), *args, **kwargs)
        if self.gives == "value":
            return result
        if self.gives == "value and gradient":
            value, gradient = result
            return value, split(conjugate(gradient))  # JAX's gradient at x + iy is df/dx - i df/dy
        return (split(result[0]), result[1]) if self.has_aux else split(result)


def on_pairs(solver: Any) -> Any:
    """The solver for pairs: its functions take pairs, and everything else is as it was."""
    changes: dict[str, Any] = {}
    has_aux = bool(getattr(solver, "has_aux", False))
    for name in solver.attribute_names():
        value = getattr(solver, name)
        if name == "solver":
            changes[name] = on_pairs(value)
        elif name in ("fun", "fixed_point_fun", "residual_fun"):
            minimises = name == "fun" and solver.minimises
            own = minimises and getattr(solver, "value_and_grad", False)
            gives = ("value and gradient" if own is True else "value") if minimises else "params"
            changes[name] = OnPairs(value, gives, has_aux)
        elif name == "value_and_grad" and callable(value):
            changes[name] = OnPairs(value, "value and gradient")
        elif name == "callback" and callable(value):
            changes[name] = lambda params, told=value: told(join(params))
        elif name in ("prox", "projection"):
            changes[name] = OnPairs(value, "params")
    return replace(solver, **changes)
