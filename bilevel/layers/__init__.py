"""Solutions as differentiable functions of their data: programs, batches of inner problems, equilibria,
perturbed maximisers."""

from bilevel.layers.cvxpy_layer import from_cvxpy
from bilevel.layers.equilibria import Equilibrium, equilibrium
from bilevel.layers.perturbations import Gumbel, Normal, perturbed, perturbed_argmax, perturbed_max
from bilevel.layers.programs import cone_program, quadratic_program
from bilevel.layers.solve_many import solve_batch

__all__ = [
    "Equilibrium",
    "Gumbel",
    "Normal",
    "cone_program",
    "equilibrium",
    "from_cvxpy",
    "perturbed",
    "perturbed_argmax",
    "perturbed_max",
    "quadratic_program",
    "solve_batch",
]
