"""Losses that are sums of squares, stated by their residuals, so that solvers can use the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation.typing import Batch, HParams, LinearMap, Params, PyTree, Scalar
from bilevel.losses.robust import squares

ADJOINTS = ("exact", "gauss_newton")


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """loss(w, h, batch) = 1/2 sum_i rho(r_i^2) with r = residual(w, h, batch), a tree of arrays. With the default rho
    it is 1/2 ||r||^2: half the sum of squares, not the mean.

    ``rho(squared, hparams)`` works entry by entry with rho(0) = 0 and rho'(0) = 1: `bl.losses.HuberRho`,
    `bl.losses.CauchyRho`, or any increasing function with two derivatives. ``adjoint`` chooses the linear system of the
    implicit derivative: "exact" has the Hessian J'CJ + sum_i rho_i' r_i grad^2 r_i, "gauss_newton" leaves out the
    second term, with J = dr/dw and C = diag(rho' + 2 r^2 rho''). The latter needs first derivatives of the residual
    only, and is wrong by that term, which vanishes where the residuals do; a report's ``error_estimate`` contains it.
    An instance is itself a loss, to be used wherever one is asked for. Raises ValueError for a residual that has no
    entries or is complex.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.LeastSquares(residual=lambda w, h, batch: jnp.array([10 * (w[1] - w[0] ** 2), h - w[0]]))
    >>> inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.array([-1.2, 1.0]))
    >>> inner.solve(jnp.array(1.0), None).params.round(3).tolist()
    [1.0, 1.0]
    """

    residual: Callable[[Params, HParams, Batch], PyTree]
    rho: Callable[[jax.Array, HParams], jax.Array] = squares
    adjoint: str = "exact"

    def __post_init__(self) -> None:
        if self.adjoint not in ADJOINTS:
            raise ValueError(f"bl.LeastSquares: adjoint={self.adjoint!r} is not one of {', '.join(ADJOINTS)}.")

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return self.cost(self.flat(params, hparams, batch), hparams)

    def flat(self, params: Params, hparams: HParams, batch: Batch) -> jax.Array:
        """The residuals as one vector (m,)."""
        residual = ravel_pytree(self.residual(params, hparams, batch))[0]
        if not residual.size:
            raise ValueError(
                "bl.LeastSquares: the residual has no entries, so that every point is a solution: return one or more."
            )
        if jnp.iscomplexobj(residual):
            raise ValueError(
                "bl.LeastSquares: the residual is complex, and squares of real numbers are summed: return the real and "
                "imaginary parts as two arrays."
            )
        return residual

    def cost(self, residual: jax.Array, hparams: HParams) -> Scalar:
        """1/2 sum_i rho(r_i^2)."""
        return 0.5 * jnp.sum(self.rho(jnp.square(residual), hparams))

    def weights(self, residual: jax.Array, hparams: HParams) -> tuple[jax.Array, jax.Array]:
        """(rho', rho' + 2 r^2 rho''), both (m,): the gradient is J' (rho' r), the Gauss-Newton matrix J' C J."""
        if self.rho is squares:
            return jnp.ones_like(residual), jnp.ones_like(residual)
        one = lambda z: jnp.ones_like(z)
        slope = lambda z: jax.jvp(lambda z: self.rho(z, hparams), (z,), (one(z),))[1]
        squared = jnp.square(residual)
        first, second = jax.jvp(slope, (squared,), (one(squared),))
        return first, first + 2 * squared * second

    def gauss_newton(self, params: Params, hparams: HParams, batch: Batch) -> LinearMap:
        """v -> J' C J v, with negative entries of C as zeros, so that the matrix is semidefinite."""
        residual, push = jax.linearize(lambda w: self.flat(w, hparams, batch), params)
        pull = jax.linear_transpose(push, params)
        curvature = jnp.maximum(self.weights(residual, hparams)[1], 0)
        return lambda vector: pull((curvature * push(vector)).astype(residual.dtype))[0]


class Linearized(NamedTuple):
    """A gradient and the product with its derivative, or with what the statement puts in its place."""

    gradient: PyTree
    hessian: LinearMap
    approximate: bool


def by_gauss_newton(loss: Any) -> bool:
    """Whether the loss asks for the Gauss-Newton matrix in the place of its Hessian."""
    return isinstance(loss, LeastSquares) and loss.adjoint == "gauss_newton"


def linearized(loss: Callable[..., Scalar], params: Params, *args: PyTree, **kwargs: PyTree) -> Linearized:
    """The gradient of ``loss`` at ``params`` and its Hessian as a product; the Gauss-Newton matrix where a
    `LeastSquares` asks for it."""
    gradient = lambda w: jax.grad(loss)(w, *args, **kwargs)
    if isinstance(loss, LeastSquares) and by_gauss_newton(loss):
        return Linearized(gradient(params), loss.gauss_newton(params, *args, **kwargs), True)
    return Linearized(*jax.linearize(gradient, params), False)


def exact(loss: Any) -> Any:
    """The loss with its own Hessian, which tells minima from saddles."""
    return replace(loss, adjoint="exact") if by_gauss_newton(loss) else loss
