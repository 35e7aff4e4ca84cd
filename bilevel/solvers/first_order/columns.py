"""Problems whose params are a matrix, and their restriction to one column: the folds of a cross-validation, or the
classes of one-against-rest models."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams, Params
from bilevel.losses.linear import Linear
from bilevel.optimality import ProximalGradient
from bilevel.penalties import Penalty, resolve
from bilevel.solvers.instance import Instance


def needs_columns(solver: Any, instance: Instance, params: Params) -> None:
    """The refusal where a problem does not fall into columns."""
    matrix = isinstance(params, (jax.Array, jax.ShapeDtypeStruct)) and len(params.shape) == 2
    if not (matrix and instance.penalty.separable and isinstance(instance.loss, Linear)):
        raise ValueError(
            f"bl.{type(solver).__name__}(by_columns=True) needs params that are one array of two axes, a separable "
            f"penalty and a bl.Linear loss, which {type(instance.penalty).__name__} on {jax.tree.structure(params)} "
            "does not give. Use by_columns=False."
        )


def in_column(instance: Instance, params: jax.Array, predictions: jax.Array, column: jax.Array) -> Instance:
    """The problem in one column of ``params`` (p, q), the others fixed; ``predictions`` (n, q) is the image of all.

    A `bl.Linear` loss stays one, with the same design and a vector of predictions, and keeps its curvature.
    """
    whole = instance.loss
    assert isinstance(whole, Linear)
    chosen = jnp.arange(params.shape[1]) == column

    # A selection, because the compiler joins it with the loss, and a scatter it would not.
    def placed(vector: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.where(chosen, vector[:, None], others)

    at = lambda function: lambda z, w, *rest: function(placed(z, predictions), placed(w, params), *rest)
    own = lambda blocks: blocks[:, column, column]
    curvature = None if whole.curvature is None else lambda *args: own(at(whole.curvature)(*args))
    loss = Linear(design=whole.design, loss=at(whole.loss), curvature=curvature)
    penalty = penalty_of_column(instance.penalty, instance.hparams, params, column)
    mapping = ProximalGradient.under(loss, penalty)
    return dataclasses.replace(instance, loss=loss, penalty=penalty, mapping=mapping, stated=None)


def penalty_of_column(penalty: Penalty, hparams: HParams, params: jax.Array, column: jax.Array) -> Penalty:
    """A separable penalty on one column of ``params``: its parameters broadcast against params from the last axis on.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> weight = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> penalty_of_column(bl.L1(weight=weight), None, jnp.zeros((2, 2)), jnp.int32(1)).weight.tolist()
    [2.0, 4.0]
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(penalty):
        value = getattr(penalty, field.name)
        if isinstance(value, Penalty):
            changed[field.name] = penalty_of_column(value, hparams, params, column)
            continue
        parameter = jnp.asarray(resolve(value, hparams))
        if parameter.ndim:
            parameter = jnp.take(parameter, column if parameter.shape[-1] > 1 else 0, axis=-1)
        changed[field.name] = parameter
    return dataclasses.replace(penalty, **changed)
