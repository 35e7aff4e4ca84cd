"""Solutions as differentiable functions of their data: programs, and batches of inner problems."""

from bilevel.layers.programs import cone_program, quadratic_program
from bilevel.layers.solve_many import solve_batch

__all__ = ["cone_program", "quadratic_program", "solve_batch"]
