"""A report on a hypergradient in words: one line, or a paragraph on how good the gradient is and why."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from bilevel.foundation.readable import amount, counted
from bilevel.foundation.status import REMEDIES, Code

CLAIMS = {
    "bound": "a theorem bounds it",
    "estimate": "a Newton correction in its regime of validity estimates it",
    "residual": "residuals give its order of magnitude, which is no claim",
}


def line(report: Any) -> str:
    """The report in one line: status, error and its grade, and how each solve ended."""
    if isinstance(report.status.code, Tracer):
        return "Report(traced: values are known outside of jit and vmap)"
    solves = ", ".join(
        f"{name} {getattr(report, f'{name}_status').name} in {counted(getattr(report, f'{name}_steps'), 'step')} "
        f"(residual {amount(getattr(report, f'{name}_residual'))})"
        for name in ("inner", "adjoint")
    )
    return (
        f"Report({report.status.name}; error of the gradient {amount(report.error_estimate)} ({report.error_grade}); "
        f"{solves})"
    )


def paragraph(report: Any) -> str:
    """How good the gradient is and why: the status, the error and its grade, its two parts, the face, the cost."""
    if isinstance(report.status.code, Tracer):
        return "The values of this report are traced: describe it outside of jit and vmap."
    said = [f"{_verdict(report)} {_solve(report, 'inner')} {_solve(report, 'adjoint')}"]
    if np.all(np.isfinite(report.error_estimate)):
        size = amount(report.error_estimate)
        said.append(f"The norm of the gradient's error is about {size}: {CLAIMS[report.error_grade]}.")
        parts = [(name, np.max(np.asarray(getattr(report, f"error_{name}")))) for name in ("inner", "adjoint")]
        if all(np.isfinite(part) for _, part in parts) and (worst := max(parts, key=lambda part: part[1]))[1] > 0:
            said.append(f"Most of it comes from the {worst[0]} solve, whose tolerance is the one to lower.")
    else:
        said.append(
            "The size of the gradient's error is not known (accuracy='estimate' measures it, for two adjoint solves)."
        )
    if np.max(np.asarray(report.weakly_active)) > 0:
        close = amount(report.weakly_active)
        coordinates = "coordinate is" if close == "1" else "coordinates are"
        said.append(f"{close} {coordinates} so close to a kink that the derivative may be that of another face.")
    if report.order == "first order":
        said.append("The solution is known to first order: no curvature was looked at.")
    calls = {name: int(np.sum(np.asarray(count))) for name, count in report.counts._asdict().items()}
    told = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in calls.items() if number)
    return " ".join([*said, *([f"It took {told}."] if told else [])])


def _verdict(report: Any) -> str:
    status = report.status
    if bool(np.all(np.asarray(status.ok))):
        if np.all(np.isfinite(report.error_estimate)):
            return "The gradient can be used."
        return "Both solves ended well, but nothing says how far the gradient is off."
    code = Code[status.name]
    return f"The gradient cannot be used, because its status is {status.name}: {REMEDIES[code]}."


def _solve(report: Any, name: str) -> str:
    status, steps, residual = (getattr(report, f"{name}_{part}") for part in ("status", "steps", "residual"))
    end = f"after {counted(steps, 'step')} at a relative residual of {amount(residual)}"
    return f"The {name} solve ended with status {status.name} {end}."
