"""``command=check`` compares every engine with finite differences and a dense solve, on a small instance of a task."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import NamedTuple

import jax
import jax.numpy as jnp
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from bilevel.batches import Minibatch
from bilevel.cli.choices import options
from bilevel.cli.settings import reduced
from bilevel.cli.train import build, use_compilation_cache
from bilevel.engines import Carry, Engine, Point, Report
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.readable import counted
from bilevel.foundation.settings import changed
from bilevel.foundation.typing import Counts, HParams, Key
from bilevel.task import PRECISIONS, Task
from bilevel.verification.oracle import Oracle, oracle_of

ALLOWED = {"float64": 1e-4, "float32": 3e-2}  # the relative error of engines that claim to be exact
MANY = 100  # forward mode costs a tangent for each hyperparameter
HEADINGS = ("engine", "error", "estimate", "grade", "status", "gradients", "Hv", "Jv", "proxes", "factors")
MAGNITUDE = 10.0  # times its claim, within which an error agrees with the grade "residual"
MEANINGS = {  # of verdicts that do not fail the command
    "loose": "within the tolerance that its settings state, or its schedule begins with",
    "biased": "not exact by design, and its report says so",
    "failed": "a solve failed, and its report says so",
    "doubtful": "beyond the tolerance, but by less than ten times the uncertainty of what it is compared with",
}
WIDTHS = (15, 9, 9, 9, 12, 10, 7, 7, 7, 8)


class DisagreementError(RuntimeError):
    """Raised where an engine is wrong, or its error is larger than its estimate."""


class Row(NamedTuple):
    """The findings on one engine; error and estimate are relative to the size of the gradient."""

    engine: str
    error: float
    estimate: float
    grade: str
    status: str
    counts: Counts
    verdict: str

    def __str__(self) -> str:
        cells = (self.engine, f"{self.error:.1e}", f"{self.estimate:.1e}", self.grade, self.status, *self.counts)
        return line(cells, self.verdict)


def line(cells: tuple, verdict: str) -> str:
    """One line of the table."""
    texts = [
        f"{cell!s:<{width}}" if number in (0, 3, 4) else f"{cell!s:>{width}}"
        for number, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return "  ".join([*texts, verdict])


def check(config: DictConfig) -> None:
    """Prints a line for each engine; raises `DisagreementError` if one is wrong, or claims less error than it has.

    The instance is the task with the settings of ``reduced`` (those given as task.NAME=VALUE win); ``~reduced`` takes
    the task as it is. Verdicts: "right", "WRONG" (an exact engine beyond the tolerance), "doubtful" (beyond it, but by
    less than the differences are uncertain), "UNDER" (an estimate that is claimed, or of an engine that is biased by
    design, below the error), "biased" (by design, and it says so), "loose" (within the tolerances that a schedule
    begins with), "failed" (a solve failed, and it says so). Engines that
    refuse the task are named, and an engine that was asked for says why it refuses.
    """
    use_compilation_cache(config.compilation_cache)
    task, _ = build(reduced(config))
    with jax.enable_x64(PRECISIONS[task.precision]):
        rows = list(measured(config, task))
    for verdict, meaning in MEANINGS.items():
        if any(row.verdict == verdict for row in rows):
            print(f"{verdict}: {meaning}")
    wrong = [row.engine for row in rows if row.verdict in ("WRONG", "UNDER")]
    if wrong:
        raise DisagreementError(
            f"{', '.join(wrong)} disagree with finite differences of the outer loss: tighten the inner solver "
            "(solver=... solver.tol=...), or report the task and the engine as a bug."
        )


def measured(config: DictConfig, task: Task) -> Iterator[Row]:
    """The rows of all engines, each printed as soon as it is there."""
    key = jax.random.key(config.seed)
    hparams = jax.tree.map(jnp.asarray, task.feasible(task.init_hparams(key)))
    oracle = oracle_of(task, hparams, key)
    describe(task, hparams, oracle)
    print(line(HEADINGS, "verdict"))
    refused, insisted, said = [], asked(), io.StringIO()
    for name, engine in engines(config, hparams):
        try:
            with redirect_stderr(said):  # bl.AutoEngine tells there what it chose, which would stand between the rows
                grad, report = result_of(task, hparams, engine, key, oracle)
        except (ValueError, TypeError, NotImplementedError) as refusal:
            refused.append(name)
            if insisted:
                print(f"{name:<{WIDTHS[0]}}  refused: {' '.join(str(refusal).split())}")
            continue
        row = judged(name, task, engine, oracle, oracle.error(grad), report, exact(task, engine, report, key))
        print(row, flush=True)
        yield row
    print(said.getvalue(), end="")
    if refused and not insisted:
        print(f"not for this task (engine=NAME says why): {', '.join(refused)}")


def describe(task: Task, hparams: HParams, oracle: Oracle) -> None:
    """Prints the truth that the engines are compared with."""
    number = sum(leaf.size for leaf in jax.tree.leaves(hparams))
    unknowns = sum(leaf.size for leaf in jax.tree.leaves(oracle.carry.params))
    print(
        f"{task.name}: {counted(unknowns, 'unknown')}, {counted(number, 'hyperparameter')}; gradient "
        f"{oracle.scale:.6g} (uncertainty "
        f"{oracle.uncertainty:.1e}), differences (uncertainty {oracle.spread:.1e}) and dense solve "
        f"{'agree' if oracle.confirmed else f'DISAGREE by {oracle.apart:.1e}: the differences count'}"
    )
    if not oracle.confirmed and task.precision == "float32":
        print(
            'In float32 differences can themselves be that wrong, so "right" means no more here than within '
            f"{ALLOWED['float32']:.0%} of them: task.precision=float64 tells which of the two is wrong."
        )
    if not bool(oracle.solved.ok):
        print(f"An inner solve behind the differences ended with status {oracle.solved.name}: they are in doubt.")


def result_of(task: Task, hparams: HParams, engine: Engine, key: Key, oracle: Oracle) -> tuple[HParams, Report]:
    """The gradient and its report. A stochastic engine begins at the solution and the exact adjoint, where its
    directions on whole batches are the hypergradient; failures are shown, not raised."""
    carry: Carry | None = None
    if engine.stochastic:
        point = Point(hparams, *task.batches(key, 0), key=key)
        first = Program(lambda engine, point: engine.first_carry(task, point))(engine, point)
        carry = first._replace(params=oracle.carry.params, adjoint=oracle.carry.adjoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, grad, report = hypergradient(task, hparams, changed(engine, on_failure="warn"), key=key, carry=carry)
    return grad, report


def exact(task: Task, engine: Engine, report: Report, key: Key) -> bool:
    """Whether the result claims to be the hypergradient itself, up to the tolerances of the solves."""
    if not engine.stochastic:
        return report.status.name in ("converged", "stalled")
    whole = all(not isinstance(batch, Minibatch) or batch.whole for batch in task.batches(key, 0))
    return whole and not engine.biased and bool(report.status.ok)


def judged(name: str, task: Task, engine: Engine, oracle: Oracle, error: float, report: Report, exact: bool) -> Row:
    """The row of one engine, with its verdict."""
    doubt, estimate = 10 * oracle.uncertainty, float(report.error_estimate)
    if exact:
        within = ALLOWED[task.precision] * oracle.scale
        # A residual of the size that a loose tolerance allows gives the order of magnitude of the error.
        stated = float(report.adjoint_tol) >= ALLOWED[task.precision] and error <= MAGNITUDE * estimate + doubt
        beyond = "doubtful" if error <= within + doubt else "loose" if engine.adapts or stated else "WRONG"
        verdict = "right" if error <= within else beyond
    else:
        verdict = "biased" if bool(report.status.ok) else "failed"
    claims = report.error_grade != "residual" or verdict == "biased"
    if verdict != "WRONG" and claims and not error <= estimate + doubt:
        verdict = "UNDER"
    counts = Counts(*(int(number) for number in report.counts))
    return Row(
        name, error / oracle.scale, estimate / oracle.scale, report.error_grade, report.status.name, counts, verdict
    )


def asked() -> list[str]:
    """The engine of the command line; [] where all are meant."""
    return [one.partition("=")[2] for one in HydraConfig.get().overrides.task if one.startswith("engine=")]


def engines(config: DictConfig, hparams: HParams) -> Iterator[tuple[str, Engine]]:
    """The engine of the command line, or all of the group ``engine``."""
    insisted = asked()
    number = sum(leaf.size for leaf in jax.tree.leaves(hparams))
    for name in insisted or options("engine"):
        if name == "forward" and number > MANY and not insisted:
            print(f"{name:<{WIDTHS[0]}}  left out: {number} tangents; engine=forward insists")
            continue
        node = config.engine if insisted else compose("config", [f"engine={name}"]).engine
        yield name, instantiate(node, _convert_="all")
