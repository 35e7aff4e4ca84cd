"""The result of a fit: hyperparameters, parameters, the record and its summary."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bilevel.foundation.readable import counted, shapes
from bilevel.foundation.typing import Counts, HParams, Params
from bilevel.training import saved
from bilevel.training.figures import drawn


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """``hparams`` and ``params`` belong to the best iterate. It has the lowest ``stop/loss`` where the task has a
    second hold-out, else the lowest outer loss where the outer batch is the same at every step; else it is the last
    iterate. The summary says which (``chosen_by``). ``metrics`` has one dict for each step, ``summary`` the figures of
    the whole run. ``snapshots`` are the hyperparameters before the outer steps 0, 1, 2, 4, 8, ..., up to a million
    numbers in all."""

    hparams: HParams
    params: Params
    last_hparams: HParams
    last_params: Params
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    snapshots: Mapping[int, HParams] = field(default_factory=dict)

    def __repr__(self) -> str:
        summary = self.summary
        head = (summary.get("headline") or {}).get("sentence", f"outer loss {summary.get('best_outer_loss')}")
        return (
            f"Result({summary.get('task')!r}, {summary.get('status')} after {counted(len(self.metrics), 'step')}: "
            f"{head}; step {summary.get('best_step')} chosen by {summary.get('chosen_by')}; "
            f"hparams {shapes(self.hparams)}, params {shapes(self.params)})"
        )

    def plot(self, name: str = "training") -> Any:
        """The matplotlib figure "training" (losses and hypergradient) or "hyperparameters" of the run."""
        return drawn(self, name)

    def arrays(self) -> dict[str, np.ndarray]:
        """Hyperparameters and parameters, best and last, by their names in ``result.npz``."""
        kept = {
            "hparams": self.hparams,
            "params": self.params,
            "last_hparams": self.last_hparams,
            "last_params": self.last_params,
        }
        return {
            name + jax.tree_util.keystr(path): np.asarray(leaf)
            for name, tree in kept.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    def save(self, path: Path | str) -> None:
        """Writes the whole result into one file, without pickle, for `bl.load_result`. TypeError where hyperparameters
        or parameters hold other things than dicts, lists, tuples and arrays."""
        trees = {name: getattr(self, name) for name in ("hparams", "params", "last_hparams", "last_params")}
        trees["snapshots"] = {str(step): hparams for step, hparams in self.snapshots.items()}
        saved.write(path, trees, self.metrics, self.summary)

    def save_arrays(self, path: Path) -> None:
        """Writes `arrays` as one .npz, which appears only when it is complete."""
        beside = path.with_name(f"{path.stem}.part.npz")
        np.savez(beside, **self.arrays())  # pyright: ignore[reportArgumentType]  # numpy types **kwds as its own flags
        os.replace(beside, path)


def load_result(path: Path | str) -> Result:
    """The result that `Result.save` wrote. Its arrays are NumPy's, so that float64 stays float64 in every JAX.

    A named tuple comes back as a named tuple of the same name and fields. Raises ValueError for a file that
    `Result.save` did not write.
    """
    trees, metrics, summary = saved.read(path)
    snapshots = {int(step): hparams for step, hparams in trees.pop("snapshots", {}).items()}
    return Result(**trees, metrics=metrics, summary=summary, snapshots=snapshots)


def summarize(metrics: list[dict[str, Any]], looks: Sequence[Mapping[str, Any]], best_step: int) -> dict[str, Any]:
    """The figures of a whole run. ``metrics`` has one dict for each step. ``looks`` are the evaluations at the end: of
    the best step first, where it had to be solved again at finer tolerances, and of the last hyperparameters; none
    where the run was interrupted.

    The task's metrics appear three times: at the best iterate (``test_accuracy``), at the start
    (``initial_test_accuracy``) and at the last (``last_test_accuracy``).
    """
    lines = [*metrics, *looks]
    final = lines[-1]
    again = len(looks) > 1
    chosen = next((line for line in metrics if line["step"] == best_step), final)
    chosen = looks[0] if again and chosen is not final else chosen
    losses = [line["outer/loss"] for line in (looks if again else lines) if np.isfinite(line["outer/loss"])]
    seconds = [line["seconds"] for line in metrics]
    return {
        "steps": metrics[-1]["step"] + 1 if metrics else 0,  # a line of an earlier process may be damaged
        "best_step": best_step,
        "initial_outer_loss": lines[0]["outer/loss"],
        "final_outer_loss": final["outer/loss"],
        "best_outer_loss": min(losses, default=float("nan")),
        "seconds_per_step": statistics.median(seconds[1:] or seconds or [0.0]),
        "hypergradient_error_estimate": final["error_estimate"],
        "hypergradient_error_grade": final["error_grade"],
        "retries": sum(int(line.get("engine/retries", 0)) for line in lines),
        "counts": {name: sum(int(line[f"counts/{name}"]) for line in lines) for name in Counts._fields},
        **own(chosen, ""),
        **own(lines[0], "initial_"),
        **own(final, "last_"),
    }


STANDARD = ("outer/", "inner/", "adjoint/", "engine/", "counts/", "error_", "seconds", "hparams")


def own(line: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The task's own metrics of one line, named for the summary."""
    return {
        prefix + name.replace("/", "_"): value
        for name, value in line.items()
        if name != "step" and not name.startswith(STANDARD)
    }
