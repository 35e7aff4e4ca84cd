"""Nonsmooth terms of an inner loss, on whole trees; every parameter may be a function of the hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel import prox
from bilevel.penalties import extent
from bilevel.penalties.base import Parameter
from bilevel.penalties.parametric import ParametricPenalty, nowhere
from bilevel.prox import kinks


@dataclass(frozen=True, eq=False)
class L1(ParametricPenalty):
    """weight * ||w||_1, the lasso penalty; ``weight`` is a number, an array like w, or a function of hparams.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.L1(weight=jnp.exp).prox(jnp.array([3.0, -0.5]), 1.0, 0.0).tolist()
    [2.0, 0.0]
    """

    weight: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.l1)
    term = staticmethod(lambda w, weight: jnp.sum(weight * jnp.abs(w)))
    distance = staticmethod(kinks.l1)


@dataclass(frozen=True, eq=False)
class ElasticNet(ParametricPenalty):
    """l1 * ||w||_1 + l2/2 * ||w||^2 (Zou and Hastie, 2005).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.ElasticNet(l1=1.0, l2=1.0).prox(jnp.array([3.0, 0.5]), 1.0, None).tolist()
    [1.0, 0.0]
    """

    l1: Parameter
    l2: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.elastic_net)
    term = staticmethod(lambda w, l1, l2: jnp.sum(l1 * jnp.abs(w) + 0.5 * l2 * w**2))
    distance = staticmethod(kinks.l1)


@dataclass(frozen=True, eq=False)
class NonNegativeL1(ParametricPenalty):
    """weight * sum(w) over w >= 0: a sparse non-negative solution."""

    weight: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.non_negative_l1)
    term = staticmethod(lambda w, weight: jnp.sum(weight * w))
    distance = staticmethod(kinks.non_negative_l1)


@dataclass(frozen=True, eq=False)
class Ridge(ParametricPenalty):
    """weight/2 * ||w||^2 by its prox; a smooth term, which may as well stand in the loss."""

    weight: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.ridge)
    term = staticmethod(lambda w, weight: 0.5 * jnp.sum(weight * w**2))
    distance = staticmethod(nowhere)


@dataclass(frozen=True, eq=False)
class NonNegativeRidge(ParametricPenalty):
    """weight/2 * ||w||^2 over w >= 0."""

    weight: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.non_negative_ridge)
    term = staticmethod(lambda w, weight: 0.5 * jnp.sum(weight * w**2))
    distance = staticmethod(kinks.non_negative_ridge)


@dataclass(frozen=True, eq=False)
class GroupLasso(ParametricPenalty):
    """weight * sum over groups of ||w_group||_2, a group being a row along the last axis (Yuan and Lin, 2006).
    ``weight`` is a number, or one for each group.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.GroupLasso(weight=5.0).prox(jnp.array([[6.0, 8.0], [1.0, 1.0]]), 1.0, None).tolist()
    [[3.0, 4.0], [0.0, 0.0]]
    """

    weight: Parameter
    by_rows: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.rows)
    operator = staticmethod(prox.group_lasso)
    term = staticmethod(lambda w, weight: jnp.sum(weight * jnp.linalg.norm(w, axis=-1)))
    distance = staticmethod(kinks.group_lasso)


@dataclass(frozen=True, eq=False)
class LInf(ParametricPenalty):
    """weight * max |w|."""

    weight: Parameter
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.everything)
    operator = staticmethod(prox.l_inf)
    term = staticmethod(lambda w, weight: weight * jnp.max(jnp.abs(w), initial=0))
    distance = staticmethod(kinks.l_inf)


@dataclass(frozen=True, eq=False)
class NuclearNorm(ParametricPenalty):
    """weight * the sum of the singular values of a matrix: low rank."""

    weight: Parameter
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.matrix)
    operator = staticmethod(prox.nuclear_norm)
    term = staticmethod(lambda w, weight: weight * jnp.sum(jnp.linalg.svd(w, compute_uv=False)))
    distance = staticmethod(kinks.nuclear_norm)


@dataclass(frozen=True, eq=False)
class TotalVariation(ParametricPenalty):
    """sum weight_i |w_{i+1} - w_i| along the last axis: piecewise constant (Rudin, Osher and Fatemi, 1992).

    ``weight`` is a number, or one for each neighbouring pair.
    """

    weight: Parameter
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.rows)
    operator = staticmethod(prox.total_variation)
    term = staticmethod(lambda w, weight: jnp.sum(weight * jnp.abs(jnp.diff(w, axis=-1))))
    distance = staticmethod(kinks.total_variation)
    widest = staticmethod(lambda shape: (*shape[:-1], max(shape[-1] - 1, 0)))


@dataclass(frozen=True, eq=False)
class SortedL1(ParametricPenalty):
    """sum_i weights_(i) |w|_(i) along the last axis, both sorted downwards (SLOPE; Bogdan et al., 2015).

    ``weights`` is a number, or one for each entry in any order, none negative.
    """

    weights: Parameter
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.rows)
    operator = staticmethod(prox.sorted_l1)
    term = staticmethod(lambda w, weights: jnp.sum(_descending(weights) * _descending(jnp.abs(w))))
    distance = staticmethod(kinks.sorted_l1)
    widest = staticmethod(lambda shape: shape[-1:])


@dataclass(frozen=True, eq=False)
class Huber(ParametricPenalty):
    """weight * sum of w^2/2 where |w| <= delta, else delta |w| - delta^2/2."""

    weight: Parameter
    delta: Parameter = 1.0
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.huber)
    term = staticmethod(
        lambda w, weight, delta: jnp.sum(
            weight * jnp.where(jnp.abs(w) <= delta, 0.5 * w**2, delta * (jnp.abs(w) - 0.5 * delta))
        )
    )
    distance = staticmethod(kinks.huber)


@dataclass(frozen=True, eq=False)
class LogBarrier(ParametricPenalty):
    """-weight * sum(log w), over w > 0."""

    weight: Parameter
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    reach = staticmethod(extent.entries)
    operator = staticmethod(prox.log_barrier)
    term = staticmethod(lambda w, weight: -jnp.sum(weight * jnp.log(w)))
    distance = staticmethod(kinks.log_barrier)


def _descending(x: jax.Array) -> jax.Array:
    return jnp.sort(x, axis=-1, descending=True) if jnp.ndim(x) else x
