"""Processor time and memory of a hypergradient against the number of features, by solver, condition and way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import bilevel as bl

SOLVERS = ("mirror_descent", "projected_gradient", "block_coordinate_descent")
MAPPINGS = ("mirror_descent", "projected_gradient")
IMPLICIT = bl.Implicit(accuracy="residual", on_failure="warn")
UNROLLED = bl.Unrolled(on_failure="warn")
AT = 2.0
TOL = 1e-4  # where times are taken; at most 2,500 steps
SCANNED = 200  # steps of the plain unrolled loop, which cannot stop by itself
RUNS = 5  # outer steps, after one that is not counted
SPENT = 6.0  # processor seconds after which two runs are enough, the first of them counted
Key = tuple[str, str, str]  # solver, condition, way


@dataclass(frozen=True)
class Compiled:
    """A compiled function of the hyperparameter, its data being an argument: as constants they would be copied."""

    program: jax.stages.Compiled
    batch: Any

    @classmethod
    def of(cls, function: Callable, task: bl.Task) -> Compiled:
        batch = task.batches(jax.random.key(0), 0)
        return cls(jax.jit(function).lower(jnp.asarray(AT), batch).compile(), batch)

    def __call__(self, at: jax.Array) -> float:
        """Processor seconds of one run."""
        began = time.process_time()
        jax.block_until_ready(self.program(at, self.batch))
        return time.process_time() - began

    @property
    def memory(self) -> float:
        """Bytes beside arguments and results."""
        found: object = self.program.memory_analysis()
        return float(getattr(found, "temp_size_in_bytes", float("nan")))


def plain_scan(features: int) -> Compiled:
    """The hypergradient through a plain checkpointed `lax.scan` of projected gradient steps, compiled."""
    task = bl.tasks.svm(features=features, form="features")
    slope = jax.grad(task.inner.loss)
    design = task.batches(jax.random.key(0), 0)[0][0]
    size = float(np.linalg.eigvalsh(np.asarray(design.T @ design))[-1])

    def value(hparams: jax.Array, batch: tuple) -> jax.Array:
        inner, outer = batch
        step_size = jnp.exp(hparams) / size

        @jax.checkpoint
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.vmap(bl.projections.simplex)(x - step_size * slope(x, hparams, inner)), None

        x, _ = jax.lax.scan(step, task.inner.init(jax.random.key(0), hparams), length=SCANNED)
        return task.outer_loss(x, hparams, outer)

    return Compiled.of(jax.grad(value), task)


def by_engine(engine: bl.Engine, **settings: Any) -> Callable[[int], Compiled]:
    """features -> the compiled hypergradient."""

    def compiled(features: int) -> Compiled:
        task = bl.tasks.svm(features=features, tol=TOL, **settings)
        return Compiled.of(lambda h, batch: bl.hypergradient(task, h, engine, batch=batch)[1], task)

    return compiled


def arms() -> dict[Key, Callable[[int], Compiled]]:
    """(solver, condition, way) -> features -> the compiled hypergradient."""
    found: dict[Key, Callable[[int], Compiled]] = {}
    for solver in SOLVERS:
        own = {"solver": solver, "form": "features"}
        conditions = MAPPINGS if solver == "block_coordinate_descent" else (solver,)
        for mapping in conditions:
            found[solver, mapping, "implicit"] = by_engine(IMPLICIT, mapping=mapping, **own)
        found[solver, "-", "unrolled"] = by_engine(UNROLLED, **own)
    found["projected_gradient", "-", "plain scan"] = plain_scan
    found["projected_gradient, gram", "projected_gradient", "implicit"] = by_engine(IMPLICIT)
    return found


def compiled_arms(chosen: Iterable[Key], features: int) -> dict[Key, Compiled]:
    """The programs of some arms, two compiled at a time."""
    makers = arms()

    def make(arm: Key) -> tuple[Key, Compiled]:
        with jax.enable_x64(True):  # a setting of the thread
            return arm, makers[arm](features)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(pool.map(make, chosen))


def in_turn(programs: dict[Key, Compiled]) -> Iterator[tuple[Key, list[float]]]:
    """The processor seconds of each arm at a few outer steps, in turn, so that noise is shared; as each is done."""
    seconds: dict[Key, list[float]] = {arm: [] for arm in programs}
    for number in range(RUNS + 1):
        for arm in list(seconds):
            own = seconds[arm]
            own.append(programs[arm](jnp.asarray(AT - 0.02 * number)))
            if number == RUNS or (number and sum(own) >= SPENT):
                yield arm, own[1:] if len(own) > 2 else own
                del seconds[arm]


def in_proportion(known: dict[int, float], features: int) -> float:
    """The seconds to expect, from those of the largest smaller size; 0 where none was measured.

    >>> in_proportion({100: 0.5, 1000: 4.0}, 2000)
    8.0
    """
    smaller = [size for size in known if size < features]
    return known[max(smaller)] * features / max(smaller) if smaller else 0.0


def times(sizes: tuple[int, ...], limit: float, lines: list[dict[str, str]]) -> Iterator[tuple]:
    """Rows for each size and arm that ``lines`` lack: runs, half the 90 % interval, bytes and mean processor seconds.

    An arm that may take more than ``limit`` seconds, judged in proportion by the largest size that it was measured at,
    is left out, and a row says so.
    """
    known: dict[Key, dict[int, float]] = {arm: {} for arm in arms()}
    for line in lines:
        if line["quantity"] == "cpu seconds":
            known[line["solver"], line["mapping"], line["engine"]][int(line["features"])] = float(line["value"])
    for features in sizes:
        missing = [arm for arm in known if features not in known[arm]]
        expected = {arm: in_proportion(known[arm], features) for arm in missing}
        for arm in missing:
            if expected[arm] > limit:
                yield "time", features, *arm, "left out, cpu seconds expected", expected[arm]
        programs = compiled_arms([arm for arm in missing if expected[arm] <= limit], features)
        for arm, own in in_turn(programs):
            half = stats.t.ppf(0.95, len(own) - 1) * float(np.std(own, ddof=1)) / len(own) ** 0.5
            known[arm][features] = float(np.mean(own))
            yield "time", features, *arm, "runs", len(own)
            yield "time", features, *arm, "ci90", half
            yield "time", features, *arm, "bytes", programs[arm].memory
            yield "time", features, *arm, "cpu seconds", known[arm][features]
