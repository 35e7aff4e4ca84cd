"""Approximate inverses for Krylov methods: what they are and how they are set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve.base import Operator, Preconditioner
from bilevel.linear_solve.nystrom import approximate, regularized_inverse


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Identity(Preconditioner):
    """No preconditioner."""

    trivial: ClassVar[bool] = True

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        return lambda residual: residual, 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Jacobi(Preconditioner):
    """The inverse of the diagonal of A.

    Exact for up to ``probes`` unknowns (one product for each); beyond, the mean of z * A z over ``probes`` vectors z of
    random signs. Entries of the wrong sign, or below ``floor`` times the largest, are set to that value. Reference:
    Bekas, Kokiopoulou and Saad, 2007.

    >>> import jax.numpy as jnp
    >>> precondition, products = Jacobi().prepare(Operator(lambda x: jnp.array([2.0, 4.0]) * x), jnp.ones(2))
    >>> precondition(jnp.ones(2)).tolist(), products
    ([0.5, 0.25], 2)
    """

    floor: float = 1e-4
    probes: int = field(default=32, metadata={"static": True})
    seed: int = field(default=0, metadata={"static": True})

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        flat, unravel = ravel_pytree(example)
        exact = flat.size <= self.probes

        def along(row: jax.Array) -> jax.Array:
            return row * ravel_pytree(tree.apply(operator, unravel(row), operator.owner))[0]

        if exact:
            rows = jnp.eye(flat.size, dtype=flat.dtype)
        else:
            rows = jax.random.rademacher(jax.random.key(self.seed), (self.probes, flat.size), flat.dtype)
        diagonal = jnp.sum(jax.vmap(along)(rows), axis=0) / (1 if exact else self.probes)
        sign = operator.sign if operator.definite else jnp.where(jnp.sum(diagonal) < 0, -1, 1)
        largest = jnp.max(jnp.abs(diagonal), initial=0)
        entries = jnp.maximum(sign * diagonal, self.floor * jnp.where(largest == 0, 1, largest))
        inverse = unravel(sign / entries)
        return lambda residual: jax.tree.map(jnp.multiply, inverse, residual), len(rows)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomizedNystrom(Preconditioner):
    """The inverse of the randomised Nystrom approximation of rank k; outside of it all directions are scaled by L_k.

        M = U (L + rho)^{-1} U' + (I - U U') / (L_k + rho)

    For ill-conditioned semidefinite systems with few large eigenvalues: k products once, in one batch, then as many
    steps as the remaining spectrum asks for. Reference: Frangella, Tropp and Udell, 2023.

    >>> import jax.numpy as jnp
    >>> operator = Operator(lambda x: jnp.array([1.0, 1.0, 100.0]) * x)
    >>> precondition, products = RandomizedNystrom(rank=2).prepare(operator, jnp.ones(3))
    >>> products
    2
    """

    rho: float = 0.0
    rank: int = field(default=20, metadata={"static": True})
    seed: int = field(default=0, metadata={"static": True})

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        _, unravel = ravel_pytree(example)
        vectors, values, definite = approximate(operator, example, self.rank, self.seed)
        # Eigenvalues far below the largest may belong to a null space, where 1/L would be 1/0: they are scaled by the
        # last.
        counted = values > values[0] * jnp.finfo(values.dtype).eps ** 0.5
        last = jnp.min(jnp.where(counted, values, values[0])) + self.rho
        usable = definite & (last > 0)  # else the identity, because conjugate gradients report what is wrong with A
        vectors, values = jnp.where(usable, vectors, 0), jnp.where(usable, jnp.maximum(values + self.rho, last), 1)
        rest = jnp.where(usable, last, 1)

        def precondition(residual: PyTree) -> PyTree:
            return unravel(operator.sign * regularized_inverse(vectors, values, 0, rest, ravel_pytree(residual)[0]))

        return precondition, values.size


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CholeskyFactor(Preconditioner):
    """The inverse of A = L L' (of -A for sign -1), or of a nearby A. The factor is given, so it takes no products.

    ``lower`` is L; where ``usable`` is False there is no factor, and the preconditioner is the identity.

    >>> import jax.numpy as jnp
    >>> factor = CholeskyFactor(jnp.diag(jnp.array([2.0, 3.0])), jnp.bool_(True))
    >>> precondition, products = factor.prepare(Operator(lambda x: jnp.array([4.0, 9.0]) * x), jnp.ones(2))
    >>> precondition(jnp.array([4.0, 18.0])).tolist(), products
    ([1.0, 2.0], 0)
    """

    lower: jax.Array
    usable: jax.Array

    exact: ClassVar[bool] = True

    def prepare(self, operator: Operator, example: PyTree) -> tuple[LinearMap, int]:
        def precondition(residual: PyTree) -> PyTree:
            flat, unravel = ravel_pytree(residual)
            solved = operator.sign * jax.scipy.linalg.cho_solve((self.lower, True), flat)
            return unravel(jnp.where(self.usable, solved, flat))

        return precondition, 0
