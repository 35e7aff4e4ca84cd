"""bilevel: derivatives of solutions, and training through them. ``import bilevel as bl``.

Names load on first use, so that the command line answers without importing jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # for editors and type checkers; tests/test_public_names.py holds it and _HOME together
    from bilevel import (
        compat as compat,
        cones as cones,
        constraints as constraints,
        data as data,
        engines as engines,
        implicit as implicit,
        layers as layers,
        linear_solve as linear_solve,
        loggers as loggers,
        losses as losses,
        networks as networks,
        optimality as optimality,
        penalties as penalties,
        projections as projections,
        prox as prox,
        report as report,
        sklearn as sklearn,
        solvers as solvers,
        tasks as tasks,
        training as training,
        verification as verification,
    )
    from bilevel.batches import (
        HeldOut as HeldOut,
        draw_samples as draw_samples,
        full_batch as full_batch,
        minibatches as minibatches,
        whole_batch as whole_batch,
    )
    from bilevel.constraints import (
        AffineSet as AffineSet,
        Birkhoff as Birkhoff,
        Box as Box,
        BoxSection as BoxSection,
        CappedSimplex as CappedSimplex,
        Constraint as Constraint,
        ExponentialCone as ExponentialCone,
        Free as Free,
        Functional as Functional,
        HalfSpace as HalfSpace,
        Hypercube as Hypercube,
        Hyperplane as Hyperplane,
        Isotonic as Isotonic,
        L1Ball as L1Ball,
        L1Sphere as L1Sphere,
        L2Ball as L2Ball,
        L2Sphere as L2Sphere,
        LInfBall as LInfBall,
        NonNegative as NonNegative,
        Polyhedron as Polyhedron,
        PSDCone as PSDCone,
        SecondOrderCone as SecondOrderCone,
        Simplex as Simplex,
        SparseSimplex as SparseSimplex,
        Transport as Transport,
    )
    from bilevel.engines import (
        BOME as BOME,
        BSA as BSA,
        F2SA as F2SA,
        FSLA as FSLA,
        MASOBA as MASOBA,
        MEHA as MEHA,
        MRBO as MRBO,
        SABA as SABA,
        SOBA as SOBA,
        SRBA as SRBA,
        SUSTAIN as SUSTAIN,
        TTSA as TTSA,
        VPBGD as VPBGD,
        VRBO as VRBO,
        Adaptive as Adaptive,
        AmIGO as AmIGO,
        AutoEngine as AutoEngine,
        Carry as Carry,
        ClosedForm as ClosedForm,
        Constants as Constants,
        Engine as Engine,
        ErrorDriven as ErrorDriven,
        Forward as Forward,
        Implicit as Implicit,
        OneStep as OneStep,
        PowerLaw as PowerLaw,
        Report as Report,
        Schedule as Schedule,
        StocBiO as StocBiO,
        Summable as Summable,
        Truncated as Truncated,
        Unrolled as Unrolled,
    )
    from bilevel.engines.hypergradients import (
        hypergradient as hypergradient,
    )
    from bilevel.foundation.status import (
        Code as Code,
        ConvergenceError as ConvergenceError,
        Status as Status,
    )
    from bilevel.implicit import (
        Mapping as Mapping,
        custom_fixed_point as custom_fixed_point,
        custom_root as custom_root,
        root_jvp as root_jvp,
        root_vjp as root_vjp,
    )
    from bilevel.layers import (
        cone_program as cone_program,
        from_cvxpy as from_cvxpy,
        perturbed as perturbed,
        perturbed_argmax as perturbed_argmax,
        perturbed_max as perturbed_max,
        quadratic_program as quadratic_program,
    )
    from bilevel.layers.solve_many import (
        solve_batch as solve_batch,
    )
    from bilevel.linear_solve import (
        CG as CG,
        GMRES as GMRES,
        MINRES as MINRES,
        AutoLinear as AutoLinear,
        BiCGStab as BiCGStab,
        BlockCG as BlockCG,
        Damped as Damped,
        Dense as Dense,
        Jacobi as Jacobi,
        LBFGSPairs as LBFGSPairs,
        LinearSolution as LinearSolution,
        LinearSolver as LinearSolver,
        Neumann as Neumann,
        Normal as Normal,
        Nystrom as Nystrom,
        Operator as Operator,
        RandomizedNystrom as RandomizedNystrom,
    )
    from bilevel.losses.host_matrix import (
        HostMatrix as HostMatrix,
    )
    from bilevel.losses.least_squares import (
        LeastSquares as LeastSquares,
    )
    from bilevel.losses.linear import (
        Linear as Linear,
        quadratic_form as quadratic_form,
    )
    from bilevel.losses.measured import Measured as Measured
    from bilevel.losses.quadratic import Quadratic as Quadratic
    from bilevel.optimality import (
        Dual as Dual,
        Entropy as Entropy,
        PrimalDual as PrimalDual,
    )
    from bilevel.penalties import (
        L1 as L1,
        ElasticNet as ElasticNet,
        GroupLasso as GroupLasso,
        Huber as Huber,
        LInf as LInf,
        LogBarrier as LogBarrier,
        NonNegativeL1 as NonNegativeL1,
        NonNegativeRidge as NonNegativeRidge,
        NuclearNorm as NuclearNorm,
        Parts as Parts,
        Penalty as Penalty,
        Ridge as Ridge,
        SortedL1 as SortedL1,
        TotalVariation as TotalVariation,
        Zero as Zero,
    )
    from bilevel.problem import InnerProblem as InnerProblem
    from bilevel.solvers import (
        FIRE as FIRE,
        LBFGS as LBFGS,
        LBFGSB as LBFGSB,
        ActiveSetNewton as ActiveSetNewton,
        Anderson as Anderson,
        AndersonWrapper as AndersonWrapper,
        ArmijoSGD as ArmijoSGD,
        Auto as Auto,
        BlockCoordinateDescent as BlockCoordinateDescent,
        Broyden as Broyden,
        Clarabel as Clarabel,
        Dogleg as Dogleg,
        FixedPointIteration as FixedPointIteration,
        GaussNewton as GaussNewton,
        GradientDescent as GradientDescent,
        Host as Host,
        InteriorPoint as InteriorPoint,
        LevenbergMarquardt as LevenbergMarquardt,
        MirrorDescent as MirrorDescent,
        Newton as Newton,
        OperatorSplitting as OperatorSplitting,
        Optax as Optax,
        Optimistix as Optimistix,
        PolyakSGD as PolyakSGD,
        ProjectedNewton as ProjectedNewton,
        ProximalGradient as ProximalGradient,
        ProximalNewton as ProximalNewton,
        ScikitLearn as ScikitLearn,
        SciPy as SciPy,
        SciPyLeastSquares as SciPyLeastSquares,
        Solver as Solver,
        SparseInteriorPoint as SparseInteriorPoint,
        SpectralProximalGradient as SpectralProximalGradient,
        WorkingSet as WorkingSet,
        line_search as line_search,
    )
    from bilevel.solvers.solution import Solution as Solution
    from bilevel.streams import (
        Streamed as Streamed,
        batches_from as batches_from,
    )
    from bilevel.task import (
        Headline as Headline,
        Task as Task,
    )
    from bilevel.training.result import load_result as load_result
    from bilevel.training.trainer import (
        Result as Result,
        Trainer as Trainer,
    )

_HOME = {
    "bilevel.implicit": ("custom_root", "custom_fixed_point", "root_jvp", "root_vjp", "Mapping"),
    "bilevel.linear_solve": (
        "CG", "BlockCG", "MINRES", "GMRES", "BiCGStab", "Dense", "Normal", "Neumann", "Nystrom", "AutoLinear",
        "LinearSolver", "LinearSolution", "Operator", "Damped", "Jacobi", "RandomizedNystrom", "LBFGSPairs",
    ),
    "bilevel.foundation.status": ("Status", "Code", "ConvergenceError"),
    "bilevel.penalties": (
        "Penalty", "Zero", "L1", "ElasticNet", "NonNegativeL1", "Ridge", "NonNegativeRidge", "GroupLasso", "LInf",
        "NuclearNorm", "TotalVariation", "SortedL1", "Huber", "LogBarrier", "Parts",
    ),
    "bilevel.constraints": (
        "NonNegative", "Hypercube", "CappedSimplex", "BoxSection", "L1Ball", "L2Ball", "LInfBall", "Isotonic",
        "SecondOrderCone", "PSDCone", "ExponentialCone", "L1Sphere", "L2Sphere", "SparseSimplex",
        "Hyperplane", "HalfSpace", "AffineSet", "Polyhedron", "Transport", "Birkhoff",
        "Constraint", "Free", "Box", "Simplex", "Functional"),
    "bilevel.losses.host_matrix": ("HostMatrix",),
    "bilevel.losses.least_squares": ("LeastSquares",),
    "bilevel.losses.linear": ("Linear", "quadratic_form"),
    "bilevel.losses.measured": ("Measured",),
    "bilevel.losses.quadratic": ("Quadratic",),
    "bilevel.optimality": ("Entropy", "PrimalDual", "Dual"),
    "bilevel.solvers": (
        "Auto", "GradientDescent", "ProximalGradient", "LBFGS", "Newton", "Optax", "InteriorPoint", "Clarabel",
        "OperatorSplitting",
        "Solver", "ActiveSetNewton", "Anderson", "BlockCoordinateDescent", "Broyden", "FixedPointIteration",
        "AndersonWrapper", "ArmijoSGD", "PolyakSGD", "line_search", "FIRE", "LBFGSB", "MirrorDescent",
        "SparseInteriorPoint", "SpectralProximalGradient",
        "WorkingSet", "ProximalNewton", "ProjectedNewton", "LevenbergMarquardt", "GaussNewton", "Dogleg",
        "Host", "Optimistix", "SciPy", "ScikitLearn", "SciPyLeastSquares",
    ),
    "bilevel.problem": ("InnerProblem",),
    "bilevel.solvers.solution": ("Solution",),
    "bilevel.layers.solve_many": ("solve_batch",),
    "bilevel.layers": (
        "quadratic_program", "cone_program", "from_cvxpy", "perturbed", "perturbed_argmax", "perturbed_max",
    ),
    "bilevel.engines": (
        "Engine", "Report", "Carry", "Constants", "AutoEngine", "Implicit", "ClosedForm", "Unrolled", "Truncated",
        "Forward", "OneStep", "SOBA", "SABA", "SRBA", "AmIGO", "StocBiO", "F2SA", "Adaptive",
        "MASOBA", "FSLA", "TTSA", "BSA", "SUSTAIN", "MRBO", "VRBO", "BOME", "VPBGD", "MEHA", "PowerLaw",
        "Schedule", "Summable", "ErrorDriven",
    ),
    "bilevel.batches": ("HeldOut", "draw_samples", "full_batch", "minibatches", "whole_batch"),
    "bilevel.streams": ("Streamed", "batches_from"),
    "bilevel.task": ("Task", "Headline"),
    "bilevel.engines.hypergradients": ("hypergradient",),
    "bilevel.training.result": ("load_result",),
    "bilevel.training.trainer": ("Trainer", "Result"),
}  # fmt: skip
_MODULES = (
    "compat",
    "cones",
    "constraints",
    "data",
    "engines",
    "implicit",
    "layers",
    "linear_solve",
    "loggers",
    "losses",
    "networks",
    "optimality",
    "penalties",
    "projections",
    "prox",
    "report",
    "sklearn",
    "solvers",
    "tasks",
    "training",
    "verification",
)
_OWNER = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_OWNER, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]  # checkers read the imports above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"bilevel.{name}")
    if name in _OWNER:
        return getattr(importlib.import_module(_OWNER[name]), name)
    raise AttributeError(f"bilevel has no name {name!r}; its public names are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return __all__
