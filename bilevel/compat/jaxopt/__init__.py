"""JAXopt's names and calling conventions on bilevel's solvers: ``from bilevel.compat import jaxopt``.

`docs/migrating-from-jaxopt.md` lists each name with what it is here and what it is called in bilevel itself.
"""

from bilevel.compat.jaxopt import (
    base as base,
    implicit_diff as implicit_diff,
    isotonic as isotonic,
    linear_solve as linear_solve,
    loss as loss,
    objective as objective,
    perturbations as perturbations,
    projection as projection,
    prox as prox,
    tree_util as tree_util,
)
from bilevel.compat.jaxopt.base import OptStep
from bilevel.compat.jaxopt.gradient import GradientDescent, ProjectedGradient, ProximalGradient
from bilevel.compat.jaxopt.programs import OSQP, BoxCDQP, BoxOSQP, CvxpyQP, EqualityConstrainedQP
from bilevel.compat.jaxopt.quasi_newton import BFGS, LBFGS, LBFGSB, NonlinearCG
from bilevel.compat.jaxopt.roots import AndersonAcceleration, Broyden, FixedPointIteration
from bilevel.compat.jaxopt.scipy_wrappers import ScipyBoundedMinimize, ScipyMinimize, ScipyRootFinding
from bilevel.compat.jaxopt.stochastic import OptaxSolver

__all__ = [
    "BFGS",
    "LBFGS",
    "LBFGSB",
    "OSQP",
    "AndersonAcceleration",
    "BoxCDQP",
    "BoxOSQP",
    "Broyden",
    "CvxpyQP",
    "EqualityConstrainedQP",
    "FixedPointIteration",
    "GradientDescent",
    "NonlinearCG",
    "OptStep",
    "OptaxSolver",
    "ProjectedGradient",
    "ProximalGradient",
    "ScipyBoundedMinimize",
    "ScipyMinimize",
    "ScipyRootFinding",
]
