"""Sparse codes of samples in a dictionary, and a dictionary learned without labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.penalties import ElasticNet
from bilevel.problem import InnerProblem
from bilevel.solvers import ProximalGradient

L2 = 0.1  # of the elastic net
ALTERNATIONS = 30


def coding(number: int, atoms: int) -> InnerProblem:
    """argmin over codes z (n, atoms) of 1/2 ||X - z D||^2 + l1 ||z||_1 + l2/2 ||z||^2, D = hparams["dictionary"]; the
    batch is (X, labels, weight, l1)."""

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        dictionary = hparams["dictionary"]
        return 0.5 * jnp.sum(params * (params @ (dictionary @ dictionary.T))) - jnp.sum(
            params * (batch[0] @ dictionary.T)
        )

    return InnerProblem(
        loss=loss,
        init=lambda key, hparams: jnp.zeros((number, atoms)),
        penalty=ElasticNet(l1=lambda hparams: jax.lax.stop_gradient(hparams["l1"]), l2=L2),
        solver=ProximalGradient(max_steps=1000, tol=1e-5),
    )


def unit(dictionary: jax.Array) -> jax.Array:
    """Atoms of norm 1."""
    return dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True)


def unsupervised(
    inner: InnerProblem, inputs: jax.Array, weight: jax.Array, atoms: int, share: float | jax.Array
) -> HParams:
    """Atoms for reconstruction, by turns of codes and least squares from the leading singular vectors, and the l1 that
    makes about ``share`` of the codes in these zero."""
    seen = jnp.sqrt(weight)[:, None] * inputs
    start = jnp.linalg.eigh(seen @ seen.T)[1][:, -atoms:].T @ seen
    dictionary = unit(start)
    l1 = jnp.quantile(jnp.abs(inputs @ dictionary.T), share)

    def turn(dictionary: jax.Array, _: None) -> tuple[jax.Array, None]:
        batch = (inputs, None, None)
        codes = inner.solve({"dictionary": dictionary, "l1": l1}, batch).params
        weighed = weight[:, None] * codes
        gram = weighed.T @ codes + 1e-6 * jnp.sum(weight) * jnp.eye(atoms)
        fitted = jnp.linalg.solve(gram, weighed.T @ inputs)
        return unit(jnp.where(jnp.any(weighed != 0, axis=0)[:, None], fitted, dictionary)), None

    dictionary, _ = jax.lax.scan(turn, dictionary, length=ALTERNATIONS)
    return {"dictionary": dictionary, "l1": l1}
