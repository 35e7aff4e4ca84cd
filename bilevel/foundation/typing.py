"""Types that the whole library shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

PyTree: TypeAlias = Any
Params: TypeAlias = Any  # the inner unknown, a pytree of floating-point arrays
HParams: TypeAlias = Any  # the outer unknown, a pytree of floating-point arrays
Batch: TypeAlias = Any  # data, any pytree
Key: TypeAlias = jax.Array
Scalar: TypeAlias = jax.Array
Args: TypeAlias = tuple[Any, ...]  # positional arguments of a call
Kwargs: TypeAlias = dict[str, Any]
LinearMap: TypeAlias = Callable[[PyTree], PyTree]
Loss: TypeAlias = Callable[[Params, HParams, Batch], Scalar]


class Counts(NamedTuple):
    """The cost of a computation in calls of the user's functions (scalars, exact)."""

    gradients: jax.Array | int = 0  # reverse-mode gradients of a loss, or evaluations of a residual
    hessian_products: jax.Array | int = 0  # products with dF/dw, or with its transpose
    jacobian_products: jax.Array | int = 0  # products with dF/dh, or with its transpose
    proxes: jax.Array | int = 0  # proximal operators and projections
    factorizations: jax.Array | int = 0  # dense factorisations

    def plus(self, **more: jax.Array | int) -> Counts:
        """The counts after some further work: ``counts.plus(gradients=2)``."""
        return self._replace(**{name: getattr(self, name) + number for name, number in more.items()})

    def add(self, other: Counts) -> Counts:
        """The sum of two counts, entry by entry."""
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def as_arrays(self) -> Counts:
        """The same counts as integer arrays: the form that a loop carries."""
        return Counts(*(jnp.asarray(number, jnp.int32) for number in self))
