"""Support vector machines through their duals: smooth losses on a simple set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.generalized import Number, value_of
from bilevel.losses.linear import Linear, quadratic_form


def crammer_singer(penalty: Number = 1.0) -> Linear:
    """The dual of the multiclass support vector machine, over x (n, k) with rows in the simplex (`bl.Simplex()`).

        theta/2 ||W(x)||^2 + <x, Y>,     W(x) = X'(Y - x) / theta

    The batch is (X', Y): the design (features, n), or any R with R'R = X X', and the labels as one-hot rows (n, k).
    ``penalty`` is theta, a number or a function of the hyperparameters. W(x*) minimises theta/2 ||W||^2 + sum_i
    max_c (1 - Y_ic + z_ic) - z_iy with z = X W. scikit-learn: LinearSVC(multi_class="crammer_singer", C=1/theta,
    fit_intercept=False). Source: Crammer and Singer, 2001; Blondel et al., 2021, section 4.1.
    """

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        design, answers = batch
        theta = value_of(penalty, hparams)
        return 0.5 * jnp.sum((design @ answers - z) ** 2) / theta + jnp.sum(params * answers)

    def curvature(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> jax.Array:
        identity = jnp.eye(z.shape[1]) / value_of(penalty, hparams)
        return jnp.broadcast_to(identity, (*z.shape, z.shape[1]))

    return Linear(design=lambda batch: batch[0], loss=loss, curvature=curvature)


def crammer_singer_weights(params: Params, design: Any, answers: Any, penalty: jax.Array | float) -> jax.Array:
    """W = X'(Y - x) / theta, (features, k): the weights of the primal at the dual ``params``; ``design`` is X'."""
    return design @ (answers - params) / penalty


def c_svm(params: Params, hparams: HParams, batch: Batch) -> Scalar:
    """The dual of the support vector machine with the hinge loss, over a (n,) in a set that the caller states.

        1/2 (s a)' K (s a) - sum_i a_i,     0 <= a_i <= C_i,    s' a = 0 where there is an intercept

    The batch is (K, s): the Gram matrix and the signs of the labels, which may depend on the hyperparameters of a
    kernel through an outer function. The set is ``bl.BoxSection(lower=0, upper=C, weights=s, total=0)``, or ``bl.Box``
    without an intercept. Decisions are K_new (s a*) + b. scikit-learn: SVC, whose ``dual_coef_`` is s a*.
    Source: Cortes and Vapnik, 1995.
    """
    gram, signs = batch
    return quadratic_form(gram, signs * params) - jnp.sum(params)
