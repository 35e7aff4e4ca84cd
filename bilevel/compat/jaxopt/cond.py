"""A branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def cond(cond: Any, if_fun: Callable, else_fun: Callable, *operands: Any, jit: bool = True) -> Any:
    """if_fun(*operands) where ``cond`` holds, else else_fun(*operands). With ``jit=False`` Python's own ``if``
    decides."""
    if jit:
        return jax.lax.cond(cond, if_fun, else_fun, *operands)
    return if_fun(*operands) if cond else else_fun(*operands)
