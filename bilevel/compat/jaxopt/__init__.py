"""JAXopt's names and calling conventions on bilevel's solvers: ``from bilevel.compat import jaxopt``.

`docs/migrating-from-jaxopt.md` lists each name with what it is here and what it is called in bilevel itself.
"""

from bilevel.compat.jaxopt import (
    base as base,
    cond as cond,
    implicit_diff as implicit_diff,
    isotonic as isotonic,
    linear_solve as linear_solve,
    loop as loop,
    loss as loss,
    objective as objective,
    perturbations as perturbations,
    projection as projection,
    prox as prox,
    tree_util as tree_util,
)
from bilevel.compat.jaxopt.bisection import Bisection
from bilevel.compat.jaxopt.block import BlockCoordinateDescent
from bilevel.compat.jaxopt.boxes import BoxCDQP, BoxOSQP
from bilevel.compat.jaxopt.common import OptStep
from bilevel.compat.jaxopt.gradient import GradientDescent, ProjectedGradient, ProximalGradient
from bilevel.compat.jaxopt.mirror import MirrorDescent
from bilevel.compat.jaxopt.programs import OSQP, CvxpyQP, EqualityConstrainedQP
from bilevel.compat.jaxopt.quasi_newton import BFGS, LBFGS, LBFGSB, NonlinearCG
from bilevel.compat.jaxopt.refinement import IterativeRefinement
from bilevel.compat.jaxopt.roots import AndersonAcceleration, AndersonWrapper, Broyden, FixedPointIteration
from bilevel.compat.jaxopt.scipy_wrappers import ScipyBoundedMinimize, ScipyMinimize, ScipyRootFinding
from bilevel.compat.jaxopt.searches import BacktrackingLineSearch, HagerZhangLineSearch, ZoomLineSearch
from bilevel.compat.jaxopt.squares import (
    GaussNewton,
    LevenbergMarquardt,
    ScipyBoundedLeastSquares,
    ScipyLeastSquares,
)
from bilevel.compat.jaxopt.stochastic import ArmijoSGD, OptaxSolver, PolyakSGD

__all__ = [
    "BFGS",
    "LBFGS",
    "LBFGSB",
    "OSQP",
    "AndersonAcceleration",
    "AndersonWrapper",
    "ArmijoSGD",
    "BacktrackingLineSearch",
    "Bisection",
    "BlockCoordinateDescent",
    "BoxCDQP",
    "BoxOSQP",
    "Broyden",
    "CvxpyQP",
    "EqualityConstrainedQP",
    "FixedPointIteration",
    "GaussNewton",
    "GradientDescent",
    "HagerZhangLineSearch",
    "IterativeRefinement",
    "LevenbergMarquardt",
    "MirrorDescent",
    "NonlinearCG",
    "OptStep",
    "OptaxSolver",
    "PolyakSGD",
    "ProjectedGradient",
    "ProximalGradient",
    "ScipyBoundedLeastSquares",
    "ScipyBoundedMinimize",
    "ScipyLeastSquares",
    "ScipyMinimize",
    "ScipyRootFinding",
    "ZoomLineSearch",
]
