"""The catalogue of optimality conditions: each a callable residual F(params, *args), zero at the solution."""

from bilevel.optimality.proximal_gradient import ProjectedGradient, ProximalGradient
from bilevel.optimality.stationary import Stationary

__all__ = ["ProjectedGradient", "ProximalGradient", "Stationary"]
