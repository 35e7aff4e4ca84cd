"""The protocol of callbacks: functions that see each outer step and may end the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bilevel.foundation.typing import HParams, Params


class Moment(NamedTuple):
    """A run behind one of its outer steps: the number of the step, its line of the record, the hyperparameters that it
    was taken at and the inner solution there."""

    step: int
    metrics: Mapping[str, Any]
    hparams: HParams
    params: Params


class Callback(Protocol):
    """Called with a `Moment` after each outer step; True ends the run there, any other result does nothing.

    A callback sees a run and does not steer it: it runs on the host, between two compiled steps. A resumed run calls it
    for the steps that it takes itself.

    >>> def close_enough(moment: Moment) -> bool:
    ...     return moment.metrics["outer/loss"] < 1e-3
    """

    def __call__(self, moment: Moment, /) -> Any: ...


def asks_to_end(answer: Any) -> bool:
    """Whether a callback answered True; a comparison of arrays answers with a boolean of NumPy or JAX.

    >>> [asks_to_end(answer) for answer in (True, np.bool_(True), None, 1, "yes")]
    [True, True, False, False, False]
    """
    is_scalar = isinstance(answer, np.bool_ | jax.Array) and answer.shape == () and answer.dtype == bool
    return answer is True or (is_scalar and bool(answer))
