"""Direct solves with the matrix of the system."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Prepared, as_operator, materialize
from bilevel.linear_solve.preconditioners import CholeskyFactor
from bilevel.linear_solve.refine import attainable, damped_code, judge, scaled_back, true_residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense(LinearSolver):
    """Builds the n x n matrix of A by n products, factors it, and solves.

    The factor is Cholesky's where the operator is declared symmetric and definite (of -A for sign -1), else LU with
    pivoting. Where the operator is declared singular, or its factor proves to be, x is the solution of least norm of
    min || A x - b ||, by an eigen- or singular-value decomposition. The residual tells whether that x solves the
    system: if not, the status is ``singular``. An operator declared definite that has an eigenvalue of the wrong sign
    is ``indefinite``.

    ``damping`` solves A + damping I (A - damping I for a negative definite A) instead. The residual still belongs to A,
    so a damped solution is ``truncated``. ``init`` and ``preconditioner`` are accepted and not used.

    >>> import jax.numpy as jnp
    >>> solution = Dense()(lambda x: jnp.array([[2.0, 1.0], [0.0, 4.0]]) @ x, jnp.array([4.0, 8.0]))
    >>> solution.value.tolist(), solution.status.name, int(solution.products)
    ([1.0, 2.0], 'converged', 3)
    """

    damping: float = 0.0
    tol: float | jax.Array = 1e-10

    direct: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        prepared = self.prepare(as_operator(operator), tree.as_vector(rhs))
        solution = prepared.solve(rhs)
        return solution._replace(
            products=solution.products + prepared.products,
            factorizations=solution.factorizations + prepared.factorizations,
        )

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """A and its factor, made once: further right-hand sides cost a product each, for the residual."""
        return self.factored(operator, self.matrix(operator, example), example)

    def prepare_both(self, operator: Operator, example: PyTree) -> tuple[Prepared, Prepared]:
        """A and A' prepared from one matrix, one factor each."""
        matrix = self.matrix(operator, example)
        forward = self.factored(operator, matrix, example)
        if operator.symmetric:
            return forward, forward
        return forward, self.factored(operator.transpose(example), matrix.T, example)._replace(products=0)

    def builds(self, operator: Operator, example: PyTree) -> bool:
        return True

    def matrix(self, operator: Operator, example: PyTree) -> jax.Array:
        """A, with the damping."""
        matrix = operator.matrix
        if matrix is None:
            matrix, _ = materialize(lambda x: tree.apply(operator, x, operator.owner), tree.as_vector(example))
        return matrix + operator.sign * self.damping * jnp.eye(len(matrix), dtype=matrix.dtype)

    def factored(self, operator: Operator, matrix: jax.Array, example: PyTree) -> Prepared:
        """A solver of A x = b by a factor of ``matrix``."""
        matrix = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))  # LAPACK has no narrower types
        factored = factorize(matrix, operator)

        def solve(rhs: PyTree, init: PyTree = None, tol: Scalar | float | None = None) -> LinearSolution:
            rhs, scales = tree.normalized(tree.as_vector(rhs))
            flat, unravel = ravel_pytree(rhs)
            target = attainable(self.tol if tol is None else tol, rhs)
            wide, goal = flat.astype(matrix.dtype), jnp.asarray(target, matrix.dtype)
            solution, rescues, least = solve_factored(factored, matrix, wide, operator, goal)
            value = unravel(jnp.where(jnp.linalg.norm(flat) == 0, 0, solution).astype(flat.dtype))
            residual = true_residual(operator, rhs, value)
            scale = jnp.linalg.norm(matrix) * tree.norm(value)
            solved = tree.norm(tree.plus(residual, -operator.sign * self.damping, value))
            code = damped_code(judge(solved, target, scale, Code.singular, rhs), self.damping)
            wrong = bool(operator.definite) & (least < -(tree.epsilon(rhs) ** 0.5)) & (code <= Code.stalled)
            code = jnp.where(wrong, Code.indefinite, code)
            return scaled_back(value, scales, tree.norm(residual), 1, code, rescues)

        narrow = matrix.dtype != tree.dtype(tree.as_vector(example))
        inverse = None if factored.lower is None or narrow else CholeskyFactor(factored.lower, ~factored.lost)
        return Prepared(solve, len(matrix) if operator.matrix is None else 0, 1, inverse)


class Factored(NamedTuple):
    """A factorised matrix: rhs -> solution, and whether a pivot was lost to rounding."""

    solve: Callable[[jax.Array], jax.Array]
    lost: jax.Array
    lower: jax.Array | None = None  # Cholesky's factor, where it is one
    ends: jax.Array | None = None  # the least and the largest eigenvalue, where known, relative to the largest in size


def factorize(matrix: jax.Array, operator: Operator) -> Factored:
    """The cheapest factorisation that the facts allow; for a declared singular matrix the pseudo-inverse."""
    symmetric, lower = bool(operator.symmetric), None
    if operator.singular:
        solve, ends = pseudo_inverse(matrix, symmetric, bool(operator.definite))
        return Factored(solve, jnp.zeros((), bool), ends=ends)
    if symmetric and operator.definite:
        lower = jnp.linalg.cholesky(operator.sign * matrix)
        pivots = jnp.diagonal(lower) ** 2
        solve = functools.partial(_signed_cholesky_solve, operator.sign, lower)
    else:
        factors = jax.scipy.linalg.lu_factor(matrix)
        pivots = jnp.abs(jnp.diagonal(factors[0]))
        solve = functools.partial(jax.scipy.linalg.lu_solve, factors)
    smallest = len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.max(pivots, initial=0)
    return Factored(solve, ~(jnp.min(pivots, initial=jnp.inf) > smallest), lower)


def _signed_cholesky_solve(sign: int, factor: jax.Array, rhs: jax.Array) -> jax.Array:
    return sign * jax.scipy.linalg.cho_solve((factor, True), rhs)


def solve_factored(
    factored: Factored, matrix: jax.Array, rhs: jax.Array, operator: Operator, target: Scalar
) -> tuple[jax.Array, int | jax.Array, jax.Array]:
    """x with matrix x = rhs; the further factorisations that it took (0, or 1 where the factor failed); and the least
    eigenvalue (of -A for sign -1) relative to the largest in absolute value, 0 where it is positive or unknown."""

    def least(ends: jax.Array) -> jax.Array:
        return jnp.minimum(ends[0] if operator.sign > 0 else -ends[1], 0)

    value = factored.solve(rhs)
    if factored.ends is not None:
        return value, 0, least(factored.ends)
    failed = factored.lost | ~jnp.all(jnp.isfinite(value))
    failed &= jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(rhs))
    rescue = _rescue(bool(operator.symmetric), bool(operator.definite))
    value, ends = rescue(failed[None, None], matrix[None], rhs[None, None], value[None, None], target[None, None])
    return value[0, 0], failed.astype(jnp.int32), least(ends[0, 0])


def pseudo_inverse(
    matrix: jax.Array, symmetric: bool, definite: bool = False
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """rhs -> the solution of least norm of min || matrix x - rhs ||, where eigen- or singular values below 10 sqrt(n)
    eps of the largest count as zero; and the ends of the spectrum relative to the largest eigenvalue in absolute value
    (zeros for a matrix that is not symmetric).

    A symmetric definite matrix whose diagonal spans half the digits is decomposed in units in which its diagonal is
    one: what counts as zero is then a matter of angles, not of units. The diagonal of an indefinite one says nothing of
    the size of its rows.
    """
    units = _units(matrix) if symmetric and definite else jnp.ones(len(matrix), matrix.dtype)
    if symmetric:
        values, left = jnp.linalg.eigh(units[:, None] * ((matrix + matrix.T) / 2) * units[None, :])
        right = left.T
    else:
        left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    sizes = jnp.abs(values)
    bends = values / jnp.sum((units[:, None] * left) ** 2, axis=0) if symmetric else jnp.zeros_like(values)
    floor = jnp.max(jnp.abs(jnp.diagonal(matrix)), initial=jnp.finfo(sizes.dtype).tiny)
    largest = jnp.maximum(jnp.max(jnp.abs(bends), initial=0), floor)
    ends = jnp.stack([jnp.min(bends, initial=0), jnp.max(bends, initial=0)]) / largest
    kept = sizes > 10 * len(matrix) ** 0.5 * jnp.finfo(matrix.dtype).eps * jnp.max(sizes, initial=0)

    def solve(rhs: jax.Array) -> jax.Array:
        weights = jnp.where(kept, (left.T @ (units * rhs)) / jnp.where(kept, values, 1), 0)
        return units * (right.T @ jnp.where(jnp.isnan(values), values, weights))

    return solve, ends.astype(sizes.dtype)


def _units(matrix: jax.Array) -> jax.Array:
    """1 / sqrt |diagonal| where the diagonal spans more than half the digits, else ones; 1 where it is zero."""
    sizes = jnp.abs(jnp.diagonal(matrix))
    least = jnp.min(jnp.where(sizes > 0, sizes, jnp.inf), initial=jnp.inf)
    wide = least < jnp.finfo(matrix.dtype).eps ** 0.5 * jnp.max(sizes, initial=0)
    return jnp.where(wide & (sizes > 0), 1 / jnp.sqrt(jnp.where(sizes > 0, sizes, 1)), 1)


@functools.cache
def _rescue(symmetric: bool, definite: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The least-norm solutions for the systems of a batch whose factorisation failed, computed only if there are any:
    (failed, matrices, right-hand sides, values, targets) -> values and ends of the spectra (zeros where none failed),
    of shapes (m, r), (m, n, n), (m, r, n), (m, r, n), (m, r) -> (m, r, n), (m, r, 2), with r right-hand sides a matrix.

    Under vmap a plain `lax.cond` would decompose every matrix, at ten times the cost of its factorisation. Where only
    the right-hand sides are batched, there remains one matrix.
    """

    def choose(matrix: jax.Array, rhs: jax.Array, value: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        solve, ends = pseudo_inverse(matrix, symmetric, definite)
        small = jax.vmap(solve)(rhs)
        residual, other = (jnp.linalg.norm(x @ matrix.T - rhs, axis=1) for x in (small, value))
        kept = (residual > target) & (other < residual)  # good: the matrix is badly scaled, not singular
        return jnp.where(kept[:, None], value, small), jnp.broadcast_to(ends, (len(rhs), 2))

    def as_they_are(
        matrices: jax.Array, rhs: jax.Array, values: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return values, jnp.zeros((*values.shape[:2], 2), values.dtype)

    @jax.custom_batching.custom_vmap
    def rescue(
        failed: jax.Array, matrices: jax.Array, rhs: jax.Array, values: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        chosen, ends = lax.cond(jnp.any(failed), jax.vmap(choose), as_they_are, matrices, rhs, values, targets)
        return jnp.where(failed[..., None], chosen, values), jnp.where(failed[..., None], ends, 0)

    @rescue.def_vmap
    def batched(
        axis_size: int,
        in_batched: list[bool],
        failed: jax.Array,
        matrices: jax.Array,
        rhs: jax.Array,
        values: jax.Array,
        targets: jax.Array,
    ) -> tuple[tuple[jax.Array, ...], tuple[bool, bool]]:
        place = 0 if in_batched[1] else 1  # the batch becomes an axis of matrices, or of right-hand sides

        def joined(arg: jax.Array, is_batched: bool) -> jax.Array:
            arg = arg if is_batched else jnp.broadcast_to(arg, (axis_size, *arg.shape))
            arg = jnp.moveaxis(arg, 0, place)
            return arg.reshape(*arg.shape[:place], -1, *arg.shape[place + 2 :])

        of_rhs = (joined(arg, in_batched[i]) for i, arg in ((0, failed), (2, rhs), (3, values), (4, targets)))
        failed, rhs, values, targets = of_rhs

        def parted(found: jax.Array) -> jax.Array:
            shape = (*found.shape[:place], axis_size, -1, *found.shape[place + 1 :])
            return jnp.moveaxis(found.reshape(shape), place, 0)

        found = rescue(failed, joined(matrices, True) if in_batched[1] else matrices, rhs, values, targets)
        return tuple(parted(part) for part in found), (True, True)

    return rescue
