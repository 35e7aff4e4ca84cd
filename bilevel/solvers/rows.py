"""Problems whose penalty is a sum over the rows of one array of params (whose set is a product), and their restriction
to some of the rows. For separable penalties on a vector the rows are the coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import JAXSparse

from bilevel.constraints import Simplex
from bilevel.linear import Linear
from bilevel.optimality import ProximalGradient
from bilevel.penalties import GroupLasso, Penalty, resolve
from bilevel.solvers.instance import Instance
from bilevel.typing import HParams, Loss, Params

ROWWISE = (Simplex, GroupLasso)  # along the last axis; their parameters are numbers, or one for each row


class Rows(NamedTuple):
    """A penalty taken apart: the parameters that differ from row to row, and how to put it together from others."""

    varying: list[jax.Array]
    rebuild: Callable[[list[Any]], Penalty]

    def at(self, indices: jax.Array) -> Penalty:
        """The penalty on some of the rows, or on one."""
        return self.rebuild([parameter[indices] for parameter in self.varying])


def has_rows(instance: Instance, params: Params) -> bool:
    """Whether the nonsmooth part is a sum over the rows of a single array."""
    rowwise = instance.penalty.separable or (isinstance(instance.penalty, ROWWISE) and jnp.ndim(params) == 2)
    return isinstance(params, (jax.Array, jax.ShapeDtypeStruct)) and len(params.shape) in (1, 2) and rowwise


def needs_rows(solver: Any, instance: Instance, params: Params) -> None:
    if not has_rows(instance, params):
        raise ValueError(
            f"bl.{type(solver).__name__} needs params that are one array of one or two axes, and a penalty or set that "
            f"acts on each of its rows alone, which {type(instance.penalty).__name__} on {jax.tree.structure(params)} "
            "does not give. Use bl.ActiveSetNewton(), bl.ProximalGradient() or bl.Auto()."
        )


def by_rows(penalty: Penalty, hparams: HParams, params: jax.Array) -> Rows:
    """Takes a penalty on ``params`` (rows, ...) apart. Parameters of separable penalties broadcast against params from
    the last axis on; those of row-wise ones have the axes of params but the last."""
    axes = params.ndim if penalty.separable else params.ndim - 1
    names = [field.name for field in dataclasses.fields(penalty)]  # type: ignore[arg-type]
    fixed: dict[str, Any] = {}
    parts: dict[str, Rows] = {}
    varying: dict[str, jax.Array] = {}
    for name in names:
        value = getattr(penalty, name)
        if isinstance(value, Penalty):
            parts[name] = by_rows(value, hparams, params)
            continue
        fixed[name] = jnp.asarray(resolve(value, hparams))
        if fixed[name].ndim == axes and axes and fixed[name].shape[0] == params.shape[0] > 1:
            varying[name] = fixed[name]

    def rebuild(values: list[Any]) -> Penalty:
        given = iter(values)
        changed = dict(fixed) | {name: next(given) for name in varying}
        for name, part in parts.items():
            changed[name] = part.rebuild([next(given) for _ in part.varying])
        return dataclasses.replace(penalty, **changed)  # type: ignore[type-var]

    nested = [parameter for part in parts.values() for parameter in part.varying]
    return Rows([*varying.values(), *nested], rebuild)


def restricted(instance: Instance, params: jax.Array, indices: jax.Array) -> Instance:
    """The problem in the rows ``indices`` alone, the others fixed at their values in ``params``."""
    penalty = by_rows(instance.penalty, instance.hparams, params).at(indices)
    loss = _restricted_loss(instance, params, indices)
    mapping = ProximalGradient(loss, lambda point, step, hparams, batch: penalty.prox(point, step, hparams))
    return dataclasses.replace(instance, loss=loss, penalty=penalty, mapping=mapping)


def _restricted_loss(instance: Instance, params: jax.Array, indices: jax.Array) -> Loss:
    whole = instance.loss
    if not isinstance(whole, Linear):
        return lambda rows, hparams, batch: whole(params.at[indices].set(rows), hparams, batch)
    design = whole.design(instance.batch)
    columns = gathered(design, indices, params.dtype)
    offset = design @ params - columns @ params[indices]
    return Linear(
        design=lambda batch: columns,
        loss=lambda z, rows, hparams, batch: whole.loss(offset + z, params.at[indices].set(rows), hparams, batch),
    )


def gathered(design: Any, indices: jax.Array, dtype: Any) -> jax.Array:
    """Some columns of a matrix, dense; of a sparse one by a product with unit vectors."""
    if not isinstance(design, JAXSparse):
        return jnp.take(design, indices, axis=1)
    chosen = jnp.zeros((design.shape[1], indices.size), dtype).at[indices, jnp.arange(indices.size)].set(1)
    return design @ chosen
