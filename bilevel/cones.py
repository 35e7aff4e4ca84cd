"""Convex cones, for conic programs min c'x, Ax + s = b, s in K: projections on K and its dual K* = {y : <y, s> >= 0}.

A cone is a set of vectors of length ``dim``; every method works along the last axis, leading axes are a batch.
The conventions are those of most conic solvers: the second-order cone has its height first, the exponential cone is
the closure of {(x, y, z) : y > 0, y exp(x / y) <= z}, and a symmetric matrix is the vector `svec`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bilevel.kernels.arrays import as_point, norm
from bilevel.kernels.spectrum import Spectrum, joined, of_rows, of_second_order
from bilevel.kernels.symmetric import smat as smat, svec as svec
from bilevel.projections.cones import psd_cone, second_order_cone
from bilevel.projections.exponential import exponential_cone
from bilevel.projections.power import power_cone, power_cone_distance


class Cone(abc.ABC):
    """A closed convex cone of vectors of length ``dim``. The projections are differentiated by jvp and vjp."""

    by_rows: ClassVar[bool] = False  # whether each row is a cone of its own, so that rows may be scaled one by one

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The length of a vector of the cone."""

    @abc.abstractmethod
    def project(self, point: ArrayLike) -> jax.Array:
        """The nearest point of the cone to ``point``, an array (..., dim)."""

    @property
    @abc.abstractmethod
    def dual(self) -> Cone:
        """The dual cone {y : <y, s> >= 0 for all s in the cone}."""

    def kinks(self, point: ArrayLike) -> jax.Array:
        """The distance of each entry of ``point`` from a jump of the derivative of `project`: infinity where it never
        jumps, NaN where that is not known."""
        return jnp.full_like(_checked(self, point), jnp.nan)

    def spectrum(self, point: ArrayLike) -> Spectrum | None:
        """The eigenvalues and eigenvectors of the derivative of `project` at ``point``, an array (dim,); None for cones
        without a closed form of them.

        >>> NonNegative(2).spectrum(jnp.array([1.0, -1.0])).values.tolist()
        [1.0, 0.0]
        """
        return None

    def project_dual(self, point: ArrayLike) -> jax.Array:
        """The nearest point of the dual cone to ``point``, an array (..., dim)."""
        return self.dual.project(point)


@dataclass(frozen=True)
class OfVectors(Cone):
    """A cone in R^n. Abstract."""

    n: int

    @property
    def dim(self) -> int:
        return self.n


@dataclass(frozen=True)
class Zero(OfVectors):
    """{0} in R^n: the slack of an equality. Its dual is Free(n).

    >>> Zero(2).project(jnp.array([1.0, -1.0])).tolist()
    [0.0, 0.0]
    """

    by_rows = True

    @property
    def dual(self) -> Cone:
        return Free(self.n)

    def project(self, point: ArrayLike) -> jax.Array:
        x = jax.lax.stop_gradient(_checked(self, point))
        return jnp.where(jnp.isnan(x), x, 0)

    def spectrum(self, point: ArrayLike) -> Spectrum:
        return of_rows(jnp.zeros_like(_checked(self, point)))

    def kinks(self, point: ArrayLike) -> jax.Array:
        return jnp.full_like(_checked(self, point), jnp.inf)


@dataclass(frozen=True)
class Free(OfVectors):
    """All of R^n. Its dual is Zero(n).

    >>> Free(2).project(jnp.array([1.0, -1.0])).tolist()
    [1.0, -1.0]
    """

    by_rows = True

    @property
    def dual(self) -> Cone:
        return Zero(self.n)

    def project(self, point: ArrayLike) -> jax.Array:
        return _checked(self, point)

    def spectrum(self, point: ArrayLike) -> Spectrum:
        return of_rows(jnp.ones_like(_checked(self, point)))

    def kinks(self, point: ArrayLike) -> jax.Array:
        return jnp.full_like(_checked(self, point), jnp.inf)


@dataclass(frozen=True)
class NonNegative(OfVectors):
    """{s in R^n : s >= 0}, its own dual.

    >>> NonNegative(2).project(jnp.array([1.0, -1.0])).tolist()
    [1.0, 0.0]
    """

    by_rows = True

    @property
    def dual(self) -> Cone:
        return self

    def project(self, point: ArrayLike) -> jax.Array:
        return jax.nn.relu(_checked(self, point))

    def spectrum(self, point: ArrayLike) -> Spectrum:
        x = _checked(self, point)
        return of_rows((x > 0).astype(x.dtype))

    def kinks(self, point: ArrayLike) -> jax.Array:
        return jnp.abs(_checked(self, point))


@dataclass(frozen=True)
class SecondOrder(OfVectors):
    """{[t, z] in R^n : ||z||_2 <= t}, t first and n counting it; its own dual.

    >>> SecondOrder(3).project(jnp.array([0.0, 3.0, 4.0])).tolist()
    [2.5, 1.5, 2.0]
    """

    @property
    def dual(self) -> Cone:
        return self

    def project(self, point: ArrayLike) -> jax.Array:
        return second_order_cone(_checked(self, point))

    def spectrum(self, point: ArrayLike) -> Spectrum:
        return of_second_order(_checked(self, point))

    def kinks(self, point: ArrayLike) -> jax.Array:
        x = _checked(self, point)
        side = jnp.abs(norm(x[..., 1:]) - jnp.abs(x[..., 0]))
        off = side / np.sqrt(2)  # the distance from the boundary of the cone, or of minus the cone
        return jnp.broadcast_to(off[..., None], x.shape)


@dataclass(frozen=True)
class PSD(Cone):
    """The symmetric positive semidefinite n x n matrices as vectors `svec` of length n (n + 1) / 2; its own dual.

    >>> smat(PSD(2).project(svec(jnp.array([[0.0, 2.0], [2.0, 0.0]])))).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    n: int

    @property
    def dim(self) -> int:
        return self.n * (self.n + 1) // 2

    @property
    def dual(self) -> Cone:
        return self

    def project(self, point: ArrayLike) -> jax.Array:
        return svec(psd_cone(smat(_checked(self, point))))

    def kinks(self, point: ArrayLike) -> jax.Array:
        x = _checked(self, point)
        least = jnp.min(jnp.abs(jnp.linalg.eigvalsh(smat(x))), axis=-1, keepdims=True, initial=jnp.inf)
        return jnp.broadcast_to(least, x.shape)


@dataclass(frozen=True)
class Exponential(Cone):
    """The closure of {(x, y, z) : y > 0, y exp(x / y) <= z}; its dual is Dual(Exponential()).

    >>> Exponential().project(jnp.array([-1.0, -1.0, 2.0])).tolist()
    [-1.0, 0.0, 2.0]
    """

    @property
    def dim(self) -> int:
        return 3

    @property
    def dual(self) -> Cone:
        return Dual(self)

    def project(self, point: ArrayLike) -> jax.Array:
        return exponential_cone(_checked(self, point))


@dataclass(frozen=True)
class Power(Cone):
    """{(x, y, z) : x, y >= 0, x^alpha y^(1 - alpha) >= |z|} with 0 < alpha < 1; its dual is Dual(Power(alpha)), the
    vectors (u, v, w) with (u / alpha, v / (1 - alpha), w) in the cone. Raises ValueError for another alpha.

    >>> Power(0.5).project(jnp.array([2.0, -1.0, 0.0])).tolist()
    [2.0, 0.0, 0.0]
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"bl.cones.Power needs 0 < alpha < 1; it is {self.alpha}.")

    @property
    def dim(self) -> int:
        return 3

    @property
    def dual(self) -> Cone:
        return Dual(self)

    def project(self, point: ArrayLike) -> jax.Array:
        return power_cone(_checked(self, point), self.alpha)

    def kinks(self, point: ArrayLike) -> jax.Array:
        x = _checked(self, point)
        return jnp.broadcast_to(power_cone_distance(x, self.alpha)[..., None], x.shape)


@dataclass(frozen=True)
class Dual(Cone):
    """The dual of a cone, by Moreau's decomposition: its projection is x + project(-x).

    >>> Dual(NonNegative(2)).project(jnp.array([1.0, -1.0])).tolist()
    [1.0, 0.0]
    """

    cone: Cone

    @property
    def dim(self) -> int:
        return self.cone.dim

    @property
    def dual(self) -> Cone:
        return self.cone

    def project(self, point: ArrayLike) -> jax.Array:
        x = as_point(point)
        return x + self.cone.project(-x)

    def kinks(self, point: ArrayLike) -> jax.Array:
        return self.cone.kinks(-as_point(point))


@dataclass(frozen=True, init=False)
class Product(Cone):
    """Vectors whose consecutive pieces lie in the given cones; its dual is the product of their duals.

    >>> Product(NonNegative(1), Zero(1)).project(jnp.array([2.0, 3.0])).tolist()
    [2.0, 0.0]
    """

    cones: tuple[Cone, ...]

    def __init__(self, *cones: Cone) -> None:
        object.__setattr__(self, "cones", cones)

    @property
    def dim(self) -> int:
        return sum(cone.dim for cone in self.cones)

    @property
    def dual(self) -> Cone:
        return Product(*(cone.dual for cone in self.cones))

    def project(self, point: ArrayLike) -> jax.Array:
        projected = [cone.project(piece) for cone, piece in zip(self.cones, self._split(point), strict=True)]
        return jnp.concatenate(projected, axis=-1)

    def spectrum(self, point: ArrayLike) -> Spectrum | None:
        parts = [cone.spectrum(piece) for cone, piece in zip(self.cones, self._split(point), strict=True)]
        known = [part for part in parts if part is not None]
        return joined(known) if len(known) == len(parts) else None

    def kinks(self, point: ArrayLike) -> jax.Array:
        distances = [cone.kinks(piece) for cone, piece in zip(self.cones, self._split(point), strict=True)]
        return jnp.concatenate(distances, axis=-1)

    def _split(self, point: ArrayLike) -> list[jax.Array]:
        ends = np.cumsum([cone.dim for cone in self.cones])[:-1]
        return jnp.split(_checked(self, point), ends, axis=-1)


def _checked(cone: Cone, point: ArrayLike) -> jax.Array:
    array = as_point(point)
    if array.ndim == 0 or array.shape[-1] != cone.dim:
        raise ValueError(f"{cone} holds vectors of length {cone.dim}; the point has shape {array.shape}. Reshape it.")
    return array
