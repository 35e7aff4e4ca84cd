"""Proofs, read off an iterate, that a problem constrained by functions has no solution."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.programs.stated_by_functions import Point, Program


class Verdict(NamedTuple):
    """An iterate to be judged."""

    primal: jax.Array
    params: PrimalDual
    origin: jax.Array  # the size of the start


def judge(program: Program, verdict: Verdict) -> jax.Array:
    """`Code.infeasible`, `Code.unbounded`, or `Code.converged` where neither is proved."""
    at = program.pack(verdict.params)
    reach = 1 + verdict.origin
    radius = float(jnp.finfo(at.primal.dtype).eps) ** -0.4
    unbounded = _unbounded(program, at.primal, radius * reach)
    code = jnp.where(unbounded, Code.unbounded, Code.converged)
    return jnp.where(_infeasible(program, at, radius), Code.infeasible, code).astype(jnp.int32)


def _infeasible(program: Program, at: Point, radius: float) -> jax.Array:
    """y'c(w) > radius (1 + ||x||) ||J'y|| for multipliers y: as y'c is convex, c(w) = 0 or <= 0 has no solution within
    that distance of x (Farkas)."""
    x, nu, lam = at
    value, slope = jax.value_and_grad(program.weighted)(x, nu, lam)
    terms = jnp.abs(nu) @ jnp.abs(program.equality(x)) + jnp.abs(lam) @ jnp.abs(program.inequality(x))
    real = value > 1e3 * jnp.finfo(x.dtype).eps * terms
    return real & (value > radius * (1 + jnp.linalg.norm(x)) * jnp.linalg.norm(slope))


def _unbounded(program: Program, x: jax.Array, radius: jax.Array) -> jax.Array:
    """Beyond ``radius``, feasible in proportion, and the loss falls outward without a turn in sight."""
    size = jnp.linalg.norm(x)
    ray = x / jnp.where(size > 0, size, 1)
    gradient, curvature = jax.jvp(jax.grad(program.value), (x,), (ray,))
    slope = gradient @ ray
    violated = jnp.maximum(jnp.max(program.inequality(x), initial=0), jnp.max(jnp.abs(program.equality(x)), initial=0))
    turns = 10 * size * (curvature @ ray) > -slope
    steep = slope < -(jnp.finfo(x.dtype).eps ** 0.5) * jnp.linalg.norm(gradient)
    return (size > radius) & steep & ~turns & (violated <= size / radius**0.5)
