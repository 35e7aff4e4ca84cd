"""Inner solvers: each an init and a step, driven by the one loop."""

from bilevel.solvers.auto import Auto
from bilevel.solvers.base import Solver, State
from bilevel.solvers.first_order.anderson import Anderson
from bilevel.solvers.first_order.anderson_wrapper import AndersonWrapper
from bilevel.solvers.first_order.block_coordinate_descent import BlockCoordinateDescent
from bilevel.solvers.first_order.fire import FIRE
from bilevel.solvers.first_order.fixed_point import FixedPointIteration
from bilevel.solvers.first_order.gradient_descent import GradientDescent
from bilevel.solvers.first_order.mirror_descent import MirrorDescent
from bilevel.solvers.first_order.proximal_gradient import ProximalGradient
from bilevel.solvers.first_order.spectral_proximal_gradient import SpectralProximalGradient
from bilevel.solvers.first_order.stochastic_step import ArmijoSGD, PolyakSGD
from bilevel.solvers.first_order.working_set import WorkingSet
from bilevel.solvers.fixed_steps import take_steps
from bilevel.solvers.instance import Instance
from bilevel.solvers.line_searches import line_search
from bilevel.solvers.loop import Outcome, iterate, unroll
from bilevel.solvers.outside.clarabel import Clarabel
from bilevel.solvers.outside.host import Host
from bilevel.solvers.outside.optax import Optax
from bilevel.solvers.outside.optimistix import Optimistix
from bilevel.solvers.outside.scikit_learn import ScikitLearn
from bilevel.solvers.outside.scipy import SciPy
from bilevel.solvers.outside.scipy_least_squares import SciPyLeastSquares
from bilevel.solvers.programs.interior_point import InteriorPoint
from bilevel.solvers.programs.operator_splitting import OperatorSplitting
from bilevel.solvers.programs.sparse_interior_point import SparseInteriorPoint
from bilevel.solvers.second_order.active_set_newton import ActiveSetNewton
from bilevel.solvers.second_order.broyden import Broyden
from bilevel.solvers.second_order.dogleg import Dogleg
from bilevel.solvers.second_order.gauss_newton import GaussNewton
from bilevel.solvers.second_order.lbfgs import LBFGS
from bilevel.solvers.second_order.lbfgsb import LBFGSB
from bilevel.solvers.second_order.levenberg_marquardt import LevenbergMarquardt
from bilevel.solvers.second_order.newton import Newton
from bilevel.solvers.second_order.projected_newton import ProjectedNewton
from bilevel.solvers.second_order.proximal_newton import ProximalNewton

__all__ = [
    "FIRE",
    "LBFGS",
    "LBFGSB",
    "ActiveSetNewton",
    "Anderson",
    "AndersonWrapper",
    "ArmijoSGD",
    "Auto",
    "BlockCoordinateDescent",
    "Broyden",
    "Clarabel",
    "Dogleg",
    "FixedPointIteration",
    "GaussNewton",
    "GradientDescent",
    "Host",
    "Instance",
    "InteriorPoint",
    "LevenbergMarquardt",
    "MirrorDescent",
    "Newton",
    "OperatorSplitting",
    "Optax",
    "Optimistix",
    "Outcome",
    "PolyakSGD",
    "ProjectedNewton",
    "ProximalGradient",
    "ProximalNewton",
    "SciPy",
    "SciPyLeastSquares",
    "ScikitLearn",
    "Solver",
    "SparseInteriorPoint",
    "SpectralProximalGradient",
    "State",
    "WorkingSet",
    "iterate",
    "line_search",
    "take_steps",
    "unroll",
]
