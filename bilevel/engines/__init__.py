"""Hypergradient engines."""

from bilevel.engines.auto import AutoEngine
from bilevel.engines.base import GRADES, Carry, Engine, Point, Report
from bilevel.engines.implicit_function.adaptive import Adaptive
from bilevel.engines.implicit_function.bound import Constants
from bilevel.engines.implicit_function.closed_form import ClosedForm
from bilevel.engines.implicit_function.implicit import Implicit
from bilevel.engines.implicit_function.tolerances import ErrorDriven, Schedule, Summable
from bilevel.engines.stochastic.amigo import AmIGO
from bilevel.engines.stochastic.bome import BOME
from bilevel.engines.stochastic.bsa import BSA
from bilevel.engines.stochastic.f2sa import F2SA
from bilevel.engines.stochastic.fsla import FSLA
from bilevel.engines.stochastic.ma_soba import MASOBA
from bilevel.engines.stochastic.meha import MEHA
from bilevel.engines.stochastic.mrbo import MRBO
from bilevel.engines.stochastic.saba import SABA
from bilevel.engines.stochastic.single_loop import SOBA
from bilevel.engines.stochastic.srba import SRBA
from bilevel.engines.stochastic.steps import PowerLaw
from bilevel.engines.stochastic.stocbio import StocBiO
from bilevel.engines.stochastic.sustain import SUSTAIN
from bilevel.engines.stochastic.ttsa import TTSA
from bilevel.engines.stochastic.v_pbgd import VPBGD
from bilevel.engines.stochastic.vrbo import VRBO
from bilevel.engines.unrolling.iterative import Forward, Unrolled
from bilevel.engines.unrolling.truncated import OneStep, Truncated

__all__ = [
    "BOME",
    "BSA",
    "F2SA",
    "FSLA",
    "GRADES",
    "MASOBA",
    "MEHA",
    "MRBO",
    "SABA",
    "SOBA",
    "SRBA",
    "SUSTAIN",
    "TTSA",
    "VPBGD",
    "VRBO",
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
    "PowerLaw",
    "Report",
    "Schedule",
    "StocBiO",
    "Summable",
    "Truncated",
    "Unrolled",
]
