"""Inner solvers: each an init and a step, driven by the one loop."""

from bilevel.solvers.auto import Auto
from bilevel.solvers.base import Solver, State
from bilevel.solvers.gradient_descent import GradientDescent
from bilevel.solvers.instance import Instance
from bilevel.solvers.lbfgs import LBFGS
from bilevel.solvers.loop import Outcome, iterate, unroll
from bilevel.solvers.newton import Newton
from bilevel.solvers.optax import Optax
from bilevel.solvers.proximal_gradient import ProximalGradient

__all__ = [
    "LBFGS",
    "Auto",
    "GradientDescent",
    "Instance",
    "Newton",
    "Optax",
    "Outcome",
    "ProximalGradient",
    "Solver",
    "State",
    "iterate",
    "unroll",
]
