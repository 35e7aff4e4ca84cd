"""The simulated quadratics of benchmark_bilevel: both levels are means of quadratics of rank one in each unknown.

Each sample of a level is 1/2 (a'w)^2 + 1/2 (b'h)^2 + (p'h) (q'w) + r'w + s'h with random a, b, p, q, r and s.
Source of the recipe: Dagreou, Ablin, Vaiter and Moreau, 2022, and the data set "quadratic" of benchmark_bilevel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import bilevel as bl
from bilevel.batches import Minibatch


class Samples(NamedTuple):
    """The vectors of the quadratics of one level, a row each."""

    inner: jax.Array  # a
    outer: jax.Array  # b
    left: jax.Array  # p
    right: jax.Array  # q
    linear_inner: jax.Array  # r
    linear_outer: jax.Array  # s


class Means(NamedTuple):
    """The mean of the quadratics: matrices and vectors."""

    inner: jax.Array
    outer: jax.Array
    cross: jax.Array  # (hyperparameters, inner unknowns)
    linear_inner: jax.Array
    linear_outer: jax.Array


def level(key: jax.Array, samples: int, unknowns: int, hyperparameters: int, cross: float, least: float) -> Samples:
    """One level: the curvatures of its mean go from ``least`` to 1, those of the cross term up to ``cross``."""
    keys = jax.random.split(key, 10)

    def vectors(key_basis: jax.Array, key: jax.Array, spectrum: jax.Array) -> jax.Array:
        basis = jnp.linalg.svd(jax.random.normal(key_basis, (spectrum.size, 1)))[0]
        return jax.random.normal(key, (samples, spectrum.size)) @ (basis * spectrum) @ basis.T

    low = jnp.log10(least)
    flat = jnp.r_[0.0, jnp.logspace(low / 2, 0, hyperparameters - 1)]  # one direction without curvature
    left, _, right = jnp.linalg.svd(jax.random.normal(keys[4], (hyperparameters, unknowns)))
    number = min(hyperparameters, unknowns)
    scales = jnp.logspace(low, jnp.log10(cross), number)
    x = jax.random.normal(keys[5], (samples, unknowns))
    return Samples(
        vectors(keys[0], keys[1], jnp.logspace(low / 2, 0, unknowns)),
        vectors(keys[2], keys[3], flat),
        (x[:, :number] * scales) @ left[:, :number].T,
        x @ right.T,
        jax.random.normal(keys[6], (samples, unknowns)),
        jax.random.normal(keys[7], (samples, hyperparameters)),
    )


def value(params: jax.Array, hparams: jax.Array, batch: Minibatch) -> jax.Array:
    """The mean of the quadratics of a minibatch."""
    inner, outer, left, right, linear_inner, linear_outer = batch
    each = 0.5 * (inner @ params) ** 2 + 0.5 * (outer @ hparams) ** 2 + (left @ hparams) * (right @ params)
    return jnp.mean(batch.weight * (each + linear_inner @ params + linear_outer @ hparams))


def means(level: Samples) -> Means:
    """The matrices of the mean of a level."""
    number = level.inner.shape[0]
    return Means(
        level.inner.T @ level.inner / number,
        level.outer.T @ level.outer / number,
        level.left.T @ level.right / number,
        level.linear_inner.mean(0),
        level.linear_outer.mean(0),
    )


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Both levels, and the value function h -> outer(w*(h), h) in closed form."""

    inner: Samples
    outer: Samples

    @functools.cached_property
    def means(self) -> tuple[Means, Means]:
        """The mean quadratics of both levels, computed once and not within the programs that use them."""
        with jax.ensure_compile_time_eval():
            return means(self.inner), means(self.outer)

    def solution(self, hparams: jax.Array) -> jax.Array:
        """w*(h)."""
        mean, _ = self.means
        return -jnp.linalg.solve(mean.inner, mean.linear_inner + mean.cross.T @ hparams)

    def value(self, hparams: jax.Array) -> jax.Array:
        """The value function."""
        params, (_, mean) = self.solution(hparams), self.means
        quadratic = 0.5 * params @ mean.inner @ params + 0.5 * hparams @ mean.outer @ hparams
        return quadratic + hparams @ mean.cross @ params + mean.linear_inner @ params + mean.linear_outer @ hparams

    def gradient(self, hparams: jax.Array) -> jax.Array:
        """The hypergradient."""
        return jax.grad(self.value)(hparams)

    def least(self) -> jax.Array:
        """The least value: at the zero of the gradient, which is linear in h."""
        zero = jnp.zeros(self.inner.outer.shape[1])
        return self.value(-jnp.linalg.lstsq(jax.jacfwd(self.gradient)(zero), self.gradient(zero))[0])

    def measure(self):
        """h -> (suboptimality, norm of the gradient) of the value function, compiled."""
        least = self.least()
        return jax.jit(lambda hparams: (self.value(hparams) - least, jnp.linalg.norm(self.gradient(hparams))))

    def task(self, batch_size: int = 0) -> bl.Task:
        """The task, on minibatches of this size; 0: on all samples."""
        whole = bl.full_batch(bl.whole_batch(self.inner), bl.whole_batch(self.outer))
        return bl.Task(
            inner=bl.InnerProblem(loss=value, init=lambda key, hparams: jnp.zeros(self.inner.inner.shape[1])),
            outer_loss=value,
            init_hparams=lambda key: jnp.zeros(self.inner.outer.shape[1]),
            batches=bl.minibatches(self.inner, self.outer, batch_size) if batch_size else whole,
            name="quadratics",
        )


def quadratics(
    samples: int = 1024, unknowns: int = 100, hyperparameters: int = 100, least: float = 0.1, seed: int = 2442
) -> Quadratics:
    """The two levels with the sizes of the benchmark, or smaller ones, and curvatures from ``least`` to 1."""
    keys = jax.random.split(jax.random.key(seed), 2)
    made = [level(key, samples, unknowns, hyperparameters, 0.1, least) for key in keys]
    return Quadratics(*made)
