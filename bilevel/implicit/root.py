"""Level 1: implicit derivatives for any solver, by a decorator (Blondel et al., 2021, arXiv:2105.15183)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel.foundation.eager import Setting, compiles_once, frozen, prepared, stated
from bilevel.foundation.once import Once
from bilevel.foundation.typing import Args, Params, PyTree
from bilevel.implicit.attach import asks_for_values, attach, attach_once, split_arguments
from bilevel.implicit.calls import for_condition, like, pair
from bilevel.implicit.mapping import FixedPoint, Mapping, as_mapping
from bilevel.implicit.undefined import undefined
from bilevel.linear_solve import AutoLinear, LinearSolver

NOT_TRACEABLE = (jax.errors.JAXTypeError, TypeError)


def custom_root(
    residual: Mapping | Callable[..., PyTree], solve: LinearSolver = AutoLinear(), has_aux: bool = False
) -> Callable[[Callable], Callable]:
    """Gives a solver of F(w, *args) = 0 the derivatives of the implicit function theorem.

    With A = dF/dw and B = dF/dargs at the solution w*, the Jacobian J of w* solves A J = -B: one linear solve a
    forward-mode tangent, one adjoint solve a cotangent for all arguments together, none for arguments that are not
    differentiated. jvp, vjp, jacfwd, jacrev, hessian, vmap and jit apply, also to values that F or the solver closes
    over.

    ``residual``: F(params, *args, **kwargs), of the structure of params, or a mapping of ``bl.optimality``.
    ``solve``: how the linear system is solved. An explicit ``bl.CG()`` on a plain function asserts that A is symmetric.
    ``has_aux``: the solver returns (params, aux), as any kind of tuple. aux passes through; using its derivative raises
    TypeError in reverse mode and gives NaN in forward mode.

    The decorated solver is called as solver(init, *args, **kwargs); the first argument may be given by name. F gets the
    other arguments: keywords by name where F has the name, else in the solver's order. The derivative with respect to
    ``init`` is zero by definition. A solver that cannot be traced (NumPy) runs eagerly with a warning; under jit and
    vmap wrap it in ``jax.pure_callback`` first. Where the linear solve fails, the derivative is NaN.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> @bl.custom_root(lambda w, theta: w**2 - theta)
    ... def square_root(init, theta):
    ...     return jnp.sqrt(theta)
    >>> round(float(jax.grad(square_root, argnums=1)(1.0, 4.0)), 6)
    0.25
    """
    mapping = as_mapping(residual)

    def decorate(solver: Callable) -> Callable:
        @functools.wraps(solver)
        def solution(*args: Any, **kwargs: Any) -> Any:
            taken = for_condition(solver, mapping.stated, str(mapping), args, kwargs)
            result, origins = _run(solver, args, kwargs)
            if not has_aux:
                with _telling_of_pairs(solver, result):
                    return attach_once(mapping, solve, result, *taken)
            params, aux = pair(result, solver)
            return like(result, attach_once(mapping, solve, params, *taken), _without_derivative(aux, origins))

        return solution

    return decorate


def custom_fixed_point(
    fixed_point: Callable[..., PyTree], solve: LinearSolver = AutoLinear(), has_aux: bool = False
) -> Callable[[Callable], Callable]:
    """As `custom_root`, for a solver of T(w, *args) = w: the residual is T(w, *args) - w.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> @bl.custom_fixed_point(lambda w, theta: 0.5 * (w + theta / w))
    ... def square_root(init, theta):
    ...     return jnp.sqrt(theta)
    >>> round(float(jax.grad(square_root, argnums=1)(1.0, 4.0)), 6)
    0.25
    """
    return custom_root(FixedPoint(fixed_point), solve, has_aux)


def root_jvp(
    residual: Mapping | Callable[..., PyTree],
    params: Params,
    args: Args,
    tangents: Args,
    solve: LinearSolver = AutoLinear(),
) -> Params:
    """The derivative of the solution ``params`` of F(params, *args) = 0 in the direction ``tangents`` (as ``args``).

    >>> import bilevel as bl
    >>> round(float(bl.root_jvp(lambda w, theta: w**2 - theta, 2.0, (4.0,), (1.0,))), 6)
    0.25
    """
    _refuse_others("tangents", tangents, "args", args)
    moved = _jvp.__wrapped__ if asks_for_values(as_mapping(residual), solve) else _jvp
    return moved(stated(residual), params, tuple(args), tuple(tangents), Setting(solve))


def root_vjp(
    residual: Mapping | Callable[..., PyTree],
    params: Params,
    args: Args,
    cotangent: Params,
    solve: LinearSolver = AutoLinear(),
) -> Args:
    """The cotangents of all ``args`` for a ``cotangent`` (as ``params``) of the solution, by one adjoint solve.

    >>> import bilevel as bl
    >>> [round(float(grad), 6) for grad in bl.root_vjp(lambda w, theta: w**2 - theta, 2.0, (4.0,), 1.0)]
    [0.25]
    """
    _refuse_others("cotangent", cotangent, "params", params)
    pulled = _vjp.__wrapped__ if asks_for_values(as_mapping(residual), solve) else _vjp
    return pulled(stated(residual), params, tuple(args), cotangent, Setting(solve))


@compiles_once
def _jvp(residual: Setting, params: Params, args: Args, tangents: Args, solve: Setting) -> Params:
    mapping = as_mapping(residual.value)
    return jax.jvp(lambda *args: attach(mapping, solve.value, params, args), args, tangents)[1]


@compiles_once
def _vjp(residual: Setting, params: Params, args: Args, cotangent: Params, solve: Setting) -> Args:
    mapping = as_mapping(residual.value)
    return jax.vjp(lambda *args: attach(mapping, solve.value, params, args), *args)[1](cotangent)


def _called(solver: Setting, form: Setting, leaves: list) -> Any:
    args, kwargs = form.value.rebuild(*leaves)
    return solver.value(*args, **kwargs)


@contextmanager
def _telling_of_pairs(solver: Callable, result: Any) -> Iterator[None]:
    """A condition that cannot be evaluated at a tuple was stated for its first entry, most likely."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        if type(result) is not tuple:
            raise
        raise TypeError(
            f"{getattr(solver, '__name__', 'the solver')} returns a tuple of {len(result)}, at which the condition "
            f"cannot be evaluated ({error}): if all but the first is auxiliary, decorate it with has_aux=True."
        ) from error


def _refuse_others(name: str, given: PyTree, model: str, like: PyTree) -> None:
    """Raises ValueError where a direction has another structure or other shapes than the value that it moves."""
    shapes = [jax.tree.map(np.shape, tree) for tree in (given, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{name} must be as {model}: {model} have the shapes {shapes[1]}, and {name} {shapes[0]}.")


def _run(solver: Callable, args: tuple, kwargs: dict) -> tuple[Any, list]:
    """The solver's result without any derivative, and the values that it may depend on, closed-over ones included."""
    given = split_arguments(args, kwargs)

    def call(*leaves: Any) -> Any:
        args, kwargs = given.rebuild(*leaves)
        return solver(*args, **kwargs)

    fixed = frozen(given.leaves)
    try:
        compiled = prepared(Once, _called, (stated(solver), Setting(given.form), fixed))
        if compiled is not None:  # then all that the solver closes over is constant
            return compiled(), given.leaves
        call, closed_over = jax.closure_convert(call, *given.leaves)
    except NOT_TRACEABLE:
        return _run_eagerly(solver, call, fixed), given.leaves
    # jnp.asarray, because a number that does not depend on the arguments comes back as a literal of JAX.
    result = jax.tree.map(jnp.asarray, call(*fixed, *jax.lax.stop_gradient(closed_over)))
    return jax.lax.stop_gradient(result), [*given.leaves, *closed_over]


def _run_eagerly(solver: Callable, call: Callable, leaves: list) -> Any:
    name = getattr(solver, "__name__", "the solver")
    try:
        result = call(*leaves)
    except NOT_TRACEABLE as error:
        if not any(isinstance(leaf, Tracer) for leaf in leaves) and not isinstance(error, jax.errors.JAXTypeError):
            raise
        raise TypeError(
            f"{name} needs concrete values and was called inside jit, vmap or another trace: "
            "wrap its body in jax.pure_callback, or call it outside the transformation."
        ) from error
    warnings.warn(
        f"{name} cannot be traced by JAX, so it runs eagerly: its implicit derivatives are right, but jit and vmap are "
        "lost, and so are derivatives of values that it closes over. Wrap its body in jax.pure_callback to keep them.",
        stacklevel=4,
    )
    return result


def _without_derivative(aux: PyTree, origins: list) -> PyTree:
    """``aux`` whose derivative is not silent: NaN in forward mode, TypeError in reverse mode when it is used."""
    numbers, rest = _split_inexact(aux)
    sources, _ = _split_inexact(origins)

    @jax.custom_jvp
    def passed(numbers: list, sources: list) -> list:
        return numbers

    def rule(primals: tuple, tangents: tuple) -> tuple[list, list]:
        numbers = passed(*primals)
        return numbers, undefined(numbers, tangents[1])

    passed.defjvp(rule)
    return rest(passed(numbers, sources))


def _split_inexact(tree: PyTree) -> tuple[list, Callable[[list], PyTree]]:
    leaves, structure = jax.tree.flatten(tree)
    inexact = [
        isinstance(leaf, (jax.Array, float)) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves
    ]

    def merge(numbers: list) -> PyTree:
        moving = iter(numbers)
        return jax.tree.unflatten(
            structure, [next(moving) if is_number else leaf for leaf, is_number in zip(leaves, inexact, strict=True)]
        )

    return [jnp.asarray(leaf) for leaf, is_number in zip(leaves, inexact, strict=True) if is_number], merge
