"""Batches as a pure function of a key and a step: nothing to save, resumable at any step, usable inside a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel.data.rows import in_memory
from bilevel.foundation.closures import depends
from bilevel.foundation.typing import Batch, HParams, Key, Params
from bilevel.losses.host_matrix import HostMatrix
from bilevel.streams import Streamed

Batches: TypeAlias = Callable[[Key, int | jax.Array], tuple[Batch, Batch]]


@jax.tree_util.register_pytree_node_class
class Minibatch:
    """Some samples of a data set, with their places and weights; it unpacks like the data.

    ``index`` (b,) are positions in the data set; ``weight`` (b,) makes averages exact. For values l_i, one for each
    sample, the mean of ``mean(weight * l)`` over the batches of an epoch is mean(l) over the data set. That holds also
    when its size is no multiple of b, because unfilled places of the last block have weight 0 (and index 0).
    ``samples`` is the size of the data set.

    >>> batch = whole_batch((np.arange(3.0), np.ones(3)))
    >>> x, y = batch
    >>> float(jnp.mean(batch.weight * x))
    1.0
    """

    def __init__(
        self, data: Batch, index: jax.Array | np.ndarray, weight: jax.Array | np.ndarray, samples: int = 0
    ) -> None:
        self.data: Batch = data
        self.index: jax.Array | np.ndarray = index
        self.weight: jax.Array | np.ndarray = weight
        self.samples: int = samples

    @property
    def blocks(self) -> int:
        """The batches of an epoch."""
        return -(-self.samples // self.index.shape[0])

    @property
    def whole(self) -> bool:
        """Whether it holds all samples."""
        return self.samples == self.index.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __getitem__(self, item: Any) -> Any:
        return self.data[item]

    def tree_flatten(self) -> tuple[tuple[Any, ...], int]:
        return (self.data, self.index, self.weight), self.samples

    @classmethod
    def tree_unflatten(cls, samples: int, children: tuple[Any, ...]) -> Minibatch:
        data, index, weight = children
        return cls(data, index, weight, samples)


def full_batch(train: Batch, validation: Batch) -> Batches:
    """All of both data sets at every step: (key, step) -> (train, validation).

    >>> full_batch("train", "validation")(jax.random.key(0), 7)
    ('train', 'validation')
    """
    _refuse_streamed((train, validation))
    return lambda key, step: (train, validation)


def whole_batch(data: Batch) -> Minibatch:
    """A data set as one `Minibatch`, in its order, with weight 1 each: for losses that also take minibatches."""
    samples = _size(data)
    return Minibatch(data, np.arange(samples), np.ones(samples), samples)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """evaluate(params, hparams) = metrics(params, hparams, samples): metrics on samples that a task states.

    What a function closes over is whole in each process and on each device. Of the samples stated here each of several
    devices holds its part, as it does of the batches, where `bl.Trainer` has a mesh. ``samples`` is any pytree of
    arrays, the samples along their leading axis.

    >>> evaluate = HeldOut(lambda params, hparams, x: {"test/loss": jnp.mean((x - params) ** 2)}, np.array([1.0, 3.0]))
    >>> float(evaluate(jnp.array(2.0), None)["test/loss"])
    1.0
    """

    metrics: Callable[[Params, HParams, Batch], dict[str, Any]]
    samples: Batch

    def __call__(self, params: Params, hparams: HParams) -> dict[str, Any]:
        return self.metrics(params, hparams, in_memory(self.samples))


def minibatches(train: Batch, validation: Batch, batch_size: int, validation_batch_size: int = 0) -> Batches:
    """Random minibatches without replacement: (key, step) -> (`Minibatch` of train, `Minibatch` of validation).

    Every epoch of ceil(n / batch_size) steps is a permutation of the n samples (the leading axis of every leaf), a new
    one each time, independent for train and validation. The batch of a step costs O(batch_size), independent of n.
    Within a run ``key`` is the same at every step. ``validation_batch_size`` 0 means the same size as ``batch_size``.
    Either data set may be `Streamed`, which leaves it on the host.

    Raises `ValueError` for a size below 1 or beyond the data, or leaves of unequal length.

    >>> batches = minibatches(np.arange(5.0), np.arange(4.0), batch_size=2)
    >>> seen = [batches(jax.random.key(0), step)[0] for step in range(3)]
    >>> sorted(int(i) for batch in seen for i, w in zip(batch.index, batch.weight) if w > 0)
    [0, 1, 2, 3, 4]
    """
    draw_train = _sampler(train, batch_size, "training")
    draw_validation = _sampler(validation, validation_batch_size or batch_size, "validation")

    def batches(key: Key, step: int | jax.Array) -> tuple[Minibatch, Minibatch]:
        return draw_train(jax.random.fold_in(key, 0), step), draw_validation(jax.random.fold_in(key, 1), step)

    return batches


def draw_samples(batch_size: int) -> Callable[[Key, int | jax.Array, Batch], Minibatch]:
    """Random minibatches of an inner batch: (key, step, batch) -> `Minibatch`, for ``bl.Optax(draw=)``.

    Without replacement, an epoch at a time, as `minibatches` draws them. Where ``batch`` is a `Minibatch` itself (as
    `whole_batch` gives), places and weights still refer to the data set that it was drawn from.

    >>> draw, data = draw_samples(2), np.arange(4.0)
    >>> sorted(draw(jax.random.key(0), 0, data).data.tolist() + draw(jax.random.key(0), 1, data).data.tolist())
    [0.0, 1.0, 2.0, 3.0]
    """

    def draw(key: Key, step: int | jax.Array, batch: Batch) -> Minibatch:
        within = isinstance(batch, Minibatch)
        drawn = _sampler((batch.data, batch.index, batch.weight) if within else batch, batch_size, "inner")(key, step)
        if not within:
            return drawn
        data, index, weight = drawn.data
        return Minibatch(data, index, weight * drawn.weight, batch.samples)

    return draw


def _sampler(data: Batch, batch_size: int, name: str) -> Callable[[Key, int | jax.Array], Minibatch]:
    samples = len(data) if isinstance(data, Streamed) else _size(data)
    if not 1 <= batch_size <= samples:
        raise ValueError(
            f"A batch size of {batch_size} is impossible with {samples} {name} samples: choose one from 1 to {samples}."
        )
    blocks = -(-samples // batch_size)
    # Each sample occurs once in an epoch of blocks * batch_size places.
    weight = blocks * batch_size / samples

    def drawn(key: Key, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The samples of a step, and which places of the batch they fill."""
        epoch, block = jnp.divmod(step, jnp.uint32(blocks))
        places = block * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
        filled = places < samples
        index = permuted(jax.random.fold_in(key, epoch), jnp.where(filled, places, jnp.uint32(0)), samples)
        return jnp.where(filled, index, 0).astype(jnp.int32), filled

    def draw(key: Key, step: int | jax.Array) -> Minibatch:
        step = jnp.asarray(step, jnp.uint32)
        index, filled = drawn(key, step)
        if isinstance(data, Streamed):
            picked = data.rows(index, drawn(key, step + 1)[0])
        else:
            picked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], data)
        return Minibatch(picked, index, jnp.where(filled, weight, 0.0), samples)

    return draw


def same_at_every_step(batches: Batches, key: Key) -> bool:
    """Whether the program of the batches does not read the step, because only then are the outer losses of two steps
    comparable.

    >>> both = np.ones(4), np.zeros(4)
    >>> same_at_every_step(full_batch(*both), jax.random.key(0))
    True
    >>> same_at_every_step(minibatches(*both, batch_size=2), jax.random.key(0))
    False
    """

    def traced_part(step: jax.Array) -> list[Any]:
        """The computed leaves of the batches; data that is passed on unchanged need not be an array of JAX."""
        return [leaf for leaf in jax.tree.leaves(batches(key, step)) if isinstance(leaf, Tracer)]

    return not depends(traced_part, jnp.int32(0))


def permuted(key: Key, places: jax.Array, samples: int) -> jax.Array:
    """The images of the given places (unsigned integers) under a random permutation of range(samples), chosen by
    ``key``.

    The swap-or-not shuffle: in round r every place x has one partner, (pivot_r - x) mod samples, and a random bit that
    both share decides whether they change places. Each round is a permutation, so their product is one; after 6
    log2(samples) rounds it is as good as random. Only the given places are computed; a shuffle would sort all samples.

    Reference: Hoang, Morris and Rogaway, An enciphering scheme based on a card shuffle, 2012.

    >>> sorted(permuted(jax.random.key(0), jnp.arange(6, dtype=jnp.uint32), 6).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    rounds = 6 * max(1, (samples - 1).bit_length())
    for_pivots, for_salts = jax.random.split(key)
    pivots = jax.random.randint(for_pivots, (rounds,), 0, samples, jnp.int32).astype(jnp.uint32)
    salts = jax.random.bits(for_salts, (rounds,), jnp.uint32)

    def shuffle(number: int, x: jax.Array) -> jax.Array:
        partner = pivots[number] + jnp.uint32(samples) - x
        partner = jnp.where(partner >= samples, partner - jnp.uint32(samples), partner)
        swapped = _mixed(jnp.maximum(x, partner) ^ salts[number]) >> 31 == 1
        return jnp.where(swapped, partner, x)

    return jax.lax.fori_loop(0, rounds, shuffle, places)


def _mixed(bits: jax.Array) -> jax.Array:
    """A hash of 32 bits in which each bit depends on every other (multiplications and shifts)."""
    for multiplier, shift in ((0x7FEB352D, 16), (0x846CA68B, 15)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(multiplier)
    return bits ^ (bits >> 16)


def _refuse_streamed(data: Batch) -> None:
    if any(isinstance(node, Streamed) for node in jax.tree.leaves(data)):
        raise ValueError("A bl.Streamed data set is read in minibatches: use bl.minibatches(..., batch_size=).")


def _size(data: Batch) -> int:
    _refuse_streamed(data)
    nodes = jax.tree.leaves(data, is_leaf=lambda node: isinstance(node, HostMatrix))
    if any(isinstance(node, HostMatrix) for node in nodes):
        raise ValueError(
            "A bl.HostMatrix cannot be cut into minibatches: use bl.full_batch, or give the samples as an array."
        )
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"The leaves of a data set have {sorted(lengths)} samples: "
            "give arrays whose first axes, which count the samples, have one length."
        )
    return lengths.pop()
