"""The root of an increasing scalar function between two ends, by Newton steps that a bisection guards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.kernels.arrays import like

MAX_STEPS = 200  # every third step halves the bracket, and 64 halvings exhaust the precision of float64


class _Search(NamedTuple):
    lower: jax.Array
    upper: jax.Array
    guess: jax.Array
    steps: jax.Array
    done: jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def bracketed_root(
    function: Callable[..., jax.Array], lower: jax.Array, upper: jax.Array, *args: jax.Array
) -> jax.Array:
    """x in [lower, upper] with function(x, *args) = 0, for a scalar function that increases in x.

    Exact up to rounding. Without a change of sign between the ends, the end where the function is nearest to zero.
    The derivative with respect to ``args`` is -(df/dargs) / (df/dx), in both modes and to any order; ``function`` must
    not close over values that are differentiated.

    >>> float(bracketed_root(lambda x, c: x**3 - c, 0.0, 10.0, 8.0))
    2.0
    """
    lower = jnp.asarray(lower)
    upper = like(upper, lower)
    tiny = jnp.finfo(lower.dtype).eps

    def proceed(search: _Search) -> jax.Array:
        return ~search.done & (search.steps < MAX_STEPS)

    def step(search: _Search) -> _Search:
        value, slope = jax.jvp(lambda x: function(x, *args), (search.guess,), (jnp.ones_like(search.guess),))
        lower = jnp.where(value < 0, search.guess, search.lower)
        upper = jnp.where(value < 0, search.upper, search.guess)
        newton = search.guess - value / slope
        usable = (newton > lower) & (newton < upper)
        middle = lower + 0.5 * (upper - lower)
        converged = usable & (jnp.abs(newton - search.guess) <= tiny * jnp.abs(search.guess))
        newton = jnp.where(usable & ((search.steps % 3 < 2) | converged), newton, middle)
        guess = jnp.where(value == 0, search.guess, newton)
        exhausted = (middle <= lower) | (middle >= upper)
        return _Search(lower, upper, guess, search.steps + 1, converged | exhausted | (value == 0))

    start = _Search(lower, upper, lower + 0.5 * (upper - lower), jnp.zeros((), jnp.int32), lower >= upper)
    return jax.lax.while_loop(proceed, step, start).guess


@bracketed_root.defjvp
def _implicit(
    function: Callable[..., jax.Array], primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    lower, upper, *args = primals
    _, _, *directions = tangents
    root = bracketed_root(function, lower, upper, *args)
    _, slope = jax.jvp(lambda x: function(x, *args), (root,), (jnp.ones_like(root),))
    _, change = jax.jvp(lambda *args: function(root, *args), tuple(args), tuple(directions))
    return root, -change / slope
