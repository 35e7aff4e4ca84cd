"""The rules of the diagnosis: each looks at a whole record for one cause."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from bilevel.foundation.status import Code
from bilevel.verification.cures import BIASED, CAUSES, hold_out, smaller_steps, tighter
from bilevel.verification.outer_rules import blocked, leaps, left_region, no_gradient, undefined, unjudged
from bilevel.verification.record import Finding, Record

SOLVES = ("inner", "adjoint")
HARMLESS = (Code.converged, Code.truncated, Code.stalled)
COARSE = 1e-2  # a larger relative error of the hypergradient comes from too little precision or too loose solves
WORSE = 0.01  # relative rise of a held-out loss above its lowest value that counts as overfitting
TAIL = 5  # overfitting is reported only so many outer steps after the lowest value
MANY = 2  # Newton's method is faster beyond so many steps of L-BFGS for each unknown,
FACTORED = 512  # up to so many unknowns (a9a in docs/benchmarks.md)
LAST = 10  # outer steps that show how a run ends
FEWEST = 4  # a mean of losses on different batches needs so many
SURE = 3.0  # two such means differ beyond luck by so many standard errors


def diagnose(record: Record) -> list[Finding]:
    """The findings of all rules on a record, the most severe first; empty where nothing went wrong.

    >>> line = {"step": 0, "inner/status": "max_steps", "inner/steps": 50, "inner/residual": 1e-3}
    >>> finding = diagnose(Record([line], config={"solver": {"max_steps": 50}}))[0]
    >>> finding.cause, finding.overrides
    ('too few inner steps', ('solver.max_steps=500',))
    """
    if leap := leaps(record):
        return [leap]
    found = [_status(record, solve, code) for code in reversed(Code) for solve in SOLVES]
    return [one for one in [*found, *(rule(record) for rule in RULES)] if one is not None]


def statuses(record: Record) -> list[str]:
    """A line for each status that a solve ended with: its number, meaning and cure."""
    found = []
    for solve in SOLVES:
        for code in Code:
            hits = sum(line.get(f"{solve}/status") == code.name for line in record.lines)
            if hits:
                cause = CAUSES[solve, code]
                change = " ".join(cause.overrides(record)) if code != Code.converged else ""
                found.append(
                    f"{solve} solve: {hits} of {len(record.lines)} {code.name} ({cause.name}): {cause.cure}"
                    f"{f' [{change}]' if change else ''}"
                )
    return found


def _status(record: Record, solve: str, code: Code) -> Finding | None:
    """The findings from the statuses of one solve; statuses that are harmless by themselves are left to other rules."""
    if code in HARMLESS:
        return None
    hits = [line for line in record.lines if line.get(f"{solve}/status") == code.name]
    if not hits:
        return None
    cause, last = CAUSES[solve, code], hits[-1]
    evidence = (
        f"the {solve} solve of {len(hits)} of {len(record.lines)} outer steps ended with status {code.name}, the last "
        f"at step {last.get('step')} after {last.get(f'{solve}/steps')} steps at a relative residual of "
        f"{last.get(f'{solve}/residual', math.nan):.1e}"
    )
    return Finding(cause.name, evidence, cause.cure, cause.overrides(record))


def coarse_precision(record: Record) -> Finding | None:
    """float32 where rounding is a large part of the hypergradient."""
    if record.setting("task.precision") != "float32":
        return None
    stalled = [line for line in record.lines if "stalled" in (line.get("inner/status"), line.get("adjoint/status"))]
    worst = max(map(relative_error, stalled), default=0.0)
    if worst <= COARSE:
        return None
    evidence = (
        f"{len(stalled)} of {len(record.lines)} outer steps ended at the floor of the precision, with an error of up "
        f"to {worst:.0%} of the hypergradient"
    )
    return Finding("float32 too coarse", evidence, "Compute in double precision", ("task.precision=float64",))


def changing_face(record: Record) -> Finding | None:
    """Coordinates that often cross a kink, or that the error of the solution may move across one."""
    known = [line for line in record.lines[-LAST:] if solved(line) and line.get("engine/weakly_active", -1) >= 0]
    hits = [line for line in known if line["engine/weakly_active"] > 0]
    if not hits or 2 * len(hits) < len(known):
        return _alternating(record)
    worst = max(line["engine/weakly_active"] for line in hits)
    evidence = (
        f"in {len(hits)} of the last {len(known)} outer steps up to {worst} coordinates are closer to the next face "
        "than the error of the solution, so that the derivative may be that of another face"
    )
    if max(line.get("inner/residual", 0.0) for line in hits) > 1e-9:
        cure = "Solve the inner problem until the face is identified"
        return Finding("face that keeps changing", evidence, cure, ("solver=auto", "solver.tol=1e-12"))
    cure = "The outer loss has a kink where the run ends: take smaller outer steps"
    return Finding("face that keeps changing", evidence, cure, smaller_steps(record))


def _alternating(record: Record) -> Finding | None:
    """Coordinates that become zero or nonzero in most of the last steps while the outer loss does not improve. Where
    the loss improves, the support is being learned, which is no fault."""
    last = [line for line in record.lines[-LAST:] if solved(line) and "outer/loss" in line]
    hits = [line for line in last if line.get("inner/zeros_changed", 0) > 0]
    if len(last) < TAIL or 2 * len(hits) < len(last):
        return None
    half = len(last) // 2
    if min(line["outer/loss"] for line in last[half:]) < min(line["outer/loss"] for line in last[:half]):
        return None
    most = max(line["inner/zeros_changed"] for line in hits)
    evidence = (
        f"in {len(hits)} of the last {len(last)} outer steps up to {most} coordinates became zero or ceased to be, and "
        "the outer loss fell no further"
    )
    cure = "The outer loss has a kink where the run ends: take smaller outer steps"
    return Finding("face that keeps changing", evidence, cure, smaller_steps(record))


def coarse_solution(record: Record) -> Finding | None:
    """Solves that met a tolerance that was too loose."""
    lines = [
        line
        for line in record.lines[-LAST:]
        if solved(line) and line.get("engine/weakly_active", 0) <= 0 and math.isfinite(relative_error(line))
    ]
    worst = max(map(relative_error, lines), default=0.0)
    if worst <= COARSE or record.setting("task.precision") == "float32":
        return None
    evidence = (
        "every solve met its tolerance, and the error of the hypergradient is still estimated at up to "
        f"{worst:.0%} of it"
    )
    return Finding("tolerances too loose", evidence, "Solve both problems further", tighter(record))


def slow_inner(record: Record) -> Finding | None:
    """L-BFGS with more steps than the products that Newton's method would take."""
    steps, unknowns = record.series("inner/steps"), record.summary.get("unknowns", 0)
    if record.summary.get("solver") != "LBFGS" or not steps or not 0 < unknowns <= FACTORED:
        return None
    typical = statistics.median(steps)
    if typical <= MANY * unknowns:
        return None
    evidence = f"L-BFGS took {typical:.0f} steps in the median outer step, for {unknowns} unknowns"
    cure = "Use Newton's method: a few steps at any condition, and its last factor solves the adjoint system"
    reuse = () if record.setting("engine.reuse") is None else ("engine.reuse=true",)
    return Finding("badly conditioned inner problem", evidence, cure, ("solver=newton", *reuse))


def unknown_bias(record: Record) -> Finding | None:
    """An engine that stops by design and whose bias is not known."""
    unknown = [
        line
        for line in record.lines
        if line.get("error_estimate") == math.inf and line.get("engine/weakly_active", 0) <= 0  # else by the face
    ]
    if not unknown or 2 * len(unknown) < len(record.lines):
        return None
    evidence = f"{record.summary.get('engine', 'the engine')} is biased by design and does not know by how much"
    return Finding("bias of unknown size", evidence, BIASED, ("engine=implicit",))


def overfitted(record: Record) -> Finding | None:
    """The outer loss falls while the loss on held-out data rises, and the run does not stop early."""
    if record.summary.get("status") == "stopped_early":
        return None
    outer = record.series("outer/loss")
    for name in ("stop/loss", "test/loss"):
        held_out = record.series(name)
        if not held_out or len(held_out) != len(outer) or not all(map(math.isfinite, [*held_out, *outer])):
            continue
        best = min(range(len(held_out)), key=held_out.__getitem__)
        rise = held_out[-1] - held_out[best]
        if rise <= WORSE * abs(held_out[best]) or best > len(held_out) - 1 - TAIL or outer[-1] >= outer[best]:
            continue
        evidence = (
            f"{name} was lowest ({held_out[best]:.4g}) at step {best} and ended at {held_out[-1]:.4g}, while the outer "
            f"loss went on falling from {outer[best]:.4g} to {outer[-1]:.4g}"
        )
        cure = "Stop on a second hold-out, or use fewer hyperparameters or a prior on them"
        return Finding("validation overfitted", evidence, cure, hold_out(record))
    return None


def rising(record: Record) -> Finding | None:
    """Outer steps that are too long. Where each step has a batch of its own, losses are compared by the means over the
    first and the last quarter, because two single ones differ by the luck of their batches."""
    outer = [loss for loss in record.series("outer/loss") if math.isfinite(loss)]
    if record.summary.get("chosen_by", "outer/loss") == "outer/loss":
        head, tail, noise = outer[:1], outer[-1:], 0.0
    else:
        quarter = len(outer) // 4
        if quarter < FEWEST:
            return None
        head, tail = outer[:quarter], outer[-quarter:]
        noise = SURE * math.sqrt((statistics.variance(head) + statistics.variance(tail)) / quarter)
    if len(outer) < 3:
        return None
    first, last = statistics.fmean(head), statistics.fmean(tail)
    if last - first <= max(WORSE * abs(first), noise):
        return None
    evidence = f"the outer loss rose from {first:.4g} to {last:.4g}"
    return Finding("outer steps too long", evidence, "Take smaller outer steps", smaller_steps(record))


def solved(line: Mapping[str, Any]) -> bool:
    """Whether both solves met their tolerance."""
    return all(line.get(f"{solve}/status") == Code.converged.name for solve in SOLVES)


def relative_error(line: Mapping[str, Any]) -> float:
    """The estimated error of the hypergradient relative to its size (0 where either is not known)."""
    estimate, size = line.get("error_estimate", math.nan), line.get("outer/grad_norm", math.nan)
    return estimate / size if size > 0 and estimate >= 0 else 0.0


RULES = (
    undefined,
    no_gradient,
    left_region,
    blocked,
    unjudged,
    coarse_precision,
    changing_face,
    coarse_solution,
    slow_inner,
    unknown_bias,
    overfitted,
    rising,
)
