"""Solutions as differentiable functions of their data: programs, batches of inner problems, perturbed maximisers."""

from bilevel.layers.cvxpy_layer import from_cvxpy
from bilevel.layers.perturbations import Gumbel, Normal, perturbed, perturbed_argmax, perturbed_max
from bilevel.layers.programs import cone_program, quadratic_program
from bilevel.layers.solve_many import solve_batch

__all__ = [
    "Gumbel",
    "Normal",
    "cone_program",
    "from_cvxpy",
    "perturbed",
    "perturbed_argmax",
    "perturbed_max",
    "quadratic_program",
    "solve_batch",
]
