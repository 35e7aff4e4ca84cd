"""min ||A x - b||^2 + damping ||x||^2 by products with A and A', without the condition of A'A."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import LinearMap


class _State(NamedTuple):
    """The bidiagonalisation and the two rotations of its factors; names as in the reference."""

    number: jax.Array
    x: jax.Array
    u: jax.Array
    v: jax.Array
    h: jax.Array
    hbar: jax.Array
    alpha: jax.Array
    alphabar: jax.Array
    rho: jax.Array
    rhobar: jax.Array
    cbar: jax.Array
    sbar: jax.Array
    zetabar: jax.Array  # its size is the norm of the gradient that is left


def lsmr(
    product: LinearMap, transposed: LinearMap, rhs: jax.Array, damping: jax.Array, tol: jax.Array, max_steps: int
) -> tuple[jax.Array, jax.Array]:
    """(x, steps) where ||A'(b - A x) - damping x|| <= tol ||A'b||, or after ``max_steps``; of least norm where
    damping is 0. Two products a step. Not differentiable.

    Source: Fong and Saunders, LSMR, 2011.
    """
    u, beta = _unit(rhs)
    v, alpha = _unit(transposed(u))
    zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
    nothing = jnp.zeros_like(v)
    shift, target = jnp.sqrt(damping), tol * alpha * beta
    begin = _State(jnp.int32(0), nothing, u, v, v, nothing, alpha, alpha, one, one, one, zero, alpha * beta)

    def unfinished(state: _State) -> jax.Array:
        return (state.number < max_steps) & (jnp.abs(state.zetabar) > target) & (state.alpha > 0)

    def advance(state: _State) -> _State:
        u, beta = _unit(product(state.v) - state.alpha * state.u)
        v, alpha = _unit(transposed(u) - beta * state.v)
        return _rotated(state._replace(number=state.number + 1, u=u, v=v, alpha=alpha), beta, shift)

    end = jax.lax.while_loop(unfinished, advance, begin)
    return end.x, end.number


def _rotated(state: _State, beta: jax.Array, shift: jax.Array) -> _State:
    """The two plane rotations of a step, and the solution that follows."""
    alphahat = jnp.hypot(state.alphabar, shift)
    rho = jnp.hypot(alphahat, beta)
    c, s = alphahat / rho, beta / rho
    theta = s * state.alpha
    thetabar, turned = state.sbar * rho, state.cbar * rho
    rhobar = jnp.hypot(turned, theta)
    cbar, sbar = turned / rhobar, theta / rhobar
    hbar = state.h - (thetabar * rho / (state.rho * state.rhobar)) * state.hbar
    return state._replace(
        x=state.x + (cbar * state.zetabar / (rho * rhobar)) * hbar,
        h=state.v - (theta / rho) * state.h,
        hbar=hbar,
        alphabar=c * state.alpha,
        rho=rho,
        rhobar=rhobar,
        cbar=cbar,
        sbar=sbar,
        zetabar=-sbar * state.zetabar,
    )


def _unit(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The vector divided by its length, and the length; zero stays zero."""
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1), length
