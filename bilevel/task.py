"""A task: both levels of a bilevel problem with data, a start, and what to measure."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.readable import named
from bilevel.foundation.stated import (
    StatementError,
    check_arguments,
    check_callable,
    checked_batch,
    checked_metrics,
    checked_real,
    checked_scalar,
    described,
    shapes_of,
)
from bilevel.foundation.typing import Batch, HParams, Key, Loss, Params, Scalar
from bilevel.losses.measured import metrics_of
from bilevel.problem import InnerProblem
from bilevel.solvers import Solver

PRECISIONS = {"float32": False, "float64": True}


def no_prior(hparams: HParams) -> Scalar:
    """No term on the hyperparameters."""
    return jnp.zeros(())


def anywhere(hparams: HParams) -> HParams:
    """The projection where all hyperparameters are feasible: the identity."""
    return hparams


def no_metrics(params: Params, hparams: HParams) -> dict[str, Any]:
    """No metrics on held-out data."""
    return {}


def no_baselines() -> dict[str, Any]:
    """No baselines."""
    return {}


def as_stated(hparams: HParams) -> dict[str, Any]:
    """Nothing beside the hyperparameters themselves, where they are stated on their natural scale."""
    return {}


@dataclass(frozen=True)
class Headline:
    """What counts of a task's figures: the sentence that its runs end with.

    ``metric`` is an entry of ``evaluate``, ``assess`` or ``baselines``, or "outer/loss"; "" chooses a result on test
    data, else the outer loss. ``name`` says in words what it is. ``against``: {entry of ``baselines`` or ``evaluate``:
    words}, the figures that it stands beside; {} takes the baseline of the same name.

    >>> headline = Headline("test/accuracy", against={"baseline/noisy": "without cleaning"})
    """

    metric: str = ""
    name: str = ""
    against: Mapping[str, str] = field(default_factory=dict)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """minimise over h   outer_loss(w*(h), h, outer batch) + prior(h)   subject to   w*(h) solving ``inner``.

    ``init_hparams(key)``: the start. ``batches(key, step) -> (inner batch, outer batch)``: a pure function.
    ``evaluate(params, hparams) -> {name: scalar}``: metrics on held-out data, which choose nothing, and ``stop/loss``
    on a second hold-out, on which the trainer may stop early. ``feasible``: the projection of the hyperparameters on
    their set. ``warm_start=False`` where each step draws a new inner problem. ``precision``: "float64" or "float32".
    ``figures``: {name: function(result) -> matplotlib figure}. ``baselines() -> {name: number}``: the figures of
    simpler methods on the same data, or of a study of the task; computed once, for the summary.
    ``assess(params, hparams) -> {name: scalar}``: metrics that are too costly for every step; computed once, at the
    result, for the summary. ``headline``: which of these figures counts, and what to say beside it.
    ``natural(hparams) -> {name: number, array or {label: number}}``: the hyperparameters as people read them (a penalty
    instead of its logarithm, by the names of the features).

    As an argument of a compiled program a task is a pytree whose leaves are the tolerances of its solver; all else is
    the statement, compared by identity. A task `with_solver` has the statement of the one it was made from.
    """

    inner: InnerProblem
    outer_loss: Loss
    init_hparams: Callable[[Key], HParams]
    batches: Callable[[Key, int | jax.Array], tuple[Batch, Batch]]
    evaluate: Callable[[Params, HParams], dict[str, Any]] = no_metrics
    prior: Callable[[HParams], Scalar] = no_prior
    feasible: Callable[[HParams], HParams] = anywhere
    warm_start: bool = True
    precision: str = "float64"
    figures: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    baselines: Callable[[], dict[str, Any]] = no_baselines
    name: str = "task"
    headline: Headline = Headline()
    natural: Callable[[HParams], Mapping[str, Any]] = as_stated
    assess: Callable[[Params, HParams], dict[str, Any]] = no_metrics

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}.")
        if not isinstance(self.inner, InnerProblem):
            raise StatementError(f"inner is a {type(self.inner).__name__}, and has to be a bl.InnerProblem.")
        if not isinstance(self.figures, Mapping):
            raise StatementError("figures have to be a dict of functions by name, {name: function(result) -> figure}.")
        if not isinstance(self.headline, Headline):
            raise StatementError(f"headline is a {type(self.headline).__name__}, and has to be a bl.Headline.")
        check_callable({"init": self.inner.init, "outer loss": self.outer_loss, **self._own})

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.precision}, outer loss {named(self.outer_loss)}, {self.inner!r})"

    @property
    def _own(self) -> dict[str, Callable]:
        names = ("init_hparams", "batches", "evaluate", "prior", "feasible", "baselines", "natural", "assess")
        return {name: getattr(self, name) for name in names}

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by their roles, for errors that name the function."""
        return {
            **self.inner.functions,
            "outer loss": self.outer_loss,
            **self._own,
            **{f"figure {name}": function for name, function in self.figures.items()},
        }

    def check(self, hparams: HParams = None, batch: tuple[Batch, Batch] | None = None) -> None:
        """StatementError where a function of the task takes or returns something that it must not; called after an
        error only."""
        key = jax.random.key(0)
        if hparams is None:
            hparams = shapes_of("init_hparams", self.init_hparams, key)
        if batch is None:
            check_arguments("batches", self.batches, 2)
            batch = self.batches(key, 0)
            if not isinstance(batch, tuple) or len(batch) != 2:
                raise StatementError(
                    f"The batches {described(self.batches)} return {type(batch).__name__}, and have to return a pair: "
                    "(inner batch, outer batch)."
                )
        params = self.inner.check(hparams, batch[0])
        checked_batch("outer batch", batch[1])
        checked_scalar("outer loss", self.outer_loss, params, hparams, batch[1])
        checked_scalar("prior", self.prior, hparams)
        measured = lambda *args: checked_metrics(self.evaluate, self.evaluate(*args))
        check_arguments("evaluate", self.evaluate, 2)
        jax.eval_shape(measured, params, hparams)

    @property
    def statement(self) -> Task:
        """The task that the user stated: itself, unless it was made by `with_solver`."""
        return vars(self).get("_statement", self)

    def with_solver(self, solver: Solver) -> Task:
        """The same statement under another solver."""
        task = replace(self, inner=self.inner.with_solver(solver))
        object.__setattr__(task, "_statement", self.statement)
        return task

    def tree_flatten(self) -> tuple[tuple[Solver], weakref.ref[Task]]:
        """A weak reference, because a program that is cached under a task must not keep that task alive."""
        return (self.inner.solver,), weakref.ref(self.statement)

    @classmethod
    def tree_unflatten(cls, statement: weakref.ref[Task], children: tuple[Solver]) -> Task:
        task = statement()
        assert task is not None, "the program of a task outlived it"
        return task.with_solver(*children)

    def outer(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        """The outer loss at the inner unknown ``params``, with the prior; where that holds duals, the loss gets the
        primal part."""
        loss = self.outer_loss(self.inner.primal(params), hparams, batch)
        return checked_real("outer loss", self.outer_loss, loss) + self.prior(hparams)

    def measured(self, params: Params, hparams: HParams, batches: tuple[Batch, Batch]) -> dict[str, Any]:
        """The metrics that the log shows of one outer step, at the primal ``params``: of both losses where they are
        `bl.Measured`, and of ``evaluate``."""
        return {
            **metrics_of("train", self.inner.loss, params, hparams, batches[0]),
            **metrics_of("validation", self.outer_loss, params, hparams, batches[1]),
            **checked_metrics(self.evaluate, self.evaluate(params, hparams)),
        }
