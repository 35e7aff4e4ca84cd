"""Data that stay on the host: what a step needs is read there, and what the next one needs is read ahead."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.callbacks import on_host
from bilevel.foundation.typing import Batch, Key

Rows: TypeAlias = Callable[[np.ndarray], Batch]
Make: TypeAlias = Callable[[int, int], Iterator[tuple[Batch, Batch]]]


class Streamed:
    """A data set whose samples are read on the host when a minibatch has drawn them, so that it need not fit in memory.

    ``data`` is a tree of arrays whose first axes count the samples, and that are indexed by an array of places as
    NumPy's are (``np.memmap``, an open HDF5 or Zarr file). Or it is a function ``data(places) -> samples`` of sorted,
    distinct places (b,), and ``samples`` is then the number of them. `minibatches` draws the same samples as from
    arrays in memory, for the same key and step. While the device works on one step, a thread reads the samples of the
    next one.

    Raises ValueError for leaves of unequal length, and for a function without ``samples``.

    >>> import bilevel as bl
    >>> batches = bl.minibatches(bl.Streamed(np.arange(6.0)), np.arange(4.0), batch_size=3)
    >>> batch, _ = batches(jax.random.key(0), 0)
    >>> bool(jnp.all(batch.data == batch.index))
    True
    """

    def __init__(self, data: Batch | Rows, samples: int | None = None) -> None:
        if callable(data):
            if samples is None or samples < 1:
                raise ValueError("bl.Streamed(function) needs the number of samples beside it: samples=N, from 1 on.")
            self._read: Rows = data
        else:
            samples = _common_length(data)
            self._read = lambda places: jax.tree.map(lambda leaf: np.asarray(leaf[places]), data)
        self.samples: int = samples
        self._one = self._read(np.zeros(1, np.int32))
        self._ahead = _Ahead(self._samples_at)

    def __len__(self) -> int:
        return self.samples

    def rows(self, index: jax.Array, following: jax.Array) -> Batch:
        """The samples at ``index`` (b,); those at ``following`` are read ahead. Works in compiled programs."""

        def read(now: np.ndarray, later: np.ndarray) -> Batch:
            return self._ahead(now.tobytes(), later.tobytes())

        like = jax.tree.map(lambda leaf: _shape(leaf, (index.shape[0], *leaf.shape[1:])), self._one)
        return on_host(read, like, index, following)

    def _samples_at(self, request: Any) -> Batch:
        places, inverse = np.unique(np.frombuffer(request, np.int32), return_inverse=True)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[inverse], self._read(places))


def batches_from(make: Make) -> Callable[[Key, int | jax.Array], tuple[Batch, Batch]]:
    """Batches from an iterator on the host: (key, step) -> (inner batch, outer batch), for `Task`.

    ``make(seed, start)`` returns an iterator over the pairs (inner batch, outer batch) of the steps ``start``, ``start
    + 1``, ...: trees of NumPy arrays of the same shapes in each. It has to be a pure function of the two integers,
    because a resumed run begins at its step; ``seed`` follows from the key of the run. The next pair is read in a
    thread while the device works. A step that is asked for out of turn makes a new iterator.

    >>> def make(seed, start):
    ...     while True:
    ...         x = np.random.default_rng((seed, start)).normal(size=8)
    ...         yield x[:6], x[6:]
    ...         start += 1
    >>> inner, outer = batches_from(make)(jax.random.key(0), 3)
    >>> inner.shape, outer.shape
    ((6,), (2,))
    """
    first = next(iter(make(0, 0)), None)
    if not isinstance(first, tuple) or len(first) != 2:
        raise ValueError(
            f"make(0, 0) of bl.batches_from yields {type(first).__name__}, and has to yield pairs: (inner batch, outer "
            "batch)."
        )
    ahead = _Ahead(_Turns(make))

    def read(seed: np.ndarray, step: np.ndarray) -> tuple[Batch, Batch]:
        now = int(seed), int(step)
        return ahead(now, (now[0], now[1] + 1))

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        like = jax.tree.map(lambda leaf: _shape(leaf, np.shape(leaf)), first)
        return on_host(read, like, jax.random.bits(key), jnp.asarray(step, jnp.int32))

    return batches


def reads_host(batches: Callable[[Key, int | jax.Array], Any], key: Key) -> bool:
    """Whether the program of the batches calls a function on the host."""

    def arrays(key: Key, step: jax.Array) -> list[Any]:  # the others are passed on as they are
        return [leaf for leaf in jax.tree.leaves(batches(key, step)) if isinstance(leaf, jax.Array)]

    return "pure_callback" in str(jax.make_jaxpr(arrays)(key, jnp.int32(0)))


class _Turns:
    """The items of iterators by (seed, step); the iterator at hand goes on where it can."""

    def __init__(self, make: Make) -> None:
        self.make, self.next, self.iterator = make, (-1, -1), iter(())

    def __call__(self, request: Any) -> tuple[Batch, Batch]:
        seed, step = request
        if request != self.next:
            self.iterator = iter(self.make(seed, step))
        self.next = (-1, -1)  # until the item is there
        for item in self.iterator:
            self.next = (seed, step + 1)
            return item
        raise ValueError(
            f"the iterator of bl.batches_from ended before step {step}: make(seed, start) has to yield a pair for each "
            "step from start on, without end."
        )


class _Ahead:
    """A function on the host that answers one request and works on the next in a thread. The last answer is kept,
    because a step may be taken again."""

    def __init__(self, function: Callable[[Hashable], Batch]) -> None:
        self.function = function
        self.worker: ThreadPoolExecutor | None = None
        self.answers: dict[Hashable, Future[Batch]] = {}

    def __call__(self, now: Hashable, later: Hashable) -> Batch:
        if self.worker is None:  # not in __init__, because a process may be forked in between
            self.worker = ThreadPoolExecutor(1, thread_name_prefix="bilevel-reader")
        known = self.answers
        self.answers = {
            request: known.get(request) or self.worker.submit(self.function, request) for request in (now, later)
        }
        return self.answers[now].result()


def _shape(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype))


def _common_length(data: Batch) -> int:
    lengths = {leaf.shape[0] if len(leaf.shape) else 0 for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"The leaves of a bl.Streamed data set have {sorted(lengths)} samples: give arrays whose first axes, which "
            "count the samples, have one length."
        )
    return lengths.pop()
