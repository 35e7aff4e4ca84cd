"""Penalties and sets that are one function of the point and their fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams, Params, Scalar
from bilevel.penalties.base import Penalty, on_leaves, resolve


def parameters(of: Any, hparams: HParams) -> list[Any]:
    """The fields of a set or penalty, in order, at the given hyperparameters."""
    return [resolve(getattr(of, field.name), hparams) for field in dataclasses.fields(of)]


class ParametricPenalty(Penalty):
    """A penalty whose fields are, in order, the parameters of its prox and of its value, leaf by leaf."""

    operator: ClassVar[Callable[..., jax.Array]]  # (point, step_size, *parameters) -> point
    term: ClassVar[Callable[..., Scalar]]  # (leaf, *parameters) -> scalar

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        def on_leaf(leaf: jax.Array, *rest: Any) -> jax.Array:
            return type(self).operator(leaf, step_size, *rest)

        return on_leaves(on_leaf, point, *parameters(self, hparams))

    def value(self, params: Params, hparams: HParams) -> Scalar:
        terms = on_leaves(type(self).term, params, *parameters(self, hparams))
        return sum(jax.tree.leaves(terms), jnp.zeros(()))
