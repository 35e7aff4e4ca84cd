"""Inner solvers: each an init and a step, driven by the one loop."""

from bilevel.solvers.active_set_newton import ActiveSetNewton
from bilevel.solvers.anderson import Anderson
from bilevel.solvers.auto import Auto
from bilevel.solvers.base import Solver, State
from bilevel.solvers.block_coordinate_descent import BlockCoordinateDescent
from bilevel.solvers.broyden import Broyden
from bilevel.solvers.clarabel import Clarabel
from bilevel.solvers.fire import FIRE
from bilevel.solvers.fixed_point import FixedPointIteration
from bilevel.solvers.fixed_steps import take_steps
from bilevel.solvers.gradient_descent import GradientDescent
from bilevel.solvers.host import Host
from bilevel.solvers.instance import Instance
from bilevel.solvers.interior_point import InteriorPoint
from bilevel.solvers.lbfgs import LBFGS
from bilevel.solvers.lbfgsb import LBFGSB
from bilevel.solvers.loop import Outcome, iterate, unroll
from bilevel.solvers.mirror_descent import MirrorDescent
from bilevel.solvers.newton import Newton
from bilevel.solvers.operator_splitting import OperatorSplitting
from bilevel.solvers.optax import Optax
from bilevel.solvers.optimistix import Optimistix
from bilevel.solvers.proximal_gradient import ProximalGradient
from bilevel.solvers.proximal_newton import ProximalNewton
from bilevel.solvers.scikit_learn import ScikitLearn
from bilevel.solvers.scipy import SciPy
from bilevel.solvers.spectral_proximal_gradient import SpectralProximalGradient
from bilevel.solvers.working_set import WorkingSet

__all__ = [
    "FIRE",
    "LBFGS",
    "LBFGSB",
    "ActiveSetNewton",
    "Anderson",
    "Auto",
    "BlockCoordinateDescent",
    "Broyden",
    "Clarabel",
    "FixedPointIteration",
    "GradientDescent",
    "Host",
    "Instance",
    "InteriorPoint",
    "MirrorDescent",
    "Newton",
    "OperatorSplitting",
    "Optax",
    "Optimistix",
    "Outcome",
    "ProximalGradient",
    "ProximalNewton",
    "SciPy",
    "ScikitLearn",
    "Solver",
    "SpectralProximalGradient",
    "State",
    "WorkingSet",
    "iterate",
    "take_steps",
    "unroll",
]
