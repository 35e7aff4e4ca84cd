"""What all of JAXopt's solvers share: the pairs that they return, their settings, and when two are equal."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt.notices import UNUSED, differs
from bilevel.foundation import trees
from bilevel.foundation.eager import Setting
from bilevel.foundation.reads import reads
from bilevel.foundation.typing import Params, PyTree

Method = TypeVar("Method", bound=Callable[..., Any])
NOT_TRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


class OptStep(NamedTuple):
    """The pair that `run` and `update` return."""

    params: Any
    state: Any


class KKTSolution(NamedTuple):
    """A solution of a program with the multipliers of its rows."""

    primal: Any
    dual_eq: Any = None
    dual_ineq: Any = None


class LineSearchStep(NamedTuple):
    """The pair that line searches return."""

    stepsize: Any
    state: Any


def is_same(value: Any, default: Any) -> bool:
    """Whether a setting is left at its default. An array counts as changed, because comparing it gives an array."""
    return isinstance(value, type(default) | int | float | str) and value == default


class Solver(abc.ABC):
    """Settings, and a `run` from parameters and data to an `OptStep`.

    Two solvers with the same settings are equal, so that a solve is compiled once for both. ``unused`` names the
    settings that have no counterpart here. A warning tells of each of them once, where it is not left at its default.
    """

    unused: ClassVar[tuple[str, ...]] = ()
    implicit_diff_solve: Callable | None

    def __post_init__(self) -> None:
        for name in (*self.unused, "verbose", "jit"):
            field = self.__dataclass_fields__.get(name)  # type: ignore[attr-defined]  # each subclass is a dataclass
            if field is not None and not is_same(getattr(self, name), field.default):
                differs(f"{type(self).__name__}({name}={getattr(self, name)!r})", UNUSED[name])

    @abc.abstractmethod
    def run(self, init_params: Any, *args: Any, **kwargs: Any) -> OptStep:
        """The solution and what is known of the solve."""

    def l2_optimality_error(self, params: Any, *args: Any, **kwargs: Any) -> jax.Array:
        """The Euclidean norm of `optimality_fun`."""
        return trees.norm(self.optimality_fun(params, *args, **kwargs))

    def optimality_fun(self, params: Any, *args: Any, **kwargs: Any) -> PyTree:
        """The condition that is zero at a solution."""
        raise NotImplementedError(f"{type(self).__name__} states no optimality_fun: use l2_optimality_error.")

    def attribute_names(self) -> tuple[str, ...]:
        """The names of the settings."""
        return tuple(field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]  # a dataclass

    def attribute_values(self) -> tuple[Any, ...]:
        """The settings."""
        return tuple(getattr(self, name) for name in self.attribute_names())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.attribute_values() == other.attribute_values()  # type: ignore[attr-defined]  # of this type

    def __hash__(self) -> int:
        return hash((type(self), self.attribute_values()))


def asked(solver: Any) -> Setting:
    """A solver as a key for compiled programs: its settings, and what its functions read from outside."""
    return Setting(solver, tuple(reads(value) for value in solver.attribute_values()))


def beginning(init_params: Params) -> Params:
    """A start as arrays of floating-point numbers; None stays None."""
    return None if init_params is None else trees.differentiable(init_params, "init_params")


def as_jit_says(method: Method) -> Method:
    """A method that runs in Python, operation by operation, where the solver has ``jit=False`` and its function cannot
    be traced."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except NOT_TRACEABLE:
            if getattr(self, "jit", True) is not False or jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # of JAX
                raise
        with jax.disable_jit():
            return method(self, *args, **kwargs)

    return called  # type: ignore[return-value]  # of the type that is wrapped


class LinearOperator:
    """The products with a matrix, its rows and its columns, that block methods ask for."""

    def __init__(self, A: Any) -> None:
        self.A = jnp.asarray(A)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.A.shape

    def matvec(self, x: Any) -> jax.Array:
        """A x."""
        return self.A @ x

    def matvec_element(self, x: Any, idx: Any) -> jax.Array:
        """One entry of A x."""
        return self.A[idx] @ x

    def rmatvec(self, x: Any) -> jax.Array:
        """A' x."""
        return self.A.T @ x

    def rmatvec_element(self, x: Any, idx: Any) -> jax.Array:
        """One entry of A' x."""
        return self.A[:, idx] @ x

    def update_matvec(self, Ax: Any, delta: Any, idx: Any) -> jax.Array:
        """A x after x[idx] has changed by ``delta``."""
        return Ax + (jnp.outer(self.A[:, idx], delta) if jnp.ndim(delta) else self.A[:, idx] * delta)

    def update_rmatvec(self, ATx: Any, delta: Any, idx: Any) -> jax.Array:
        """A' x after x[idx] has changed by ``delta``."""
        return ATx + (jnp.outer(self.A[idx], delta) if jnp.ndim(delta) else self.A[idx] * delta)

    def column_l2_norms(self, squared: bool = False) -> jax.Array:
        """The norms of the columns."""
        squares = jnp.sum(self.A**2, axis=0)
        return squares if squared else jnp.sqrt(squares)


jax.tree_util.register_pytree_node(LinearOperator, lambda one: ((one.A,), None), lambda _, parts: _of(parts[0]))


def _of(matrix: Any) -> LinearOperator:
    operator = object.__new__(LinearOperator)
    operator.A = matrix
    return operator
