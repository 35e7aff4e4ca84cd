"""Feasible sets of inner problems."""

from bilevel.constraints.base import Constraint
from bilevel.constraints.catalogue import (
    BoxSection,
    CappedSimplex,
    ExponentialCone,
    Hypercube,
    Isotonic,
    L1Ball,
    L1Sphere,
    L2Ball,
    L2Sphere,
    LInfBall,
    NonNegative,
    PSDCone,
    SecondOrderCone,
    SparseSimplex,
)
from bilevel.constraints.emptiness import is_empty, refuse_empty
from bilevel.constraints.functional import Functional
from bilevel.constraints.linear_sets import AffineSet, Birkhoff, HalfSpace, Hyperplane, Polyhedron, Transport
from bilevel.constraints.sets import Box, Free, Simplex

__all__ = [
    "AffineSet",
    "Birkhoff",
    "Box",
    "BoxSection",
    "CappedSimplex",
    "Constraint",
    "ExponentialCone",
    "Free",
    "Functional",
    "HalfSpace",
    "Hypercube",
    "Hyperplane",
    "Isotonic",
    "L1Ball",
    "L1Sphere",
    "L2Ball",
    "L2Sphere",
    "LInfBall",
    "NonNegative",
    "PSDCone",
    "Polyhedron",
    "SecondOrderCone",
    "Simplex",
    "SparseSimplex",
    "Transport",
    "is_empty",
    "refuse_empty",
]
