"""Solutions as differentiable functions of their data: programs, and batches of inner problems."""

from bilevel.layers.from_cvxpy import from_cvxpy
from bilevel.layers.programs import cone_program, quadratic_program
from bilevel.layers.solve_many import solve_batch

__all__ = ["cone_program", "from_cvxpy", "quadratic_program", "solve_batch"]
