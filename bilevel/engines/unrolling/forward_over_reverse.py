"""A loss whose gradient is differentiated forward over reverse, for reverse mode through solver steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from bilevel.foundation.typing import Batch, HParams, Loss, Params, Scalar


def forward_over_reverse(loss: Loss) -> Loss:
    """``loss`` with the same values and derivatives; a second derivative in reverse mode costs one tangent.

    The vector-Jacobian product of the gradient map z -> grad loss(z), z = (params, hparams), is H u with the symmetric
    Hessian H: the derivative of the gradient in the direction u. It stores nothing of the inner backward pass; reverse
    over reverse stores all of it. For reverse mode only. Source: Kemaev et al., 2025 (MixFlow-MG).
    """

    def plain(params: Params, hparams: HParams, batch: Batch) -> tuple[Scalar, tuple[Params, HParams]]:
        return jax.value_and_grad(loss, argnums=(0, 1))(params, hparams, batch)

    @jax.custom_vjp
    def value_and_gradient(params: Params, hparams: HParams, batch: Batch) -> tuple[Scalar, tuple[Params, HParams]]:
        return plain(params, hparams, batch)

    def keep(params: Params, hparams: HParams, batch: Batch) -> tuple[Any, tuple]:
        primals = params, hparams, batch = jax.tree.map(lambda one: one.value, (params, hparams, batch))
        return plain(*primals), primals

    def pull(kept: tuple, cotangents: tuple[Scalar, tuple[Params, HParams]]) -> tuple:
        of_value, of_gradient = cotangents
        params, hparams, batch = kept
        gradient_map = lambda params, hparams: plain(params, hparams, batch)[1]
        gradient, change = _derivative(gradient_map, (params, hparams), of_gradient)
        if _is_zero(of_value):
            return (*change, None)
        added = lambda slope, moved: (of_value * slope + moved).astype(slope.dtype)
        return (*jax.tree.map(added, gradient, change), None)

    value_and_gradient.defvjp(keep, pull, symbolic_zeros=True)

    @jax.custom_vjp
    def value(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return loss(params, hparams, batch)

    def first(params: Params, hparams: HParams, batch: Batch) -> tuple[Scalar, tuple[Params, HParams]]:
        return value_and_gradient(params, hparams, batch)

    def scale(gradient: tuple[Params, HParams], cotangent: Scalar) -> tuple:
        return (*jax.tree.map(lambda slope: (cotangent * slope).astype(slope.dtype), gradient), None)

    value.defvjp(first, scale)
    return value


def _derivative(
    gradient_map: Callable[[Params, HParams], tuple[Params, HParams]],
    at: tuple[Params, HParams],
    direction: tuple[Params, HParams],
) -> tuple[tuple[Params, HParams], tuple[Params, HParams]]:
    """The gradient and its derivative along ``direction``. Only the params are perturbed where the direction of the
    hyperparameters is zero, as in a step of a solver."""
    moving = tuple(number for number, one in enumerate(direction) if not _all_zero(one))

    def moved(*some: Any) -> tuple[Params, HParams]:
        point = list(at)
        for number, one in zip(moving, some, strict=True):
            point[number] = one
        return gradient_map(*point)

    along = tuple(jax.tree.map(_instantiated, direction[number], is_leaf=_is_zero) for number in moving)
    return jax.jvp(moved, tuple(at[number] for number in moving), along)


def _is_zero(cotangent: Any) -> bool:
    return isinstance(cotangent, SymbolicZero)


def _all_zero(cotangents: Any) -> bool:
    return all(_is_zero(one) for one in jax.tree.leaves(cotangents, is_leaf=_is_zero))


def _instantiated(cotangent: Any) -> jax.Array:
    return jnp.zeros(cotangent.shape, cotangent.dtype) if _is_zero(cotangent) else cotangent
