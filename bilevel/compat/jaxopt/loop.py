"""A loop with a largest number of passes, which reverse mode differentiates where it is unrolled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.solvers.differentiable_while import differentiable_while


def while_loop(
    cond_fun: Callable, body_fun: Callable, init_val: Any, maxiter: int, unroll: bool = False, jit: bool = False
) -> Any:
    """body_fun again and again while cond_fun holds, at most ``maxiter`` times.

    With ``unroll`` the loop has derivatives in both modes; about sqrt(maxiter) values are kept.
    """
    init_val = jax.tree.map(jnp.asarray, init_val)
    if unroll:
        advance = lambda value: (after := body_fun(value), jnp.asarray(cond_fun(after)))
        return differentiable_while(advance, init_val, jnp.asarray(cond_fun(init_val)), maxiter)
    going = lambda carry: (carry[1] < maxiter) & cond_fun(carry[0])
    return jax.lax.while_loop(going, lambda carry: (body_fun(carry[0]), carry[1] + 1), (init_val, jnp.int32(0)))[0]
