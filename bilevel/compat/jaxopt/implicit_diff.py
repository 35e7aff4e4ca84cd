"""JAXopt's derivatives of solutions, by `bl.custom_root` and its relatives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from bilevel.compat.jaxopt.linear_solve import linear_solver
from bilevel.foundation.typing import Args, Params, PyTree
from bilevel.implicit import (
    custom_fixed_point as _custom_fixed_point,
    custom_root as _custom_root,
    root_jvp as _root_jvp,
    root_vjp as _root_vjp,
)


def custom_root(
    optimality_fun: Callable,
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | None = None,
) -> Callable[[Callable], Callable]:
    """Gives solver(init_params, *args, **kwargs) the derivative of the root of optimality_fun(params, *args, **kwargs).

    ``reference_signature`` is a function whose signature names the arguments, in the place of that of
    ``optimality_fun``.
    """
    return _custom_root(_as_signed(optimality_fun, reference_signature), linear_solver(solve), has_aux)


def custom_fixed_point(
    fixed_point_fun: Callable,
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | None = None,
) -> Callable[[Callable], Callable]:
    """As `custom_root`, for solutions of fixed_point_fun(params, *args, **kwargs) = params."""
    return _custom_fixed_point(_as_signed(fixed_point_fun, reference_signature), linear_solver(solve), has_aux)


def root_jvp(
    optimality_fun: Callable, sol: Params, args: Args, tangents: Args, solve: Callable | None = None
) -> Params:
    """The derivative of the root in the direction ``tangents`` of ``args``."""
    return _root_jvp(optimality_fun, sol, args, tangents, linear_solver(solve))


def root_vjp(
    optimality_fun: Callable, sol: Params, args: Args, cotangent: Params, solve: Callable | None = None
) -> PyTree:
    """The cotangents of ``args`` for a ``cotangent`` of the root."""
    return _root_vjp(optimality_fun, sol, args, cotangent, linear_solver(solve))


def _as_signed(function: Callable, reference: Callable | None) -> Callable:
    """``function`` with the signature of ``reference``, in whose order it gets its arguments."""
    if reference is None:
        return function
    signature = inspect.signature(reference)

    @functools.wraps(reference)
    def signed(*args: Any, **kwargs: Any) -> Any:
        placed = signature.bind(*args, **kwargs)
        return function(*placed.args, **placed.kwargs)

    return signed
