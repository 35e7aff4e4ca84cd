"""What `bl.from_cvxpy` refuses, each in a sentence."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

CONES = {"Zero", "NonNeg", "SOC", "PSD", "SvecPSD", "ExpCone", "PowCone3D"}  # CVXPY's names of those in `bl.cones`


def cvxpy_of(problem: Any) -> Any:
    """The package. Raises ImportError where it is missing, TypeError where ``problem`` is none of it."""
    if importlib.util.find_spec("cvxpy") is None:
        raise ImportError("bl.from_cvxpy needs the package cvxpy: pip install 'bilevel[cvxpy]'.")
    cp = importlib.import_module("cvxpy")
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"bl.from_cvxpy takes a cvxpy.Problem; it got a {type(problem).__name__}.")
    return cp


def refuse(cp: Any, problem: Any, parameters: list, variables: list) -> None:
    """Raises ValueError or TypeError for a problem, or lists, that give no differentiable function."""
    _refuse_leaves(parameters, problem.parameters(), cp.Parameter, "parameter")
    _refuse_leaves(variables, problem.variables(), cp.Variable, "variable")
    missing = {leaf.id for leaf in problem.parameters()} - {leaf.id for leaf in parameters}
    for leaf in problem.parameters():
        if leaf.id in missing:
            raise ValueError(
                f"bl.from_cvxpy: the problem has the parameter {leaf.name()}, which is not listed in parameters. "
                "List every parameter of the problem."
            )
        if isinstance(leaf, cp.CallbackParam):
            raise ValueError(
                f"bl.from_cvxpy: the value of {leaf.name()} comes from a callback, which has no derivative. "
                "Use a cvxpy.Parameter, and compute its array in JAX."
            )
    if not variables:
        raise ValueError("bl.from_cvxpy: variables is empty. List the variables whose values the function returns.")
    if problem.is_mixed_integer():
        raise ValueError(
            "bl.from_cvxpy: the problem has integer variables, so its solution has no derivative. Relax them."
        )
    if not problem.is_dcp():
        raise ValueError(
            "bl.from_cvxpy: the problem is not convex by CVXPY's rules (problem.is_dcp() is False). "
            "Rewrite it by the rules of disciplined convex programming."
        )
    if not problem.is_dpp(quad_form_dpp="qp"):
        raise ValueError(
            "bl.from_cvxpy: the problem is not DPP (problem.is_dpp() is False), so its data are no affine function of "
            "its parameters. Replace products of parameters by parameters of their own, computed in JAX."
        )


def _refuse_leaves(given: list, there: list, kind: type, noun: str) -> None:
    known, listed = {leaf.id for leaf in there}, [getattr(leaf, "id", None) for leaf in given]
    for leaf in given:
        if not isinstance(leaf, kind):
            raise TypeError(f"bl.from_cvxpy: {noun}s lists a {type(leaf).__name__}. List objects of {kind.__name__}.")
        if leaf.id not in known:
            raise ValueError(f"bl.from_cvxpy: {leaf.name()} is no {noun} of the problem. Take it out of {noun}s.")
        if listed.count(leaf.id) > 1:
            raise ValueError(f"bl.from_cvxpy: {leaf.name()} is listed twice in {noun}s. List it once.")
        if leaf.is_complex():
            raise ValueError(
                f"bl.from_cvxpy: the {noun} {leaf.name()} is complex. State its real and imaginary parts as "
                f"{noun}s of their own."
            )


def refuse_curvature(problem: Any) -> None:
    """Raises ValueError where a parameter is the matrix of a quadratic form that has to become a cone."""
    if not problem.is_dpp():
        raise ValueError(
            "bl.from_cvxpy: a quad_form whose matrix is a parameter needs constraints that are all linear. "
            "State it as sum_squares(root @ x) with a square root of the matrix as the parameter."
        )


def refuse_cones(program: Any) -> None:
    """Raises ValueError for a cone that `bl.cones` does not have."""
    unknown = sorted({type(constraint).__name__ for constraint in program.constraints} - CONES)
    if unknown:
        raise ValueError(
            f"bl.from_cvxpy: the problem needs CVXPY's cone {unknown[0]}, which bl.cones does not have. "
            "Reformulate the atom that brings it in."
        )
