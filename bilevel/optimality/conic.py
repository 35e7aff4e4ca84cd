"""The homogeneous self-dual embedding of a conic program as an optimality condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.cones import Cone
from bilevel.foundation.typing import LinearMap
from bilevel.implicit.mapping import Mapping, System
from bilevel.kernels.matrices import is_sparse
from bilevel.linear_solve.base import Operator, Saddle
from bilevel.penalties.base import not_known


class ConicPoint(NamedTuple):
    """A solution of a conic program: the unknowns, the multipliers and the slacks."""

    x: jax.Array
    y: jax.Array
    s: jax.Array


@dataclass(frozen=True)
class Conic(Mapping):
    """The residual of the homogeneous self-dual embedding of min c'x s.t. A x + s = b, s in K, for args (A, b, c).

    The unknown is z = (x, y - s, tau), one vector of length n + m + 1, with y in the dual cone the multipliers of
    L = c'x + y'(A x + s - b). With Pi the projection on R^n x K* x R_+ and

        Theta = [[0, A', c], [-A, 0, b], [-c', -b', 0]],        F(z) = (Theta - I) Pi z + z + (0, 0, tau - 1).

    The last term normalises tau: without it any multiple of a solution, zero included, is a root. The row of tau in the
    derivative A of F decouples, because Pi z is a left null vector of the rest. What remains is solved in the symmetric
    form

        [[0, A'D], [D A, -D (I - D)]] (dx, w) = (r, -D t),       d(y - s) = D w + t + A dx,       D the Jacobian of Pi,

    singular where D is, with right-hand sides in its range. Where the cone knows the eigenvectors of D = V' diag(d) V,
    the unknown is V w, so that the last block is diagonal, and -1 is put where d = 0: w has no part there, so that
    neither the solution nor the solution of least norm changes, and the matrix is regular wherever the derivative
    exists. The natural residual is the residual at z / tau. Sources: O'Donoghue et al., 2016; Busseti, Moursi and Boyd,
    Solution refinement at regular points of conic problems, 2019; Blondel et al., 2021, equation (18).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.Conic(bl.cones.NonNegative(1))                            # min x s.t. -x + s = -2, s >= 0
    >>> z = F.pack(jnp.array([2.0]), jnp.array([1.0]), jnp.array([0.0]))
    >>> F(z, jnp.array([[-1.0]]), jnp.array([-2.0]), jnp.array([1.0])).tolist()
    [0.0, 0.0, 0.0]
    """

    cone: Cone

    def faces(self, params: jax.Array, *args: jax.Array, **kwargs: jax.Array) -> jax.Array:
        """NaN, because the cone is known by its projection only."""
        return not_known(params)

    def __call__(self, params: jax.Array, A: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
        x, v, tau = self._split(params, c)
        y, t = self.cone.project_dual(v), jnp.maximum(tau, 0)
        gap = -c @ x - b @ y - t + tau + (tau - 1)
        return jnp.concatenate([A.T @ y + c * t, -(A @ x) + b * t - y + v, gap[None]])

    def natural_residual(self, params: jax.Array, A: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
        tiny = jnp.finfo(params.dtype).eps * (1 + jnp.max(jnp.abs(params)))
        return self(params / jnp.maximum(params[-1], tiny), A, b, c)

    def system(self, params: jax.Array, A: jax.Array, b: jax.Array, c: jax.Array) -> System:
        x, v, _ = self._split(params, c)
        y, derivative = jax.linearize(self.cone.project_dual, v)

        def known(rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            top, middle, last = self._split(rhs, c)
            change = x @ top + y @ middle + last
            return top - c * change, middle - b * change, change

        def ends(restricted: LinearMap, extended: LinearMap) -> tuple[LinearMap, Callable]:
            """`restrict` and `extend` of the system, from t -> V D t and V w -> D w."""

            def restrict(rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
                top, middle, _ = known(rhs)
                return top, -restricted(middle)

            def extend(rhs: jax.Array, unknown: tuple[jax.Array, jax.Array]) -> jax.Array:
                dx, w = unknown
                _, middle, change = known(rhs)
                return jnp.concatenate([dx, extended(w) + middle + A @ dx, change[None]])

            return restrict, extend

        spectrum = None if is_sparse(A) else self.cone.dual.spectrum(v)
        if spectrum is None:

            def matvec(unknown: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                dx, w = unknown
                along = derivative(w)
                return A.T @ along, derivative(A @ dx) - along + derivative(along)

            operator = Operator(matvec, symmetric=True, definite=False, singular=True, owner=str(self))
            return System(operator, *ends(derivative, derivative))
        d = spectrum.values
        saddle = Saddle(d[:, None] * spectrum.forward(A.T).T, jnp.where(d > 0, d * (1 - d), 1), d)
        operator = Operator(
            lambda at: saddle.product(*at), symmetric=True, definite=False, owner=str(self), saddle=saddle
        )
        return System(operator, *ends(lambda t: d * spectrum.forward(t), lambda w: spectrum.backward(d * w)))

    def pack(self, x: jax.Array, y: jax.Array, s: jax.Array) -> jax.Array:
        """z = (x, y - s, 1)."""
        return jnp.concatenate([x, y - s, jnp.ones(1, x.dtype)])

    def unpack(self, params: jax.Array) -> ConicPoint:
        """(x, y, s) of z / tau."""
        n = params.size - self.cone.dim - 1
        x, v = params[:n] / params[-1], params[n:-1] / params[-1]
        y = self.cone.project_dual(v)
        return ConicPoint(x, y, y - v)

    def _split(self, params: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        if params.shape != (c.size + self.cone.dim + 1,):
            raise ValueError(
                f"{self} needs one vector (x, y - s, tau) of length n + m + 1 = {c.size} + {self.cone.dim} + 1; "
                f"the shape is {params.shape}. Build it with Conic.pack(x, y, s)."
            )
        return params[: c.size], params[c.size : -1], params[-1]

    def __str__(self) -> str:
        return f"Conic({self.cone})"
