"""Problems on one array of params whose penalty is a sum over its rows, or whose set is a product over them, and their
restriction to some rows. For separable penalties on a vector the rows are the coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO, JAXSparse

from bilevel.foundation.typing import Batch, HParams, Loss, Params, PyTree, Scalar
from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.linear import Linear, design_of, stays_on_host
from bilevel.optimality import ProximalGradient
from bilevel.penalties import Penalty, resolve
from bilevel.solvers.instance import Instance

GATHERED = 4096  # samples up to which columns on the host are gathered, because dense ones then cost less than calls


class Rows(NamedTuple):
    """A penalty taken apart: the parameters that differ from row to row, and a function that rebuilds it with
    others."""

    varying: list[jax.Array]
    rebuild: Callable[[list[Any]], Penalty]

    def at(self, indices: jax.Array) -> Penalty:
        """The penalty on some of the rows, or on one."""
        return self.rebuild([parameter[indices] for parameter in self.varying])


def has_rows(instance: Instance, params: Params) -> bool:
    """Whether the nonsmooth part is a sum over the rows of a single array."""
    rowwise = instance.penalty.separable or (instance.penalty.by_rows and jnp.ndim(params) == 2)
    return isinstance(params, (jax.Array, jax.ShapeDtypeStruct)) and len(params.shape) in (1, 2) and rowwise


def needs_rows(solver: Any, instance: Instance, params: Params) -> None:
    if not has_rows(instance, params):
        raise ValueError(
            f"bl.{type(solver).__name__} needs params that are one array of one or two axes, and a penalty or set that "
            f"acts on each of its rows alone, which {type(instance.penalty).__name__} on {jax.tree.structure(params)} "
            "does not give. Use bl.ActiveSetNewton(), bl.ProximalGradient() or bl.Auto()."
        )


def by_rows(penalty: Penalty, hparams: HParams, params: jax.Array) -> Rows:
    """Takes apart a penalty on ``params`` of shape (rows, ...).

    Parameters of separable penalties broadcast against params from the last axis on. Parameters of row-wise penalties
    have all axes of params but the last.
    """
    axes = params.ndim if penalty.separable else params.ndim - 1
    names = [field.name for field in dataclasses.fields(penalty)]
    fixed: dict[str, Any] = {}
    parts: dict[str, Rows] = {}
    varying: dict[str, jax.Array] = {}
    for name in names:
        value = getattr(penalty, name)
        if isinstance(value, Penalty):
            parts[name] = by_rows(value, hparams, params)
            continue
        fixed[name] = jnp.asarray(resolve(value, hparams))
        if not axes or fixed[name].ndim != axes:
            continue
        if fixed[name].shape[0] == 1:
            fixed[name] = fixed[name][0]  # the same for all rows
        elif fixed[name].shape[0] == params.shape[0]:
            varying[name] = fixed[name]

    def rebuild(values: list[Any]) -> Penalty:
        given = iter(values)
        changed = dict(fixed) | {name: next(given) for name in varying}
        for name, part in parts.items():
            changed[name] = part.rebuild([next(given) for _ in part.varying])
        return dataclasses.replace(penalty, **changed)

    nested = [parameter for part in parts.values() for parameter in part.varying]
    return Rows([*varying.values(), *nested], rebuild)


@dataclasses.dataclass(frozen=True, eq=False)
class Held(Penalty):
    """A penalty on the first ``number`` of its rows, the others held at zero."""

    whole: Penalty
    number: int | jax.Array

    @property
    def separable(self) -> bool:  # type: ignore[override]  # as the whole is, not as the class is
        return self.whole.separable

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self._held(self.whole.prox(point, step_size, hparams), 0)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return self.whole.value(params, hparams)

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return self._held(self.whole.kinks(point, step_size, hparams), jnp.inf)

    def _held(self, rows: jax.Array, value: float) -> jax.Array:
        free = jnp.arange(rows.shape[0]) < self.number
        return jnp.where(free.reshape(-1, *(1,) * (rows.ndim - 1)), rows, value)


@dataclasses.dataclass(frozen=True, eq=False)
class OnRows(Penalty):
    """A penalty or set on some of its rows, still a function of the hyperparameters."""

    whole: Penalty
    like: jax.Array  # of the shape of all rows
    indices: jax.Array

    @property
    def separable(self) -> bool:  # type: ignore[override]  # as the whole is, not as the class is
        return self.whole.separable

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self._at(hparams).prox(point, step_size, hparams)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return self._at(hparams).value(params, hparams)

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return self._at(hparams).kinks(point, step_size, hparams)

    def _at(self, hparams: HParams) -> Penalty:
        return by_rows(self.whole, hparams, self.like).at(self.indices)


class Restriction(NamedTuple):
    """The problem in some rows, and the values of the other rows that it needs."""

    instance: Instance
    columns: Any  # the columns of the design, where the loss is `bl.Linear`
    offset: jax.Array | None  # the product of the design with the other rows


def restricted(
    instance: Instance, params: jax.Array, indices: jax.Array, number: jax.Array | None = None
) -> Restriction:
    """The problem in the rows ``indices`` alone, the others fixed at their values in ``params``. With a ``number`` the
    rest of the indices, zero in ``params``, are fixed too."""
    penalty = by_rows(instance.penalty, instance.hparams, params).at(indices)
    penalty = penalty if number is None else Held(penalty, number)
    loss, columns, offset = restricted_loss(instance.loss, instance.batch, params, indices, number)
    mapping = ProximalGradient.under(loss, penalty)
    return Restriction(dataclasses.replace(instance, loss=loss, penalty=penalty, mapping=mapping), columns, offset)


def restricted_loss(
    whole: Loss, batch: Batch, params: jax.Array, indices: jax.Array, number: jax.Array | None = None
) -> tuple[Loss, Any, jax.Array | None]:
    """A loss of params as a loss of some of their rows. Of a `bl.Linear` loss the columns of these rows are gathered;
    the product with the other columns is made only if one of their rows is not zero. With a ``number``, a
    `bl.HostMatrix` gathers nothing and multiplies with the first ``number`` columns."""
    if not isinstance(whole, Linear):
        return lambda rows, hparams, batch: whole(params.at[indices].set(rows), hparams, batch), None, None
    design = whole.design(batch)
    if isinstance(design, HostMatrix) and number is not None:
        columns = design.using(indices, number)
    else:
        columns = gathered(design, indices, params.dtype)
    others = params.at[indices].set(0)
    shape = jax.eval_shape(lambda others: design @ others, others)
    offset = jax.lax.cond(jnp.any(others != 0), lambda: design @ others, lambda: jnp.zeros(shape.shape, shape.dtype))
    at = lambda function: lambda z, rows, *rest: function(offset + z, params.at[indices].set(rows), *rest)
    curvature = None if whole.curvature is None else at(whole.curvature)
    loss = Linear(design=lambda batch: columns, loss=at(whole.loss), curvature=curvature)
    return loss, columns, offset


def gradient_of_linear(instance: Instance, params: jax.Array, predictions: jax.Array) -> jax.Array:
    """The gradient of a `bl.Linear` loss at ``params`` whose image is known already: one product with X'."""
    whole = instance.loss
    assert isinstance(whole, Linear)
    of = lambda z, w: whole.loss(z, w, instance.hparams, instance.batch)
    slopes, direct = jax.grad(of, argnums=(0, 1))(predictions, params)
    (pulled,) = jax.linear_transpose(lambda w: whole.design(instance.batch) @ w, params)(slopes)
    return pulled + direct


def multiplies_on_host(loss: Loss, batch: Batch) -> bool:
    """Whether the design is a `bl.HostMatrix` with too many samples to gather even a few columns."""
    return stays_on_host(loss, batch) and design_of(loss, batch).shape[0] > GATHERED


def gathered(design: Any, indices: jax.Array, dtype: Any) -> jax.Array:
    """Some columns of a matrix as a dense array; of a sparse matrix by its entries."""
    if isinstance(design, HostMatrix):
        return design.using(indices, indices.size).todense().astype(dtype)
    if not isinstance(design, JAXSparse):
        return jnp.take(design, indices, axis=1)
    if not isinstance(design, BCOO) or design.n_batch or design.n_dense:
        chosen = jnp.zeros((design.shape[1], indices.size), dtype).at[indices, jnp.arange(indices.size)].set(1)
        return design @ chosen
    place = jnp.full(design.shape[1], indices.size).at[indices].set(jnp.arange(indices.size))
    rows, columns = design.indices[:, 0], design.indices[:, 1]
    empty = jnp.zeros((design.shape[0], indices.size), dtype)
    return empty.at[rows, place.at[columns].get(mode="fill", fill_value=indices.size)].add(design.data, mode="drop")
