"""Where solvers start: from the memory of an earlier solve, or before the function's arguments are known."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from bilevel.compat.jaxopt.states import State
from bilevel.foundation.typing import Args, Kwargs, Params
from bilevel.solvers import Instance, State as Inner
from bilevel.solvers.base import Solver as Engine


def _nothing(params: Params, *args: Any, **kwargs: Any) -> Any:
    return 0.0


def _itself(params: Params, *args: Any, **kwargs: Any) -> Any:
    return params


STAND_INS: dict[str, Callable] = {
    "fun": _nothing,
    **dict.fromkeys(("fixed_point_fun", "prox", "projection", "projection_grad"), _itself),
}


def is_known(solver: Any, params: Any, args: Args, kwargs: Kwargs) -> bool:
    """Whether these are all the arguments of the solver's function and of its prox or set."""
    _, (given, named) = solver.given(args, kwargs)
    function = getattr(solver, "fun", None) or getattr(solver, "fixed_point_fun", None)
    try:
        inspect.signature(function).bind(params, *given, **named)  # type: ignore[arg-type]  # one of both is there
    except TypeError:
        return False
    return solver.extra is None or solver.extra in kwargs or bool(args)


def stand_in(solver: Any) -> Any:
    """The solver of a constant function, for a state that is begun before the function's arguments are known."""
    changes: dict[str, Any] = {name: one for name, one in STAND_INS.items() if name in solver.attribute_names()}
    return replace(solver, **changes, **({"value_and_grad": False} if hasattr(solver, "value_and_grad") else {}))


def blank(state: State) -> State:
    """The state of a solver whose function is not known: error and value are infinite."""
    infinite = jnp.full_like(state.error, jnp.inf)
    return state._replace(error=infinite, value=None if state.value is None else infinite)


def first(engine: Engine, instance: Instance, params: Params, inner: Inner | None) -> Inner:
    """The solver's state before the first step, with the memory of an earlier solve where there is one."""
    fresh = engine.init(instance, params)
    if inner is None:
        return fresh
    kept = engine.refresh(instance, inner._replace(params=fresh.params)).memory
    return fresh._replace(memory=kept)
