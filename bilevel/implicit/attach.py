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

from bilevel.foundation.eager import Setting, compiles_once, stated
from bilevel.foundation.trees import epsilon
from bilevel.foundation.typing import Args, Counts, Kwargs, Params, PyTree
from bilevel.implicit.mapping import Mapping, System
from bilevel.implicit.prepare import above_rounding, asserted, on_face
from bilevel.implicit.silence import coupled, silent
from bilevel.linear_solve import LinearSolver, Operator


class Form(NamedTuple):
    """How arguments are put together: their structure, and the leaves that are no arrays, with None for the others."""

    structure: Any
    fixed: Args

    def rebuild(self, *leaves: Any) -> tuple[Args, Kwargs]:
        moving = iter(leaves)
        whole = [next(moving) if one is None else one.value for one in self.fixed]
        return jax.tree.unflatten(self.structure, whole)


class Arguments(NamedTuple):
    """Arguments split into the array leaves that can carry derivatives and the form that puts them together."""

    leaves: list[Any]
    form: Form

    def rebuild(self, *leaves: Any) -> tuple[Args, Kwargs]:
        """(args, kwargs) with these leaves."""
        return self.form.rebuild(*leaves)


def split_arguments(args: Args, kwargs: Kwargs) -> Arguments:
    """Arrays, tracers and Python floats become leaves; everything else (integers, strings, functions) stays fixed."""
    everything, structure = jax.tree.flatten((args, kwargs))
    moves = [isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex)) for leaf in everything]
    fixed = tuple(None if moving else Setting(leaf) for leaf, moving in zip(everything, moves, strict=True))
    return Arguments([leaf for leaf, moving in zip(everything, moves, strict=True) if moving], Form(structure, fixed))


def asks_for_values(mapping: Mapping, linear_solve: LinearSolver) -> bool:
    """Whether the symmetry that a user asserts is checked, which needs concrete values and so no compiled program."""
    return linear_solve.needs_symmetric and type(mapping).system is Mapping.system


def attach_once(
    mapping: Mapping, linear_solve: LinearSolver, params: Params, args: Args, kwargs: Kwargs | None = None
) -> Params:
    """As `attach`, compiled once for the mapping and the shapes, in eager calls too."""
    if asks_for_values(mapping, linear_solve):
        return attach(mapping, linear_solve, params, args, kwargs)
    leaves, form = split_arguments(args, kwargs or {})
    return _attach_once(stated(mapping), Setting(linear_solve), params, leaves, Setting(form))


@compiles_once
def _attach_once(mapping: Setting, linear_solve: Setting, params: Params, leaves: list, form: Setting) -> Params:
    return attach(mapping.value, linear_solve.value, params, *form.value.rebuild(*leaves))


def attach(
    mapping: Mapping,
    linear_solve: LinearSolver,
    params: Params,
    args: Args,
    kwargs: Kwargs | None = None,
    lost: jax.Array | bool = False,
) -> Params:
    """``params`` unchanged in value, with the derivative of the solution of mapping(params, *args, **kwargs) = 0.

    With A = dF/dw and B = dF/dh at the solution, dw = -A^{-1} B dh. Reverse mode transposes this one linear solve, so
    one adjoint solve serves all arguments. Values that the mapping closes over are arguments too. The derivative is NaN
    where the solve fails, or where params are NaN or ``lost``; a cotangent that is exactly zero still gives zero.
    """
    leaves, form = split_arguments(args, kwargs or {})
    rebuild = form.rebuild  # the rules below are kept by JAX, and must not keep the leaves, which may be traced
    # The solution gets the attached derivative alone, not the derivative of the steps that led to it.
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
    # A rule of JAX must not close over traced values, so they become arguments.
    residual, closed_over = jax.closure_convert(residual, params, *leaves)
    hidden: list[Any] = []
    # Only then, because converting the solve traces it.
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
    """The identity in ``params`` whose tangent is the tangent of the solution. ``hidden`` are the values that the
    linear system closes over; only second derivatives depend on them."""

    @jax.custom_jvp
    def solution(params: Params, values: list, hidden: list, lost: jax.Array) -> Params:
        return params

    def rule(primals: tuple, tangents: tuple) -> tuple[Params, Params]:
        params, values, hidden, lost = primals
        params = solution(params, values, hidden, lost)
        moved = [i for i, tangent in enumerate(tangents[1]) if not isinstance(tangent, SymbolicZero)]
        if not moved:
            return params, jax.tree.map(jnp.zeros_like, params)

        def linear(of: tuple, moving: tuple) -> Params:
            params, values, hidden = of

            def at(*moving: Any) -> PyTree:
                current = list(values)
                for i, value in zip(moved, moving, strict=True):
                    current[i] = value
                return residual(params, *current)

            _, change = jax.jvp(at, tuple(values[i] for i in moved), moving)
            rhs = jax.tree.map(jnp.negative, change)
            return solve(params, values[:number_of_arguments], rhs, *hidden)

        moving = tuple(tangents[1][i] for i in moved)
        return params, silent(linear, (params, values, hidden), moving, lost, values)

    solution.defjvp(rule, symbolic_zeros=True)
    return solution


def solve_system(system: System, linear_solve: LinearSolver, rhs: PyTree) -> PyTree:
    """x with A x = rhs, differentiable in both modes and to any order; NaN where the solve failed."""
    return solve_system_counted(system, linear_solve, rhs)[0]


def solve_system_counted(system: System, linear_solve: LinearSolver, rhs: PyTree) -> tuple[PyTree, Counts]:
    """As `solve_system`, with the cost of the solve; the cost of a derivative is not counted."""
    operator = asserted(system.operator, linear_solve, rhs)
    reduced, unravel = ravel_pytree(system.restrict(rhs))
    flat = replace(operator, matvec=lambda y: ravel_pytree(operator(unravel(y)))[0])
    extend = lambda rhs, y: system.extend(rhs, unravel(y))
    solve = _solve_on_face if on_face(operator) else _solve_reduced
    value, counts = solve(flat, extend, linear_solve, rhs, reduced)
    return value, counts.plus(hessian_products=system.products)


def _solve_reduced(
    operator: Operator, extend: Callable, linear_solve: LinearSolver, rhs: PyTree, reduced: jax.Array
) -> tuple[PyTree, Counts]:
    def solve(matvec: Callable, flat: jax.Array) -> tuple[jax.Array, Counts]:
        return _solved(replace(operator, matvec=matvec), linear_solve, flat)

    # Told that A is symmetric, JAX solves the transposed system in the same way, without transposing the product.
    symmetric = bool(operator.symmetric)
    solution, counts = jax.lax.custom_linear_solve(
        operator.matvec, reduced, solve, solve, symmetric=symmetric, has_aux=True
    )
    return extend(rhs, solution), counts


def _solve_on_face(
    operator: Operator, extend: Callable, linear_solve: LinearSolver, rhs: PyTree, reduced: jax.Array
) -> tuple[PyTree, Counts]:
    """As `_solve_reduced`, where K lives on a face. Either solve has to know how large its right-hand side or cotangent
    was before the reduction, so the system is stated in (b, y, x): b = rhs, K y = reduced, x - extend(b, y) = 0."""

    def matvec(unknown: tuple) -> tuple:
        b, y, x = unknown
        image = b, operator(y), jax.tree.map(jnp.subtract, x, extend(b, y))
        return coupled(image, unknown, operator(jnp.ones_like(reduced)))

    def solved(operator: Operator, flat: jax.Array, given: PyTree) -> tuple[jax.Array, Counts]:
        flat, tol = above_rounding(flat, given, linear_solve.stated_tol)
        return _solved(operator, linear_solve.with_tol(tol), flat)

    def solve(_: Callable, given: tuple) -> tuple[tuple, Counts]:
        b, flat, rest = given
        y, counts = solved(operator, flat, b)
        return (b, y, jax.tree.map(jnp.add, rest, extend(b, y))), counts

    def transposed(_: Callable, cotangents: tuple) -> tuple[tuple, Counts]:
        of_b, of_y, of_x = cotangents
        through_b, through_y = jax.linear_transpose(extend, rhs, reduced)(of_x)
        y, counts = solved(operator.transpose(reduced), of_y + through_y, of_x)
        return (jax.tree.map(jnp.add, of_b, through_b), y, of_x), counts

    given = coupled((rhs, reduced, jax.tree.map(jnp.zeros_like, rhs)), rhs)
    (b, y, value), counts = jax.lax.custom_linear_solve(matvec, given, solve, transposed, has_aux=True)
    return coupled(value, (b, y)), counts


def _solved(operator: Operator, linear_solve: LinearSolver, flat: jax.Array) -> tuple[jax.Array, Counts]:
    solution = linear_solve(operator, flat)
    counts = Counts(hessian_products=solution.products, factorizations=solution.factorizations)
    # a reduced right-hand side leaves the range by the rounding of the full one, which may be far larger
    off_range = operator.singular & (solution.residual <= epsilon(flat) ** 0.625)
    return jnp.where(solution.status.ok | off_range, solution.value, jnp.nan), counts.as_arrays()
