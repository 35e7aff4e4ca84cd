"""The verdicts of `scripts/adversary.py`: what bilevel says of a problem beside what is so."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from adversary_cases import Draw, Structure, oracle_of
from adversary_losses import LINEAR, flat
from adversary_oracle import Oracle, Root
from adversary_sets import IMPOSSIBLE

import bilevel as bl
from bilevel.optimality import PrimalDual

SAFETY = 1.25  # the factor that docs/accuracy.md says an estimate has
OFF = 3.0  # by how much an estimate may be off
ORDER, LAG = 10.0, 1000.0  # how far off the grade "residual" may be: an order of magnitude; more of what lags behind
MATERIAL = {"float64": 1e-3, "float32": 5e-2, "mixed": 5e-2}  # a relative error of a gradient that matters
FLOOR = {"float64": 1e-7, "float32": 1e-2, "mixed": 1e-2}  # below it an estimate is of rounding, which is a bound
TAME = {"float64": 1e6, "float32": 1e2, "mixed": 1e2}  # condition numbers up to which there is no excuse
NEAR = 0.5  # the share of its size by which a loose solution may be off
FAR = 1e8  # times the data: where a problem without a bound ends
FAULTS = ("silent wrong", "false alarm", "estimate off", "kink unsaid", "raw error")


class Verdict(NamedTuple):
    """One word of `FAULTS`, or "right", "honest" (a failure that is one, and says so), "refused", "undecided"."""

    word: str
    why: str = ""


class Answer(NamedTuple):
    """What bilevel said; ``report`` is None where it gave none."""

    grad: np.ndarray
    report: Any
    failure: str


def ask(structure: Structure, draw: Draw, carry: Any = None) -> Answer | Verdict:
    """The hypergradient by bilevel, or a verdict where it gives none."""
    single = structure.precision == "float32"
    dtype = np.float64 if structure.precision == "float64" else np.float32
    with jax.enable_x64(False) if single else contextlib.nullcontext():
        hparams = {
            name: jnp.asarray(value, np.float32 if single else np.float64)
            for name, value in zip(structure.names, draw.theta, strict=True)
        }
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (draw.inner, draw.outer))
        try:
            _, grad, report = bl.hypergradient(
                structure.task, hparams, structure.engine, batch=batch, key=jax.random.key(draw.key), carry=carry
            )
        except bl.ConvergenceError as error:
            return Answer(np.full(draw.theta.size, np.nan), error.report, str(error))
        except Exception as error:  # what is not a refusal by the library is a fault, of whatever type
            return refusal(error)
        return Answer(np.array([float(grad[name]) for name in structure.names]), report, "")


def refusal(error: Exception) -> Verdict:
    """A refusal is a ValueError or TypeError that the library raises itself, with a sentence."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    own = "bilevel" in last.parts and isinstance(error, ValueError | TypeError)
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return Verdict("refused" if own else "raw error", words)


@np.errstate(all="ignore")  # a far point overflows, and is judged by its infinity
def judge(structure: Structure, draw: Draw, answer: Answer) -> Verdict:
    """The verdict on an answer."""
    failed = bool(answer.failure) or not np.all(np.isfinite(answer.grad))
    if structure.entry is IMPOSSIBLE:
        return Verdict("honest") if failed else Verdict("silent wrong", "no point satisfies these constraints")
    if draw.kind == "nan" and structure.loss is not LINEAR:  # which has no targets
        return Verdict("honest") if failed else Verdict("silent wrong", "NaN in the targets passed")
    if failed:
        return judge_failure(structure, draw, answer)
    w = params_of(answer)
    if not np.all(np.isfinite(w)):
        return Verdict("silent wrong", "params that are not finite")
    oracle = oracle_of(structure, draw).scaled(w, draw.theta)
    root = oracle.examine(oracle.solve(w, draw.theta), draw.theta)
    if not root.error < 1e-7 * (1 + np.linalg.norm(root.w)):
        return judge_lost(structure, oracle, draw, w)
    if root.curvature < -1e-6:
        if structure.tol > 1e-4 and np.linalg.norm(root.w - w) > NEAR * np.linalg.norm(w):
            return Verdict("undecided", "from a loose solution the oracle went on to a saddle elsewhere")
        if answer.report.order == "first order" and not np.isfinite(answer.report.error_estimate):
            return Verdict("honest", "said to be of first order, with an error that is not known")
        return Verdict("silent wrong", f"a saddle: curvature {root.curvature:.1e}")
    return judge_error(structure, draw, answer, oracle, root)


def params_of(answer: Answer) -> np.ndarray:
    params = answer.report.params
    return np.asarray(flat(params.primal if isinstance(params, PrimalDual) else params), np.float64)


def judge_lost(structure: Structure, oracle: Oracle, draw: Draw, w: np.ndarray) -> Verdict:
    """No exact solution was found from where bilevel stopped: wrong where even the residual says so."""
    size = np.linalg.norm(oracle.residual(w, draw.theta))
    data = max(np.abs(part).max() for part in draw.inner)
    if np.linalg.norm(w) > FAR * (1 + data):
        return Verdict("silent wrong", f"no solution is at ||w|| = {np.linalg.norm(w):.1e}")
    if structure.tol <= 1e-4 and not size < 1e-2 * (1 + np.linalg.norm(w)):
        return Verdict("silent wrong", f"no solution: residual {size:.1e} at ||w|| = {np.linalg.norm(w):.1e}")
    return Verdict("undecided", "the oracle found no exact solution")


def judge_error(structure: Structure, draw: Draw, answer: Answer, oracle: Oracle, root: Root) -> Verdict:
    """The error of the gradient beside the estimate of it."""
    if root.condition > 1e-3 / np.finfo(np.float64).eps:
        return Verdict("undecided", "ill-conditioned beyond what the oracle can tell")
    truth = oracle.gradient(root.w, draw.theta)
    error, size = float(np.linalg.norm(answer.grad - truth)), float(np.linalg.norm(truth))
    report, precision = answer.report, structure.precision
    claim, claims = float(report.error_estimate), report.error_grade in ("estimate", "bound")
    scale = size + 1e-3
    doubt = (1e-10 + 1e-14 * root.condition**2) * scale
    material = error > MATERIAL[precision] * scale
    numbers = f"g = {answer.grad}, right {truth}, {report.error_grade} {claim:.1e}, error {error:.1e}"
    short = not error <= OFF * claim + doubt
    if (draw.kind == "lattice" or (short and material)) and (kink := at_kink(oracle, root, draw, scale)):
        told = not claims or int(report.weakly_active) > 0
        return Verdict("honest", kink) if told else Verdict("kink unsaid", f"{kink}; {numbers}")
    if short and (claims or error > (LAG if structure.lags else ORDER) * claim):
        return Verdict("silent wrong" if material else "estimate off" if claims else "right", numbers)
    rounding = max(FLOOR[precision], 1e3 * np.finfo(np.float64).eps * root.condition)
    if claims and claim / SAFETY > OFF * error + doubt and claim > rounding * scale:
        return Verdict("estimate off", f"too large: {numbers}")
    return Verdict("right")


def at_kink(oracle: Oracle, root: Root, draw: Draw, scale: float) -> str:
    """The differences forwards and backwards, where they are not the same."""
    ahead, behind = oracle.one_sided(root.w, draw.theta)
    if np.max(np.abs(ahead - behind)) > 1e-2 * scale:
        return f"a kink: {behind} before and {ahead} after"
    return ""


def judge_failure(structure: Structure, draw: Draw, answer: Answer) -> Verdict:
    """A failure without an excuse: a tame problem that the oracle solves from zero."""
    if not structure.exact:
        return Verdict("honest")
    start = np.zeros(structure.size)
    oracle = oracle_of(structure, draw).scaled(start, draw.theta)
    root = oracle.examine(oracle.solve(start, draw.theta), draw.theta)
    good = root.error < 1e-9 * (1 + np.linalg.norm(root.w)) and root.condition < TAME[structure.precision]
    if not good or not (structure.convex or root.curvature > 1e-3):
        return Verdict("honest")
    if not structure.convex and draw.kind in ("huge", "scaled"):
        return Verdict("honest")
    return Verdict("false alarm", f"{answer.failure or 'gradient NaN'} cond {root.condition:.0e}")
