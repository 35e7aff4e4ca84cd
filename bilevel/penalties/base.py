"""Nonsmooth terms and feasible sets of an inner problem: one concept, a proximal operator."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams, Params, PyTree, Scalar

Parameter: TypeAlias = Any  # a number or array (or pytree), or a function hparams -> one of these


def resolve(parameter: Parameter, hparams: HParams) -> Any:
    """A parameter of a set or penalty: itself, or its value at the hyperparameters if it is a function of them."""
    return parameter(hparams) if callable(parameter) else parameter


def nothing(params: Params) -> Scalar:
    """Zero in the dtype of ``params``: the value of a term that adds nothing to an objective."""
    return jnp.zeros((), jnp.result_type(*(jax.tree.leaves(params) or [float])))


def not_known(point: Params) -> PyTree:
    """The distances to the kinks of a term that is known by its values alone: NaN."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), point)


class Penalty(abc.ABC):
    """A term added to the inner loss, known by its proximal operator; a feasible set is the case of a projection. Terms
    of the catalogue are convex, and so are its sets unless they say otherwise. Every parameter is an array or a
    function of the hyperparameters. A term or set acts on whole params, not leaf by leaf: use `bl.Parts` for separate
    parts."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # for checkers: `dataclasses.replace` takes every penalty
    separable: ClassVar[bool] = False  # a sum of terms in single coordinates, so that a box may be combined with it
    smooth: ClassVar[bool] = False  # the prox is the identity
    convex: ClassVar[bool] = False  # known to be convex, so that a look at the loss alone may tell a minimum
    is_set: ClassVar[bool] = False  # a feasible set: its value is 0, and its prox a projection for every step size
    by_rows: ClassVar[bool] = False  # a sum over the rows of an array, whose parameters are numbers, or one a row
    zero_rows: ClassVar[bool] = True  # whole rows of a solution may be zero

    @abc.abstractmethod
    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        """argmin over w of step_size * value(w) + 1/2 ||w - point||^2."""

    @abc.abstractmethod
    def value(self, params: Params, hparams: HParams) -> Scalar:
        """The term at ``params``; of a set it is 0, because the iterates of the solvers are feasible."""

    @property
    def as_set(self) -> Penalty:
        """The part that is a feasible set: itself, unless it combines several."""
        return self

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        """How far ``point`` is from where the derivative of the prox jumps: an array or a pytree of the distances to
        all such places (coordinate by coordinate, like ``point``, if separable), infinity where nothing jumps. NaN
        where it is not known: then no error of a derivative is claimed."""
        return not_known(point)


@dataclass(frozen=True, eq=False)
class Zero(Penalty):
    """No penalty: the inner problem is smooth."""

    smooth: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return point

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return nothing(params)

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), point)
