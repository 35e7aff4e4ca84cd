"""The feasible sets of `bilevel.projections`, for an inner problem. Each acts leaf by leaf; every parameter may be a
function of the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax

from bilevel import projections
from bilevel.constraints.base import Constraint
from bilevel.foundation.typing import HParams, Params
from bilevel.penalties import Parameter, on_leaves, parameters, resolve


class ParametricSet(Constraint):
    """A set whose fields are, in order, the parameters of its projection."""

    operator: ClassVar[Callable[..., jax.Array]]  # (point, *parameters) -> point

    def project(self, point: Params, hparams: HParams) -> Params:
        return on_leaves(type(self).operator, point, *parameters(self, hparams))


@dataclass(frozen=True, eq=False)
class NonNegative(ParametricSet):
    """{w: w >= 0}.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.NonNegative().project(jnp.array([-1.0, 2.0]), None).tolist()
    [0.0, 2.0]
    """

    separable: ClassVar[bool] = True
    operator = staticmethod(projections.non_negative)


@dataclass(frozen=True, eq=False)
class Hypercube(ParametricSet):
    """{w: 0 <= w <= side}."""

    side: Parameter = 1.0
    separable: ClassVar[bool] = True
    operator = staticmethod(projections.hypercube)


@dataclass(frozen=True, eq=False)
class CappedSimplex(ParametricSet):
    """{w: 0 <= w <= upper, sum of w along the last axis = total}."""

    upper: Parameter = 1.0
    total: Parameter = 1.0
    operator = staticmethod(projections.capped_simplex)


@dataclass(frozen=True, eq=False)
class L1Ball(ParametricSet):
    """{w: ||w||_1 <= radius}.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.L1Ball(radius=1.0).project(jnp.array([2.0, 0.5]), None).tolist()
    [1.0, 0.0]
    """

    radius: Parameter = 1.0
    operator = staticmethod(projections.l1_ball)


@dataclass(frozen=True, eq=False)
class L2Ball(ParametricSet):
    """{w: ||w||_2 <= radius}."""

    radius: Parameter = 1.0
    operator = staticmethod(projections.l2_ball)


@dataclass(frozen=True, eq=False)
class LInfBall(ParametricSet):
    """{w: max |w| <= radius}."""

    radius: Parameter = 1.0
    separable: ClassVar[bool] = True
    operator = staticmethod(projections.linf_ball)


@dataclass(frozen=True, eq=False)
class BoxSection(ParametricSet):
    """{w: lower <= w <= upper, weights'w = total}, along the last axis."""

    lower: Parameter
    upper: Parameter
    weights: Parameter
    total: Parameter
    operator = staticmethod(projections.box_section)


@dataclass(frozen=True, eq=False)
class Isotonic(ParametricSet):
    """{w: w_1 <= w_2 <= ... along the last axis}."""

    operator = staticmethod(projections.isotonic)


@dataclass(frozen=True, eq=False)
class SecondOrderCone(ParametricSet):
    """{(t, z): ||z||_2 <= t}, t first along the last axis."""

    operator = staticmethod(projections.second_order_cone)


@dataclass(frozen=True, eq=False)
class PSDCone(ParametricSet):
    """The symmetric positive semidefinite matrices."""

    operator = staticmethod(projections.psd_cone)


@dataclass(frozen=True, eq=False)
class ExponentialCone(ParametricSet):
    """The exponential cone, in the convention of `bilevel.projections.exponential_cone`."""

    operator = staticmethod(projections.exponential_cone)


@dataclass(frozen=True, eq=False)
class L1Sphere(ParametricSet):
    """{w: ||w||_1 = radius}; not convex, so the projection is a nearest point."""

    radius: Parameter = 1.0
    operator = staticmethod(projections.l1_sphere)


@dataclass(frozen=True, eq=False)
class L2Sphere(ParametricSet):
    """{w: ||w||_2 = radius}; not convex, so the projection is a nearest point."""

    radius: Parameter = 1.0
    operator = staticmethod(projections.l2_sphere)


@dataclass(frozen=True, eq=False)
class SparseSimplex(Constraint):
    """The points of a scaled simplex with at most ``max_nonzeros`` entries; not convex (Kyrillidis et al., 2013)."""

    max_nonzeros: int
    total: Parameter = 1.0

    def project(self, point: Params, hparams: HParams) -> Params:
        def on_leaf(leaf: jax.Array, total: jax.Array) -> jax.Array:
            return projections.sparse_simplex(leaf, self.max_nonzeros, total)

        return on_leaves(on_leaf, point, resolve(self.total, hparams))
