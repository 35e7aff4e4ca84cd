"""The randomised Nystrom approximation of a semidefinite matrix, and its regularised inverse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Prepared, as_operator
from bilevel.linear_solve.refine import scaled_back, true_residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nystrom(LinearSolver):
    """The inverse of the randomised Nystrom approximation A_k of rank k: no iteration.

        A_k = Y (S'Y)^+ Y' = U L U',   Y = A S,   x = U L^{-1} U' b + (b - U U' b) / ((1 + rho) min L)

    with a Gaussian S of k = min(rank, n) columns drawn from ``seed``: k products, in one batch. For a symmetric
    semidefinite A (of the sign that the operator declares) of low effective rank. Outside of A_k all eigenvalues are
    taken to be (1 + rho) times the smallest one in A_k above rounding. So ``rho`` has no units, a large one drops the
    rest, and with k = n the inverse is exact for every ``rho``.

    The status is ``truncated``, and the residual of A x = b tells how good the approximation was. An A with eigenvalues
    of both signs is ``indefinite``, with x NaN; an A that is zero on the sample is ``singular``. ``init`` and
    ``preconditioner`` are accepted and not used. Raises ValueError for a system declared not symmetric. References:
    Hataya and Yamada, 2023 (with an absolute rho); Frangella, Tropp and Udell, 2023.

    >>> import jax.numpy as jnp
    >>> solution = Nystrom(rank=2)(lambda x: jnp.array([1.0, 4.0]) * x, jnp.array([1.0, 8.0]))
    >>> solution.value.round(4).tolist(), solution.status.name, int(solution.products)
    ([1.0, 2.0], 'truncated', 3)
    """

    rho: float = 1e-2
    rank: int = field(default=20, metadata={"static": True})
    seed: int = field(default=0, metadata={"static": True})

    needs_symmetric: ClassVar[bool] = True
    truncates: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        prepared = self.prepare(as_operator(operator), tree.as_vector(rhs))
        solution = prepared.solve(rhs)
        return solution._replace(products=solution.products + prepared.products, factorizations=1)

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The approximation, made once."""
        self.refuse(operator)
        vectors, values, definite = approximate(operator, tree.as_vector(example), self.rank, self.seed)
        spoiled = jnp.all(jnp.isfinite(vectors)) & ~definite
        # Smaller eigenvalues are rounding errors of the largest, which 1/L would amplify.
        seen = values > 10 * jnp.finfo(values.dtype).eps * vectors.shape[0] ** 0.5 * jnp.max(values)
        smallest = jnp.min(jnp.where(seen, values, jnp.inf))
        vectors, values = jnp.where(seen, vectors, 0), jnp.where(seen, values, 1)
        nothing = jnp.all(jnp.isfinite(vectors)) & ~jnp.any(seen)

        def solve(rhs: PyTree, init: PyTree = None, tol: Scalar | float | None = None) -> LinearSolution:
            rhs, scales = tree.normalized(tree.as_vector(rhs))
            flat, unravel = ravel_pytree(rhs)
            solution = operator.sign * regularized_inverse(vectors, values, 0, (1 + self.rho) * smallest, flat)
            value = unravel(jnp.where(definite, solution, jnp.nan))
            residual = tree.norm(true_residual(operator, rhs, value))
            failure = jnp.where(spoiled, Code.indefinite, Code.nonfinite)
            code = jnp.where(jnp.isfinite(residual), Code.truncated, failure)
            code = jnp.where(nothing & (residual > 0), Code.singular, code)
            return scaled_back(value, scales, residual, 1, code)

        return Prepared(solve, vectors.shape[1], 1)


def approximate(operator: Operator, example: PyTree, rank: int, seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U (n, k), the eigenvalues L >= 0 (k,), decreasing, and whether sign * A was positive semidefinite on the sample.

    The sketch is shifted by a multiple of the roundoff, so that rounding leaves its core semidefinite; the eigenvalues
    are shifted back.
    """
    flat, unravel = ravel_pytree(example)
    rank = min(rank, flat.size)
    roundoff = jnp.finfo(flat.dtype).eps
    sample = jax.random.normal(jax.random.key(seed), (flat.size, rank), flat.dtype)
    sample = jnp.linalg.qr(sample)[0]

    def product(column: jax.Array) -> jax.Array:
        return ravel_pytree(tree.apply(operator, unravel(column), operator.owner))[0]

    sketch = operator.sign * jax.vmap(product, in_axes=1, out_axes=1)(sample)
    shift = roundoff * flat.size**0.5 * jnp.linalg.norm(sketch)
    sketch = sketch + shift * sample
    core = sample.T @ sketch
    weights, directions = jnp.linalg.eigh((core + core.T) / 2)
    smallest = 10 * roundoff * rank**0.5 * jnp.max(jnp.abs(weights), initial=0)
    kept = weights > 0
    roots = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, weights, 1)), 0)
    vectors, values, _ = jnp.linalg.svd((sketch @ directions) * roots, full_matrices=False)
    definite = jnp.all(weights >= -jnp.maximum(smallest, shift))
    return vectors, jnp.maximum(values**2 - shift, 0), definite


def regularized_inverse(
    vectors: jax.Array, values: jax.Array, rho: Scalar | float, rest: Scalar | float, rhs: jax.Array
) -> jax.Array:
    """U (L + rho)^{-1} U' b + (I - U U') b / rest."""
    inside = vectors.T @ rhs
    return vectors @ (inside / (values + rho)) + (rhs - vectors @ inside) / rest
