"""Feasible sets of inner problems."""

from bilevel.constraints.base import Constraint
from bilevel.constraints.catalogue import (
    BoxSection,
    CappedSimplex,
    ExponentialCone,
    Hypercube,
    Isotonic,
    L1Ball,
    L2Ball,
    LInfBall,
    NonNegative,
    PSDCone,
    SecondOrderCone,
)
from bilevel.constraints.functional import Functional
from bilevel.constraints.sets import Box, Free, Simplex

__all__ = [
    "Box",
    "BoxSection",
    "CappedSimplex",
    "Constraint",
    "ExponentialCone",
    "Free",
    "Functional",
    "Hypercube",
    "Isotonic",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "NonNegative",
    "PSDCone",
    "SecondOrderCone",
    "Simplex",
]
