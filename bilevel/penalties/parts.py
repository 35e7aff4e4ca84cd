"""Different penalties on different parts of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, Params, PyTree, Scalar
from bilevel.penalties.base import Penalty


def is_penalty(node: object) -> bool:
    return isinstance(node, Penalty)


@dataclass(frozen=True, eq=False)
class Parts(Penalty):
    """A penalty (or set) for each part of the parameters: ``parts`` has the outer structure of params, with penalties
    as its leaves; ``bl.Zero()`` leaves a part, such as an intercept, unpenalised. Each acts on its own part alone, as a
    whole.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> penalty = bl.Parts({"coef": bl.L1(weight=1.0), "intercept": bl.Zero()})
    >>> point = {"coef": jnp.array([3.0, 0.5]), "intercept": jnp.array(0.5)}
    >>> {name: leaf.tolist() for name, leaf in penalty.prox(point, 1.0, None).items()}
    {'coef': [2.0, 0.0], 'intercept': 0.5}
    """

    parts: PyTree

    @property
    def separable(self) -> bool:  # type: ignore[override]  # as its parts are, not as the class is
        return all(part.separable for part in jax.tree.leaves(self.parts, is_leaf=is_penalty))

    @property
    def convex(self) -> bool:  # type: ignore[override]  # as its parts are, not as the class is
        return all(part.convex for part in jax.tree.leaves(self.parts, is_leaf=is_penalty))

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self._on_parts(lambda part, piece: part.prox(piece, step_size, hparams), point)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return trees.total(self._on_parts(lambda part, piece: part.value(piece, hparams), params))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return self._on_parts(lambda part, piece: part.kinks(piece, step_size, hparams), point)

    def each(self, function: Callable[[Penalty, PyTree], Any], params: Params) -> list[Any]:
        """function(part, piece of params) of all parts."""
        found: list[Any] = []
        self._on_parts(lambda part, piece: found.append(function(part, piece)), params)
        return found

    def _on_parts(self, function: Callable[[Any, PyTree], Any], params: Params) -> PyTree:
        try:
            return jax.tree.map(function, self.parts, params, is_leaf=is_penalty)
        except ValueError as error:
            raise ValueError(
                f"bl.Parts({jax.tree.structure(self.parts, is_leaf=is_penalty)}) does not fit params of structure "
                f"{jax.tree.structure(params)}: give one penalty for each part, bl.Zero() where there is none."
            ) from error
