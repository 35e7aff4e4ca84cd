"""The hypergradient of a task at one point: compiled once, reported on, never silently wrong."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel.engines import Carry, Engine, Implicit, Point, Report
from bilevel.engines.examination import examined
from bilevel.engines.failure import act, describe, failed, with_retries
from bilevel.engines.influence import influence
from bilevel.foundation import trees
from bilevel.foundation.compilation import Program
from bilevel.foundation.reads import reads
from bilevel.foundation.refusals import constant
from bilevel.foundation.stated import tells
from bilevel.foundation.typing import Batch, HParams, Key, Scalar
from bilevel.task import PRECISIONS, Task

CONSTANT = (
    "The derivative of a bl.hypergradient by bl.{engine} would be wrong: to JAX the solution in it is a constant. For "
    "second derivatives differentiate the outer loss at bl.InnerProblem.solve(...).params twice, as in "
    "jax.jacfwd(jax.grad(loss)), or use engine=bl.Forward()."
)
_CHOICES: weakref.WeakKeyDictionary[Task, dict] = weakref.WeakKeyDictionary()
_PROGRAMS: weakref.WeakKeyDictionary[Task, Program] = weakref.WeakKeyDictionary()
_LOOKED: weakref.WeakKeyDictionary[Task, set[type[Engine]]] = weakref.WeakKeyDictionary()
_STARTS: weakref.WeakKeyDictionary[Task, Program] = weakref.WeakKeyDictionary()


@tells(lambda task, hparams, *_, batch=None, **__: task.check(hparams, batch))
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

    ``batch`` is a pair (inner batch, outer batch), by default the pair of step 0; ``key`` goes to the problem's init;
    ``carry`` is the last report's, for a warm start. A second call with the same task, shapes and engine settings
    traces nothing, unless a global or closure of the task's functions has been bound to another value in between. A
    list or an array that is changed in place goes unnoticed. A failed solve follows the engine's ``on_failure``:
    "raise" (`ConvergenceError`), "warn", "retry" (counted in ``report.retries``; raises when nothing helps) or "skip"
    (NaN, and ``report.skipped`` is 1). A value, a gradient or an inner loss that is not finite is a failure too, even
    if both solves ended well. Inside another trace nothing can raise: there the gradient of a failed solve is NaN.

    All is computed in ``task.precision``; value and gradient have the type of ``hparams``. Inside another trace its
    precision holds, with a warning where it is lower.

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
    given, hparams = hparams, trees.differentiable(hparams, "hparams")
    point, double = _point(task, hparams, batch, key), PRECISIONS[task.precision]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((point, carry))):
        _warn_of_precision(task, double)
        if not engine.differentiable:
            point = constant(point, CONSTANT.format(engine=type(engine).__name__))
        carry = engine.first_carry(task, point) if carry is None else carry
        return _poisoned(*examined(engine, task, point, carry))
    if double == _is_double():
        return _concrete(task, engine, point, carry)
    with jax.enable_x64(double):
        exact = trees.differentiable(given if double else jax.tree.map(_as_single, given), "hparams")
        exact = jax.tree.map(_as_double, exact) if double else exact
        value, grad, report = _concrete(task, engine, _point(task, exact, batch, key), carry)
        grad = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), grad, hparams)
        return value.astype(jax.tree.leaves(grad)[0].dtype), grad, jax.tree.map(_for_outside, report)


def _is_double() -> bool:
    return bool(jax.config.read("jax_enable_x64"))


def _as_double(leaf: jax.Array) -> jax.Array:
    """The type to compute in: float32 is the widest where 64 bits are off; a narrower type has to be asked for by
    name."""
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


def _as_single(leaf: Any) -> Any:
    """Converted by NumPy, because JAX would warn of 64 bits where they are off."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == np.float64 else leaf


def _for_outside(leaf: Any) -> Any:
    """The report with NumPy's float64, because arithmetic with JAX's would warn where 64 bits are off."""
    wide = isinstance(leaf, jax.Array) and leaf.dtype == jnp.float64
    return np.asarray(leaf) if wide else leaf


def _warn_of_precision(task: Task, double: bool) -> None:
    if double and not _is_double():
        warnings.warn(
            "bl.hypergradient inside another trace computes in float32, though the task has "
            f'precision="{task.precision}": call jax.config.update("jax_enable_x64", True) first, or state '
            'bl.Task(precision="float32").',
            stacklevel=3,
        )


def _point(task: Task, hparams: HParams, batch: tuple[Batch, Batch] | None, key: Key) -> Point:
    return Point(hparams, *(task.batches(key, 0) if batch is None else batch), key)


def _concrete(task: Task, engine: Engine, point: Point, carry: Carry | None) -> tuple[Scalar, HParams, Report]:
    """The result of the compiled hypergradient, after the engine's policy has dealt with a failure."""
    engine = _chosen(task, engine, point)
    start = _first_carry(task, engine, point) if carry is None else carry

    program = _PROGRAMS.setdefault(task.statement, Program(examined)).reading(_read(task))

    def attempt(tried: Engine, harder: Task) -> tuple[Report, tuple[Scalar, HParams]]:
        begin = start if tried is engine else _first_carry(task, tried, point)
        value, grad, report = program(tried, harder, point, begin)
        return report, (value, grad)

    report, (value, grad) = with_retries(engine, task, attempt)
    _warn_of_idle(task, engine, point, grad)
    act(engine, report, lambda: describe(report, engine, task, point))
    return _skipped(value, grad, report) if engine.on_failure == "skip" and failed(report) else (value, grad, report)


def _warn_of_idle(task: Task, engine: Engine, point: Point, grad: HParams) -> None:
    """Warns of gradients that are zero by construction: once for a task and kind of engine, and only if one is zero."""
    looked = _LOOKED.setdefault(task, set())
    if type(engine) in looked:
        return
    looked.add(type(engine))
    if any(not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grad)):
        found = influence(engine, task, point)
        if found.without_path:
            warnings.warn(found.sentence(), stacklevel=4)


def _chosen(task: Task, engine: Engine, point: Point) -> Engine:
    """The engine that does the work; an engine that chooses is asked once for a task and shapes."""
    if not engine.chooses:
        return engine
    chosen = _CHOICES.setdefault(task, {})
    shapes = jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), jax.tree.leaves(point))
    asked = (engine, str(shapes))
    if asked not in chosen:
        chosen[asked] = engine.choose(task, point)[0]
    return chosen[asked]


def _first_carry(task: Task, engine: Engine, point: Point) -> Carry:
    """The carry of a cold start, by a small program of its own, so that one large program serves cold and warm
    starts."""
    first = Program(lambda engine, task, point: engine.first_carry(task, point))
    return _STARTS.setdefault(task.statement, first).reading(_read(task))(engine, task, point)


def _read(task: Task) -> Hashable:
    """The values that the functions of the task read from outside now.

    The task itself is left out, because its programs must not keep it alive.
    """
    return tuple(map(reads, task.functions.values()))


def _skipped(value: Scalar, grad: HParams, report: Report) -> tuple[Scalar, HParams, Report]:
    """NaN for a gradient that must not be used, and a report that says so."""
    return value, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), grad), replace(report, skipped=jnp.int32(1))


def _poisoned(value: Scalar, grad: HParams, report: Report) -> tuple[Scalar, HParams, Report]:
    ok = report.status.ok
    return value, jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), grad), report
