"""Nonsmooth terms and feasible sets of an inner problem: one concept, a proximal operator."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from bilevel import prox
from bilevel.foundation.typing import HParams, Params, PyTree, Scalar

Parameter: TypeAlias = Any  # a number or array (or pytree), or a function hparams -> one of these


def resolve(parameter: Parameter, hparams: HParams) -> Any:
    """A parameter of a set or penalty: itself, or its value at the hyperparameters if it is a function of them."""
    return parameter(hparams) if callable(parameter) else parameter


def on_leaves(operator: Callable[..., jax.Array], point: PyTree, *parameters: Any) -> PyTree:
    """operator(leaf, *parameters) on each leaf; a parameter is shared by all leaves or a pytree like ``point``."""
    structure = jax.tree.structure(point)
    spread = [
        parameter if jax.tree.structure(parameter) == structure else jax.tree.map(lambda _, p=parameter: p, point)
        for parameter in parameters
    ]
    return jax.tree.map(operator, point, *spread)


class Penalty(abc.ABC):
    """A convex term added to the inner loss, known by its proximal operator; a feasible set is the case of a
    projection. Every parameter is an array or a function of the hyperparameters."""

    separable: ClassVar[bool] = False  # a sum of terms in single coordinates: then a box may be combined with it
    smooth: ClassVar[bool] = False  # the prox is the identity
    zero_rows: ClassVar[bool] = True  # whole rows of a solution may be zero

    @abc.abstractmethod
    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        """argmin over w of step_size * value(w) + 1/2 ||w - point||^2."""

    @abc.abstractmethod
    def value(self, params: Params, hparams: HParams) -> Scalar:
        """The term itself at ``params`` (of a set: 0, the iterates of the solvers being feasible)."""

    @property
    def as_set(self) -> Penalty:
        """The part that restricts where the solution may lie: itself, unless it is one of several."""
        return self

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        """How far each coordinate of ``point`` is from where the derivative of the prox jumps; NaN where not known."""
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), point)


@dataclass(frozen=True, eq=False)
class Zero(Penalty):
    """No penalty: the inner problem is smooth."""

    smooth: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return point

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return jnp.zeros(())


@dataclass(frozen=True, eq=False)
class L1(Penalty):
    """weight * ||w||_1, the lasso penalty; ``weight`` is a number, an array like w, or a function of hparams.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.L1(weight=jnp.exp).prox(jnp.array([3.0, -0.5]), 1.0, 0.0).tolist()
    [2.0, 0.0]
    """

    weight: Parameter
    separable: ClassVar[bool] = True

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return on_leaves(lambda leaf, weight: prox.l1(leaf, step_size, weight), point, resolve(self.weight, hparams))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        def distance(leaf: jax.Array, weight: jax.Array) -> jax.Array:
            return jnp.abs(jnp.abs(leaf) - step_size * weight)

        return on_leaves(distance, point, resolve(self.weight, hparams))

    def value(self, params: Params, hparams: HParams) -> Scalar:
        terms = on_leaves(lambda leaf, weight: jnp.sum(weight * jnp.abs(leaf)), params, resolve(self.weight, hparams))
        return sum(jax.tree.leaves(terms), jnp.zeros(()))
