"""Linear solves: one interface, statuses from recomputed residuals."""

from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator, materialize
from bilevel.linear_solve.cg import CG
from bilevel.linear_solve.dense import Dense
from bilevel.linear_solve.gmres import GMRES

__all__ = ["CG", "GMRES", "Dense", "LinearSolution", "LinearSolver", "Operator", "as_operator", "materialize"]
