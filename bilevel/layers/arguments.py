"""What programs are given: arrays of one kind of float, of shapes that fit."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from bilevel.cones import Cone
from bilevel.kernels.matrices import as_matrix, cast


def quadratic_arguments(Q: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> list[Any]:
    """(Q, q, A, b, G, h) of `quadratic_program`, with no rows where a pair was left out. Raises ValueError."""
    for matrix, vector, names in ((A, b, "A and b"), (G, h, "G and h")):
        if (matrix is None) != (vector is None):
            raise ValueError(f"bl.quadratic_program needs both of {names}, or neither.")
    Q, q = _floats(Q, q)
    none = (jnp.zeros((0, q.shape[-1] if q.ndim else 0), q.dtype), jnp.zeros(0, q.dtype))
    pairs = (none if matrix is None else _one_row(matrix, vector) for matrix, vector in ((A, b), (G, h)))
    arrays = _floats(Q, q, *(array for pair in pairs for array in pair))
    n = q.size
    shapes = [array.shape for array in arrays]
    expected = [(n, n), (n,), (*shapes[3], n), shapes[3][:1], (*shapes[5], n), shapes[5][:1]]
    if shapes != expected or any(len(shapes[i]) != 1 for i in (1, 3, 5)):
        raise ValueError(
            "bl.quadratic_program needs Q (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,); it got "
            f"{', '.join(map(str, shapes))}. For a batch use jax.vmap."
        )
    if n == 0:
        raise ValueError("bl.quadratic_program has no unknowns: Q is (0, 0). Give it at least one, or leave it out.")
    return arrays


def conic_arguments(A: Any, b: Any, c: Any, cone: Cone) -> list[Any]:
    """(A, b, c) of `cone_program`. Raises ValueError."""
    A, b, c = _floats(*_one_row(A, b), c)
    if A.ndim != 2 or b.shape != A.shape[:1] or c.shape != A.shape[1:] or cone.dim != b.size:
        raise ValueError(
            f"bl.cone_program needs A (m, n), b (m,), c (n,) and a cone of dimension m; it got A {A.shape}, "
            f"b {b.shape}, c {c.shape} and {cone} of dimension {cone.dim}. For a batch use jax.vmap."
        )
    if c.size == 0:
        raise ValueError(f"bl.cone_program has no unknowns: A is {A.shape}. Give it at least one, or leave it out.")
    return [A, b, c]


def _one_row(matrix: Any, vector: Any) -> tuple[Any, Any]:
    """A single row (n,) with its number, () or (1,), as the matrix and the vector that they stand for."""
    matrix, vector = as_matrix(matrix), jnp.asarray(vector)
    if matrix.ndim == 1 and vector.size == 1 and vector.ndim <= 1:
        return matrix[None], vector.reshape(1)
    return matrix, vector


def _floats(*arrays: Any) -> list[Any]:
    found = [as_matrix(array) for array in arrays]
    kinds = [array.dtype for array in found]
    dtype = jnp.result_type(*kinds) if any(jnp.issubdtype(kind, jnp.inexact) for kind in kinds) else float
    return [cast(array, jnp.result_type(dtype)) for array in found]
