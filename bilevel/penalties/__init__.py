"""Nonsmooth terms of an inner problem, and the concept they share with feasible sets: a proximal operator."""

from bilevel.penalties.base import Parameter, Penalty, Zero, resolve
from bilevel.penalties.both import Both
from bilevel.penalties.parametric import ParametricPenalty, parameters
from bilevel.penalties.parts import Parts
from bilevel.penalties.terms import (
    L1,
    ElasticNet,
    GroupLasso,
    Huber,
    LInf,
    LogBarrier,
    NonNegativeL1,
    NonNegativeRidge,
    NuclearNorm,
    Ridge,
    SortedL1,
    TotalVariation,
)

__all__ = [
    "L1",
    "Both",
    "ElasticNet",
    "GroupLasso",
    "Huber",
    "LInf",
    "LogBarrier",
    "NonNegativeL1",
    "NonNegativeRidge",
    "NuclearNorm",
    "Parameter",
    "ParametricPenalty",
    "Parts",
    "Penalty",
    "Ridge",
    "SortedL1",
    "TotalVariation",
    "Zero",
    "parameters",
    "resolve",
]
