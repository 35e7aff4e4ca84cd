"""The algebra of a product of second-order cones; cones of length 1 make up the non-negative orthant.

Vectors are flat, cone after cone; ``lengths`` are static, so that the orthant alone costs elementwise operations.
Source of the formulas: Vandenberghe, The CVXOPT linear and quadratic cone program solvers, 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class SecondOrders:
    """The cones {[t, u] : ||u|| <= t} of the given lengths, one after the other.

    >>> import jax.numpy as jnp
    >>> SecondOrders((1, 3)).distance(jnp.array([2.0, 5.0, 3.0, 4.0])).tolist()
    [2.0, 0.0]
    """

    lengths: tuple[int, ...]

    @property
    def orthant(self) -> bool:
        return all(length == 1 for length in self.lengths)

    @property
    def size(self) -> int:
        return sum(self.lengths)

    @cached_property
    def owner(self) -> np.ndarray:
        """The cone that each entry belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def heads(self) -> np.ndarray:
        """The index of the first entry of each cone."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(int) if self.lengths else np.zeros(0, int)

    def identity(self, dtype: jnp.dtype) -> jax.Array:
        """The unit e of the product: 1 at the heads."""
        return jnp.zeros(self.size, dtype).at[self.heads].set(1)

    def head(self, v: jax.Array) -> jax.Array:
        return v if self.orthant else v[self.heads]

    def tail(self, v: jax.Array) -> jax.Array:
        """v with zeros at the heads."""
        return jnp.zeros_like(v) if self.orthant else v.at[self.heads].set(0)

    def total(self, v: jax.Array) -> jax.Array:
        """The sums over the entries of each cone (the first axis)."""
        return v if self.orthant else jax.ops.segment_sum(v, self.owner, len(self.lengths), indices_are_sorted=True)

    def spread(self, per_cone: jax.Array) -> jax.Array:
        """Each cone's number for all of its entries."""
        return per_cone if self.orthant else per_cone[self.owner]

    def distance(self, v: jax.Array) -> jax.Array:
        """t - ||u|| of each cone: positive inside."""
        return self.head(v) if self.orthant else self.head(v) - jnp.sqrt(self.total(self.tail(v) ** 2))

    def root(self, v: jax.Array) -> jax.Array:
        """sqrt(t^2 - ||u||^2) of each cone, for v inside."""
        if self.orthant:
            return v
        far = jnp.sqrt(self.total(self.tail(v) ** 2))
        head = self.head(v)
        tiny = jnp.finfo(v.dtype).tiny
        return jnp.sqrt(jnp.maximum(head - far, tiny) * jnp.maximum(head + far, tiny))

    def product(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """The Jordan product: u'v at the head, u_0 v_1 + v_0 u_1 in the tail."""
        if self.orthant:
            return u * v
        mixed = self.spread(self.head(u)) * v + self.spread(self.head(v)) * u
        return mixed.at[self.heads].set(self.total(u * v))

    def quotient(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """x with product(u, x) = v, for u inside."""
        if self.orthant:
            return v / u
        head_u, head_v = self.head(u), self.head(v)
        head = (head_u * head_v - self.total(self.tail(u) * v)) / self.root(u) ** 2
        return ((v - self.spread(head) * u) / self.spread(head_u)).at[self.heads].set(head)

    def longest(self, v: jax.Array, step: jax.Array) -> jax.Array:
        """The largest a with v + a step in the cones, for v inside; infinity if there is no bound."""
        root = self.root(v)
        inward = step / self.spread(root)
        if self.orthant:
            most = -inward
        else:
            unit = v / self.spread(root)
            head = self.head(unit) * self.head(inward) - self.total(self.tail(unit) * inward)
            across = (head + self.head(inward)) / (self.head(unit) + 1)
            rest = self.tail(inward) - self.spread(across) * self.tail(unit)
            most = jnp.sqrt(self.total(rest**2)) - head
        most = jnp.max(most, initial=0)
        return jnp.where(most > 0, 1 / jnp.where(most > 0, most, 1), jnp.inf)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaling:
    """The symmetric W with W z = W^{-1} s (Nesterov and Todd), as W = eta (2 v v' - J) ^ (1/2) cone by cone."""

    eta: jax.Array  # one number for each cone
    point: jax.Array  # the unit vector w of each cone, t^2 - ||u||^2 = 1

    def forward(self, cones: SecondOrders, v: jax.Array) -> jax.Array:
        """W v, for a vector or the columns of a matrix."""
        return self._apply(cones, v, 1.0)

    def inverse(self, cones: SecondOrders, v: jax.Array) -> jax.Array:
        """W^{-1} v, for a vector or the columns of a matrix."""
        return self._apply(cones, v, -1.0)

    def _apply(self, cones: SecondOrders, v: jax.Array, sign: float) -> jax.Array:
        wide = (slice(None),) + (None,) * (v.ndim - 1)
        eta = cones.spread(self.eta)[wide]
        scale = eta if sign > 0 else 1 / eta
        if cones.orthant:
            return scale * v
        point, head = self.point[wide], cones.head(self.point)[wide]
        along = cones.total(cones.tail(self.point)[wide] * v)
        top = head * cones.head(v) + sign * along
        rest = v + cones.spread(sign * cones.head(v) + along / (1 + head)) * point
        return scale * rest.at[cones.heads].set(top)


def scaling(cones: SecondOrders, s: jax.Array, z: jax.Array) -> Scaling:
    """The scaling of a pair of interior points."""
    root_s, root_z = cones.root(s), cones.root(z)
    eta = jnp.sqrt(root_s / root_z)
    if cones.orthant:
        return Scaling(eta, jnp.ones_like(eta))
    s, z = s / cones.spread(root_s), z / cones.spread(root_z)
    gamma = jnp.sqrt((1 + cones.total(s * z)) / 2)
    reflected = 2 * cones.spread(cones.head(z)) * cones.identity(z.dtype) - z
    return Scaling(eta, (s + reflected) / cones.spread(2 * gamma))
