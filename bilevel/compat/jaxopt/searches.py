"""JAXopt's line searches, by `bl.line_search`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt.common import LineSearchStep, Solver, as_jit_says, asked
from bilevel.compat.jaxopt.complex_params import conjugate, is_complex, join, on_pairs, split
from bilevel.compat.jaxopt.functions import Objective
from bilevel.compat.jaxopt.notices import differs
from bilevel.foundation import trees
from bilevel.foundation.eager import Setting, compiles_once
from bilevel.foundation.typing import Params, PyTree
from bilevel.solvers import line_search


class LineSearchState(NamedTuple):
    """Where a search ended; ``error`` is 0 and ``done`` True where the condition holds, else ``failed``."""

    iter_num: jax.Array
    params: Params
    value: Any
    grad: PyTree
    error: jax.Array
    done: jax.Array
    failed: jax.Array
    aux: Any = None

    @property
    def num_fun_eval(self) -> jax.Array:
        """Values evaluated, each with its gradient."""
        return self.iter_num

    @property
    def num_grad_eval(self) -> jax.Array:
        """Gradients evaluated."""
        return self.iter_num


class LineSearch(Solver):
    """A search along ``descent_direction`` (the negative gradient by default) from ``init_stepsize``.

    ``run(init_stepsize, params, value, grad, descent_direction, fun_args, fun_kwargs)``; value and gradient are
    computed again, because a stale one would accept a wrong step. `update` is a whole search.
    """

    minimises: ClassVar[bool] = True
    fun: Callable
    value_and_grad: bool | Callable
    has_aux: bool
    maxiter: int
    max_stepsize: float | None
    c1: float
    c2: float

    @as_jit_says
    def run(  # type: ignore[override]  # JAXopt's arguments of line searches
        self,
        init_stepsize: Any,
        params: Params,
        value: Any = None,
        grad: Any = None,
        descent_direction: Any = None,
        fun_args: Any = (),
        fun_kwargs: Any = None,
    ) -> LineSearchStep:
        """The step and where it leads."""
        del value, grad
        if is_complex(params):
            both = [None if tree is None else split(tree) for tree in (params, descent_direction)]
            step, state = on_pairs(self).run(init_stepsize, both[0], None, None, both[1], fun_args, fun_kwargs)
            return LineSearchStep(step, _of_pairs(state))
        return LineSearchStep(
            *_searched(asked(self), init_stepsize, params, descent_direction, tuple(fun_args), dict(fun_kwargs or {}))
        )

    @as_jit_says
    def init_state(
        self,
        init_stepsize: Any,
        params: Params,
        value: Any = None,
        grad: Any = None,
        descent_direction: Any = None,
        fun_args: Any = (),
        fun_kwargs: Any = None,
    ) -> LineSearchState:
        """The state at the start."""
        del value, grad, descent_direction
        if is_complex(params):
            pairs = split(params)
            return _of_pairs(on_pairs(self).init_state(init_stepsize, pairs, None, None, None, fun_args, fun_kwargs))
        objective = Objective(self.fun, self.value_and_grad, self.has_aux)
        params = trees.differentiable(params, "params")
        value, aux = objective.with_aux(params, *fun_args, **(fun_kwargs or {}))
        slope = jax.grad(objective)(params, *fun_args, **(fun_kwargs or {}))
        no, error = jnp.bool_(False), jnp.full_like(value, jnp.inf)
        return LineSearchState(jnp.int32(0), params, value, slope, error, no, no, aux)

    def update(
        self,
        stepsize: Any,
        state: LineSearchState,
        params: Params,
        value: Any = None,
        grad: Any = None,
        descent_direction: Any = None,
        fun_args: Any = (),
        fun_kwargs: Any = None,
    ) -> LineSearchStep:
        """A whole search; ``state`` is replaced."""
        del state
        return self.run(stepsize, params, value, grad, descent_direction, fun_args, fun_kwargs)

    def wanted(self) -> str:
        """The condition in the words of `bl.line_search`."""
        return "strong-wolfe"


def _of_pairs(state: LineSearchState) -> LineSearchState:
    """The state for complex params. JAX's gradient at x + iy is df/dx - i df/dy."""
    return state._replace(params=join(state.params), grad=conjugate(join(state.grad)))


@compiles_once
def _searched(
    setting: Setting, first: Any, params: Params, direction: PyTree, args: tuple, kwargs: dict
) -> tuple[jax.Array, LineSearchState]:
    solver: LineSearch = setting.value
    objective = Objective(solver.fun, solver.value_and_grad, solver.has_aux)
    params = trees.differentiable(params, "params")
    loss = lambda w: objective(w, *args, **kwargs)
    if direction is None:
        direction = jax.tree.map(jnp.negative, jax.grad(loss)(params))
    found = line_search(
        loss,
        params,
        direction,
        first=first,
        condition=solver.wanted(),
        sufficient=solver.c1,
        curvature=solver.c2,
        largest=jnp.inf if solver.max_stepsize is None else solver.max_stepsize,
        max_trials=solver.maxiter,
    )
    aux = objective.with_aux(found.params, *args, **kwargs)[1]
    done = found.satisfied
    error = jnp.where(done, 0.0, jnp.inf).astype(found.value.dtype)
    state = LineSearchState(found.trials, found.params, found.value, found.gradient, error, done, ~done, aux)
    return found.step, state


@dataclass(eq=False)
class BacktrackingLineSearch(LineSearch):
    """A step that decreases the function enough; ``condition`` "armijo" halves ``init_stepsize`` until it does."""

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    maxiter: int = 30
    tol: float = 0.0
    condition: str = "strong-wolfe"
    c1: float = 1e-4
    c2: float = 0.9
    decrease_factor: float = 0.8
    max_stepsize: float | None = 1.0
    verbose: bool | int = False
    jit: str | bool = "auto"
    unroll: str | bool = "auto"

    unused: ClassVar[tuple[str, ...]] = ("decrease_factor",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.condition not in ("armijo", "goldstein", "wolfe", "strong-wolfe"):
            raise ValueError(
                f"BacktrackingLineSearch got condition={self.condition!r}: give 'armijo', 'goldstein', 'wolfe' or "
                "'strong-wolfe'."
            )
        if self.condition == "goldstein":
            differs(
                "BacktrackingLineSearch", "condition='goldstein' runs the Armijo search; give 'wolfe' for a lower end."
            )

    def wanted(self) -> str:
        return {"goldstein": "armijo"}.get(self.condition, self.condition)


@dataclass(eq=False)
class ZoomLineSearch(LineSearch):
    """A step that satisfies the strong Wolfe conditions, by bracketing."""

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    c1: float = 1e-4
    c2: float = 0.9
    c3: float = 1e-6
    rel_tol_cubic: float = 0.2
    rel_tol_quad: float = 0.1
    interval_threshold: float = 1e-6
    increase_factor: float = 2.0
    tol: float = 0.0
    maxiter: int = 30
    max_stepsize: float | None = None
    verbose: bool | int = False
    jit: str | bool = "auto"
    unroll: str | bool = "auto"

    unused: ClassVar[tuple[str, ...]] = ("increase_factor",)


@dataclass(eq=False)
class HagerZhangLineSearch(LineSearch):
    """A step that satisfies the Wolfe conditions or their approximate form, by bracketing."""

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    maxiter: int = 30
    tol: float = 0.0
    c1: float = 0.1
    c2: float = 0.9
    expansion_factor: float = 5.0
    shrinkage_factor: float = 0.66
    max_stepsize: float | None = 1.0
    verbose: bool | int = False
    jit: str | bool = "auto"
    unroll: str | bool = "auto"

    def wanted(self) -> str:
        return "wolfe"
