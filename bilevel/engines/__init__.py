"""Hypergradient engines."""

from bilevel.engines.base import GRADES, Bilevel, Carry, Engine, Point, Report
from bilevel.engines.implicit import Implicit
from bilevel.engines.iterative import Forward, OneStep, Unrolled

__all__ = ["GRADES", "Bilevel", "Carry", "Engine", "Forward", "Implicit", "OneStep", "Point", "Report", "Unrolled"]
