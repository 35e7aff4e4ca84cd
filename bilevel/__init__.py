"""bilevel: derivatives of solutions, and training through them. ``import bilevel as bl``.

Names load on first use, so that the command line answers without importing jax.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "bilevel.implicit": ("custom_root", "custom_fixed_point", "root_jvp", "root_vjp", "Mapping"),
    "bilevel.linear_solve": (
        "CG", "BlockCG", "MINRES", "GMRES", "BiCGStab", "Dense", "Normal", "Neumann", "Nystrom", "AutoLinear",
        "LinearSolver", "LinearSolution", "Operator", "Damped", "Jacobi", "RandomizedNystrom", "LBFGSPairs",
    ),
    "bilevel.status": ("Status", "Code", "ConvergenceError"),
    "bilevel.penalties": (
        "Penalty", "Zero", "L1", "ElasticNet", "NonNegativeL1", "Ridge", "NonNegativeRidge", "GroupLasso", "LInf",
        "NuclearNorm", "TotalVariation", "SortedL1", "Huber", "LogBarrier", "Parts",
    ),
    "bilevel.constraints": (
        "NonNegative", "Hypercube", "CappedSimplex", "BoxSection", "L1Ball", "L2Ball", "LInfBall", "Isotonic",
        "SecondOrderCone", "PSDCone", "ExponentialCone", "L1Sphere", "L2Sphere", "SparseSimplex",
        "Hyperplane", "HalfSpace", "AffineSet", "Polyhedron", "Transport", "Birkhoff",
        "Constraint", "Free", "Box", "Simplex", "Functional"),
    "bilevel.host_matrix": ("HostMatrix",),
    "bilevel.linear": ("Linear", "quadratic_form"),
    "bilevel.optimality": ("Entropy", "PrimalDual", "Dual"),
    "bilevel.solvers": (
        "Auto", "GradientDescent", "ProximalGradient", "LBFGS", "Newton", "Optax", "InteriorPoint", "Clarabel",
        "OperatorSplitting",
        "Solver", "ActiveSetNewton", "Anderson", "BlockCoordinateDescent", "Broyden", "FixedPointIteration",
        "FIRE", "LBFGSB", "MirrorDescent", "SpectralProximalGradient",
        "WorkingSet", "ProximalNewton", "Host", "Optimistix", "SciPy", "ScikitLearn",
    ),
    "bilevel.problem": ("InnerProblem", "Solution"),
    "bilevel.batched": ("solve_batch",),
    "bilevel.layers": ("quadratic_program", "cone_program"),
    "bilevel.engines": (
        "Engine", "Report", "Carry", "Constants", "AutoEngine", "Implicit", "ClosedForm", "Unrolled", "Truncated",
        "Forward", "OneStep", "SOBA", "SABA", "SRBA", "AmIGO", "StocBiO", "F2SA", "Adaptive",
        "Schedule", "Summable", "ErrorDriven",
    ),
    "bilevel.batches": ("full_batch", "minibatches"),
    "bilevel.task": ("Task",),
    "bilevel.hypergradients": ("hypergradient",),
    "bilevel.trainer": ("Trainer", "Result"),
}  # fmt: skip
_MODULES = (
    "optimality",
    "projections",
    "prox",
    "cones",
    "data",
    "tasks",
    "loggers",
    "linear_solve",
    "solvers",
    "engines",
    "implicit",
)
_OWNER = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_OWNER, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"bilevel.{name}")
    if name in _OWNER:
        return getattr(importlib.import_module(_OWNER[name]), name)
    raise AttributeError(f"bilevel has no name {name!r}; its public names are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return __all__
