"""Penalties and sets that are one function of the point and their fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, Params, PyTree, Scalar
from bilevel.kernels.arrays import as_point, like
from bilevel.penalties import extent
from bilevel.penalties.base import Penalty, resolve


def parameters(of: Any, hparams: HParams) -> list[Any]:
    """The fields of a set or penalty, in order, at the given hyperparameters."""
    return [resolve(getattr(of, field.name), hparams) for field in dataclasses.fields(of)]


def pieces_of(of: Penalty, reach: extent.Extent, point: Params, hparams: HParams) -> extent.Pieces:
    """The arrays that a set or penalty acts on, with its parameters."""
    pieces = reach(point, parameters(of, hparams), f"bl.{type(of).__name__}")
    if of.separable:
        refuse_shapes(of, pieces.arguments, extent.ITS_PARAMETERS[reach])
    return pieces


def refuse_shapes(of: Any, arguments: list[tuple], widest: Callable[[tuple], tuple]) -> None:
    """ValueError where a parameter does not broadcast to ``widest(shape)`` for an array (the first of the arguments) of
    the params."""
    names = [field.name for field in dataclasses.fields(of)]
    for array, *values in arguments:
        target = widest(jnp.shape(array))
        for name, value in zip(names, values, strict=True):
            for shape in map(jnp.shape, jax.tree.leaves(value)):
                if not _broadcasts(shape, target):
                    other = f" or an array that broadcasts to {target}" if target else ""
                    raise ValueError(
                        f"{name} of bl.{type(of).__name__} has shape {shape}; on params of shape {jnp.shape(array)} it "
                        f"is a number{other}."
                    )


def _broadcasts(shape: tuple, target: tuple) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(one in (1, other) for one, other in pairs)


def in_one_dtype(function: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    """function(array, *first, *parameters) with all arguments in the dtype of the array, so that float64
    hyperparameters do not promote float32 params. Python numbers stay as they are, and static."""

    def cast(array: jax.Array, *parameters: Any) -> Any:
        array = as_point(array)
        return function(array, *(p if isinstance(p, int) else like(p, array) for p in (*first, *parameters)))

    return cast


def distances(of: Penalty, pieces: extent.Pieces, function: Callable[..., Any], *first: Any) -> PyTree:
    """The distances to the kinks, by a function of an array and the parameters; constants for derivatives."""
    results = jax.lax.stop_gradient(pieces.each(in_one_dtype(function, *first)))
    return pieces.restore(results) if of.separable else results


class ParametricPenalty(Penalty):
    """A penalty on the pieces that ``reach`` makes of a tree. Its fields are, in order, the parameters of its prox, of
    its value and of the distance to its kinks."""

    reach: ClassVar[extent.Extent]
    operator: ClassVar[Callable[..., jax.Array]]  # (point, step_size, *parameters) -> point
    term: ClassVar[Callable[..., Scalar]]  # (point, *parameters) -> scalar
    distance: ClassVar[Callable[..., jax.Array]]  # (point, step_size, *parameters) -> distances to all kinks
    widest: ClassVar[Callable[[tuple], tuple] | None] = None  # shape of an array -> shape of a parameter, if special

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self._pieces(point, hparams).apply(in_one_dtype(type(self).operator, step_size))

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return trees.total(self._pieces(params, hparams).each(in_one_dtype(type(self).term)))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return distances(self, self._pieces(point, hparams), type(self).distance, step_size)

    def _pieces(self, point: Params, hparams: HParams) -> extent.Pieces:
        reach, widest = type(self).reach, type(self).widest
        if reach is extent.everything:  # which would spread its parameters over the vector
            whole = [(leaf, *parameters(self, hparams)) for leaf in jax.tree.leaves(point)]
            refuse_shapes(self, whole, extent.ITS_PARAMETERS[reach])
        pieces = pieces_of(self, reach, point, hparams)
        if not self.separable:
            refuse_shapes(self, pieces.arguments, widest or extent.ITS_PARAMETERS[reach])
        return pieces


def nowhere(x: jax.Array, *parameters: Any) -> jax.Array:
    """The distance to a kink of a smooth prox."""
    return jnp.full_like(x, jnp.inf)
