"""Newton's method for smooth convex functions of few variables, with a damping that adapts to the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Evaluation = tuple[jax.Array, jax.Array, jax.Array]  # value, gradient (n,), Hessian (n, n)


class Minimum(NamedTuple):
    """The point where the search ended."""

    x: jax.Array
    error: jax.Array  # max |gradient| / scale
    steps: jax.Array


class _Search(NamedTuple):
    x: jax.Array
    evaluation: Evaluation
    damping: jax.Array
    rejected: jax.Array
    steps: jax.Array


def minimize_convex(
    evaluate: Callable[[jax.Array], Evaluation], start: jax.Array, scale: jax.Array, tol: float, max_steps: int = 300
) -> Minimum:
    """Minimises a convex function with a (generalised) Hessian, singular ones included: (H + damping * scale) d = -g.

    Stops where max |g| / scale <= tol, or where rounding prevents further progress. ``scale`` (n,) is the size of the
    gradient's terms. A step is accepted if the value falls enough. Where rounding hides the fall, it is accepted if the
    gradient halves. Reference: Marquardt, An algorithm for least-squares estimation of nonlinear parameters, 1963.
    """
    least = jnp.finfo(start.dtype).eps ** 0.75

    def error(evaluation: Evaluation) -> jax.Array:
        return jnp.max(jnp.abs(evaluation[1]) / scale)

    def proceed(search: _Search) -> jax.Array:
        return (error(search.evaluation) > tol) & (search.steps < max_steps) & (search.rejected < 40)

    def step(search: _Search) -> _Search:
        value, gradient, hessian = search.evaluation
        factor = jax.scipy.linalg.cho_factor(hessian + search.damping * jnp.diag(scale))
        direction = -jax.scipy.linalg.cho_solve(factor, gradient)
        trial = evaluate(search.x + direction)
        predicted = -(gradient @ direction) - 0.5 * direction @ (hessian @ direction)
        gain = (value - trial[0]) / predicted
        halved = error(trial) <= 0.5 * error(search.evaluation)
        accepted = (gain > 1e-3) | halved
        keep = lambda new, old: jnp.where(accepted, new, old)
        damping = jnp.where((gain > 0.75) | halved, 0.1, jnp.where(accepted, 1.0, 8.0)) * search.damping
        rejected = jnp.where(accepted, 0, search.rejected + 1)
        return _Search(
            keep(search.x + direction, search.x),
            jax.tree.map(keep, trial, search.evaluation),
            jnp.clip(damping, least, 1 / least),
            rejected,
            search.steps + 1,
        )

    zero = jnp.zeros((), jnp.int32)
    search = _Search(start, evaluate(start), jnp.ones((), start.dtype), zero, zero)
    search = jax.lax.while_loop(proceed, step, search)
    return Minimum(search.x, error(search.evaluation), search.steps)
