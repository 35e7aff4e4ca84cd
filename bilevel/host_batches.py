"""Batches of data that do not fit into memory, read on the host ahead of their step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from bilevel.batches import Batches, Minibatch, sampler
from bilevel.foundation.callbacks import on_host
from bilevel.foundation.typing import Batch, Key, PyTree


class Ahead:
    """read(place) on the host, where ``following`` is read in a thread while the step of ``place`` is computed.

    What is read depends on the place alone; a place that was not announced, as after a resume, is read at once.
    """

    def __init__(self, read: Callable[[np.ndarray], PyTree]) -> None:
        self.read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bilevel-batches")
        self._lock = threading.Lock()
        self._announced: np.ndarray = np.zeros(0)
        self._found: Future | None = None

    def __call__(self, place: np.ndarray, following: np.ndarray) -> PyTree:
        with self._lock:
            known = self._found if np.array_equal(self._announced, place) else None
            found = known.result() if known else self.read(place)
            if not np.array_equal(self._announced, following):
                self._announced, self._found = following.copy(), self._pool.submit(self.read, following.copy())
            return found


def host_minibatches(train: Batch, validation: Batch, batch_size: int, validation_batch_size: int = 0) -> Batches:
    """`bilevel.batches.minibatches` of data that stay on the host: the same samples at every key and step, bit for bit.

    The leaves are NumPy arrays, in particular ``np.load(file, mmap_mode="r")``: only the rows of a batch are read, and
    those of the next step while this one is computed. Compiled programs call the host (`jax.pure_callback`). Raises
    ValueError for what `minibatches` refuses, and for leaves that are no NumPy arrays.

    >>> import jax
    >>> x, y = np.arange(6.0), np.zeros(6)
    >>> batches = host_minibatches((x, y), (x, y), batch_size=3)
    >>> inputs, _ = batches(jax.random.key(0), 1)[0]
    >>> inputs.shape
    (3,)
    """
    draw_train = sampler(train, batch_size, "training", _rows)
    draw_validation = sampler(validation, validation_batch_size or batch_size, "validation", _rows)

    def batches(key: Key, step: int | jax.Array) -> tuple[Minibatch, Minibatch]:
        return draw_train(jax.random.fold_in(key, 0), step), draw_validation(jax.random.fold_in(key, 1), step)

    return batches


def _rows(data: Batch) -> Callable[[jax.Array, Callable[[], jax.Array]], Batch]:
    leaves, structure = jax.tree.flatten(data)
    if strange := [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, np.ndarray)]:
        raise ValueError(
            f"bl.host_minibatches takes NumPy arrays, as np.load(file, mmap_mode='r') gives, not {strange[0]}: use "
            "bl.minibatches for arrays of JAX."
        )
    ahead = Ahead(lambda index: [np.asarray(leaf[index]) for leaf in leaves])

    def read(index: jax.Array, following: Callable[[], jax.Array]) -> Batch:
        like = [_like((len(index), *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(structure, on_host(ahead, like, index, following()))

    return read


def streamed(open_at: Callable[[int], Iterator[tuple[Batch, Batch]]]) -> Batches:
    """Batches from iterators: ``open_at(step)`` returns an iterator over (inner batch, outer batch) from that step on.

    The batches are trees of NumPy arrays, of the same shapes at every step. Steps in order take the next batch of one
    iterator, in a thread while the step before is computed. Any other step, as after a resume, opens a new one. So the
    batch of a step is a pure function of the step where ``open_at`` is one; the key is not used. Raises ValueError
    where an iterator ends: let it begin its data anew.

    >>> import jax
    >>> def open_at(step):
    ...     while True:
    ...         yield np.full(2, float(step)), np.zeros(1)
    ...         step += 1
    >>> batches = streamed(open_at)
    >>> [batches(jax.random.key(0), step)[0].tolist() for step in (0, 1, 7)]
    [[0.0, 0.0], [1.0, 1.0], [7.0, 7.0]]
    """
    source = _Source(open_at)
    example, structure = jax.tree.flatten(source.at(np.zeros((), np.int32)))
    ahead = Ahead(lambda step: jax.tree.leaves(source.at(step)))

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        like = [_like(np.shape(leaf), np.asarray(leaf).dtype) for leaf in example]
        step = jax.numpy.asarray(step, np.int32)
        return jax.tree.unflatten(structure, on_host(ahead, like, step, step + 1))

    return batches


class _Source:
    """The batch of a step, from the iterator that is open where it comes next."""

    def __init__(self, open_at: Callable[[int], Iterator[tuple[Batch, Batch]]]) -> None:
        self.open_at = open_at
        self._next, self._iterator = -1, iter(())
        self._lock = threading.Lock()  # because a step that was not announced is read beside the thread

    def at(self, step: np.ndarray) -> Any:
        with self._lock:
            number = int(step)
            if number != self._next:
                self._iterator = iter(self.open_at(number))
            try:
                found = next(self._iterator)
            except StopIteration:
                raise ValueError(
                    f"The iterator of bl.streamed ended before step {number}: let it begin its data anew at their end."
                ) from None
            self._next = number + 1
            return found


def _like(shape: tuple[int, ...], kind: Any) -> jax.ShapeDtypeStruct:
    """The shape and the kind that the program has for values of this kind: float32 where it computes in it."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(kind))
