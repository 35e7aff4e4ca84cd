"""Functions that are piecewise constant, or have no derivative at all, made smooth by random perturbations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from bilevel.foundation import trees, vectors
from bilevel.foundation.typing import Key, PyTree
from bilevel.implicit.attach import split_arguments


class Noise(Protocol):
    """A distribution with a density: independent draws, and the logarithm of the density up to a constant."""

    def sample(self, seed: Key, sample_shape: Any) -> jax.Array:
        """Draws of this shape."""
        ...

    def log_prob(self, inputs: jax.Array) -> jax.Array:
        """The logarithm of the density, entry by entry."""
        ...


@dataclass(frozen=True)
class Gumbel:
    """The standard Gumbel distribution: with it the perturbed argmax of one-hot vectors is softmax(x / scale)."""

    def sample(self, seed: Key, sample_shape: Any) -> jax.Array:
        return jax.random.gumbel(seed, sample_shape)

    def log_prob(self, inputs: jax.Array) -> jax.Array:
        return -inputs - jnp.exp(-inputs)


@dataclass(frozen=True)
class Normal:
    """The standard normal distribution."""

    def sample(self, seed: Key, sample_shape: Any) -> jax.Array:
        return jax.random.normal(seed, sample_shape)

    def log_prob(self, inputs: jax.Array) -> jax.Array:
        return -0.5 * inputs**2


def perturbed(
    function: Callable[..., PyTree],
    *,
    samples: int = 1000,
    scale: float = 0.1,
    noise: Noise = Gumbel(),
    control_variate: bool = False,
) -> Callable[..., PyTree]:
    """(x, key, *args) -> the mean of function(x + scale Z, *args) over ``samples`` draws Z of the ``noise``.

    The mean has a derivative in x also where the function has none: with the score v(z) = -grad log density(z),

        d/dx E f(x + scale Z) = E f(x + scale Z) v(Z)' / scale,

    estimated from the same draws; ``control_variate`` takes f(x) from each value first, which lowers the variance where
    the scale is small. The derivative in ``args`` is the mean of the derivatives of the function. ``x`` is a pytree.
    Both modes, jit, and ``jax.vmap`` over x and keys; higher derivatives are derivatives of the estimate. Source:
    Berthet et al., 2020; Abernethy et al., 2016.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> step = bl.perturbed(jnp.sign, samples=20_000, scale=0.5, noise=bl.layers.Normal())
    >>> round(float(jax.grad(step)(0.0, jax.random.key(0))), 1)  # 2 phi(0) / 0.5
    1.6
    """

    def smooth(x: PyTree, key: Key, *args: Any, **kwargs: Any) -> PyTree:
        leaves, form = split_arguments((key, *args), kwargs)

        def values(x: PyTree, leaves: list) -> tuple[PyTree, PyTree]:
            (key, *args), kwargs = form.rebuild(*leaves)
            draws = _draws(noise, key, samples, x)
            found = jax.vmap(lambda z: function(trees.axpy(scale, z, x), *args, **kwargs))(draws)
            return vectors.as_vector(found), draws  # of integers, such as ranks, too

        @jax.custom_jvp
        def mean(x: PyTree, leaves: list) -> PyTree:
            return _mean(values(x, leaves)[0])

        def rule(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
            (x, leaves), (moved, moved_leaves) = primals, tangents
            found, change, draws = jax.jvp(partial(values, x), (leaves,), (moved_leaves,), has_aux=True)
            base = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), found)
            if control_variate:
                (_, *args), kwargs = form.rebuild(*leaves)
                base = vectors.as_vector(function(x, *args, **kwargs))
            along = _along(noise, draws, moved) / scale  # v(Z)' dx / scale, of each draw

            def weighted(leaf: jax.Array, base: jax.Array, change: jax.Array) -> jax.Array:
                weight = along.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)
                return jnp.mean((leaf - base) * weight + change, axis=0)

            return _mean(found), jax.tree.map(weighted, found, base, change)

        mean.defjvp(rule)
        return mean(trees.differentiable(x, "x"), leaves)

    return smooth


def perturbed_argmax(
    argmax: Callable[..., PyTree],
    *,
    samples: int = 1000,
    scale: float = 0.1,
    noise: Noise = Gumbel(),
    control_variate: bool = False,
) -> Callable[..., PyTree]:
    """`perturbed`, of a maximiser: (x, key) -> the mean of argmax_y <y, x + scale Z>, y of the shapes of x.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> one_hot = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size)
    >>> soft = bl.perturbed_argmax(one_hot, samples=50_000, scale=1.0)
    >>> x = jnp.array([0.0, 1.0])
    >>> bool(jnp.allclose(soft(x, jax.random.key(0)), jax.nn.softmax(x), atol=0.01))
    True
    """
    return perturbed(argmax, samples=samples, scale=scale, noise=noise, control_variate=control_variate)


def perturbed_max(
    argmax: Callable[..., PyTree], *, samples: int = 1000, scale: float = 0.1, noise: Noise = Gumbel()
) -> Callable[..., jax.Array]:
    """(x, key) -> the mean of max_y <y, x + scale Z>, of the y that ``argmax`` returns.

    Its gradient is the mean of the maximisers (Danskin), and the derivative of that is the derivative of
    `perturbed_argmax`. The derivative in ``args`` is the mean of the derivatives of <y, x + scale Z> through
    ``argmax``.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> one_hot = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size)
    >>> soft = bl.perturbed_max(one_hot, samples=1000, scale=0.1)
    >>> round(float(soft(jnp.array([0.0, 1.0]), jax.random.key(0))), 1)
    1.1
    """
    maximiser = perturbed_argmax(argmax, samples=samples, scale=scale, noise=noise)

    def smooth(x: PyTree, key: Key, *args: Any, **kwargs: Any) -> jax.Array:
        leaves, form = split_arguments((key, *args), kwargs)

        def value(x: PyTree, leaves: list) -> jax.Array:
            (key, *args), kwargs = form.rebuild(*leaves)

            def best(z: PyTree) -> jax.Array:
                point = trees.axpy(scale, z, x)
                return trees.dot(argmax(point, *args, **kwargs), point)

            return jnp.mean(jax.vmap(best)(_draws(noise, key, samples, x)))

        def rule(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
            (x, leaves), (moved, moved_leaves) = primals, tangents
            (key, *args), kwargs = form.rebuild(*leaves)
            found, change = jax.jvp(partial(value, x), (leaves,), (moved_leaves,))
            return found, change + trees.dot(maximiser(x, key, *args, **kwargs), moved).astype(found.dtype)

        mean = jax.custom_jvp(value)
        mean.defjvp(rule)
        return mean(trees.differentiable(x, "x"), leaves)

    return smooth


def _draws(noise: Noise, key: Key, samples: int, x: PyTree) -> PyTree:
    """Independent draws, each leaf (samples, *shape)."""
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [noise.sample(one, (samples, *leaf.shape)) for one, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(structure, [z.astype(leaf.dtype) for z, leaf in zip(drawn, leaves, strict=True)])


def _along(noise: Noise, draws: PyTree, moved: PyTree) -> jax.Array:
    """v(Z)'dx for each draw."""
    score = jax.tree.map(lambda z: -jax.grad(lambda z: jnp.sum(noise.log_prob(z)))(z), draws)
    terms = jax.tree.map(lambda v, dx: jnp.sum((v * dx).reshape(v.shape[0], -1), axis=1), score, moved)
    return sum(jax.tree.leaves(terms))  # type: ignore[return-value]  # a tree without leaves has no derivative


def _mean(values: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values)
