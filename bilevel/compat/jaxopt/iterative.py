"""Solvers of JAXopt that take steps: `init_state`, `update` and `run` on a solver of bilevel.

The rule to stop is JAXopt's: the norm of the optimality condition is at most ``tol``, or ``maxiter`` steps are taken.
"""

from __future__ import annotations

import abc
import warnings
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.compat.jaxopt.common import NOT_TRACEABLE, OptStep, as_jit_says, asked, beginning
from bilevel.compat.jaxopt.complex_params import conjugate, is_complex, join, on_pairs, split
from bilevel.compat.jaxopt.functions import FirstOf, Objective
from bilevel.compat.jaxopt.iteration import IterativeSolver
from bilevel.compat.jaxopt.linear_solve import Called, linear_solver
from bilevel.compat.jaxopt.loop import asks_for_forward_mode
from bilevel.compat.jaxopt.notices import differs
from bilevel.compat.jaxopt.starts import blank, first, is_known, stand_in
from bilevel.compat.jaxopt.states import State, Statement
from bilevel.foundation import trees
from bilevel.foundation.eager import Setting, compiles_once, solves_once
from bilevel.foundation.status import REMEDIES, Code, Status
from bilevel.foundation.typing import Args, Kwargs, Params, PyTree
from bilevel.implicit.attach import asks_for_values, attach
from bilevel.implicit.mapping import Residual
from bilevel.solvers import Instance, State as Inner
from bilevel.solvers.base import Solver as Engine
from bilevel.solvers.differentiable_while import differentiable_while
from bilevel.solvers.loop import Progress, enter, goes_on, take_step, walk

SCIPY = 1e-6  # the share of the first error at which SciPy's result is a solution


class EngineSolver(IterativeSolver):
    """A solver whose steps are those of one of bilevel's solvers."""

    extra: ClassVar[str | None] = None  # the name of an argument that parametrises a prox or a set
    tells_value: ClassVar[bool] = False  # whether states hold the value of the function
    minimises: ClassVar[bool] = True  # whether ``fun`` is a value
    resumes: ClassVar[bool] = False  # whether an `OptStep` in the place of params gives its memory to the next run
    runs: ClassVar[int | None] = None  # the most steps of bilevel's solver, where ``maxiter`` counts those within one
    begins_blank: ClassVar[bool] = False  # whether `init_state` may be called without the function's arguments
    maxiter: int
    tol: float
    has_aux: bool

    @abc.abstractmethod
    def engine(self) -> Engine:
        """bilevel's solver that takes the steps."""

    @abc.abstractmethod
    def statement(self) -> Statement:
        """The problem in bilevel's words."""

    def function(self) -> Objective | FirstOf | None:
        """The user's function, whose aux (and value) states hold."""
        return None

    @as_jit_says
    def init_state(self, init_params: Any, *args: Any, **kwargs: Any) -> State:
        """The state before the first step."""
        params, inner = self.started(init_params)
        if is_complex(params):
            return on_pairs(self).init_state(_split(params, init_params), *args, **kwargs)
        if self.begins_blank and not self.has_aux and not is_known(self, params, args, kwargs):
            return blank(_begun(asked(stand_in(self)), beginning(params), None, None, ((), {})))
        return _begun(asked(self), beginning(params), inner, *self.given(args, kwargs))

    @as_jit_says
    def update(self, params: Any, state: State, *args: Any, **kwargs: Any) -> OptStep:
        """One step from ``params``, at these arguments."""
        params, _ = self.started(params)
        if is_complex(params):
            found = on_pairs(self).update(split(params), state, *args, **kwargs)
            return OptStep(join(found.params), found.state)
        return OptStep(*_updated(asked(self), beginning(params), state, *self.given(args, kwargs)))

    @as_jit_says
    def run(self, init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
        """Steps until the error is at most ``tol``, or ``maxiter``. Where a solve fails, `state.status` says how."""
        params, inner = self.started(init_params)
        if is_complex(params):
            found = on_pairs(self).run(_split(params, init_params), *args, **kwargs)
            return OptStep(join(found.params), found.state)
        setting, start, given = asked(self), beginning(params), self.given(args, kwargs)
        if self.unrolled():
            try:
                params, state = _unrolled(setting, start, inner, *given)
            except TypeError as error:
                if not asks_for_forward_mode(error):
                    raise
                params, state = _unrolled.__wrapped__(setting, start, inner, *given, reverse=False)
        else:
            params, state = _run(setting, start, inner, *given)
            params = self.attached(params, *given)
            value, aux = _told(setting, params, *given)
            state = state._replace(value=value, aux=aux)
        self.tell(state.status)
        return OptStep(params, state)

    def started(self, init_params: Any) -> tuple[Any, Inner | None]:
        """The params to start from, and the memory of the solve that found them, where an `OptStep` is given."""
        if not isinstance(init_params, OptStep):
            return init_params, None
        params, state = init_params
        return params, state.inner if self.resumes and isinstance(state, State) else None

    def unrolled(self) -> bool:
        """Whether derivatives go through the steps. Where they are asked for and cannot, a warning says so."""
        if getattr(self, "implicit_diff", True):
            return False
        engine = self.engine()
        if not engine.unrolls:
            differs(
                f"{type(self).__name__}(implicit_diff=False)",
                f"the steps of bl.{type(engine).__name__} have no derivative; that of the solution is implicit. Leave "
                "it out.",
            )
        return engine.unrolls

    def tell(self, status: Status) -> None:
        """Warns of a result that is no solution, where its status is known. JAXopt says nothing there."""
        if isinstance(status.code, Tracer) or int(jnp.max(status.code)) <= Code.max_steps:
            return
        name, remedy = status.name, REMEDIES[Code[status.name]]
        warnings.warn(f"{type(self).__name__}.run ended {name}: {remedy}.", RuntimeWarning, stacklevel=3)

    def attached(self, params: Params, hparams: Any, batch: Any) -> Params:
        """``params`` with the derivative of the solution, which there is only where the function can be traced."""
        if not jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # a setting of JAX
            return self.derived(params, hparams, batch)
        try:
            return self.derived(params, hparams, batch)
        except NOT_TRACEABLE:
            differs(type(self).__name__, "JAX cannot trace the function, so the solution has no derivative.")
            return jax.lax.stop_gradient(params)

    def derived(self, params: Params, hparams: Any, batch: Any) -> Params:
        """``params`` with the derivative of the solution."""
        solve = linear_solver(self.implicit_diff_solve)
        mapping = self.statement().mapping
        if asks_for_values(mapping, solve):
            return attach(mapping, solve, params, (hparams, batch))
        return _attached(asked(self), Setting(solve), params, hparams, batch)

    def optimality_fun(self, params: Any, *args: Any, **kwargs: Any) -> PyTree:
        """The condition that is zero at a solution, and that is differentiated there."""
        if is_complex(params):
            found = join(on_pairs(self).optimality_fun(split(params), *args, **kwargs))
            return conjugate(found) if self.minimises and hasattr(self, "fun") else found  # as JAX's gradients are
        return self.statement().mapping(params, *self.given(args, kwargs))

    def given(self, args: Args, kwargs: Kwargs) -> tuple[Any, tuple[Args, Kwargs]]:
        """The arguments as hparams (the parameters of the prox or set) and a batch, (args, kwargs)."""
        if self.extra is None:
            return None, (args, kwargs)
        if self.extra in kwargs:
            return kwargs[self.extra], (args, {name: value for name, value in kwargs.items() if name != self.extra})
        return (args[0], (args[1:], kwargs)) if args else (None, ((), kwargs))

    def at(self, hparams: Any, batch: Any, differentiable: bool = False) -> Instance:
        """The problem at these arguments."""
        stated = self.statement()
        return Instance(stated.loss, stated.penalty, stated.mapping, hparams, batch, differentiable)


def _split(params: Params, given: Any) -> Any:
    return OptStep(split(params), given.state) if isinstance(given, OptStep) else split(params)


@compiles_once
def _begun(setting: Setting, params: Params, inner: Inner | None, hparams: Any, batch: Any) -> State:
    solver: EngineSolver = setting.value
    instance, engine = solver.at(hparams, batch), solver.engine()
    engine.refuse(instance)
    inner = first(engine, instance, params, inner).settled()
    return State(jnp.int32(0), inner.residual, *_seen(solver, params, batch), Status.of(Code.converged), inner)


@compiles_once
def _updated(setting: Setting, params: Params, state: State, hparams: Any, batch: Any) -> tuple[Params, State]:
    solver: EngineSolver = setting.value
    instance = solver.at(hparams, batch, differentiable=solver.unrolled())
    engine = solver.engine()
    inner = engine.step(instance, _current(engine, instance, params, state.inner)).settled()
    error = inner.residual if engine.keeps_gradient else instance.residual_norm(inner.params)
    code = jnp.where(jnp.isfinite(error), inner.code, Code.nonfinite)
    seen = _seen(solver, inner.params, batch)
    return inner.params, State(state.iter_num + 1, error, *seen, Status.of(code), inner)


def _current(engine: Engine, instance: Instance, params: Params, inner: Inner) -> Inner:
    """The solver's state at these params and arguments, which the caller may have changed since the last step."""
    fresh = engine.refresh(instance, inner._replace(params=params)).settled()
    if engine.keeps_gradient:
        return fresh
    same = jnp.all(
        jnp.stack([jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (params, inner.params)), strict=True)])
    )
    return trees.select(same, inner, fresh)


@solves_once
def _run(setting: Setting, start: Params, inner: Inner | None, hparams: Any, batch: Any) -> tuple[Params, State]:
    solver: EngineSolver = setting.value
    instance = solver.at(*jax.lax.stop_gradient((hparams, batch)))
    engine, progress = _entered(solver, instance, *jax.lax.stop_gradient((start, inner)))
    return _ended(solver, engine, instance, walk(engine, instance, progress))


@compiles_once
def _unrolled(
    setting: Setting, start: Params, inner: Inner | None, hparams: Any, batch: Any, reverse: bool = True
) -> tuple[Params, State]:
    """The steps, with derivatives of them in reverse mode, else in forward mode."""
    solver: EngineSolver = setting.value
    instance = solver.at(hparams, batch, differentiable=True)
    engine, progress = _entered(solver, instance, start, inner)

    def one_step(instance: Instance, progress: Progress) -> tuple[Progress, jax.Array]:
        after = take_step(engine, instance, progress)
        return after, goes_on(engine, after)

    going = goes_on(engine, progress)
    if reverse:
        progress = differentiable_while(partial(one_step, instance), progress, going, solver.maxiter)
    else:
        progress = jax.lax.while_loop(partial(goes_on, engine), partial(take_step, engine, instance), progress)
    params, state = _ended(solver, engine, instance, progress)
    value, aux = _seen(solver, params, batch)
    return params, state._replace(value=value, aux=aux)


def _entered(solver: EngineSolver, instance: Instance, start: Params, inner: Inner | None) -> tuple[Engine, Progress]:
    """bilevel's solver, and its progress before the first step, with JAXopt's absolute tolerance."""
    engine = replace(solver.engine(), max_steps=solver.maxiter if solver.runs is None else solver.runs)
    engine.refuse(instance)
    state = first(engine, instance, start, inner)
    reference = jax.lax.stop_gradient(state.residual)
    level = trees.epsilon(start) ** 0.5 * reference
    progress = enter(engine, state, reference, level)
    # Only SciPy's solvers have ``tol=None``. The tolerance is then relative to the first error, where that is above 1.
    target = SCIPY * jnp.maximum(1, reference) if solver.tol is None else solver.tol
    return engine, progress._replace(target=jnp.asarray(target, progress.target.dtype))


def _ended(solver: EngineSolver, engine: Engine, instance: Instance, progress: Progress) -> tuple[Params, State]:
    state = progress.state
    error = state.residual if engine.keeps_gradient else instance.residual_norm(state.params)
    code = jnp.where(progress.steps >= engine.max_steps, Code.max_steps, Code.stalled)
    code = jnp.where(error > progress.ceiling, Code.diverged, code)
    code = jnp.where(state.code > Code.converged, state.code, code)
    code = jnp.where(error <= progress.target, Code.converged, code)
    finite = jnp.isfinite(error) & ~jnp.any(jnp.stack(jax.tree.leaves(trees.not_finite(state.params))))
    code = jnp.where(finite, code, Code.nonfinite)
    return state.params, State(progress.steps, error, None, None, Status.of(code), state)


@compiles_once
def _attached(setting: Setting, solve: Setting, params: Params, hparams: Any, batch: Any) -> Params:
    mapping = setting.value.statement().mapping
    # A user's function gets the plain system, because the system reduced to a face is singular.
    mapping = Residual(mapping) if isinstance(solve.value, Called) else mapping
    return attach(mapping, solve.value, params, (hparams, batch))


@compiles_once
def _told(setting: Setting, params: Params, hparams: Any, batch: Any) -> tuple[Any, Any]:
    return _seen(setting.value, params, batch)


def _seen(solver: EngineSolver, params: Params, batch: Any) -> tuple[Any, Any]:
    """The value and aux at ``params``, of solvers whose states hold them."""
    function: Any = solver.function()
    if function is None or not (solver.tells_value or solver.has_aux):
        return None, None
    args, kwargs = batch
    value, aux = function.with_aux(params, *args, **kwargs)
    return (value if solver.tells_value else None), aux
