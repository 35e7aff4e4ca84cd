"""Losses that are quadratic, stated by their matrix, so that one factor of it solves all columns of the unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import quadratic_form


@dataclass(frozen=True, eq=False)
class Quadratic:
    """loss(w, h, batch) = sum_c 1/2 w_c' A w_c - b_c' w_c with A = matrix(h, batch) and b = linear(h, batch).

    ``matrix`` returns a symmetric positive definite array (n, n), which all columns of ``params``, (n,) or (n, c),
    share; ``linear`` returns an array of the shape of ``params``. A stack of matrices (..., n, n) goes with ``params``
    (..., n, c): problems that share no unknown, each factored by itself. The solution is A^{-1} b. `bl.ClosedForm`
    factors A once, where from an opaque loss it would build the Hessian of all entries. Symmetry and definiteness are
    not checked in advance: of another matrix the engine reports a status that is not converged. An instance is itself a
    loss, to be used wherever one is asked for. It states kernel ridge regression: A = K + penalty I, b the targets.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Quadratic(matrix=lambda h, batch: h * jnp.eye(2), linear=lambda h, batch: batch)
    >>> inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(2))
    >>> inner.solve(jnp.array(2.0), jnp.array([2.0, 4.0])).params.round(6).tolist()
    [1.0, 2.0]
    """

    matrix: Callable[[HParams, Batch], jax.Array]
    linear: Callable[[HParams, Batch], jax.Array]

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return quadratic_form(self.matrix(hparams, batch), params) - jnp.vdot(self.linear(hparams, batch), params)
