"""The catalogue of optimality conditions: each a callable residual F(params, *args), zero at the solution."""

from bilevel.optimality.block_proximal_gradient import BlockProximalGradient
from bilevel.optimality.conic import Conic
from bilevel.optimality.geometry import Entropy, Geometry
from bilevel.optimality.kkt import KKT, Margin
from bilevel.optimality.mirror_descent import MirrorDescent
from bilevel.optimality.newton import Newton
from bilevel.optimality.primal_dual import Dual, PrimalDual
from bilevel.optimality.proximal_gradient import ProjectedGradient, ProximalGradient
from bilevel.optimality.stationary import Stationary

__all__ = [
    "KKT",
    "BlockProximalGradient",
    "Conic",
    "Dual",
    "Entropy",
    "Geometry",
    "Margin",
    "MirrorDescent",
    "Newton",
    "PrimalDual",
    "ProjectedGradient",
    "ProximalGradient",
    "Stationary",
]
