"""The hypergradient of a task at one point: compiled once, reported on, never silently wrong."""

from __future__ import annotations

import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.engines import Carry, Engine, Implicit, Point, Report
from bilevel.engines.failure import LOG, act, escalations, failed
from bilevel.foundation import trees
from bilevel.foundation.compilation import Program
from bilevel.foundation.refusals import constant
from bilevel.foundation.typing import Batch, HParams, Key, Scalar
from bilevel.solvers import Solver
from bilevel.task import Task

CONSTANT = (
    "The derivative of a bl.hypergradient by bl.{engine} would be wrong: to JAX the solution in it is a constant. For "
    "second derivatives differentiate the outer loss at bl.InnerProblem.solve(...).params twice, as in "
    "jax.jacfwd(jax.grad(loss)), or use engine=bl.Forward()."
)
_CHOICES: weakref.WeakKeyDictionary[Task, dict] = weakref.WeakKeyDictionary()
_PROGRAMS: weakref.WeakKeyDictionary[Task, Program] = weakref.WeakKeyDictionary()
_STARTS: weakref.WeakKeyDictionary[Task, Program] = weakref.WeakKeyDictionary()


def hypergradient(
    task: Task,
    hparams: HParams,
    engine: Engine = Implicit(),
    *,
    batch: tuple[Batch, Batch] | None = None,
    key: Key | None = None,
    carry: Carry | None = None,
) -> tuple[Scalar, HParams, Report]:
    """(value, grad, report) of g(w*(h), h) + prior(h) at ``hparams``.

    ``batch`` is a pair (inner batch, outer batch), by default that of step 0; ``key`` goes to the problem's init;
    ``carry`` is the last report's, for a warm start. A second call with the same task, shapes and engine settings
    traces nothing. A failed solve follows the engine's ``on_failure``: "raise" (`ConvergenceError`), "warn", "retry"
    (counted in ``report.retries``; raises when nothing helps) or "skip" (NaN, and ``report.skipped`` is 1).
    Inside another trace nothing can raise: there the gradient of a failed solve is NaN.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> task = bl.Task(
    ...     inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
    ...                           init=lambda key, h: jnp.zeros(())),
    ...     outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2, init_hparams=lambda key: jnp.zeros(()),
    ...     batches=bl.full_batch(4.0, 1.0))
    >>> value, grad, report = bl.hypergradient(task, jnp.array(0.0))
    >>> round(float(value), 4), round(float(grad), 4), report.status.name
    (0.5, -1.0, 'converged')
    """
    key = jax.random.key(0) if key is None else key
    hparams = trees.differentiable(hparams, "hparams")
    inner_batch, outer_batch = task.batches(key, 0) if batch is None else batch
    point = Point(hparams, inner_batch, outer_batch, key)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((hparams, point, carry)))
    if traced:
        if not engine.differentiable:
            point = constant(point, CONSTANT.format(engine=type(engine).__name__))
        return _poisoned(*_compute(task, engine, task.inner.solver, point, carry))
    program = _program(task)
    engine = _chosen(task, engine, point)
    result = program(engine, task.inner.solver, point, _first_carry(task, engine, point) if carry is None else carry)
    if engine.on_failure == "retry" and failed(result[2]):
        result = _retry(task, engine, point, result)
    act(engine, result[2], task.inner.solver)
    return _skipped(*result) if engine.on_failure == "skip" and failed(result[2]) else result


def _chosen(task: Task, engine: Engine, point: Point) -> Engine:
    """The engine that does the work; an engine that chooses is asked once for a task and shapes."""
    if not engine.chooses:
        return engine
    chosen = _CHOICES.setdefault(task, {})
    shapes = jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), jax.tree.leaves(point))
    asked = (engine, str(shapes))
    if asked not in chosen:
        chosen[asked] = engine.choose(task.levels, point)[0]
    return chosen[asked]


def _program(task: Task) -> Program:
    owner = weakref.ref(task)  # the program must not keep alive the task that it is cached under

    def compute(engine: Engine, solver: Solver, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        return _compute(_alive(owner), engine, solver, point, carry)

    return _PROGRAMS.setdefault(task, Program(compute))


def _first_carry(task: Task, engine: Engine, point: Point) -> Carry:
    """The carry of a cold start, by a small program of its own: the large one then serves cold and warm starts."""
    owner = weakref.ref(task)
    first = Program(lambda engine, point: engine.first_carry(_alive(owner).levels, point))
    return _STARTS.setdefault(task, first)(engine, point)


def _alive(owner: weakref.ref[Task]) -> Task:
    task = owner()
    assert task is not None, "the program of a task outlived it"
    return task


def _compute(
    task: Task, engine: Engine, solver: Solver, point: Point, carry: Carry | None
) -> tuple[Scalar, HParams, Report]:
    levels = task.levels
    levels = replace(levels, inner=levels.inner.with_solver(solver))
    return engine.hypergradient(levels, point, engine.first_carry(levels, point) if carry is None else carry)


def _retry(task: Task, engine: Engine, point: Point, result: tuple) -> tuple:
    """The first result that can be used, else the last; the report counts the retries and all their work."""
    program = _program(task)
    spent = result[2].counts
    for number, (name, harder, longer) in enumerate(escalations(engine, task.inner.solver), start=1):
        value, grad, report = program(harder, longer, point, _first_carry(task, harder, point))
        spent = spent.add(report.counts)
        result = value, grad, replace(report, retries=jnp.int32(number), counts=spent)
        LOG.warning("Retry %d (%s): status %s", number, name, report.status.name)
        if not failed(report):
            break
    return result


def _skipped(value: Scalar, grad: HParams, report: Report) -> tuple[Scalar, HParams, Report]:
    """NaN for a gradient that must not be used, and a report that says so."""
    return value, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), grad), replace(report, skipped=jnp.int32(1))


def _poisoned(value: Scalar, grad: HParams, report: Report) -> tuple[Scalar, HParams, Report]:
    ok = report.status.ok
    return value, jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), grad), report
