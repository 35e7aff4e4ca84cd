"""Proximal operators of norms that couple coordinates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point, like, norm, of_rows, over_batches, unit
from bilevel.kernels.side_by_side import side_by_side
from bilevel.kernels.singular import shrink_singular_values
from bilevel.projections.norm_balls import l1_ball


@compiles_once
def group_lasso(point: PyTree, step_size: ArrayLike = 1.0, weight: ArrayLike = 1.0) -> PyTree:
    """prox of the sum over groups of weight * ||x_group||_2, a group being a row: the last axis of an array, on which
    the leaves of a pytree stand side by side.

    Block soft threshold x_g max(1 - step_size * weight / ||x_g||, 0). ``step_size`` and ``weight`` broadcast against
    the groups: a number, or one for each. The derivative is finite at zero groups, and the identity where the weight is
    zero. Reference: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.

    >>> group_lasso(jnp.array([[3.0, 4.0], [0.5, 0.0]]), 1.0, 2.5).tolist()
    [[1.5, 2.0], [0.0, 0.0]]
    """

    x, restore = side_by_side(point, "prox.group_lasso")
    threshold = of_rows(like(step_size, x) * like(weight, x), x)
    length = norm(x)[..., None]
    cut = (length <= threshold) & (threshold > 0)
    short = length == 0  # no direction to move in
    shrunk = x - jnp.where(short, 0, threshold * unit(jnp.where(short, 1, x)))
    return restore(jnp.where(cut, 0, shrunk))


@compiles_once
def l_inf(point: PyTree, step_size: ArrayLike = 1.0, weight: ArrayLike = 1.0) -> PyTree:
    """prox of weight * max |x|, over all coordinates of a pytree: x minus its projection onto an l1 ball (Moreau).

    >>> l_inf(jnp.array([3.0, 1.0, -2.0]), 1.0, 2.0).tolist()
    [1.5, 1.0, -1.5]
    """
    x, unravel = ravel_pytree(jax.tree.map(as_point, point))
    return unravel(x - l1_ball(x, like(step_size, x) * like(weight, x)))


@compiles_once
def nuclear_norm(point: ArrayLike, step_size: ArrayLike = 1.0, weight: ArrayLike = 1.0) -> jax.Array:
    """prox of weight * (the sum of the singular values), for matrices (..., m, n): soft thresholding of the values.

    Derivatives, also second ones, are finite at equal and at zero singular values. Reference: Cai, Candes and Shen, A
    singular value thresholding algorithm for matrix completion, 2010.

    >>> nuclear_norm(jnp.diag(jnp.array([3.0, 0.5])), 1.0, 1.0).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    x = as_point(point)
    threshold = like(step_size, x) * like(weight, x)
    if x.shape[-2] <= x.shape[-1]:
        return _shrink(x, threshold)
    return jnp.swapaxes(_shrink(jnp.swapaxes(x, -1, -2), threshold), -1, -2)


_shrink = over_batches(shrink_singular_values, "(m,n),()->(m,n)")
