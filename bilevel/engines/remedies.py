"""The remedy for a failed solve, which never proposes a setting that is in use already."""

from __future__ import annotations

from typing import Any

from bilevel.engines.base import Engine
from bilevel.foundation.status import REMEDIES, Code
from bilevel.solvers import Solver

DESCENDING = ("bl.LBFGS()", "bl.Newton()", "bl.Auto()")
FOR_INDEFINITE = ("bl.MINRES()", "bl.GMRES()", "bl.Dense()")


def inner_remedy(code: Code, steps: int, solver: Solver) -> str:
    """The remedy for an inner solve that ended with ``code`` after ``steps`` steps of ``solver``."""
    used = _name(solver)
    if code == Code.max_steps:
        return _out_of_steps(steps, solver, used)
    if code == Code.nonfinite and steps == 0:
        return (
            "the loss or its gradient is not finite at the start: look for NaN in the data, or start where no "
            "exponential, logarithm or division is out of range (init)"
        )
    if code == Code.indefinite:
        return "it is a saddle or a maximum of the inner loss: start elsewhere, or add a convex regulariser to the loss"
    if code == Code.singular:
        return "add a regulariser to the inner loss"
    if code == Code.diverged:
        others = _others(DESCENDING, used)
        shorter = (
            "lower step_size" if getattr(solver, "step_size", None) is not None else "start nearer to the solution"
        )
        return f"{shorter}, or use a solver with a line search ({others})"
    return REMEDIES[code]


def _out_of_steps(steps: int, solver: Solver, used: str) -> str:
    if steps < solver.max_steps:
        return (
            "no further step lowers it, and it is above the floor of the precision: look for kinks, noise or a wrong "
            "derivative in the inner loss, or loosen tol"
        )
    longer = "raise max_steps, loosen tol, or "
    if used == "bl.Auto()":
        return longer + "scale the inner problem better: its curvatures differ widely"
    return longer + "choose a solver that exploits the structure (bl.Auto())"


def adjoint_remedy(code: Code, engine: Engine) -> str:
    """The remedy for an adjoint solve of ``engine`` that ended with ``code``."""
    linear_solve: Any = getattr(engine, "linear_solve", None)
    used = _name(linear_solve)
    direct = linear_solve is not None and linear_solve.direct
    if code == Code.max_steps and linear_solve is not None:
        longer = "raise the max_steps of linear_solve, loosen its tol, or "
        return longer + ("solve the inner problem further" if direct else "use bl.Dense(), which needs no steps")
    if code == Code.indefinite:
        others = _others(FOR_INDEFINITE, used)
        return f"use a linear solver for indefinite systems ({others}) or solve the inner problem further"
    if code == Code.singular:
        least = "" if direct else ", or use bl.Dense(), which gives the minimum-norm solution"
        return "add a regulariser to the inner loss" + least
    return REMEDIES[code]


def _name(method: Any) -> str:
    return "" if method is None else f"bl.{type(method).__name__}()"


def _others(names: tuple[str, ...], used: str) -> str:
    return ", ".join(name for name in names if name != used)
