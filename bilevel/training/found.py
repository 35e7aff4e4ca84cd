"""The hyperparameters of a run for its record: all of them where they are few, their quantiles where they are many."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bilevel.foundation.typing import HParams
from bilevel.task import Task

FEW = 30  # a line of the record holds all hyperparameters of an array up to so many
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def path_of(hparams: HParams) -> dict[str, Any]:
    """An entry for each array of hyperparameters: the number, the list of numbers, or their `QUANTILES`.

    >>> path_of({"weights": np.arange(101.0), "scale": np.array(0.5)})
    {"hparams['scale']": 0.5, "hparams['weights']/quantiles": [0.0, 25.0, 50.0, 75.0, 100.0]}
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(hparams):
        values, name = _real(leaf), f"hparams{jax.tree_util.keystr(path)}"
        if values.size > FEW:
            found[f"{name}/quantiles"] = np.quantile(values, QUANTILES).tolist()
        elif values.size:
            found[name] = values.item() if values.size == 1 else values.ravel().tolist()
    return found


def found_hparams(task: Task, hparams: HParams) -> dict[str, Any]:
    """The hyperparameters found on their natural scale, by the names that ``task.natural`` gives; a failure of that
    function is a warning, because words must never cost a result."""
    try:
        told = {str(name): _told(value) for name, value in task.natural(hparams).items()}
    except Exception as error:
        warnings.warn(
            f"The hyperparameters are told as the optimiser sees them, because natural(hparams) of the task failed: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        told = {}
    return {"hparams_natural": told} if told else {}


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        if len(value) <= FEW:
            return {str(label): float(_real(entry)) for label, entry in value.items()}
        value = np.array([_real(entry) for entry in value.values()])
    values = _real(value)
    if values.size <= FEW:
        return values.item() if values.size == 1 else values.ravel().tolist()
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    quantiles = np.quantile(values, QUANTILES).tolist()
    return {"number": int(values.size), "mean": float(values.mean()), **dict(zip(names, quantiles, strict=True))}


def _real(value: Any) -> np.ndarray:
    """The numbers of an array; of complex ones real and imaginary parts, one after the other."""
    array = np.asarray(value)
    array = np.stack([np.real(array), np.imag(array)], -1) if np.iscomplexobj(array) else array
    return array.astype(float)
