"""Linear classifiers of few samples, stated in the dual: an inner problem for all episodes of a step at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.constraints import Simplex
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.layers import quadratic_program
from bilevel.losses.linear import quadratic_form
from bilevel.losses.quadratic import Quadratic
from bilevel.problem import InnerProblem
from bilevel.solvers import Newton, ProximalGradient
from bilevel.tasks.episodes import Shape

Grams = Callable[[HParams, Batch], jax.Array]  # inner products of the support features, (lanes, n, n)
Penalty = Callable[[HParams], Scalar]


@dataclass(frozen=True)
class Head:
    """A linear classifier W = S' a of the support features S (n, d), by dual weights a (n, way).

    ``inner(gram, penalty, answers, lanes)``: the inner problem whose unknown is a stack of ``lanes`` episodes.
    ``weights(params, penalty, answers)``: a, of that unknown. ``solve(gram, penalty, answers)``: a of one episode,
    by a direct method, for many episodes one after the other. ``answers`` are one-hot rows (n, way), centred for ridge.
    """

    inner: Callable[[Grams, Penalty, Any, int], InnerProblem]
    weights: Callable[[Params, Scalar, Any], jax.Array]
    solve: Callable[[jax.Array, Scalar, Any], jax.Array]


def ridge(gram: Grams, penalty: Penalty, answers: Any, lanes: int) -> InnerProblem:
    """sum_t 1/2 tr a_t' (K_t + penalty I) a_t - tr a_t' Y."""

    def matrix(hparams: HParams, support: Batch) -> jax.Array:
        return gram(hparams, support) + penalty(hparams) * jnp.eye(len(answers))

    stacked = (lanes, *answers.shape)
    return InnerProblem(
        loss=Quadratic(matrix=matrix, linear=lambda hparams, support: jnp.broadcast_to(answers, stacked)),
        init=lambda key, hparams: jnp.zeros(stacked, jnp.result_type(float)),
        solver=Newton(tol=1e-4),
    )


def ridge_solved(gram: jax.Array, penalty: Scalar, answers: Any) -> jax.Array:
    """(K + penalty I)^{-1} Y."""
    return jnp.linalg.solve(gram + penalty * jnp.eye(len(gram)), jnp.asarray(answers))


def svm(gram: Grams, penalty: Penalty, answers: Any, lanes: int) -> InnerProblem:
    """sum_t 1/2 tr (Y - x_t)' K_t (Y - x_t) / penalty + <x_t, Y> over x_t with rows in the simplex.

    The dual of the multiclass support vector machine, as in `bl.losses.duals`, with C = 1 / penalty.
    """

    def loss(params: Params, hparams: HParams, support: Batch) -> Scalar:
        margins = quadratic_form(gram(hparams, support), answers - params) / penalty(hparams)
        return margins + jnp.sum(params * answers)

    stacked = (lanes, *answers.shape)
    return InnerProblem(
        loss=loss,
        init=lambda key, hparams: jnp.full(stacked, 1 / answers.shape[1], jnp.result_type(float)),
        constraint=Simplex(),
        solver=ProximalGradient(max_steps=2000, tol=1e-4),
    )


def svm_weights(params: Params, penalty: Scalar, answers: Any) -> jax.Array:
    """a = (Y - x) / penalty."""
    return (answers - params) / penalty


def svm_solved(gram: jax.Array, penalty: Scalar, answers: Any) -> jax.Array:
    """The dual weights by a quadratic program in the entries of x, row by row."""
    number, way = answers.shape
    spread = jnp.kron(gram, jnp.eye(way)) / penalty
    linear = answers.ravel() - spread @ answers.ravel()
    rows = jnp.kron(jnp.eye(number), jnp.ones((1, way)))
    entries = number * way
    found = quadratic_program(spread, linear, rows, jnp.ones(number), -jnp.eye(entries), jnp.zeros(entries))
    return svm_weights(found.params.reshape(answers.shape), penalty, answers)


def _as_they_are(params: Params, penalty: Scalar, answers: Any) -> Any:
    return params


def answers(head: str, shape: Shape) -> Any:
    """Indicators (n, way) of the classes of the support images, less their mean for ridge; NumPy's, so that the task's
    precision applies where they are used."""
    indicators = np.repeat(np.eye(shape.way), shape.shots, axis=0)
    return indicators - 1 / shape.way if head == "ridge" else indicators


def penalty(hparams: HParams) -> Scalar:
    """The penalty of the head."""
    return jnp.exp(hparams["log_penalty"])


def grams(features: Callable[[HParams, jax.Array], jax.Array], hparams: HParams, support: jax.Array) -> jax.Array:
    """The inner products of the features of the support images of each episode: (lanes, n, n)."""
    own = by_lanes(features, hparams, support)
    return jnp.einsum("lnd,lmd->lnm", own, own)


def by_lanes(features: Callable[[HParams, jax.Array], jax.Array], hparams: HParams, images: jax.Array) -> jax.Array:
    """The features of images (lanes, n, height, width): (lanes, n, d)."""
    return features(hparams, images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], -1)


HEADS = {"ridge": Head(ridge, _as_they_are, ridge_solved), "svm": Head(svm, svm_weights, svm_solved)}
