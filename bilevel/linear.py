"""Losses that are a function of a linear map: stating it lets solvers and engines exploit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

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
