"""Searches without derivatives beside a run, with as many inner solves: grid, random, TPE, Gaussian process."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.batches import same_at_every_step
from bilevel.data.rows import in_memory
from bilevel.foundation import trees
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Key, Params
from bilevel.task import Task
from bilevel.training.outer_step import first_point

SAMPLERS = ("grid", "random", "tpe", "gp")
GRIDDED = 3  # hyperparameters up to which a grid is offered


class Objective(NamedTuple):
    """The outer loss of a point, by one inner solve."""

    at: Callable[[np.ndarray, Params | None], tuple[float, Params]]  # (point, start or None: cold) -> (loss, solution)
    start: np.ndarray  # the point at the start of the run
    warm: bool  # whether the solution of a point is a start for its neighbour

    def __call__(self, point: np.ndarray) -> float:
        """The loss by a cold solve."""
        return self.at(point, None)[0]

    def along(self, points: Iterable[np.ndarray]) -> Iterator[float]:
        """The losses of points each of which is near the one before, whose solution is the start of its solve."""
        near = None
        for point in points:
            loss, found = self.at(point, near)
            near = found if self.warm and np.isfinite(loss) else None
            yield loss


def beside(task: Task, sampler: str, trials: int, width: float, key: Key, seed: int) -> Task:
    """The task with a search by ``sampler`` as a baseline and a figure of its losses.

    The search takes ``trials`` inner solves (a grid about as many) in the box of ``width`` on both sides of the start,
    each cold. A grid goes from each solution to its neighbour where the steps of the task do so too. It minimises the
    outer loss with its prior. The summary gets ``baseline_SAMPLER_loss``, ``_inner_solves`` and ``_seconds``. Raises
    ValueError for an unknown sampler, a grid over many hyperparameters, a missing package, or batches that change from
    step to step, because their losses are not comparable.
    """
    refuse(sampler, task, key)
    record: list[tuple[float, float]] = []  # best loss so far, seconds

    def search() -> dict[str, Any]:
        value = objective(task, key)
        began, best = time.perf_counter(), np.inf
        record.clear()
        for loss in searches(sampler, value, width, trials, seed):
            best = min(best, loss if np.isfinite(loss) else np.inf)
            record.append((best, time.perf_counter() - began))
        name = f"baseline/{sampler}"
        found = {f"{name}_loss": best, f"{name}_inner_solves": len(record), f"{name}_seconds": record[-1][1]}
        return {**task.baselines(), **found}

    figures = {**task.figures, f"against_{sampler}": lambda result: compared(result, sampler, record)}
    return replace(task, baselines=search, figures=figures)


def refuse(sampler: str, task: Task, key: Key) -> None:
    """ValueError for a search that cannot be, before the run."""
    if sampler not in SAMPLERS:
        raise ValueError(f"baseline={sampler}: choose one of {', '.join(SAMPLERS)}.")
    shapes = jax.eval_shape(task.init_hparams, key)
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    if sampler == "grid" and size > GRIDDED:
        raise ValueError(
            f"baseline=grid: a grid over {size} hyperparameters has too many points; choose random, tpe or gp."
        )
    if not same_at_every_step(task.batches, key):
        raise ValueError(
            f"baseline={sampler} compares outer losses, and each step of this task has batches of its own: choose a "
            "task with the same batches at every step (batch_size=0)."
        )
    needed = {"tpe": ("optuna",), "gp": ("optuna", "torch")}.get(sampler, ())
    for package in needed:
        if importlib.util.find_spec(package) is None:
            remedy = "pip install 'bilevel[optuna]'" if package == "optuna" else f"pip install {package}"
            raise ValueError(f"baseline={sampler} needs the package {package}: {remedy}, or choose random.")


def objective(task: Task, key: Key) -> Objective:
    """The outer loss of a point; infinite where the inner solve failed."""
    point = in_memory(first_point(task, key))
    start, unravel = ravel_pytree(point.hparams)

    def value(flat: jax.Array, near: Params, known: jax.Array) -> tuple[jax.Array, Params]:
        hparams = task.feasible(unravel(flat))
        cold = task.inner.cold_start(point.key, hparams, point.inner_batch)
        begin = trees.select(known, near, cold)  # by a number, because a second program would be compiled anew
        outcome = task.inner.run(hparams, point.inner_batch, begin, cold, point.key)
        loss = task.outer(task.inner.primal(outcome.params), hparams, point.outer_batch)
        return jnp.where(outcome.status.ok, loss, jnp.inf), outcome.params

    program = Program(value)
    shapes = jax.eval_shape(lambda: task.inner.cold_start(point.key, point.hparams, point.inner_batch))
    nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def at(flat: np.ndarray, near: Params | None) -> tuple[float, Params]:
        known = near is not None
        loss, params = program(jnp.asarray(flat, start.dtype), near if known else nowhere, jnp.bool_(known))
        return float(loss), params

    return Objective(at, np.asarray(start), task.warm_start)


def searches(sampler: str, value: Objective, width: float, trials: int, seed: int) -> Iterator[float]:
    """The losses of the trials, one by one. A grid begins at the largest hyperparameters, because most are penalties on
    log scale, and the inner problems of large penalties are easy."""
    size = value.start.size
    if sampler == "grid":
        side = max(2, round(trials ** (1 / size)))
        axes = np.meshgrid(*[np.linspace(width, -width, side)] * size)
        yield from value.along(value.start + np.array(shift) for shift in zip(*map(np.ravel, axes), strict=True))
    elif sampler == "random":
        random = np.random.default_rng(seed)
        yield from (value(value.start + random.uniform(-width, width, size)) for _ in range(trials))
    else:
        yield from by_optuna(sampler, value, width, trials, seed)


def by_optuna(sampler: str, value: Objective, width: float, trials: int, seed: int) -> Iterator[float]:
    """The losses of Optuna's trials."""
    import optuna  # pyright: ignore[reportMissingImports]  # an extra

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {"tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True)}
    made = kinds.get(sampler, lambda: optuna.samplers.GPSampler(seed=seed))()
    study = optuna.create_study(sampler=made)
    for _ in range(trials):
        trial = study.ask()
        shift = [trial.suggest_float(f"h{place}", -width, width) for place in range(value.start.size)]
        loss = value(value.start + np.array(shift))
        if np.isfinite(loss):
            study.tell(trial, loss)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        yield loss


def compared(result: Any, sampler: str, record: list[tuple[float, float]]) -> Any:
    """The best loss so far of the run and of the search, against inner solves and against seconds."""
    from matplotlib.figure import Figure

    losses = np.minimum.accumulate([line["outer/loss"] for line in result.metrics])
    spent = np.cumsum([line["seconds"] for line in result.metrics])
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(np.arange(1, len(losses) + 1), losses, label="hypergradient")
    left.plot(np.arange(1, len(record) + 1), [best for best, _ in record], label=sampler)
    right.plot(spent, losses)
    right.plot([seconds for _, seconds in record], [best for best, _ in record])
    left.set(xlabel="inner solves", ylabel="best outer loss so far")
    right.set(xlabel="seconds, compilation included")
    left.legend(frameon=False)
    return figure
