"""The state of a run on disk, so that a run can be killed at any moment and go on. The one door to orbax."""

from __future__ import annotations

import logging
import re
import time
import warnings
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree
from bilevel.training.processes import ProcessLost


class Misfit(ValueError):
    """A checkpoint of another task, engine, optimizer or precision."""


class DamagedCheckpoint(ValueError):
    """A checkpoint whose contents have changed since they were written."""


class Pace:
    """Says when the next save is due, so that saves take at most ``SHARE`` of the time. A ``with`` block is a save.

    The first save is due at once. After a save of 0.1 s the next one is due 1.9 s later.

    >>> pace = Pace()
    >>> before = pace.due()
    >>> with pace:
    ...     time.sleep(0.01)
    >>> before, pace.due()
    (True, False)
    """

    SHARE = 0.05

    def __init__(self) -> None:
        self.began, self.next = 0.0, 0.0

    def due(self) -> bool:
        return time.perf_counter() >= self.next

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        ended = time.perf_counter()
        self.next = ended + (ended - self.began) * (1 / self.SHARE - 1)


class Checkpoints:
    """The checkpoints of one run in one directory: ``state`` (any pytree of arrays and typed keys) and ``meta`` (JSON).

    A save runs in the background: it is written beside the earlier ones and moved into place when it is complete, so a
    killed process leaves the last complete one. The ``max_to_keep`` latest are kept. A checksum of every leaf is saved
    and compared on reading, because a flipped bit is still a number. The first save is read back at once, so that a
    folder that loses data is found at the first step. Close the checkpoints, or use them in a ``with`` block, to wait
    for the last save.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
    ...     checkpoints.save(5, {"weights": jnp.arange(3.0)}, {"best": 0.25})
    ...     checkpoints.wait()
    ...     state, meta = checkpoints.restore({"weights": jnp.zeros(3)})
    >>> state["weights"], meta
    (Array([0., 1., 2.], dtype=float32), {'best': 0.25})
    """

    def __init__(self, directory: Path | str, max_to_keep: int = 3) -> None:
        import orbax.checkpoint as ocp

        for name in ("absl", "concurrent.futures", "asyncio"):  # orbax's reports of saves and its errors
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.directory = Path(directory).absolute()
        self.proven = False  # whether a save of this process has been read back
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, create=True),
        )

    def latest(self) -> int | None:
        """The step of the last complete checkpoint; None where there is none."""
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: PyTree, meta: dict[str, Any] | None = None) -> None:
        """Saves in the background; returns as soon as ``state`` may change."""
        import orbax.checkpoint as ocp

        stored = _stored(state)
        kept = {"meta": meta or {}, "checksums": _checksums(stored)}
        self.manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(kept))
        )
        if not self.proven:
            self.wait()
            self._read(state, step)
            self.proven = True

    def restore(
        self, template: PyTree, step: int | None = None, within: int | None = None
    ) -> tuple[PyTree, dict[str, Any]]:
        """State and meta of ``step``, or of the latest intact checkpoint (of at most ``within`` steps). The state has
        structure, shapes and dtypes of ``template``. A damaged checkpoint is passed over with a warning.

        Raises FileNotFoundError where there is no checkpoint, `Misfit` where it does not fit the template, and
        `DamagedCheckpoint` where none can be read.
        """
        candidates = [kept for kept in reversed(self.steps()) if step in (None, kept)]
        candidates = [kept for kept in candidates if within is None or kept <= within]
        if not candidates:
            asked = [f" of step {step}" if step is not None else "", f" of at most {within} steps" if within else ""]
            raise FileNotFoundError(f"{self.directory} holds no checkpoint{''.join(asked)}.")
        failures: list[ValueError] = []
        for candidate in candidates:
            try:
                found = self._read(template, candidate)
            except (Misfit, DamagedCheckpoint) as error:
                failures.append(error)
                continue
            for failure in failures:
                warnings.warn(f"{failure} The run goes on from step {candidate}.", stacklevel=2)
            return found
        raise next((one for one in failures if isinstance(one, Misfit)), failures[0])

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, because a run that goes on from ``step`` saves them again."""
        for later in self.steps():
            if later > step:
                self.manager.delete(later)

    def _read(self, template: PyTree, step: int) -> tuple[PyTree, dict[str, Any]]:
        import orbax.checkpoint as ocp

        wanted = _stored(template)
        try:
            self._refuse_misfit(wanted, step)
            restored: Any = self.manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), meta=ocp.args.JsonRestore())
            )
            kept = restored.meta
            meta, checksums = (kept["meta"], kept["checksums"]) if "checksums" in kept else (kept, None)
            different = checksums is not None and _differ(_checksums(restored.state), checksums)
        except Misfit:
            raise
        except Exception as error:  # orbax and its storage raise errors of many types on damaged files
            reason = " ".join(str(error).split())[:200]
            raise DamagedCheckpoint(
                f"{self.directory / str(step)} cannot be read ({type(error).__name__}: {reason})."
            ) from error
        if different:
            raise DamagedCheckpoint(f"{self.directory / str(step)} is damaged: its numbers are not those saved.")
        leaves, structure = jax.tree.flatten(template)
        stored = [restored.state.get(f"{index}") for index in range(len(leaves))]
        return jax.tree.unflatten(structure, map(_loaded, leaves, stored)), meta

    def _refuse_misfit(self, stored: dict[str, jax.Array], step: int) -> None:
        """Raises `Misfit` for another shape or precision, which orbax would restore silently."""
        wanted = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in stored.items()}
        metadata: Any = self.manager.item_metadata(step).state
        found = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in metadata.items()}
        if wanted != found:
            raise Misfit(
                f"The checkpoint of step {step} in {self.directory} was written by another task, engine, optimizer or "
                f"precision: it holds {_describe(found)}, and this run needs {_describe(wanted)}. "
                "Resume with the settings of that run, or start in a new directory."
            )

    def wait(self) -> None:
        """Returns when the last save is complete."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and lets the directory go."""
        self.manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, ProcessLost):  # the last save waits for the process that has gone
            self.close()


def _stored(state: PyTree) -> dict[str, jax.Array]:
    """The leaves by number, so that any registered pytree can be saved; without empty arrays, which orbax cannot store.

    Keys are stored as their data, numbers as arrays of JAX.
    """
    leaves = [_data(leaf) for leaf in jax.tree.leaves(state)]
    return {f"{index}": leaf for index, leaf in enumerate(leaves) if leaf.size}


def _checksums(stored: dict[str, jax.Array]) -> dict[str, int]:
    """A checksum of every leaf of which this process holds all entries."""
    whole = {name: leaf for name, leaf in stored.items() if leaf.is_fully_addressable or leaf.is_fully_replicated}
    return {name: zlib.crc32(np.asarray(leaf).tobytes()) for name, leaf in whole.items()}


def _differ(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether a checksum differs; leaves that one of the two sides did not hold whole tell nothing."""
    return any(one[name] != other[name] for name in one.keys() & other.keys())


def _data(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf) if not isinstance(leaf, jax.Array) else leaf
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _loaded(like: Any, stored: jax.Array | None) -> jax.Array:
    if stored is None:  # an empty array is its own template
        return jnp.asarray(like)
    if isinstance(like, jax.Array) and jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(like))
    return stored


def _describe(leaves: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    parts = [f"{dtype}{re.sub(r',(?=[)])| ', '', str(shape))}" for shape, dtype in leaves.values()]
    return f"{len(parts)} arrays ({', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''})"
