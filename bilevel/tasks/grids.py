"""The best of a grid of settings: the baseline that a bilevel search is compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


def lowest(losses: Iterable[Any], what: str) -> int:
    """The index of the lowest loss. Losses that are not finite are left out with a warning, because NaN is the least of
    all for `numpy.argmin`. Raises ValueError where none is left. ``what`` names the grid in these sentences.

    >>> lowest([3.0, 1.0, 2.0], "the grid of penalties")
    1
    """
    numbers = [float(loss) for loss in losses]
    usable = [index for index, loss in enumerate(numbers) if math.isfinite(loss)]
    if not usable:
        raise ValueError(
            f"None of the {len(numbers)} losses on {what} is a finite number: look for NaN or infinite values in the "
            "data, or choose another grid."
        )
    if len(usable) < len(numbers):
        warnings.warn(
            f"{len(numbers) - len(usable)} of {len(numbers)} losses on {what} are no finite numbers and are left out "
            "of the baseline.",
            stacklevel=2,
        )
    return min(usable, key=numbers.__getitem__)


class Highest(NamedTuple):
    """The best of scores, of which some or all may be no finite numbers."""

    index: int  # 0 where none is finite
    score: float  # NaN where none is finite
    left_out: int  # how many are not finite


def highest(scores: Sequence[float]) -> Highest:
    """The highest of the finite scores, because NaN is the highest of all for `numpy.argmax`.

    >>> highest([1.0, float("nan"), 2.0])
    Highest(index=2, score=2.0, left_out=1)
    """
    usable = [index for index, score in enumerate(scores) if math.isfinite(score)]
    if not usable:
        return Highest(0, math.nan, len(scores))
    index = max(usable, key=scores.__getitem__)
    return Highest(index, scores[index], len(scores) - len(usable))
