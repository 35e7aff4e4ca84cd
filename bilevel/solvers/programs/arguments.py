"""The arguments of programs stated by arrays, as arrays of one dtype; refused by name where their shapes do not fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.cones import Cone
from bilevel.kernels.matrices import as_matrix, cast, stacked, times


def quadratic_arguments(Q: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> list[Any]:
    """Q, q, A, b, G, h; a pair that was left out has no rows. Raises ValueError for shapes that do not fit."""
    for matrix, vector, names in ((A, b, "A and b"), (G, h, "G and h")):
        if (matrix is None) != (vector is None):
            raise ValueError(f"bl.quadratic_program needs both of {names}, or neither.")
    Q, q = _floats(Q, q)
    none = (jnp.zeros((0, q.size), q.dtype), jnp.zeros(0, q.dtype))
    A, b = none if A is None else (A, b)
    G, h = none if G is None else (G, h)
    arrays = _floats(Q, q, A, b, G, h)
    n = q.size
    shapes = [array.shape for array in arrays]
    expected = [(n, n), (n,), (*shapes[3], n), shapes[3][:1], (*shapes[5], n), shapes[5][:1]]
    if shapes != expected or n == 0 or not len(shapes[3]) == len(shapes[5]) == 1:
        raise ValueError(
            "bl.quadratic_program needs Q (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,) with n > 0; it got "
            f"{', '.join(map(str, shapes))}. A single row is A[None] with b[None]; for a batch use jax.vmap."
        )
    return arrays


def two_sided_arguments(G: Any, g: Any, h: Any) -> tuple[Any, Any]:
    """g <= G x <= h as one-sided rows [G; -G] x <= [h; -g]. Raises ValueError for shapes that do not fit."""
    if G is None:
        raise ValueError("bl.quadratic_program needs the matrix G to the lower bounds g of its rows.")
    G, g = _floats(G, g)
    h = jnp.full_like(g, jnp.inf) if h is None else _floats(h, g)[0]
    if g.shape != h.shape or g.shape != G.shape[:1]:
        raise ValueError(
            f"bl.quadratic_program needs G (m, n) with bounds g (m,) and h (m,); it got G {G.shape}, g {g.shape} and h "
            f"{h.shape}. For a batch use jax.vmap."
        )
    return stacked(G, times(jnp.asarray(-1, G.dtype), G)), jnp.concatenate([h, -g])


def cone_arguments(A: Any, b: Any, c: Any, cone: Cone) -> list[Any]:
    """A, b, c. Raises ValueError for shapes that do not fit each other or the cone."""
    A, b, c = _floats(A, b, c)
    fits = A.ndim == 2 and b.shape == A.shape[:1] and c.shape == A.shape[1:] and cone.dim == b.size and c.size > 0
    if not fits:
        raise ValueError(
            f"bl.cone_program needs A (m, n), b (m,), c (n,) with n > 0 and a cone of dimension m; it got A {A.shape}, "
            f"b {b.shape}, c {c.shape} and {cone} of dimension {cone.dim}. For a batch use jax.vmap."
        )
    return [A, b, c]


def start_arguments(name: str, parts: tuple, sizes: tuple[int, ...]) -> list[jax.Array]:
    """The arrays of a warm start. Raises ValueError where a program of other shapes gave them."""
    found = [jnp.asarray(part) for part in parts]
    if [part.shape for part in found] != [(size,) for size in sizes]:
        raise ValueError(
            f"bl.{name} got an init with {', '.join(str(part.shape) for part in found)} unknowns and multipliers for "
            f"a program with {', '.join(map(str, sizes))}. Pass the solution of a program of the same shapes, or none."
        )
    return found


def _floats(*arrays: Any) -> list[Any]:
    found = [as_matrix(array) for array in arrays]
    kinds = [array.dtype for array in found]
    dtype = jnp.result_type(*kinds) if any(jnp.issubdtype(kind, jnp.inexact) for kind in kinds) else float
    return [cast(array, jnp.result_type(dtype)) for array in found]
