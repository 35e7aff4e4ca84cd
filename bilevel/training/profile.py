"""Where the time of an outer step goes: its parts, each compiled and timed alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from bilevel.engines import Engine
from bilevel.engines.base import inner_solution
from bilevel.foundation.compilation import Program
from bilevel.foundation.settings import changed
from bilevel.task import Task
from bilevel.training.outer_step import TrainState, point_of

REPEATS = 5  # timings of each part, of which the median counts


def profiled(task: Task, engine: Engine, state: TrainState) -> dict[str, float]:
    """The seconds of inner solve, adjoint solve, error estimate and evaluation in one step from ``state``.

    For devices whose traces are not read (`bilevel.training.clock`). Each part is compiled by itself: the adjoint solve
    is what the hypergradient takes beyond the inner solve, and the estimate what it takes beyond a report of residuals
    alone.
    """
    point = point_of(task, state.key, state.step, state.hparams)
    inner = _seconds(lambda carry: inner_solution(task, point, carry).params, state.carry)
    report = whole = _seconds(lambda carry: engine.hypergradient(task, point, carry), state.carry)
    params = task.inner.primal(state.carry.params)
    evaluation = _seconds(lambda params: task.evaluate(params, point.hparams), params)
    if "accuracy" in vars(engine) and vars(engine)["accuracy"] != "residual":
        plain = changed(engine, accuracy="residual")
        whole = _seconds(lambda carry: plain.hypergradient(task, point, carry), state.carry)
    return {
        "inner solve": inner,
        "adjoint solve": max(whole - inner, 0.0),
        "error estimate": max(report - whole, 0.0),
        "evaluation": evaluation,
    }


def _seconds(function: Callable, argument: Any) -> float:
    """The median time of a compiled function, its compilation left out."""
    program = Program(function)
    jax.block_until_ready(program(argument))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(program(argument))
        times.append(time.perf_counter() - began)
    return statistics.median(times)
