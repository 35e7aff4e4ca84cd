"""What the next step needs, on disk, so that a run can be killed at any moment and go on. The one door to orbax."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree


class Checkpoints:
    """The checkpoints of one run in one directory: ``state`` (any pytree of arrays and typed keys) and ``meta`` (JSON).

    A save is written beside the earlier ones and moved into place when it is complete, in the background: a process
    that is killed leaves the last complete one. The ``max_to_keep`` latest are kept. Close it, or use it in a ``with``
    block, so that the last save is waited for.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
    ...     checkpoints.save(5, {"weights": jnp.arange(3.0)}, {"best": 0.25})
    ...     checkpoints.wait()
    ...     state, meta = checkpoints.restore({"weights": jnp.zeros(3)})
    >>> state["weights"], meta
    (Array([0., 1., 2.], dtype=float32), {'best': 0.25})
    """

    def __init__(self, directory: Path | str, max_to_keep: int = 3):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports each save there
        self.directory = Path(directory).absolute()
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

        self.manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_stored(state)), meta=ocp.args.JsonSave(meta or {})),
        )

    def restore(self, template: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """State and meta of ``step`` (default: the latest); the state has structure, shapes and dtypes of ``template``.

        Raises FileNotFoundError where there is no checkpoint, ValueError where it does not fit the template.
        """
        import orbax.checkpoint as ocp

        step = self.latest() if step is None else step
        if step is None or step not in self.steps():
            raise FileNotFoundError(
                f"{self.directory} holds no checkpoint{'' if step is None else f' of step {step}'}."
            )
        self._refuse_misfit(template, step)
        restored: Any = self.manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(_stored(template)), meta=ocp.args.JsonRestore()),
        )
        leaves, structure = jax.tree.flatten(template)
        stored = [restored.state.get(f"{index}") for index in range(len(leaves))]
        return jax.tree.unflatten(structure, map(_loaded, leaves, stored)), restored.meta

    def _refuse_misfit(self, template: PyTree, step: int) -> None:
        """orbax would restore another shape or precision without a word."""
        wanted = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in _stored(template).items()}
        metadata: Any = self.manager.item_metadata(step).state
        found = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in metadata.items()}
        if wanted != found:
            raise ValueError(
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
        self.close()


def _stored(state: PyTree) -> dict[str, jax.Array]:
    """The leaves by number, so that any registered pytree can be saved; without empty arrays, which orbax cannot store.

    Keys are stored as their data, numbers as arrays of JAX.
    """
    leaves = [_data(leaf) for leaf in jax.tree.leaves(state)]
    return {f"{index}": leaf for index, leaf in enumerate(leaves) if leaf.size}


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
