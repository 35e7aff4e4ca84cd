"""Direct solves with a sparse factor of the system, on the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.callbacks import on_host
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, as_operator
from bilevel.linear_solve.refine import attainable, judge, scaled_back, true_residual
from bilevel.linear_solve.sparse_factor import from_entries, least_pivot, refined_inverse


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseLU(LinearSolver):
    """Solves by a sparse LU factor that SciPy makes on the host, of a symmetric matrix whose entries the owner
    of the operator has stored.

    Many right-hand sides of one matrix (a Jacobian by `jax.vmap`) share the factor. Where the matrix is singular and
    the system has a solution, x is one of its solutions. ``init`` and ``preconditioner`` are accepted and not used.
    `AutoLinear` chooses it wherever there is such a matrix. Raises ValueError where there is none.
    """

    tol: float | jax.Array = 1e-10

    direct: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        if operator.stored is None:
            raise ValueError(
                f"SparseLU factors a stored sparse matrix, which {operator.owner} does not give. Use bl.AutoLinear()."
            )
        matrix, leading = operator.stored
        rhs, scales = tree.normalized(tree.as_vector(rhs))
        flat, unravel = ravel_pytree(rhs)
        found = on_host(partial(_solved, leading), flat, matrix.data, matrix.indices, flat, together=True)
        value = unravel(jnp.where(jnp.linalg.norm(flat) == 0, 0, found))
        residual = true_residual(operator, rhs, value)
        scale = jnp.linalg.norm(matrix.data) * tree.norm(value)
        code = judge(tree.norm(residual), attainable(self.tol, rhs), scale, Code.singular, rhs)
        return scaled_back(value, scales, tree.norm(residual), 1, code, 1)


def pivot_ratio(matrix: BCOO) -> jax.Array:
    """The smallest pivot of a symmetric `BCOO` matrix relative to the largest one; 0 where it is singular."""
    like = jnp.zeros((), matrix.dtype)
    return on_host(
        lambda data, at: least_pivot(from_entries(data, at, matrix.shape)), like, matrix.data, matrix.indices
    )


def _solved(leading: int, data: np.ndarray, indices: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """x for each lane, with one factor for each matrix; leading axes of length 1 are shared."""
    shape = (rhs.shape[-1], rhs.shape[-1])
    lanes = np.broadcast_shapes(data.shape[:-1], indices.shape[:-2], rhs.shape[:-1])
    if data[..., 0].size <= 1 and indices[..., 0, 0].size <= 1:  # the entries of one matrix
        solve = refined_inverse(from_entries(data.ravel(), indices.reshape(-1, 2), shape), leading)
        return solve(rhs.reshape(-1, rhs.shape[-1]).T).T.reshape(rhs.shape)
    data, indices, rhs = (
        np.broadcast_to(part, (*lanes, *part.shape[part.ndim - own :]))
        for part, own in ((data, 1), (indices, 2), (rhs, 1))
    )
    found = np.empty(rhs.shape)
    for lane in np.ndindex(lanes):
        found[lane] = refined_inverse(from_entries(data[lane], indices[lane], shape), leading)(rhs[lane])
    return found
