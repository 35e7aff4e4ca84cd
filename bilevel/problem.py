"""The inner problem: the one statement that solutions and derivatives follow from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.constraints import Constraint, Free, refuse_empty
from bilevel.foundation import trees
from bilevel.foundation.eager import Setting, compiles_once, solves_once, stated
from bilevel.foundation.readable import named
from bilevel.foundation.refusals import constant
from bilevel.foundation.stated import as_start, checked_batch, checked_scalar, shapes_of, tells
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Batch, HParams, Key, Loss, Params, PyTree, Scalar
from bilevel.implicit.attach import asks_for_values, attach
from bilevel.implicit.mapping import FixedPoint, Mapping, Residual
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.losses.least_squares import by_gauss_newton, exact
from bilevel.losses.linear import stays_on_host
from bilevel.optimality import ProjectedGradient, ProximalGradient, Stationary
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.penalties import Both, Penalty, Zero
from bilevel.solvers import Auto, Instance, Outcome, Solver, iterate, take_steps
from bilevel.solvers.solution import Solution

TRAINED = (
    "inner.solve(...) of a training (bl.Optax with steps=...) is no solution of the inner problem, so implicit "
    "differentiation does not apply: use bl.hypergradient with bl.Unrolled(), bl.Forward() or bl.Truncated()."
)


def no_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
    """Stands in for the loss of a problem that is stated by a residual."""
    raise ValueError(
        "This inner problem has no loss (it was stated by a residual or a fixed point), and the solver asks for one: "
        "use bl.Newton() or bl.Auto()."
    )


@solves_once
def _outcome(problem: Setting, hparams: HParams, batch: Batch, key: Key, init: Params | None) -> Outcome:
    inner: InnerProblem = problem.value
    cold = inner.cold_start(key, hparams, batch)
    if init is not None:
        whole = isinstance(init, PrimalDual)
        init = inner.unknown(as_start(init, cold if whole else inner.primal(cold)), hparams, batch)
    start = cold if init is None else init
    return inner.run(hparams, batch, start, cold, key)


@compiles_once
def _attached(
    problem: Setting, linear_solve: Setting, params: Params, hparams: HParams, batch: Batch, lost: jax.Array
) -> Params:
    return attach(problem.value.mapping, linear_solve.value, params, (hparams, batch), lost=lost)


@dataclass(frozen=True, eq=False, repr=False)
class InnerProblem:
    """w*(h) = argmin over w of loss(w, h, batch) + penalty(w, h), over the set ``constraint``.

    ``loss(params, hparams, batch)`` is the smooth part, a scalar; `bl.Linear` states one that is a function of a linear
    map. ``init(key, hparams)`` gives the cold start. ``optimality`` replaces the condition that is derived from loss,
    penalty and constraint, and is called as ``optimality(params, hparams, batch)``. A set stated by functions
    (`bl.Functional`) leads to the KKT conditions: their unknown is a `bl.PrimalDual`, of which ``params`` is one part.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2 + jnp.exp(h) * w**2),
    ...                         init=lambda key, h: jnp.zeros(2))
    >>> shrunk = lambda h: inner.solve(h, jnp.array([2.0, 4.0])).params
    >>> shrunk(0.0).round(6).tolist(), jax.jacobian(shrunk)(0.0).round(6).tolist()
    ([1.0, 2.0], [-0.5, -1.0])
    """

    loss: Loss
    init: Callable[[Key, HParams], Params]
    penalty: Penalty = Zero()
    constraint: Constraint = Free()
    solver: Solver = Auto()
    optimality: Mapping | None = None

    def __repr__(self) -> str:
        parts = [f"loss {named(self.loss)}"]
        parts += [] if isinstance(self.penalty, Zero) else [f"penalty {named(self.penalty)}"]
        parts += [] if isinstance(self.constraint, Free) else [f"constraint {named(self.constraint)}"]
        parts += [] if self.optimality is None else [f"optimality {type(self.optimality).__name__}"]
        return f"InnerProblem({', '.join([*parts, f'solver {self.solver!r}'])})"

    def __post_init__(self) -> None:
        if self.constraint.by_functions and not self.solver.takes_functions:
            raise ValueError(
                f"bl.{type(self.solver).__name__} cannot keep to constraints that are stated by functions "
                f"(bl.{type(self.constraint).__name__}). Use bl.InteriorPoint() or bl.Auto()."
            )
        if by_gauss_newton(self.loss) and (self.constraint.by_functions or self.optimality is not None):
            raise ValueError(
                'bl.LeastSquares(adjoint="gauss_newton") replaces the Hessian in the conditions that are derived from '
                "the loss, a penalty and a set with a projection, and this problem has functions as constraints or an "
                'optimality= of its own: use adjoint="exact".'
            )
        if not (
            self.penalty.smooth or self.constraint.smooth or (self.penalty.separable and self.constraint.separable)
        ):
            raise ValueError(
                f"The prox of {type(self.penalty).__name__} and the projection on {type(self.constraint).__name__} do "
                "not combine into one: only a separable penalty and a box do. Move one of them into the loss, or state "
                "the set by functions with bl.Functional."
            )

    @classmethod
    def from_residual(
        cls, residual: Callable[..., PyTree], init: Callable[[Key, HParams], Params], solver: Solver = Auto()
    ) -> InnerProblem:
        """The problem of finding w with residual(w, hparams, batch) = 0, of the structure of w: an equilibrium."""
        return cls(no_loss, init, solver=solver, optimality=Residual(residual))

    @classmethod
    def from_fixed_point(
        cls, fixed_point: Callable[..., PyTree], init: Callable[[Key, HParams], Params], solver: Solver = Auto()
    ) -> InnerProblem:
        """The problem of finding w with fixed_point(w, hparams, batch) = w."""
        return cls(no_loss, init, solver=solver, optimality=FixedPoint(fixed_point))

    @property
    def nonsmooth(self) -> Penalty:
        """Penalty and constraint as one term with one prox."""
        if self.constraint.smooth:
            return self.penalty
        return self.constraint if self.penalty.smooth else Both(self.penalty, self.constraint)

    @property
    def mapping(self) -> Mapping:
        """The optimality condition F(params, hparams, batch): the given one, or the one that follows from the
        statement."""
        if self.optimality is not None:
            return self.optimality
        if self.constraint.by_functions:
            return KKT(self.loss, self.constraint.equality, self.constraint.inequality)  # type: ignore[attr-defined]  # by functions
        nonsmooth = self.nonsmooth
        if nonsmooth.smooth:
            return Stationary(self.loss)
        condition = ProximalGradient.under(self.loss, nonsmooth)
        if nonsmooth is not self.constraint:
            return condition
        project = lambda point, hparams, batch: self.constraint.project(point, hparams)
        return ProjectedGradient(self.loss, project, kinks=condition.kinks)

    def at(self, hparams: HParams, batch: Batch, *, key: Key | None = None, **how: Any) -> Instance:
        """The problem with hyperparameters and data put in; ``how`` are further fields of `Instance`."""
        # The solvers judge curvature, so they get the exact Hessian also where the adjoint is to use another matrix.
        mapping = self.mapping.with_loss(exact(self.loss)) if by_gauss_newton(self.loss) else self.mapping
        how = {"complete": self.optimality is None, "key": key, **how}
        return Instance(self.loss, self.nonsmooth, mapping, hparams, batch, **how)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by their roles, for errors that name the function."""
        stated: dict[str, Any] = {"init": self.init, "penalty": self.penalty, "constraint": self.constraint}
        if self.optimality is None:
            return {**stated, "inner loss": self.loss}
        return {**stated, "condition": self.optimality.stated}

    def check(self, hparams: HParams, batch: Batch) -> Params:
        """The shapes of the params; StatementError where a function of the problem takes or returns something that it
        must not. Called after an error only, because a good problem needs no check."""
        checked_batch("inner batch", batch)
        params = shapes_of("init", self.init, jax.random.key(0), hparams)
        if self.optimality is None:
            checked_scalar("inner loss", self.loss, params, hparams, batch)
        return params

    @tells(lambda self, hparams, batch, **_: self.check(hparams, batch))
    def solve(
        self,
        hparams: HParams,
        batch: Batch,
        *,
        key: Key | None = None,
        init: Params | None = None,
        linear_solve: LinearSolver = AutoLinear(),
    ) -> Solution:
        """The solution at ``hparams``, differentiable in hparams and batch by implicit differentiation.

        ``key`` goes to the problem's init (a fixed one if not given); ``init`` is a warm start. The tolerance stays
        relative to the residual of the cold start. The status is per lane under vmap, and never raises. Raises
        ValueError where values are concrete and the parameters of the set alone tell that it is empty (a radius
        below 0); elsewhere the status is then ``infeasible``.

        An eager call, also in an eager gradient or batch, compiles once for shapes. It compiles anew where a global or
        closure of the problem's functions has been bound to another value. A list or an array that is changed in place
        goes unnoticed.

        The params of a training (`bl.Optax` with ``steps``) are no solution. Differentiating them raises TypeError.
        """
        refuse_empty(self.nonsmooth.as_set, hparams)
        if self.solver.budget:
            hparams, batch = constant((hparams, batch), TRAINED)
        problem = stated(self)
        outcome = _outcome(problem, hparams, batch, jax.random.key(0) if key is None else key, init)
        attached = _attached.__wrapped__ if asks_for_values(self.mapping, linear_solve) else _attached
        unknown = outcome.params
        if not self.solver.budget:
            unknown = attached(problem, Setting(linear_solve), unknown, hparams, batch, outcome.status.no_solution)
        dual = unknown.dual if self.constraint.by_functions else None
        figures = (outcome.residual, outcome.steps, outcome.status, outcome.counts, outcome.curvature)
        return Solution(self.primal(unknown), dual, *figures)

    def unknown(self, params: Params, hparams: HParams, batch: Batch) -> Params:
        """The unknown of the mapping that starts at ``params``: with zero multipliers where a `bl.Functional` needs
        them, else ``params`` itself. A `bl.PrimalDual` passes unchanged."""
        if not self.constraint.by_functions or isinstance(params, PrimalDual):
            return params
        values = [
            jax.eval_shape(function, params, hparams, batch)
            for function in (self.constraint.equality, self.constraint.inequality)  # type: ignore[attr-defined]  # by functions
        ]
        kind = jnp.result_type(*jax.tree.leaves(params))  # the solvers': rows are wider where their data are
        return PrimalDual(params, *jax.tree.map(lambda row: jnp.zeros(row.shape, kind), values))

    def primal(self, unknown: Params) -> Params:
        """The params in the unknown of the mapping."""
        return unknown.primal if self.constraint.by_functions else unknown

    def cold_start(self, key: Key, hparams: HParams, batch: Batch) -> Params:
        """The unknown at the start of a solve without a warm start."""
        return self.unknown(trees.differentiable(self.init(key, hparams), "init(key, hparams)"), hparams, batch)

    def run(self, hparams: HParams, batch: Batch, start: Params, cold: Params, key: Key | None = None) -> Outcome:
        """The solver's outcome without derivatives; nonfinite where the loss is not `defined` there."""
        hparams, batch, start, cold = jax.lax.stop_gradient((hparams, batch, start, cold))
        instance = self.at(hparams, batch, key=key)
        solver, _ = self.solver.choose(instance, start)
        if solver.budget:
            outcome = take_steps(solver, instance, start, cold, solver.budget, reverse=False)
        else:
            outcome = iterate(solver, instance, start, cold)
        defined = self.defined(self.primal(outcome.params), hparams, batch)
        code = jnp.where(defined | ~outcome.status.ok, Code.converged, Code.nonfinite)  # a failure has its own reason
        return outcome._replace(status=outcome.status.worse(Status.of(code)))

    def defined(self, params: Params, hparams: HParams, batch: Batch) -> jax.Array:
        """Whether the loss is a finite number at ``params``, because the gradient of a mean over no samples is 0 and a
        solver that reads gradients alone would accept it. True where there is no loss.

        A `HostMatrix` is not multiplied for this, because each of its products calls the host.
        """
        if self.loss is no_loss or stays_on_host(self.loss, batch):
            return jnp.bool_(True)
        return jnp.isfinite(self.loss(params, hparams, batch))

    def explain(self, hparams: HParams, batch: Batch) -> str:
        """The name of the solver that does the work at these shapes, and the reason."""
        solver, reason = self.choose(hparams, batch)
        return f"bl.{type(solver).__name__}: {reason}."

    def choose(self, hparams: HParams, batch: Batch) -> tuple[Solver, str]:
        """The solver that does the work, and the reason in a sentence."""
        cold = jax.eval_shape(lambda: self.cold_start(jax.random.key(0), hparams, batch))
        return self.solver.choose(self.at(hparams, batch), cold)

    def with_solver(self, solver: Solver) -> InnerProblem:
        """The same problem under another solver."""
        return replace(self, solver=solver)
