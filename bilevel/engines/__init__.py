"""Hypergradient engines."""

from bilevel.engines.base import GRADES, Bilevel, Carry, Engine, Point, Report
from bilevel.engines.bound import Constants
from bilevel.engines.implicit import Implicit
from bilevel.engines.iterative import Forward, OneStep, Unrolled

__all__ = [
    "GRADES",
    "Bilevel",
    "Carry",
    "Constants",
    "Engine",
    "Forward",
    "Implicit",
    "OneStep",
    "Point",
    "Report",
    "Unrolled",
]
