"""Which hyperparameters can move the outer loss at all, read from the programs of both levels before a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal

from bilevel.engines.base import Engine, Point, cold_start
from bilevel.foundation.closures import depends
from bilevel.foundation.typing import HParams, PyTree
from bilevel.task import Task

# Equations whose results are zeros where all of their inputs are zeros, and where one of them is.
LINEAR = {
    "add", "sub", "add_any", "neg", "broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type",
    "reduce_sum", "concatenate", "slice", "copy", "copy_p", "real", "cumsum", "rev",
}  # fmt: skip
PRODUCTS = {"mul", "dot_general"}
NESTED = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


class Influence(NamedTuple):
    """For each leaf of the hyperparameters, by name, whether a derivative of the outer loss can reach it. Leaves that
    the user holds constant by ``jax.lax.stop_gradient`` are apart."""

    reached: dict[str, bool]
    through_params: bool  # whether the outer loss has a derivative in the params
    start_depends: bool  # whether the start of the inner solver depends on the hyperparameters
    held: list[str]  # the leaves that the user holds constant

    @property
    def without_path(self) -> list[str]:
        """The leaves whose hypergradient is zero by construction."""
        return [name for name, reached in self.reached.items() if not reached]

    def sentence(self) -> str:
        """The sentence for the user about the leaves without a path."""
        names = ", ".join(self.without_path)
        if not self.through_params:
            why = (
                "outer_loss has no derivative with respect to the params (a count, an accuracy or a rounded number has "
                "none): use a differentiable loss, and measure the other in task.evaluate"
            )
        elif self.start_depends:
            why = (
                "the solution does not depend on it. What only the start of the inner solver depends on is seen by "
                "engines that differentiate its steps: bl.Unrolled() or bl.Forward()"
            )
        else:
            why = "neither outer_loss, prior nor the inner problem uses it: look for a misspelt name, or leave it out"
        return f"{names} cannot reach the outer loss, so that the hypergradient there is 0 by construction: {why}."


def influence(engine: Engine, task: Task, point: Point) -> Influence:
    """Whether the derivative of each leaf is zero by construction, as JAX sees it when it differentiates.

    A leaf has a path where the outer loss or the prior has a derivative with respect to it that is not identically
    zero. It also has a path where the outer loss has such a derivative with respect to the params, and the optimality
    condition depends on the leaf. An engine that differentiates the solver's steps (``through_steps``) also
    differentiates the start, and settings of the solver that are functions of the hyperparameters: where there are
    such, every leaf may have a path.
    """
    cold = cold_start(task, point)
    outer = jax.grad(task.outer, argnums=(0, 1))
    outer_of = lambda h: task.outer(cold, h, point.outer_batch)
    by_params, direct = _zeros(lambda w, h: outer(w, h, point.outer_batch), cold, point.hparams)
    through_params = not all(jax.tree.leaves(by_params))
    learned = engine.through_steps and _has_functions(task.inner.solver)
    paths = [direct]
    if through_params:
        paths.append(_zeros(lambda w, h: _pulled(task, point, w, h), cold, point.hparams))
        if engine.through_steps:
            paths.append(_zeros(lambda h: _start_pulled(task, point, h), point.hparams))
    named = jax.tree_util.tree_leaves_with_path(direct)
    zero = [all(flags) for flags in zip(*(jax.tree.leaves(path) for path in paths), strict=True)]
    held = _held(lambda h: (outer_of(h), task.inner.mapping(cold, h, point.inner_batch)), point.hparams)
    names = [f"hparams{jax.tree_util.keystr(path)}" for path, _ in named]
    constant = [name for name, flag, stopped in zip(names, zero, held, strict=True) if flag and stopped]
    reached = {name: learned or not flag for name, flag in zip(names, zero, strict=True) if name not in constant}
    start_depends = depends(lambda h: task.inner.init(point.key, h), point.hparams)
    return Influence(reached, through_params, start_depends, constant)


def _held(function: Callable, hparams: HParams) -> list[bool]:
    """For each leaf whether the function gives it to ``jax.lax.stop_gradient``: the user says that it is a constant."""
    return _stopped(jax.make_jaxpr(function)(hparams).jaxpr)


def _stopped(jaxpr: Jaxpr) -> list[bool]:
    stopped: set[int] = set()
    for equation in jaxpr.eqns:
        inner = _program_of(equation) if equation.primitive.name in NESTED else None
        flags = [equation.primitive.name == "stop_gradient"] * len(equation.invars)
        flags = flags if inner is None else _stopped(inner)
        stopped |= {id(variable) for variable, flag in zip(equation.invars, flags, strict=True) if flag}
    return [id(variable) in stopped for variable in jaxpr.invars]


def _has_functions(solver: Any) -> bool:
    """Whether a setting may be a function of the hyperparameters; one marked ``of_data`` is a function of others."""
    return any(callable(getattr(solver, field.name)) for field in fields(solver) if not field.metadata.get("of_data"))


def _pulled(task: Task, point: Point, params: PyTree, hparams: HParams) -> HParams:
    """B'u, for a u of ones, with B = dF/dh."""
    residual, pull = jax.vjp(lambda h: task.inner.mapping(params, h, point.inner_batch), hparams)
    return pull(jax.tree.map(jnp.ones_like, residual))[0]


def _start_pulled(task: Task, point: Point, hparams: HParams) -> HParams:
    """The derivative of the cold start, in the same form."""
    start, pull = jax.vjp(lambda h: task.inner.cold_start(point.key, h, point.inner_batch), hparams)
    return pull(jax.tree.map(jnp.ones_like, start))[0]


def _zeros(function: Callable, *arguments: PyTree) -> Any:
    """For each leaf that the function returns, whether its program says that it is zero."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    none = [False] * len(closed.jaxpr.invars)
    constants = [_is_zero(value) for value in closed.consts]
    return jax.tree.unflatten(jax.tree.structure(shapes), zero_outputs(closed.jaxpr, none, constants))


def zero_outputs(jaxpr: Jaxpr, inputs: Sequence[bool], constants: Sequence[bool] = ()) -> list[bool]:
    """Which outputs of a program are zeros by construction, where the flagged ``inputs`` are.

    >>> program = jax.make_jaxpr(lambda x: (0.0 * x + 0.0, x))(1.0)
    >>> zero_outputs(program.jaxpr, [False])
    [True, False]
    """
    zero = {variable for variable, flag in zip(jaxpr.invars, inputs, strict=True) if flag}
    zero |= {variable for variable, flag in zip(jaxpr.constvars, constants, strict=False) if flag}

    def is_zero(variable: Any) -> bool:
        return _is_zero(variable.val) if isinstance(variable, Literal) else variable in zero

    for equation in jaxpr.eqns:
        flags, name = [is_zero(variable) for variable in equation.invars], equation.primitive.name
        if (name in LINEAR and all(flags)) or (name in PRODUCTS and any(flags)):
            zero.update(equation.outvars)
        elif name == "select_n" and all(flags[1:]):
            zero.update(equation.outvars)
        elif name in NESTED and any(flags):
            inner = _program_of(equation)
            if inner is not None:
                found = zero_outputs(inner, flags)
                zero.update(variable for variable, flag in zip(equation.outvars, found, strict=True) if flag)
    return [is_zero(variable) for variable in jaxpr.outvars]


def _program_of(equation: Any) -> Jaxpr | None:
    """The program that an equation calls with its own inputs."""
    for name in ("jaxpr", "call_jaxpr"):
        found = equation.params.get(name)
        found = getattr(found, "jaxpr", found)
        if found is not None and len(found.invars) == len(equation.invars):
            return found
    return None


def _is_zero(value: Any) -> bool:
    """Looks at single numbers only, because JAX broadcasts the zeros that it makes, and data must not be copied to the
    host. A random key is no number."""
    if isinstance(value, Tracer) or np.size(value) != 1 or jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        return False
    return not np.any(np.asarray(value))
