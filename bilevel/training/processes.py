"""Several processes that run one problem: what one does alone, what they agree on, and what ends with one of them.

Every process runs the same program on its own devices (`jax.distributed`), and JAX exchanges what the devices share.
What one process decides by itself, because of a signal or of a callback, has to reach the others first, because
processes that take different steps wait for each other for ever.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache

from bilevel.foundation.typing import PyTree
from bilevel.training.run_folder import RunFolder

# Words of the errors that JAX and Gloo raise where a process has gone; they have no type of their own.
GONE = ("Gloo", "closed by peer", "Connection reset", "coordination service", "heartbeat", "NCCL", "UNAVAILABLE")


class ProcessLost(RuntimeError):
    """Another process of the run has ended or cannot be reached; this one can only end too."""


def several() -> bool:
    """Whether more than one process runs this problem."""
    return jax.process_count() > 1


def compile_anew() -> None:
    """Lets each of several CPU processes compile its own programs. JAX 0.10 would store the program of the first
    process on disk for all, and that program gives wrong numbers when a process with several devices reads it back."""
    if several() and jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # whether it is enabled is looked up once


def leads() -> bool:
    """Whether this process writes the record, figures and the report."""
    return jax.process_index() == 0


def whole(tree: PyTree) -> PyTree:
    """The tree with every array whole on this process. All processes have to call it together, because each gathers the
    parts that the others hold. With one process it is the tree itself."""
    return jax.tree.map(_whole, tree) if several() else tree


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_whole(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    if leaf.is_fully_replicated:
        return jnp.asarray(np.asarray(leaf))
    return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def anywhere(asked: bool) -> bool:
    """Whether any process says yes; all processes have to ask together."""
    return bool(np.any(multihost_utils.process_allgather(np.array(asked)))) if several() else asked


def summed(numbers: np.ndarray) -> np.ndarray:
    """The sum of float64 numbers over the processes. They travel as bits, because JAX may be set to 32 bits."""
    if not several():
        return numbers
    bits = multihost_utils.process_allgather(np.ascontiguousarray(numbers, np.float64).view(np.uint32))
    return np.asarray(bits, np.uint32).view(np.float64).sum(axis=0)


def meet(where: str) -> None:
    """Returns when all processes have called it."""
    if several():
        multihost_utils.sync_global_devices(where)


def of_first(text: str) -> str:
    """What the first process says; the text of the others is ignored."""
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(np.resize(data, size)), np.uint8)).decode()


def folder_of_all(claim: Callable[[], RunFolder]) -> RunFolder:
    """The folder that the first process claims for the run; its refusal is raised in every process."""
    if not several():
        return claim()
    folder, told = None, {}
    if leads():
        try:
            folder = claim()
            told = {"path": str(folder.path)}
        except ValueError as error:
            told = {"refused": str(error)}
    told = json.loads(of_first(json.dumps(told)))
    if "refused" in told:
        raise ValueError(told["refused"])
    return folder or RunFolder(told["path"], claim=False)


@contextmanager
def stops_heard() -> Iterator[Callable[[], bool]]:
    """Within the block, the function returned says whether any process was asked to stop by SIGINT or SIGTERM. All
    processes have to ask together. A second signal raises KeyboardInterrupt at once. One process is left as it is."""
    heard: list[int] = []

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt

    if not several() or threading.current_thread() is not threading.main_thread():
        yield lambda: anywhere(False)
        return
    before = {stop: signal.signal(stop, hear) for stop in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: anywhere(bool(heard))
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


def is_loss(error: BaseException) -> bool:
    """Whether an error means that another process has gone."""
    of_jax = isinstance(error, ValueError | RuntimeError)
    return several() and of_jax and any(word in str(error) for word in GONE)


def loss() -> ProcessLost:
    """The error that ends this process because another has gone."""
    return ProcessLost("another process of the run has ended or cannot be reached")
