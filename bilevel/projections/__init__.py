"""Projections: functions ``(point, *parameters)`` that return the nearest point of a set.

Values and derivatives, in the point and in every parameter, are exact and finite at kinks. Where no point is feasible
the result is NaN, never a plausible wrong point.
"""

from bilevel.projections.affine import affine_set, halfspace, hyperplane, polyhedron
from bilevel.projections.box_section import box_section, capped_simplex
from bilevel.projections.cones import psd_cone, second_order_cone
from bilevel.projections.elementwise import box, hypercube, linf_ball, non_negative
from bilevel.projections.exponential import exponential_cone
from bilevel.projections.monotone import isotonic
from bilevel.projections.norm_balls import l1_ball, l1_sphere, l2_ball, l2_sphere
from bilevel.projections.simplex import simplex, simplex_kl, sparse_simplex
from bilevel.projections.transport import birkhoff, transport
from bilevel.projections.transport_kl import birkhoff_kl, transport_kl

__all__ = [
    "affine_set",
    "birkhoff",
    "birkhoff_kl",
    "box",
    "box_section",
    "capped_simplex",
    "exponential_cone",
    "halfspace",
    "hypercube",
    "hyperplane",
    "isotonic",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "non_negative",
    "polyhedron",
    "psd_cone",
    "second_order_cone",
    "simplex",
    "simplex_kl",
    "sparse_simplex",
    "transport",
    "transport_kl",
]
