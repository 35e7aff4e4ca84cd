"""Hypergradient engines."""

from bilevel.engines.adaptive import Adaptive
from bilevel.engines.auto import AutoEngine
from bilevel.engines.base import GRADES, Bilevel, Carry, Engine, Point, Report
from bilevel.engines.bound import Constants
from bilevel.engines.closed_form import ClosedForm
from bilevel.engines.double_loop import F2SA, AmIGO, StocBiO
from bilevel.engines.implicit import Implicit
from bilevel.engines.iterative import Forward, Unrolled
from bilevel.engines.recursive import SRBA
from bilevel.engines.single_loop import SABA, SOBA
from bilevel.engines.tolerances import ErrorDriven, Schedule, Summable
from bilevel.engines.truncated import OneStep, Truncated

__all__ = [
    "F2SA",
    "GRADES",
    "SABA",
    "SOBA",
    "SRBA",
    "Adaptive",
    "AmIGO",
    "AutoEngine",
    "Bilevel",
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
