"""The implicit function theorem, stated once: how a solution moves when the arguments of its condition move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from bilevel.foundation.trees import epsilon
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.implicit.mapping import Mapping, System
from bilevel.implicit.prepare import asserted
from bilevel.implicit.silence import silent
from bilevel.linear_solve import LinearSolver


class Arguments(NamedTuple):
    """Arguments split into the array leaves that can carry derivatives and the function that puts them together."""

    leaves: list[Any]
    rebuild: Callable[..., tuple[tuple, dict]]


def split_arguments(args: tuple, kwargs: dict) -> Arguments:
    """Arrays, tracers and Python floats become leaves; everything else (integers, strings, functions) stays fixed."""
    everything, structure = jax.tree.flatten((args, kwargs))
    dynamic = [isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex)) for leaf in everything]
    leaves = [leaf for leaf, moves in zip(everything, dynamic, strict=True) if moves]
    fixed = [None if moves else leaf for leaf, moves in zip(everything, dynamic, strict=True)]
    del everything  # rules of derivatives keep ``rebuild``, and would keep tracers alive with it

    def rebuild(*leaves: Any) -> tuple[tuple, dict]:
        moving = iter(leaves)
        return jax.tree.unflatten(
            structure, [next(moving) if moves else leaf for leaf, moves in zip(fixed, dynamic, strict=True)]
        )

    return Arguments(leaves, rebuild)


def attach(
    mapping: Mapping,
    linear_solve: LinearSolver,
    params: Params,
    args: tuple,
    kwargs: dict | None = None,
    lost: jax.Array | bool = False,
) -> Params:
    """``params`` unchanged in value, with the derivative of the solution of mapping(params, *args, **kwargs) = 0.

    With A = dF/dw and B = dF/dh at the solution, dw = -A^{-1} B dh. Reverse mode transposes this one linear solve, so
    one adjoint solve serves all arguments. Values that the mapping closes over are arguments too. The derivative is NaN
    where the solve fails, or where params are NaN or ``lost``; a cotangent that is exactly zero still gives zero.
    """
    leaves, rebuild = split_arguments(args, kwargs or {})
    params = jax.tree.map(lambda leaf: jax.lax.stop_gradient(jnp.asarray(leaf)), params)
    fixed_args, fixed_kwargs = rebuild(*jax.lax.stop_gradient(leaves))
    mapping = mapping.localize(params, *fixed_args, **fixed_kwargs)

    def residual(w: Params, *leaves: Any) -> PyTree:
        args, kwargs = rebuild(*leaves)
        return mapping(w, *args, **kwargs)

    def solve(w: Params, leaves: list, rhs: PyTree) -> PyTree:
        args, kwargs = rebuild(*leaves)
        return solve_system(mapping.system(w, *args, **kwargs), linear_solve, rhs)

    _check_shapes(mapping, params, jax.eval_shape(residual, params, *leaves))
    residual, closed_over = jax.closure_convert(residual, params, *leaves)
    hidden: list[Any] = []
    if closed_over:
        solve, hidden = jax.closure_convert(solve, params, leaves, params)
    lost = lost | jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(params)]))
    solution = _with_derivative(residual, solve, len(leaves))
    return solution(params, [*leaves, *closed_over], hidden, lost)


def _check_shapes(mapping: Mapping, params: Params, residual: PyTree) -> None:
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (params, residual)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{mapping} must have the structure and shapes of the solution: the solution has {shapes[0]}, the residual "
            f"{shapes[1]}. Return a residual with one entry for each unknown."
        )


def _with_derivative(residual: Callable, solve: Callable, number_of_arguments: int) -> Callable:
    """The identity in ``params`` whose tangent is that of the solution. ``hidden`` are the values that the linear
    system closes over; only second derivatives depend on them."""

    @jax.custom_jvp
    def solution(params: Params, values: list, hidden: list, lost: jax.Array) -> Params:
        return params

    def rule(primals: tuple, tangents: tuple) -> tuple[Params, Params]:
        params, values, hidden, lost = primals
        params = solution(params, values, hidden, lost)
        moved = [i for i, tangent in enumerate(tangents[1]) if not isinstance(tangent, SymbolicZero)]
        if not moved:
            return params, jax.tree.map(jnp.zeros_like, params)

        def at(*moving: Any) -> PyTree:
            current = list(values)
            for i, value in zip(moved, moving, strict=True):
                current[i] = value
            return residual(params, *current)

        def linear(moving: tuple) -> Params:
            _, change = jax.jvp(at, tuple(values[i] for i in moved), moving)
            rhs = jax.tree.map(jnp.negative, change)
            return solve(params, values[:number_of_arguments], rhs, *hidden)

        return params, silent(linear, tuple(tangents[1][i] for i in moved), lost)

    solution.defjvp(rule, symbolic_zeros=True)
    return solution


def solve_system(system: System, linear_solve: LinearSolver, rhs: PyTree) -> PyTree:
    """x with A x = rhs, differentiable in both modes and to any order; NaN where the solve failed."""
    return solve_system_counted(system, linear_solve, rhs)[0]


def solve_system_counted(system: System, linear_solve: LinearSolver, rhs: PyTree) -> tuple[PyTree, Counts]:
    """As `solve_system`, with the cost of the solve; the cost of a derivative is not counted."""
    operator = asserted(system.operator, linear_solve, rhs)
    reduced, unravel = ravel_pytree(system.restrict(rhs))

    def matvec(flat: jax.Array) -> jax.Array:
        return ravel_pytree(operator(unravel(flat)))[0]

    def solve(matvec: Callable, flat: jax.Array) -> tuple[jax.Array, Counts]:
        solution = linear_solve(replace(operator, matvec=matvec), flat)
        counts = Counts(hessian_products=solution.products, factorizations=solution.factorizations)
        # a reduced right-hand side leaves the range by rounding of what it was reduced from, which may be far larger
        off_range = operator.singular & (solution.residual <= epsilon(flat) ** 0.625)
        return jnp.where(solution.status.ok | off_range, solution.value, jnp.nan), counts.as_arrays()

    symmetric = bool(operator.symmetric)
    flat, counts = jax.lax.custom_linear_solve(matvec, reduced, solve, solve, symmetric=symmetric, has_aux=True)
    return system.extend(rhs, unravel(flat)), counts.plus(hessian_products=system.products)
