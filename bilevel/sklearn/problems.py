"""The problem of the folds: on all columns, on those that an l1 penalty needs, or on the support vectors."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from bilevel.sklearn.columns import SLOPES, WIDE, OnColumns
from bilevel.sklearn.folds import Data, Folds, dense, training_weights
from bilevel.sklearn.lanes import Problem
from bilevel.sklearn.machines import Machines
from bilevel.sklearn.space import Space
from bilevel.sklearn.statements import Kind


def problem_of(kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> Any:
    """The problem on all columns, or, where an l1 penalty leaves out most of them, on those that it needs."""
    if kind.loss == "c_svm":
        return Machines(kind, folds, targets, used)
    if _wide(kind):
        return OnColumns(kind, folds, targets, used)
    return Problem(kind, folds, targets, used)


def _wide(kind: Kind) -> bool:
    return kind.l1 and kind.loss in SLOPES and kind.features > WIDE


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def threads_for(kind: Kind) -> contextlib.AbstractContextManager:
    """One thread for the BLAS of NumPy and SciPy where a search is on few columns: products of some rows with all
    columns take it six times the processor time by two threads, which wait for each other."""
    return _libraries().limit(limits=1) if _wide(kind) else contextlib.nullcontext()


def everything(kind: Kind, space: Space, u: np.ndarray, X: Any, folds: Folds, data: Data) -> np.ndarray:
    """The solution on all rows, by the program of the folds with all rows in each lane."""
    lanes, rows = folds.train.shape
    inputs = dense(X)
    weights = np.tile(training_weights(np.arange(rows), data), (lanes, 1))
    inputs = inputs if folds.inputs.ndim == 2 else np.tile(inputs, (lanes, 1, 1))
    whole = Folds(inputs, weights, weights, folds.splits)
    return problem_of(kind, whole, data.targets, np.ones(lanes, bool))(space.penalties(u)).params[0]
