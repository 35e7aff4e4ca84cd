"""Going on with a run, on the same data: from its latest intact checkpoint that the record reaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.foundation.typing import PyTree
from bilevel.loggers.json_lines import BYTES, START, JsonLines, Stretch, line_ends, reaches, read_stretch
from bilevel.training.checkpoint import Checkpoints
from bilevel.training.outer_step import TrainState
from bilevel.training.processes import summed


class Earlier(NamedTuple):
    """The steps of a run before it went on: the lines of its record, which are read when they are asked for. A long run
    takes its next step before that."""

    record: Path = Path()
    lines: Stretch = START

    def read(self) -> list[dict[str, Any]]:
        """The lines, one for each step."""
        return read_stretch(self.record, self.lines) if self.lines.steps else []


Kept = tuple[TrainState, Earlier, dict[str, Any]]  # the state, the steps up to it, its meta


def restored(checkpoints: Checkpoints, record: Path, template: TrainState, data: list[list[float]]) -> Kept:
    """The state that the run goes on from. Raises ValueError where record and checkpoints do not meet, or the data
    differ."""
    state, meta = checkpoints.restore(template)
    lines = Stretch(int(state.step), int(meta["loggers"].get(JsonLines.__name__, {}).get(BYTES, 0)))
    if not reaches(record, lines):  # a record with damage, or of an earlier release
        ends = line_ends(record)
        state, meta = _within(checkpoints, record, template, len(ends))
        lines = Stretch(int(state.step), ends[int(state.step) - 1]) if int(state.step) else START
    if not same_data(meta.get("data", []), data):
        raise ValueError(
            f"{record.parent} was run on other data: the batch of its first step is not that of this task. Give the "
            "data and the settings of that run, or start a new one."
        )
    checkpoints.drop_after(int(state.step))
    return state, Earlier(record, lines), meta


def _within(
    checkpoints: Checkpoints, record: Path, template: TrainState, steps: int
) -> tuple[TrainState, dict[str, Any]]:
    """State and meta of the latest checkpoint of at most so many steps, which are those of the record."""
    try:
        return checkpoints.restore(template, within=steps)
    except FileNotFoundError:
        raise ValueError(
            f"{record} holds {steps} whole lines, and the first checkpoint beside it is of step "
            f"{checkpoints.steps()[0]}: the record was damaged. Put it back, or start a new run from its "
            "hyperparameters by fork=DIR."
        ) from None


def fingerprint(batches: PyTree) -> list[list[float]]:
    """Number of entries, mean and norm of each array. These are compared instead of a hash, because another machine may
    compute the last digits of standardised data differently. Of several processes each reads its share of the rows.

    >>> fingerprint((np.array([3.0, 4.0]), np.array([1])))
    [[2.0, 3.5, 5.0], [1.0, 1.0, 1.0]]
    """
    leaves = [
        leaf for leaf in jax.tree.leaves(batches) if jax.dtypes.issubdtype(jax.numpy.result_type(leaf), np.number)
    ]
    sums = summed(np.array([_sums(_share(leaf)) for leaf in leaves]).reshape(-1, 3))  # random keys have no mean
    return [[size, total / size if size else 0.0, squares**0.5] for size, total, squares in sums.tolist()]


def _share(leaf: Any) -> list[np.ndarray]:
    """The blocks of an array that this process reads; together the processes read each entry once."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        return [np.asarray(one.data) for one in leaf.addressable_shards if one.replica_id == 0]
    number, processes = jax.process_index(), jax.process_count()
    if np.ndim(leaf) == 0:
        return [np.asarray(leaf)] if number == 0 else []
    first, last = (np.shape(leaf)[0] * one // processes for one in (number, number + 1))
    return [np.asarray(leaf[first:last] if processes > 1 else leaf)]


def _sums(blocks: list[np.ndarray]) -> list[float]:
    flat = np.concatenate([block.astype(np.float64).ravel() for block in blocks] or [np.zeros(0)])
    return [float(flat.size), float(flat.sum()), float(flat @ flat)]


def same_data(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """Whether two fingerprints belong to the same data; True for records without one, because they tell nothing."""
    if not one:
        return True
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-5, atol=1e-8, equal_nan=True))
