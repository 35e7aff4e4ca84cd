"""What the peers that run in JAX do with a batch of quadratic programs: solutions, and the gradient in all data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from protocol import Run

jax.config.update("jax_enable_x64", True)


def gradients(arrays: dict, solve: Callable[..., Any]) -> Run:
    """``solve(Q, q, G, h)`` is the solution of one program; the gradient is that of <towards, solutions>."""
    Q, q, G, h, towards = (jnp.asarray(arrays[name]) for name in ("Q", "q", "G", "h", "towards"))

    def loss(Q: Any, q: Any, G: Any, h: Any) -> Any:
        found = jax.vmap(solve)(Q, q, G, h)
        return jnp.sum(found * towards), found

    slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def run() -> dict:
        (_, found), slopes = jax.block_until_ready(slope(Q, q, G, h))
        return {"x": found} | dict(zip("QqGh", slopes, strict=True))

    return run
