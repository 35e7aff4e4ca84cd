"""Linear solves: one interface, pytrees throughout, and a status that comes from the recomputed residual."""

from bilevel.linear_solve.auto import AutoLinear
from bilevel.linear_solve.base import (
    LinearSolution,
    LinearSolver,
    Operator,
    Preconditioner,
    Prepared,
    as_operator,
    materialize,
)
from bilevel.linear_solve.bicgstab import BiCGStab
from bilevel.linear_solve.block_cg import BlockCG
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.damped import Damped
from bilevel.linear_solve.dense import Dense
from bilevel.linear_solve.gmres import GMRES
from bilevel.linear_solve.lbfgs_pairs import LBFGSPairs
from bilevel.linear_solve.minres import MINRES
from bilevel.linear_solve.neumann import Neumann
from bilevel.linear_solve.normal import Normal
from bilevel.linear_solve.nystrom import Nystrom
from bilevel.linear_solve.preconditioners import (
    CholeskyFactor,
    Identity,
    Jacobi,
    RandomizedNystrom,
)
from bilevel.linear_solve.refactored import Refactored
from bilevel.linear_solve.symmetry import check_symmetric

__all__ = [
    "CG",
    "GMRES",
    "MINRES",
    "AutoLinear",
    "BiCGStab",
    "BlockCG",
    "CholeskyFactor",
    "Damped",
    "Dense",
    "Identity",
    "Jacobi",
    "LBFGSPairs",
    "LinearSolution",
    "LinearSolver",
    "Neumann",
    "Normal",
    "Nystrom",
    "Operator",
    "Preconditioner",
    "Prepared",
    "RandomizedNystrom",
    "Refactored",
    "as_operator",
    "check_symmetric",
    "materialize",
]
