"""The rules of the diagnosis about the outer level: numbers, gradients and steps, where both solves ended well."""

from __future__ import annotations

import math

from bilevel.foundation.status import Code
from bilevel.verification.cures import FAR, smaller_steps
from bilevel.verification.record import Finding, Record


def undefined(record: Record) -> Finding | None:
    """An outer loss, a gradient or an update that is not a finite number although both solves ended well."""
    hits = [line for line in record.lines if line.get("outer/status") == Code.nonfinite.name]
    if not hits:
        return None
    evidence = (
        f"in {len(hits)} of {len(record.lines)} outer steps, the last at step {hits[-1].get('step')}, both solves "
        "ended well, and the outer loss, its gradient or the optimiser's step is not a finite number"
    )
    cure = (
        "Look for roots, norms, standard deviations and divisions at zero in outer_loss and prior, or begin elsewhere"
    )
    return Finding("outer level left the numbers", evidence, cure)


def no_gradient(record: Record) -> Finding | None:
    """Hyperparameters whose gradient is exactly zero at every step, so that they are not learned."""
    names = record.summary.get("without_gradient") or []
    sizes = [line["outer/grad_norm"] for line in record.lines if "outer/grad_norm" in line]
    if not names and (not sizes or any(size != 0 for size in sizes)):
        return None
    which = ", ".join(names) if names else "all hyperparameters"
    evidence = (
        f"the hypergradient with respect to {which} was exactly 0 at every one of {len(record.lines)} outer steps"
    )
    cure = (
        "Look for a hyperparameter that nothing uses, an outer loss without a derivative (an accuracy), or a solution "
        "that is all zeros"
    )
    return Finding("gradient that is exactly zero", evidence, cure)


def leaps(record: Record) -> Finding | None:
    """Outer steps that are far too long, which are also the cause of failures after them."""
    longest = max((step for step in record.series("outer/step_norm") if math.isfinite(step)), default=0.0)
    if longest <= FAR or record.summary.get("status") != "failed":
        return None
    evidence = f"an outer step moved the hyperparameters by {longest:.1e}, and the run failed behind it"
    cure = "Take outer steps of the size of the hyperparameters"
    return Finding("outer steps out of proportion", evidence, cure, smaller_steps(record))


def left_region(record: Record) -> Finding | None:
    """Outer steps that left the region in which the problem can be solved, and were shortened."""
    hits = [line for line in record.lines if line.get("outer/halvings", 0) > 0]
    if not hits:
        return None
    end = record.summary.get("stopped_because", "")
    evidence = (
        f"{len(hits)} of {len(record.lines)} outer steps led to hyperparameters at which the problem cannot be solved, "
        f"and were shortened{f'; the run ended there: {end}'.rstrip('.') if end else ''}"
    )
    cure = "State the region by feasible=, its projection, or take smaller outer steps"
    return Finding("steps out of the solvable region", evidence, cure, smaller_steps(record))


def blocked(record: Record) -> Finding | None:
    """A projection that undoes every step."""
    if not record.summary.get("blocked"):
        return None
    evidence = (
        "the run stands still on the border of the feasible set, and the projected gradient there has the norm "
        f"{record.summary.get('projected_grad_norm', math.nan):.2g}: the point is not stationary"
    )
    cure = "Take steps along the gradient, which a projection does not undo"
    return Finding("projection undoes the optimiser's steps", evidence, cure, ("optimizer=sgd",))


def unjudged(record: Record) -> Finding | None:
    """A second hold-out whose loss is NaN at every step."""
    losses = record.series("stop/loss")
    if not losses or any(map(math.isfinite, losses)):
        return None
    evidence = f"stop/loss was not a finite number at any of {len(losses)} outer steps, so that the last one was chosen"
    return Finding("second hold-out without a number", evidence, "Look at what task.evaluate computes of it")
