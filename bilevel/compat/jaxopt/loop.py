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

    With ``unroll`` the loop has derivatives in both modes; reverse mode keeps about sqrt(maxiter) values. A function
    that is compiled by `jax.jit` before it is differentiated has that of reverse mode alone.
    """
    init_val = jax.tree.map(jnp.asarray, init_val)
    if unroll:
        advance = lambda value: (after := body_fun(value), jnp.asarray(cond_fun(after)))
        try:
            return differentiable_while(advance, init_val, jnp.asarray(cond_fun(init_val)), maxiter)
        except TypeError as error:
            if not asks_for_forward_mode(error):
                raise
    going = lambda carry: (carry[1] < maxiter) & cond_fun(carry[0])
    return jax.lax.while_loop(going, lambda carry: (body_fun(carry[0]), carry[1] + 1), (init_val, jnp.int32(0)))[0]


def asks_for_forward_mode(error: TypeError) -> bool:
    """Whether forward mode met a rule for reverse mode."""
    return "can't apply forward-mode" in str(error)
