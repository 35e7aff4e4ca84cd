"""Disciplined parametrised CVXPY problems as differentiable functions of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from bilevel.foundation.eager import Setting, compiles_once
from bilevel.kernels.matrices import Matrix
from bilevel.layers.canonical_form import CanonicalForm, Entries, canonical_form
from bilevel.layers.programs import cone_program, of_data
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.solvers import Auto
from bilevel.solvers.programs.stated_by_arrays import ProgramSolver
from bilevel.solvers.solution import Solution

DENSE = 2**24  # entries of the matrices up to which they are dense: 128 MB, and faster than products of sparse ones


def from_cvxpy(
    problem: Any,
    parameters: Sequence[Any],
    variables: Sequence[Any],
    *,
    solver: ProgramSolver = Auto(),
    linear_solve: LinearSolver = AutoLinear(),
) -> DisciplinedProgram:
    """The solution of a disciplined parametrised CVXPY problem (DPP) as a function of its parameters.

    ``layer = bl.from_cvxpy(problem, parameters, variables)`` canonicalises once. ``layer(*arrays)`` takes an array for
    each parameter, in that order and of its shape, and returns the tuple of the values of ``variables``, with
    derivatives in every parameter: works under `jax.jit`, `jax.vmap` (for a batch), `jax.jvp` and `jax.vjp`.
    ``layer.solve(*arrays)`` returns the `Solution`, whose ``params`` are that tuple and whose ``status`` says, lane by
    lane, whether there is one: where there is none, values and derivatives are NaN. Its ``dual`` are the multipliers of
    the canonical program (``layer.form``).

    CVXPY's own solvers are not used: where all constraints are linear the canonical program goes to
    `quadratic_program`, else to `cone_program`, and ``solver`` and ``linear_solve`` are theirs. The entries of their
    data are an affine function of the parameters, applied as one sparse product. Values of the parameters are not
    checked against their attributes (``nonneg``, ``PSD``), by which CVXPY has shown convexity; of a symmetric parameter
    the symmetric part counts, of a diagonal or sparse one the entries that it may have.

    Raises ImportError without the package cvxpy; ValueError, in a sentence, for a problem that is not convex, not DPP,
    or has integer variables, for a parameter that is not listed, a leaf that is not of the problem, and for arrays of
    other shapes. Source: Agrawal, Amos, Barratt, Boyd, Diamond and Kolter, Differentiable convex optimization layers,
    2019.

    >>> import cvxpy as cp, jax, jax.numpy as jnp, bilevel as bl
    >>> x, point = cp.Variable(3), cp.Parameter(3)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - point)), [cp.sum(x) == 1, x >= 0])
    >>> layer = bl.from_cvxpy(problem, parameters=[point], variables=[x])
    >>> value, = layer(jnp.array([1.0, 0.5, -0.5]))
    >>> [round(float(entry), 3) for entry in value]
    [0.75, 0.25, 0.0]
    >>> slope = jax.jacobian(lambda point: layer(point)[0])(jnp.array([1.0, 0.5, -0.5]))
    >>> (slope.round(3) + 0.0).tolist()
    [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    return DisciplinedProgram(canonical_form(problem, list(parameters), list(variables)), solver, linear_solve)


@dataclass(frozen=True, eq=False)
class DisciplinedProgram:
    """The function that `from_cvxpy` returns."""

    form: CanonicalForm
    solver: ProgramSolver
    linear_solve: LinearSolver

    def __call__(self, *arrays: Any) -> tuple[jax.Array, ...]:
        """The values of the variables at these values of the parameters."""
        return self.solve(*arrays).params

    def solve(self, *arrays: Any) -> Solution:
        """The solution with its status; ``params`` are the values of the variables."""
        data = data_of(Setting(self.form), _checked(self.form, arrays))
        if self.form.cone is None:
            found = of_data(data, None, self.solver, self.linear_solve, self.form.explicit)
        else:
            A, b, c = data
            found = cone_program(A, b, c, self.form.cone, solver=self.solver, linear_solve=self.linear_solve)
        return found._replace(params=values_of(Setting(self.form), found.params))


def _checked(form: CanonicalForm, arrays: tuple) -> list[jax.Array]:
    found = [jnp.asarray(array) for array in arrays]
    shapes = tuple(array.shape for array in found)
    if shapes != form.shapes:
        expected = ", ".join(f"{name} {shape}" for name, shape in zip(form.names, form.shapes, strict=True))
        raise ValueError(
            f"This function of bl.from_cvxpy takes {expected or 'no parameters'}, in this order; it got the shapes "
            f"{', '.join(map(str, shapes)) or 'of nothing'}. For a batch use jax.vmap."
        )
    kinds = [array.dtype for array in found if jnp.issubdtype(array.dtype, jnp.inexact)]
    return [array.astype(jnp.result_type(*kinds) if kinds else float) for array in found]


@compiles_once
def data_of(form: Setting, arrays: list) -> list:
    """The arguments of the quadratic or cone program, at these values of the parameters."""
    stated: CanonicalForm = form.value
    dtype = jnp.result_type(*arrays) if arrays else jnp.result_type(float)
    values, slope = jnp.asarray(stated.offset, dtype), stated.slope
    if slope.nnz:
        places = jnp.stack([jnp.asarray(slope.row), jnp.asarray(slope.col)], axis=1)
        moving = BCOO((jnp.asarray(slope.data, dtype), places), shape=tuple(slope.shape or ()))
        values = values + moving @ jnp.concatenate([array.ravel() for array in arrays])
    return [_argument(one, values[one.source]) for one in stated.data]


def _argument(entries: Entries, values: jax.Array) -> Matrix:
    """A vector, or a matrix, which is dense up to `DENSE` entries."""
    if len(entries.shape) == 1:
        return values
    if entries.shape[0] * entries.shape[1] <= DENSE:
        return jnp.zeros(entries.shape, values.dtype).at[entries.rows, entries.columns].set(values)
    places = jnp.stack([jnp.asarray(entries.rows), jnp.asarray(entries.columns)], axis=1)
    return BCOO((values, places), shape=entries.shape)


@compiles_once
def values_of(form: Setting, x: jax.Array) -> tuple[jax.Array, ...]:
    """The variables, each in its shape."""
    return tuple(jnp.where(leaf.index >= 0, x[leaf.index], 0).reshape(leaf.shape) for leaf in form.value.variables)
