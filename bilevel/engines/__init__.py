"""Hypergradient engines."""

from bilevel.engines.auto import AutoEngine
from bilevel.engines.base import GRADES, Carry, Engine, Point, Report
from bilevel.engines.implicit_function.adaptive import Adaptive
from bilevel.engines.implicit_function.bound import Constants
from bilevel.engines.implicit_function.closed_form import ClosedForm
from bilevel.engines.implicit_function.implicit import Implicit
from bilevel.engines.implicit_function.tolerances import ErrorDriven, Schedule, Summable
from bilevel.engines.stochastic.double_loop import F2SA, AmIGO, StocBiO
from bilevel.engines.stochastic.recursive import SRBA
from bilevel.engines.stochastic.single_loop import SABA, SOBA
from bilevel.engines.unrolling.iterative import Forward, Unrolled
from bilevel.engines.unrolling.truncated import OneStep, Truncated

__all__ = [
    "F2SA",
    "GRADES",
    "SABA",
    "SOBA",
    "SRBA",
    "Adaptive",
    "AmIGO",
    "AutoEngine",
    "Carry",
    "ClosedForm",
    "Constants",
    "Engine",
    "ErrorDriven",
    "Forward",
    "Implicit",
    "OneStep",
    "Point",
    "Report",
    "Schedule",
    "StocBiO",
    "Summable",
    "Truncated",
    "Unrolled",
]
