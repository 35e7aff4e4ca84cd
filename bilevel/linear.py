"""Losses that are a function of a linear map: stating it lets solvers and engines exploit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from bilevel.typing import Batch, HParams, Params, Scalar


@dataclass(frozen=True, eq=False)
class Linear:
    """loss(w, h, batch) = loss(z, w, h, batch) with z = design(batch) @ w.

    ``design`` returns a matrix of shape (samples, features): an array or a ``jax.experimental.sparse.BCOO``. ``params``
    is one array whose first axis counts the features. ``loss(z, params, hparams, batch)`` is the smooth part.
    An instance is itself a loss, to be used wherever one is asked for.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Linear(design=lambda batch: batch[0],
    ...                  loss=lambda z, params, hparams, batch: 0.5 * jnp.mean((z - batch[1]) ** 2))
    >>> float(loss(jnp.ones(2), None, (jnp.eye(2), jnp.zeros(2))))
    0.5
    """

    design: Callable[[Batch], Any]
    loss: Callable[[jax.Array, Params, HParams, Batch], Scalar]

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return self.loss(self.design(batch) @ params, params, hparams, batch)


@jax.custom_jvp
def quadratic_form(matrix: Any, vectors: jax.Array) -> Scalar:
    """1/2 sum_c v_c' K v_c of a symmetric ``matrix`` K (n, n) and the columns v_c of ``vectors``, (n,) or (n, c).

    The same number as ``0.5 * jnp.vdot(v, K @ v)``, with the derivative rules d = <K v, dv> + 1/2 <v, dK v>: a gradient
    and a Hessian product cost one product with K instead of two, one of them with the transpose, which is the slow one
    on a CPU. For the Gram matrix of a dual problem. Not checked: for a K that is not symmetric the gradient is wrong.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> K, v = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([1.0, 2.0])
    >>> float(bl.quadratic_form(K, v)), jax.grad(bl.quadratic_form, 1)(K, v).tolist()
    (9.0, [4.0, 7.0])
    """
    return 0.5 * jnp.vdot(vectors, matrix @ vectors)


def _quadratic_form_jvp(primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    (matrix, vectors), (moved_matrix, moved_vectors) = primals, tangents
    image = matrix @ vectors
    change = jnp.zeros((), image.dtype)
    if not isinstance(moved_vectors, SymbolicZero):
        change += jnp.vdot(image, moved_vectors)
    if not isinstance(moved_matrix, SymbolicZero):
        change += 0.5 * jnp.vdot(vectors, moved_matrix @ vectors)
    return 0.5 * jnp.vdot(vectors, image), change


quadratic_form.defjvp(_quadratic_form_jvp, symbolic_zeros=True)
