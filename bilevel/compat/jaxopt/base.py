"""The names of `jaxopt.base`."""

from typing import TypeAlias

from bilevel.compat.jaxopt.common import KKTSolution, LinearOperator, LineSearchStep, OptStep, Solver
from bilevel.compat.jaxopt.iteration import IterativeSolver
from bilevel.compat.jaxopt.stochastic import StochasticSolver

AutoOrBoolean: TypeAlias = str | bool

__all__ = [
    "AutoOrBoolean",
    "IterativeSolver",
    "KKTSolution",
    "LineSearchStep",
    "LinearOperator",
    "OptStep",
    "Solver",
    "StochasticSolver",
]
