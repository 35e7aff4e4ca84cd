"""Kernel ridge: a fold by the dual, as a function of the strength of the penalty and of the kernel's scales."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Batch, HParams, Scalar
from bilevel.sklearn.newton import FAILED, TINY, Answer


def gram(kernel: str, hparams: HParams, inputs: jax.Array) -> jax.Array:
    """k(x_i, x_j) (n, n): x'z, or exp(-sum_f gamma_f (x_f - z_f)^2)."""
    if kernel == "linear":
        return inputs @ inputs.T
    scaled = inputs * jnp.exp(0.5 * hparams["gamma"][:, 0])
    squares = jnp.sum(scaled**2, axis=1)
    return jnp.exp(2 * scaled @ scaled.T - squares[:, None] - squares[None, :])


def kernel_ridge(kernel: str, hparams: HParams, inner: Batch, outer: Batch) -> Answer:
    """1/2 sum of weighted squared errors of z = K d, where (S K S + alpha) c = S y and d = S c.

    S^2 are the weights of the training rows. scikit-learn: KernelRidge. The derivative passes through the linear
    solve."""

    def value(hparams: HParams) -> tuple[Scalar, tuple]:
        inputs, targets, weights = inner
        roots = jnp.sqrt(weights)
        matrix = gram(kernel, hparams, inputs)
        system = roots[:, None] * matrix * roots + jnp.exp(hparams["strength"][0, 0]) * jnp.eye(len(roots))
        shaped = targets.reshape(len(roots), -1)
        scaled = jnp.linalg.solve(system, roots[:, None] * shaped)
        dual = roots[:, None] * scaled
        error = jnp.sum((matrix @ dual - shaped) ** 2, axis=1)
        left = jnp.linalg.norm(system @ scaled - roots[:, None] * shaped) / jnp.maximum(jnp.linalg.norm(shaped), TINY)
        return 0.5 * outer[2] @ error, (dual, left)

    (loss, (dual, left)), gradient = jax.value_and_grad(value, has_aux=True)(hparams)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient.values()))
    return Answer(loss, gradient, dual, ~(left < FAILED) | ~jnp.isfinite(loss + size), left * size)
