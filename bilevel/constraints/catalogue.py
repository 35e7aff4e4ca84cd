"""The feasible sets of `bilevel.projections`, for an inner problem. Each acts on whole trees; every parameter may be a
function of the hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bilevel import projections
from bilevel.constraints.parametric import ParametricSet, Projection
from bilevel.penalties import Parameter, extent
from bilevel.projections import kinks


@dataclass(frozen=True, eq=False)
class NonNegative(ParametricSet):
    """{w: w >= 0}.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.NonNegative().project(jnp.array([-1.0, 2.0]), None).tolist()
    [0.0, 2.0]
    """

    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    projection = Projection(extent.entries, projections.non_negative, kinks.non_negative)


@dataclass(frozen=True, eq=False)
class Hypercube(ParametricSet):
    """{w: 0 <= w <= side}."""

    side: Parameter = 1.0
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    projection = Projection(extent.entries, projections.hypercube, kinks.hypercube)


@dataclass(frozen=True, eq=False)
class CappedSimplex(ParametricSet):
    """{w: 0 <= w <= upper, sum of w along the last axis = total}."""

    upper: Parameter = 1.0
    total: Parameter = 1.0
    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.capped_simplex, kinks.capped_simplex)


@dataclass(frozen=True, eq=False)
class L1Ball(ParametricSet):
    """{w: ||w||_1 <= radius}.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.L1Ball(radius=1.0).project(jnp.array([2.0, 0.5]), None).tolist()
    [1.0, 0.0]
    """

    radius: Parameter = 1.0
    convex: ClassVar[bool] = True
    projection = Projection(extent.everything, projections.l1_ball, kinks.l1_ball)


@dataclass(frozen=True, eq=False)
class L2Ball(ParametricSet):
    """{w: ||w||_2 <= radius}."""

    radius: Parameter = 1.0
    convex: ClassVar[bool] = True
    projection = Projection(extent.everything, projections.l2_ball, kinks.l2_ball)


@dataclass(frozen=True, eq=False)
class LInfBall(ParametricSet):
    """{w: max |w| <= radius}."""

    radius: Parameter = 1.0
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    projection = Projection(extent.entries, projections.linf_ball, kinks.linf_ball)


@dataclass(frozen=True, eq=False)
class BoxSection(ParametricSet):
    """{w: lower <= w <= upper, weights'w = total}, along the last axis."""

    lower: Parameter
    upper: Parameter
    weights: Parameter
    total: Parameter
    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.box_section, kinks.box_section)


@dataclass(frozen=True, eq=False)
class Isotonic(ParametricSet):
    """{w: w_1 <= w_2 <= ... along the last axis}."""

    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.isotonic, kinks.isotonic)


@dataclass(frozen=True, eq=False)
class SecondOrderCone(ParametricSet):
    """{(t, z): ||z||_2 <= t}, t first along the last axis."""

    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.second_order_cone, kinks.second_order_cone)


@dataclass(frozen=True, eq=False)
class PSDCone(ParametricSet):
    """The symmetric positive semidefinite matrices."""

    convex: ClassVar[bool] = True
    projection = Projection(extent.matrix, projections.psd_cone, kinks.psd_cone)


@dataclass(frozen=True, eq=False)
class ExponentialCone(ParametricSet):
    """The exponential cone, in the convention of `bilevel.projections.exponential_cone`."""

    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.exponential_cone, kinks.exponential_cone)


@dataclass(frozen=True, eq=False)
class L1Sphere(ParametricSet):
    """{w: ||w||_1 = radius}; not convex, so the projection is a nearest point."""

    radius: Parameter = 1.0
    projection = Projection(extent.everything, projections.l1_sphere, kinks.l1_sphere)


@dataclass(frozen=True, eq=False)
class L2Sphere(ParametricSet):
    """{w: ||w||_2 = radius}; not convex, so the projection is a nearest point."""

    radius: Parameter = 1.0
    projection = Projection(extent.everything, projections.l2_sphere, kinks.l2_sphere)


@dataclass(frozen=True, eq=False)
class SparseSimplex(ParametricSet):
    """The points of a scaled simplex with at most ``max_nonzeros`` entries along the last axis; not convex (Kyrillidis
    et al., 2013)."""

    max_nonzeros: int
    total: Parameter = 1.0
    projection = Projection(extent.rows, projections.sparse_simplex, kinks.sparse_simplex)
